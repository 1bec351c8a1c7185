//! `/v1/responses`: answers, whole and as events.

use serde_json::{Map, Value, json};

use crate::answer::{AnswerEvent, Call, Ending, Head, Outcome, Part, Reply, TokenLogprobs, push_event};
use crate::error::{ApiError, Shape};
use crate::job::{Format, Job, ToolChoice};

/// What a response repeats of its request.
pub(super) struct Echo {
    max_output_tokens: Option<usize>,
    parallel_tool_calls: bool,
    temperature: Option<f32>,
    top_p: Option<f32>,
    tool_choice: Value,
    tools: Value,
    format: Value,
    metadata: Map<String, Value>,
}

impl Echo {
    pub(super) fn new(job: &Job, tools: Value, metadata: Map<String, Value>) -> Echo {
        Echo {
            max_output_tokens: job.max_tokens,
            parallel_tool_calls: job.parallel_calls,
            temperature: job.sampling.temperature,
            top_p: job.sampling.top_p,
            tool_choice: match &job.tool_choice {
                ToolChoice::Auto => json!("auto"),
                ToolChoice::None => json!("none"),
                ToolChoice::Required => json!("required"),
                ToolChoice::Named(name) => json!({"type": "function", "name": name}),
            },
            tools,
            format: match &job.format {
                Format::JsonObject => json!({"type": "json_object"}),
                Format::JsonSchema(schema) => {
                    json!({"type": "json_schema", "name": "schema", "schema": schema})
                }
                Format::Text | Format::Regex(_) | Format::Lark(_) => json!({"type": "text"}),
            },
            metadata,
        }
    }
}

/// Tells a job's answer.
pub struct ResponseReply {
    head: Head,
    echo: Echo,
    outcome: Outcome,
    /// The item that is open in a stream.
    open: Option<Open>,
    /// Items that are done.
    done: Vec<Value>,
    sequence: usize,
}

/// An item that still grows.
struct Open {
    is_thought: bool,
    text: String,
    logprobs: Vec<Value>,
}

impl ResponseReply {
    pub(super) fn new(head: Head, echo: Echo) -> ResponseReply {
        ResponseReply { head, echo, outcome: Outcome::new(1), open: None, done: Vec::new(), sequence: 0 }
    }

    fn item_id(&self, prefix: &str, n: usize) -> String {
        format!("{prefix}_{}{n:02}", self.head.id)
    }

    fn text_item(&self, n: usize, text: &str, logprobs: &[Value], status: &str) -> Value {
        json!({
            "type": "message", "id": self.item_id("msg", n), "status": status, "role": "assistant",
            "content": [text_part(text, logprobs)],
        })
    }

    fn thought_item(&self, n: usize, text: &str, status: &str) -> Value {
        json!({
            "type": "reasoning", "id": self.item_id("rs", n), "status": status, "summary": [],
            "content": [{"type": "reasoning_text", "text": text}],
        })
    }

    fn call_item(&self, n: usize, call: &Call, arguments: &str, status: &str) -> Value {
        json!({
            "type": "function_call", "id": self.item_id("fc", n), "call_id": self.item_id("call", n),
            "name": call.name, "arguments": arguments, "status": status,
        })
    }

    fn response(&self, outcome: &Outcome, output: Value, state: State<'_>) -> Value {
        let echo = &self.echo;
        let (status, error) = match state {
            State::Running => ("in_progress", Value::Null),
            State::Over(Some(Ending::Length | Ending::ContextFull) | None) => ("incomplete", Value::Null),
            State::Over(_) => ("completed", Value::Null),
            State::Failed(error) => ("failed", json!({"code": "server_error", "message": error.message})),
        };
        let is_cut = status == "incomplete";
        json!({
            "id": format!("resp_{}", self.head.id),
            "object": "response",
            "created_at": self.head.created,
            "status": status,
            "background": false,
            "error": error,
            // The API has this one word for it, also where the context is full.
            "incomplete_details": is_cut.then(|| json!({"reason": "max_output_tokens"})),
            "instructions": null,
            "max_output_tokens": echo.max_output_tokens,
            "model": self.head.model,
            "output": output,
            "parallel_tool_calls": echo.parallel_tool_calls,
            "previous_response_id": null,
            "store": false,
            "temperature": echo.temperature,
            "text": {"format": echo.format},
            "tool_choice": echo.tool_choice,
            "tools": echo.tools,
            "top_p": echo.top_p,
            "truncation": "disabled",
            "usage": matches!(state, State::Over(_)).then(|| usage(outcome)),
            "metadata": echo.metadata,
        })
    }

    /// An event with its name and number in the stream.
    fn push(&mut self, name: &str, mut data: Value, out: &mut String) {
        if let Value::Object(map) = &mut data {
            map.shift_insert(0, "type".into(), name.into());
            map.insert("sequence_number".into(), self.sequence.into());
        }
        self.sequence += 1;
        push_event(out, name, &data);
    }

    /// An event about the open item's text.
    fn push_on_text(&mut self, name: &str, is_thought: bool, extra: Value, out: &mut String) {
        let n = self.done.len();
        let mut data = json!({
            "item_id": self.item_id(if is_thought { "rs" } else { "msg" }, n),
            "output_index": n,
            "content_index": 0,
        });
        if let (Value::Object(data), Value::Object(extra)) = (&mut data, extra) {
            data.extend(extra);
        }
        self.push(name, data, out);
    }

    fn open(&mut self, is_thought: bool, out: &mut String) {
        if self.open.as_ref().is_some_and(|open| open.is_thought == is_thought) {
            return;
        }
        self.close("completed", out);
        let n = self.done.len();
        let (mut item, part) = if is_thought {
            (self.thought_item(n, "", "in_progress"), json!({"type": "reasoning_text", "text": ""}))
        } else {
            (self.text_item(n, "", &[], "in_progress"), text_part("", &[]))
        };
        item["content"] = json!([]);
        self.push("response.output_item.added", json!({"output_index": n, "item": item}), out);
        self.push_on_text("response.content_part.added", is_thought, json!({"part": part}), out);
        self.open = Some(Open { is_thought, text: String::new(), logprobs: Vec::new() });
    }

    fn close(&mut self, status: &str, out: &mut String) {
        let Some(Open { is_thought, text, logprobs }) = self.open.take() else { return };
        let n = self.done.len();
        let item = if is_thought {
            self.push_on_text("response.reasoning_text.done", true, json!({"text": text}), out);
            self.thought_item(n, &text, status)
        } else {
            let extra = json!({"text": text, "logprobs": logprobs});
            self.push_on_text("response.output_text.done", false, extra, out);
            self.text_item(n, &text, &logprobs, status)
        };
        let part = json!({"part": item["content"][0]});
        self.push_on_text("response.content_part.done", is_thought, part, out);
        self.push("response.output_item.done", json!({"output_index": n, "item": item}), out);
        self.done.push(item);
    }

    fn push_call(&mut self, call: &Call, out: &mut String) {
        self.close("completed", out);
        let n = self.done.len();
        let item = self.call_item(n, call, "", "in_progress");
        self.push("response.output_item.added", json!({"output_index": n, "item": item}), out);
        let id = self.item_id("fc", n);
        let delta = json!({"item_id": id, "output_index": n, "delta": call.arguments});
        self.push("response.function_call_arguments.delta", delta, out);
        let whole = json!({"item_id": id, "output_index": n, "name": call.name, "arguments": call.arguments});
        self.push("response.function_call_arguments.done", whole, out);
        let item = self.call_item(n, call, &call.arguments, "completed");
        self.push("response.output_item.done", json!({"output_index": n, "item": item}), out);
        self.done.push(item);
    }

    fn push_parts(&mut self, parts: &[Part], logprobs: Option<&TokenLogprobs>, out: &mut String) {
        let mut logprobs = logprobs.map(TokenLogprobs::json);
        for part in parts {
            let (text, is_thought) = match part {
                Part::Thought(text) => (text, true),
                Part::Text(text) => (text, false),
                Part::Call(call) => {
                    self.push_call(call, out);
                    continue;
                }
            };
            self.open(is_thought, out);
            let mine: Vec<Value> =
                if is_thought { Vec::new() } else { logprobs.take().into_iter().collect() };
            if let Some(open) = &mut self.open {
                open.text.push_str(text);
                open.logprobs.extend(mine.iter().cloned());
            }
            let (name, extra) = if is_thought {
                ("response.reasoning_text.delta", json!({"delta": text}))
            } else {
                ("response.output_text.delta", json!({"delta": text, "logprobs": mine}))
            };
            self.push_on_text(name, is_thought, extra, out);
        }
        // A token whose text is held back still counts among the text's.
        if let (Some(logprobs), Some(open)) = (logprobs, &mut self.open) {
            open.logprobs.push(logprobs);
        }
    }
}

#[derive(Clone, Copy)]
enum State<'a> {
    Running,
    Over(Option<&'a Ending>),
    Failed(&'a ApiError),
}

fn text_part(text: &str, logprobs: &[Value]) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs})
}

fn usage(outcome: &Outcome) -> Value {
    let answer = outcome.answer_tokens();
    json!({
        "input_tokens": outcome.prompt_tokens,
        "input_tokens_details": {"cached_tokens": outcome.cached_tokens},
        "output_tokens": answer,
        "output_tokens_details": {"reasoning_tokens": outcome.thought_tokens()},
        "total_tokens": outcome.prompt_tokens + answer,
    })
}

impl Reply for ResponseReply {
    fn stream(&mut self, event: &AnswerEvent, out: &mut String) {
        self.outcome.add(event.clone());
        match event {
            AnswerEvent::Started { .. } => {
                let response = self.response(&self.outcome, json!([]), State::Running);
                self.push("response.created", json!({"response": response}), out);
                self.push("response.in_progress", json!({"response": response}), out);
            }
            AnswerEvent::Token { parts, logprobs, .. } => self.push_parts(parts, logprobs.as_ref(), out),
            AnswerEvent::Finished { parts, ending, .. } => {
                self.push_parts(parts, None, out);
                let is_cut = is_cut(Some(ending));
                self.close(if is_cut { "incomplete" } else { "completed" }, out);
                let output = Value::Array(std::mem::take(&mut self.done));
                let response = self.response(&self.outcome, output, State::Over(Some(ending)));
                let name = if is_cut { "response.incomplete" } else { "response.completed" };
                self.push(name, json!({"response": response}), out);
            }
            AnswerEvent::Failed(error) => {
                let output = Value::Array(std::mem::take(&mut self.done));
                let response = self.response(&self.outcome, output, State::Failed(error));
                let mut data = json!({"response": response});
                data["response"]["error"]["type"] = error.body(Shape::OpenAi)["error"]["type"].take();
                self.push("response.failed", data, out);
            }
        }
    }

    fn whole(&self, outcome: &Outcome) -> Value {
        let Some(answer) = outcome.answers.first() else { return Value::Null };
        let is_cut = is_cut(answer.ending.as_ref());
        let last = answer.parts.len().saturating_sub(1);
        let mut logprobs = Some(answer.logprobs.iter().map(TokenLogprobs::json).collect::<Vec<_>>());
        let items = answer.parts.iter().enumerate().map(|(n, part)| {
            let status = if is_cut && n == last { "incomplete" } else { "completed" };
            match part {
                Part::Thought(text) => self.thought_item(n, text, status),
                Part::Text(text) => self.text_item(n, text, &logprobs.take().unwrap_or_default(), status),
                Part::Call(call) => self.call_item(n, call, &call.arguments, "completed"),
            }
        });
        let output = items.collect();
        self.response(outcome, output, State::Over(answer.ending.as_ref()))
    }
}

/// The answer is not all that the model had to say.
fn is_cut(ending: Option<&Ending>) -> bool {
    matches!(ending, Some(Ending::Length | Ending::ContextFull) | None)
}
