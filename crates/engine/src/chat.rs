//! Messages and tool calls, in the JSON of OpenAI's chat API.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// One message of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`; the chat template decides what it knows.
    pub role: String,
    /// What is said; an assistant that only calls tools says nothing.
    #[serde(default)]
    pub content: Option<Content>,
    /// The assistant's thoughts, without their markers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The assistant's tool calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub tool_calls: Vec<ToolCall>,
    /// Which call a tool's message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The speaker's name, or the tool's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Objects with a `type`: `{"type": "text", "text": ".."}`, images and the like.
    Parts(Vec<Map<String, Value>>),
}

/// A call of a tool by the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "ToolCallJson", into = "ToolCallJson")]
pub struct ToolCall {
    /// Names the call in the tool's answer; empty if the client gave none.
    pub id: String,
    /// Name of the tool.
    pub name: String,
    /// An object: argument names to values. (A client may have sent text that is no object; it is kept as a string.)
    pub arguments: Value,
}

impl Message {
    /// A message that says `text`.
    pub fn new(role: &str, text: impl Into<String>) -> Message {
        Message { role: role.into(), content: Some(Content::Text(text.into())), ..Message::default() }
    }

    /// Instructions that stand before the conversation.
    pub fn system(text: impl Into<String>) -> Message {
        Message::new("system", text)
    }

    /// What the user says.
    pub fn user(text: impl Into<String>) -> Message {
        Message::new("user", text)
    }

    /// What the model has said.
    pub fn assistant(text: impl Into<String>) -> Message {
        Message::new("assistant", text)
    }

    /// What a tool has answered to a call.
    pub fn tool(call_id: &str, text: impl Into<String>) -> Message {
        Message { tool_call_id: Some(call_id.into()), ..Message::new("tool", text) }
    }
}

impl Content {
    /// The text, parts joined; parts that are not text are left out.
    pub fn text(&self) -> String {
        match self {
            Content::Text(text) => text.clone(),
            Content::Parts(parts) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
        }
    }
}

impl ToolCall {
    /// The arguments as JSON text, as OpenAI's API sends them.
    pub fn arguments_json(&self) -> String {
        match &self.arguments {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

/// A call on the wire: `arguments` is JSON inside a string, or (as transformers has it) plain JSON.
#[derive(Serialize, Deserialize)]
struct ToolCallJson {
    #[serde(default, deserialize_with = "or_default")]
    id: String,
    #[serde(rename = "type", default = "function_type")]
    kind: String,
    function: FunctionJson,
}

#[derive(Serialize, Deserialize)]
struct FunctionJson {
    name: String,
    #[serde(default)]
    arguments: Value,
}

impl From<ToolCallJson> for ToolCall {
    fn from(json: ToolCallJson) -> ToolCall {
        let arguments = match json.function.arguments {
            Value::Null => Value::Object(Map::new()),
            Value::String(text) if text.trim().is_empty() => Value::Object(Map::new()),
            Value::String(text) => match serde_json::from_str(&text) {
                Ok(object @ Value::Object(_)) => object,
                _ => Value::String(text),
            },
            other => other,
        };
        ToolCall { id: json.id, name: json.function.name, arguments }
    }
}

impl From<ToolCall> for ToolCallJson {
    fn from(call: ToolCall) -> ToolCallJson {
        let arguments = Value::String(call.arguments_json());
        ToolCallJson {
            id: call.id,
            kind: function_type(),
            function: FunctionJson { name: call.name, arguments },
        }
    }
}

fn function_type() -> String {
    "function".into()
}

/// `null` is as good as nothing.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_are_text_or_json() {
        let call = |arguments: Value| {
            let json =
                json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}});
            serde_json::from_value::<ToolCall>(json).unwrap().arguments
        };
        assert_eq!(call(json!({"a": 1})), json!({"a": 1}));
        assert_eq!(call(json!("{\"a\": 1}")), json!({"a": 1}));
        assert_eq!(call(json!("")), json!({}));
        assert_eq!(call(Value::Null), json!({}));
        assert_eq!(call(json!("not json")), json!("not json"));
    }

    #[test]
    fn a_message_of_the_api_survives_a_round_trip() {
        let text = r#"{"role":"assistant","content":null,"tool_calls":[{"id":"call_0","type":"function","function":{"name":"f","arguments":"{\"b\":1,\"a\":[]}"}}]}"#;
        let message: Message = serde_json::from_str(text).unwrap();
        assert_eq!(message.content, None);
        assert_eq!(message.tool_calls[0].arguments, json!({"b": 1, "a": []}));
        assert_eq!(serde_json::to_string(&message).unwrap(), text);
        let message: Message =
            serde_json::from_str(r#"{"role":"user","content":"x","tool_calls":null}"#).unwrap();
        assert_eq!(message, Message::user("x"));
    }

    #[test]
    fn parts_that_are_no_text_are_left_out() {
        let message: Message = serde_json::from_value(
            json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}, {"text": "b"}]}),
        )
        .unwrap();
        let content = message.content.unwrap();
        assert_eq!(content.text(), "ab");
    }
}
