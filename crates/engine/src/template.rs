//! Messages to the text that a model was trained on, through the model's own chat template.
//!
//! What users, tools and files say is data: a control token's text in it must not become that token. Only the template
//! writes control tokens. To know who wrote a character of the result, the conversation is rendered twice: once as it is,
//! which gives the text, and once with the control tokens *in the template's source* marked (see `marks`), which gives
//! the places where the template itself wrote one. The second text without its marks must be the first; where a template
//! plays tricks that break this, text from outside that holds no control tokens is rendered all the same, and other text
//! is refused. All of a message is data, the assistant's too: its thoughts and tool calls have fields of their own, and the
//! template writes their markers.

mod conversation;
mod environment;
mod marks;
mod parts;
mod python;
mod source;
mod tojson;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Zoned;
use minijinja::Environment;
use minijinja::value::Value;
use serde::Deserialize;
use serde_json::Map;

use self::conversation::Conversation;
use self::environment::{BoundedOutput, OUTPUT_LIMIT, Raised, environment};
use self::parts::split_parts;
use crate::EngineError;
use crate::chat::Message;
use crate::gguf_keys::GgufKeys;
use crate::json_file::{CONFIG_LIMIT, read_json, read_text};
use crate::tokenizer::{TextPart, Tokenizer};

/// The longest template that is read, in bytes; long ones have 30 KB.
const TEMPLATE_LIMIT: u64 = 1 << 20;

/// A model's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    path: PathBuf,
    default: String,
    /// Some models have another one for when there are tools.
    with_tools: Option<String>,
}

/// How to render.
#[derive(Clone, Debug)]
pub struct TemplateOptions {
    /// End with the start of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Tell the template whether the model shall think; the template decides if not given.
    pub enable_thinking: Option<bool>,
    /// Further variables of the template.
    pub extra: Map<String, serde_json::Value>,
    /// The time that the template may ask for; the present if not given.
    pub now: Option<Zoned>,
}

impl Default for TemplateOptions {
    fn default() -> TemplateOptions {
        TemplateOptions { add_generation_prompt: true, enable_thinking: None, extra: Map::new(), now: None }
    }
}

/// A rendered conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// Exactly what transformers renders.
    pub text: String,
    /// The same in parts, for [`Tokenizer::encode_parts`].
    pub parts: Vec<TextPart>,
}

impl Rendered {
    /// The model's output starts inside of a thought, because the template has opened one.
    pub fn starts_in_thought(&self) -> bool {
        self.text.trim_end().ends_with("<think>")
    }
}

impl ChatTemplate {
    /// Finds the chat template of a model directory: chat_template.jinja, chat_template.json, or `chat_template` in
    /// tokenizer_config.json. `None` if there is none.
    pub fn open(dir: &Path) -> Result<Option<ChatTemplate>, EngineError> {
        let path = dir.join("chat_template.jinja");
        if let Some(source) = read_text(&path, TEMPLATE_LIMIT)? {
            return ChatTemplate::new(path, source, None).map(Some);
        }
        for name in ["chat_template.json", "tokenizer_config.json"] {
            let path = dir.join(name);
            let file: Option<TemplateFile> = read_json(&path, CONFIG_LIMIT)?;
            if let Some(templates) = file.and_then(|file| file.chat_template) {
                return templates.choose(path).map(Some);
            }
        }
        Ok(None)
    }

    /// Finds the chat template in GGUF metadata. `None` if there is none.
    pub(crate) fn of_keys(keys: &GgufKeys) -> Result<Option<ChatTemplate>, EngineError> {
        let Some(default) = keys.text("tokenizer.chat_template")? else { return Ok(None) };
        let with_tools = keys.text("tokenizer.chat_template.tool_use")?.map(str::to_owned);
        ChatTemplate::new(keys.path().to_owned(), default.to_owned(), with_tools).map(Some)
    }

    /// A template from its source.
    pub fn from_source(source: &str) -> Result<ChatTemplate, EngineError> {
        ChatTemplate::new(PathBuf::from("chat template"), source.to_owned(), None)
    }

    fn new(path: PathBuf, default: String, with_tools: Option<String>) -> Result<ChatTemplate, EngineError> {
        for source in [Some(&default), with_tools.as_ref()].into_iter().flatten() {
            let bytes = source.len() as u64;
            if bytes > TEMPLATE_LIMIT {
                return Err(EngineError::FileTooLarge { path, bytes, limit: TEMPLATE_LIMIT });
            }
            // Bad syntax is told when the model is opened, not in its first conversation.
            let source = source::without_generation_tags(source);
            let env = environment(Arc::new(Zoned::default()));
            env.template_from_str(&source).map_err(|source| EngineError::Template { source })?;
        }
        Ok(ChatTemplate { path, default, with_tools })
    }

    /// Where the template stands.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The template's source for conversations without tools.
    pub fn source(&self) -> &str {
        &self.default
    }

    /// Renders a conversation. `tools` is an array of OpenAI's tool objects.
    pub fn render(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        tools: Option<&serde_json::Value>,
        options: &TemplateOptions,
    ) -> Result<Rendered, EngineError> {
        if messages.is_empty() {
            return Err(EngineError::NoMessages);
        }
        check_roles(messages)?;
        let source = match &self.with_tools {
            Some(source) if tools.is_some() => source,
            _ => &self.default,
        };
        let source = source::without_generation_tags(source);
        let conversation = Conversation::new(messages, tools, options);
        let added = tokenizer.added_tokens();
        let now = Arc::new(options.now.clone().unwrap_or_else(Zoned::now));
        let env = environment(now);
        let named: Vec<_> = tokenizer.config().named_tokens().collect();

        let mut context = conversation.context();
        context.extend(named.iter().map(|&(name, token)| (name.to_owned(), Value::from(token))));
        let text = render(&env, &source, context.clone())?;

        context.extend(
            named.iter().map(|&(name, token)| (name.to_owned(), Value::from(marks::mark_all(token)))),
        );
        let marked_source = source::mark_added_tokens(&source, added);
        let marks =
            render(&env, &marked_source, context).ok().and_then(|marked| marks::align(&text, &marked));
        let marks = match marks {
            Some(marks) => marks,
            None => {
                conversation.refuse_control_text(added)?;
                vec![true; text.chars().count()]
            }
        };
        let roles: Vec<&str> = messages.iter().map(|message| message.role.as_str()).collect();
        let parts = split_parts(&text, &marks, added, &roles);
        Ok(conversation.show(Rendered { text, parts }))
    }
}

/// A file with a chat template in it.
#[derive(Deserialize)]
struct TemplateFile {
    #[serde(default)]
    chat_template: Option<Templates>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl Templates {
    fn choose(self, path: PathBuf) -> Result<ChatTemplate, EngineError> {
        let mut named = match self {
            Templates::One(source) => return ChatTemplate::new(path, source, None),
            Templates::Named(named) => named,
        };
        let mut take = |name: &str| {
            let index = named.iter().position(|template| template.name == name)?;
            Some(named.swap_remove(index).template)
        };
        let with_tools = take("tool_use");
        match take("default") {
            Some(default) => ChatTemplate::new(path, default, with_tools),
            None => Err(EngineError::Field {
                path,
                field: "chat_template".into(),
                found: "a list without the name \"default\"".into(),
                expected: "a template or a list with a default one",
            }),
        }
    }
}

/// A role goes into control tokens of some templates (`<|user|>`), so it may not have any character of its own.
fn check_roles(messages: &[Message]) -> Result<(), EngineError> {
    for (index, message) in messages.iter().enumerate() {
        let role = &message.role;
        let is_plain = role.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        if !is_plain || !(1..=64).contains(&role.len()) {
            return Err(EngineError::Role { role: role.clone(), index });
        }
    }
    Ok(())
}

fn render(
    env: &Environment<'_>,
    source: &str,
    context: BTreeMap<String, Value>,
) -> Result<String, EngineError> {
    let mut output = BoundedOutput::default();
    let template = env.template_from_str(source).map_err(|source| EngineError::Template { source })?;
    let result = template.render_captured_to(Value::from(context), &mut output).map(|_| ());
    match result {
        Ok(()) => Ok(output.into_text()),
        Err(_) if output.is_full => Err(EngineError::PromptTooLarge { limit: OUTPUT_LIMIT }),
        Err(source) => Err(refusal(&source).unwrap_or(EngineError::Template { source })),
    }
}

/// The words of `raise_exception`, if that is what stopped the template.
fn refusal(error: &minijinja::Error) -> Option<EngineError> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(Raised(message)) = error.downcast_ref() {
            return Some(EngineError::TemplateRefused { message: message.clone() });
        }
        source = error.source();
    }
    None
}

#[cfg(test)]
mod tests;
