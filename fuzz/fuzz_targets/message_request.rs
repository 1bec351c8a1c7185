//! Bodies of `/v1/messages` and `/v1/messages/count_tokens`: an error that says what is wrong, or a job and its answer.
#![no_main]

#[path = "../requests.rs"]
mod requests;

use flashmill_server::anthropic::messages;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let counted = messages::parse_count(body);
    let parsed = messages::parse(body, requests::head());
    assert!(parsed.is_err() || counted.is_ok(), "what can be answered can be counted");
    requests::check(parsed);
});
