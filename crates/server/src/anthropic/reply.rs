//! `/v1/messages`: answers.

use serde_json::{Value, json};

use crate::answer::{Answer, AnswerEvent, Call, Ending, Head, Outcome, Part, Reply, push_event};
use crate::error::Shape;

/// Thoughts carry a signature; what they say is not secret here, and nobody checks it.
const SIGNATURE: &str = "flashmill";

/// Tells a job's answer.
pub struct MessageReply {
    head: Head,
    outcome: Outcome,
    /// Number of the block that is open in a stream, and its kind.
    open: Option<Kind>,
    n_blocks: usize,
    n_calls: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Thinking,
    Text,
}

impl MessageReply {
    pub(super) fn new(head: Head) -> MessageReply {
        MessageReply { head, outcome: Outcome::new(1), open: None, n_blocks: 0, n_calls: 0 }
    }

    fn frame(&self, outcome: &Outcome, content: Value, stop: Value, sequence: Value) -> Value {
        json!({
            "id": format!("msg_{}", self.head.id),
            "type": "message",
            "role": "assistant",
            "model": self.head.model,
            "content": content,
            "stop_reason": stop,
            "stop_sequence": sequence,
            "usage": usage(outcome),
        })
    }

    fn call(&self, n: usize, call: &Call, input: Value) -> Value {
        json!({"type": "tool_use", "id": format!("toolu_{}{n:02}", self.head.id), "name": call.name, "input": input})
    }

    fn start_block(&mut self, block: &Value, out: &mut String) {
        let data = json!({"type": "content_block_start", "index": self.n_blocks, "content_block": block});
        push_event(out, "content_block_start", &data);
    }

    fn push_delta(&self, delta: &Value, out: &mut String) {
        let data = json!({"type": "content_block_delta", "index": self.n_blocks, "delta": delta});
        push_event(out, "content_block_delta", &data);
    }

    fn stop_block(&mut self, out: &mut String) {
        let data = json!({"type": "content_block_stop", "index": self.n_blocks});
        push_event(out, "content_block_stop", &data);
        self.n_blocks += 1;
    }

    /// Ends the open block unless it is of this kind, and opens one if there is none.
    fn open(&mut self, kind: Option<Kind>, out: &mut String) {
        if self.open == kind {
            return;
        }
        match self.open.take() {
            Some(Kind::Thinking) => {
                self.push_delta(&json!({"type": "signature_delta", "signature": SIGNATURE}), out);
                self.stop_block(out);
            }
            Some(Kind::Text) => self.stop_block(out),
            None => {}
        }
        match kind {
            Some(Kind::Thinking) => {
                self.start_block(&json!({"type": "thinking", "thinking": "", "signature": ""}), out);
            }
            Some(Kind::Text) => self.start_block(&json!({"type": "text", "text": ""}), out),
            None => {}
        }
        self.open = kind;
    }

    fn push_parts(&mut self, parts: &[Part], out: &mut String) {
        for part in parts {
            match part {
                Part::Thought(text) => {
                    self.open(Some(Kind::Thinking), out);
                    self.push_delta(&json!({"type": "thinking_delta", "thinking": text}), out);
                }
                Part::Text(text) => {
                    self.open(Some(Kind::Text), out);
                    self.push_delta(&json!({"type": "text_delta", "text": text}), out);
                }
                Part::Call(call) => {
                    self.open(None, out);
                    let block = self.call(self.n_calls, call, json!({}));
                    self.n_calls += 1;
                    self.start_block(&block, out);
                    let delta = json!({"type": "input_json_delta", "partial_json": call.arguments});
                    self.push_delta(&delta, out);
                    self.stop_block(out);
                }
            }
        }
    }

    fn content(&self, answer: &Answer) -> Value {
        let mut n_calls = 0;
        let blocks = answer.parts.iter().map(|part| match part {
            Part::Thought(text) => json!({"type": "thinking", "thinking": text, "signature": SIGNATURE}),
            Part::Text(text) => json!({"type": "text", "text": text}),
            Part::Call(call) => {
                n_calls += 1;
                let input = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
                self.call(n_calls - 1, call, input)
            }
        });
        blocks.collect()
    }
}

/// `input_tokens` are those that were read; what was known from before is counted apart.
fn usage(outcome: &Outcome) -> Value {
    json!({
        "input_tokens": outcome.prompt_tokens - outcome.cached_tokens.min(outcome.prompt_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": outcome.cached_tokens,
        "output_tokens": outcome.answer_tokens(),
    })
}

/// Anthropic's word for the end of an answer, and the stop string.
fn stop_reason(ending: Option<&Ending>, has_calls: bool) -> (Value, Value) {
    match ending {
        Some(Ending::Stop(text)) => ("stop_sequence".into(), text.as_str().into()),
        Some(Ending::Turn) if has_calls => ("tool_use".into(), Value::Null),
        Some(Ending::Turn) => ("end_turn".into(), Value::Null),
        Some(Ending::ContextFull) => ("model_context_window_exceeded".into(), Value::Null),
        Some(Ending::Length) | None => ("max_tokens".into(), Value::Null),
    }
}

impl Reply for MessageReply {
    fn stream(&mut self, event: &AnswerEvent, out: &mut String) {
        self.outcome.add(event.clone());
        match event {
            AnswerEvent::Started { .. } => {
                let message = self.frame(&self.outcome, json!([]), Value::Null, Value::Null);
                push_event(out, "message_start", &json!({"type": "message_start", "message": message}));
            }
            AnswerEvent::Token { parts, .. } => self.push_parts(parts, out),
            AnswerEvent::Finished { parts, ending, .. } => {
                self.push_parts(parts, out);
                self.open(None, out);
                let (stop_reason, stop_sequence) = stop_reason(Some(ending), self.n_calls > 0);
                let data = json!({
                    "type": "message_delta",
                    "delta": {"stop_reason": stop_reason, "stop_sequence": stop_sequence},
                    "usage": usage(&self.outcome),
                });
                push_event(out, "message_delta", &data);
                push_event(out, "message_stop", &json!({"type": "message_stop"}));
            }
            AnswerEvent::Failed(error) => push_event(out, "error", &error.body(Shape::Anthropic)),
        }
    }

    fn whole(&self, outcome: &Outcome) -> Value {
        let Some(answer) = outcome.answers.first() else { return Value::Null };
        let (stop, sequence) = stop_reason(answer.ending.as_ref(), answer.calls().next().is_some());
        self.frame(outcome, self.content(answer), stop, sequence)
    }

    fn ping(&self) -> &'static str {
        if self.outcome.prompt_tokens == 0 {
            return ": still at it\n\n";
        }
        "event: ping\ndata: {\"type\": \"ping\"}\n\n"
    }
}
