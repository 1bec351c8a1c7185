//! What comes from outside, as the template sees it.

use std::collections::BTreeMap;

use minijinja::value::{Serde, Value};
use serde_json::{Map, json};

use super::marks::Foreign;
use super::{Rendered, TemplateOptions};
use crate::EngineError;
use crate::chat::{Content, Message};
use crate::tokenizer::{AddedTokens, TextPart};

/// The variables of a template.
pub(super) struct Conversation {
    variables: Map<String, serde_json::Value>,
    foreign: Foreign,
}

impl Conversation {
    pub(super) fn new(
        messages: &[Message],
        tools: Option<&serde_json::Value>,
        options: &TemplateOptions,
    ) -> Conversation {
        let mut variables = options.extra.clone();
        variables.insert("messages".into(), messages.iter().map(message_json).collect());
        variables.insert("tools".into(), tools.cloned().unwrap_or_default());
        variables.entry("documents").or_insert(serde_json::Value::Null);
        variables.insert("add_generation_prompt".into(), options.add_generation_prompt.into());
        if let Some(enable) = options.enable_thinking {
            variables.insert("enable_thinking".into(), enable.into());
        }
        let mut conversation = Conversation { variables, foreign: Foreign::default() };
        let foreign = Foreign::find(&conversation.texts());
        if !foreign.is_empty() {
            hide_object(&mut conversation.variables, &foreign);
            conversation.foreign = foreign;
        }
        conversation
    }

    /// All strings and keys.
    fn texts(&self) -> Vec<&str> {
        let mut texts = Vec::new();
        for (key, value) in &self.variables {
            texts.push(key.as_str());
            collect_texts(value, &mut texts);
        }
        texts
    }

    pub(super) fn context(&self) -> BTreeMap<String, Value> {
        self.variables.iter().map(|(name, value)| (name.clone(), Value::from(Serde(value)))).collect()
    }

    /// An error if any text, or two of them put together, could be taken for a control token.
    pub(super) fn refuse_control_text(&self, added: &AddedTokens) -> Result<(), EngineError> {
        let texts = self.texts();
        let joined = texts.concat();
        let found = texts.iter().chain([&joined.as_str()]).find_map(|text| added.next_match(text, 0));
        match found {
            Some((_, token)) => Err(EngineError::ControlTextInData { literal: token.content.clone() }),
            None => Ok(()),
        }
    }

    /// Puts the hidden characters back.
    pub(super) fn show(&self, rendered: Rendered) -> Rendered {
        if self.foreign.is_empty() {
            return rendered;
        }
        let show = |text: String| text.chars().map(|c| self.foreign.show(c)).collect();
        let parts = rendered.parts.into_iter().map(|part| match part {
            TextPart::Data(text) => TextPart::Data(show(text)),
            TextPart::Template(text) => TextPart::Template(text),
        });
        Rendered { parts: parts.collect(), text: show(rendered.text) }
    }
}

fn collect_texts<'a>(value: &'a serde_json::Value, texts: &mut Vec<&'a str>) {
    match value {
        serde_json::Value::String(text) => texts.push(text),
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect_texts(item, texts)),
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                texts.push(key);
                collect_texts(value, texts);
            }
        }
        _ => {}
    }
}

fn hide_object(map: &mut Map<String, serde_json::Value>, foreign: &Foreign) {
    let hidden = std::mem::take(map).into_iter().map(|(key, mut value)| {
        hide(&mut value, foreign);
        (foreign.hide(&key), value)
    });
    *map = hidden.collect();
}

fn hide(value: &mut serde_json::Value, foreign: &Foreign) {
    match value {
        serde_json::Value::String(text) => *text = foreign.hide(text),
        serde_json::Value::Array(items) => items.iter_mut().for_each(|item| hide(item, foreign)),
        serde_json::Value::Object(map) => hide_object(map, foreign),
        _ => {}
    }
}

/// A message as templates expect it: what is not there has no key, and arguments are an object.
fn message_json(message: &Message) -> serde_json::Value {
    let mut map = Map::new();
    let mut insert = |key: &str, value: serde_json::Value| map.insert(key.into(), value);
    insert("role", json!(message.role));
    if let Some(reasoning) = &message.reasoning_content {
        insert("reasoning_content", json!(reasoning));
    }
    insert(
        "content",
        match &message.content {
            None => serde_json::Value::Null,
            Some(Content::Text(text)) => json!(text),
            Some(Content::Parts(parts)) => json!(parts),
        },
    );
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| {
            let function = json!({"name": call.name, "arguments": call.arguments});
            match call.id.as_str() {
                "" => json!({"type": "function", "function": function}),
                id => json!({"id": id, "type": "function", "function": function}),
            }
        });
        insert("tool_calls", calls.collect());
    }
    if let Some(id) = &message.tool_call_id {
        insert("tool_call_id", json!(id));
    }
    if let Some(name) = &message.name {
        insert("name", json!(name));
    }
    serde_json::Value::Object(map)
}
