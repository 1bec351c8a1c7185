//! Forms from outside: what they let through is judged by a JSON schema validator and by the engine's own reader of tool calls.

mod draw;
mod forms;
mod hostile;
mod schemas;
mod thoughts;
mod tool_calls;
