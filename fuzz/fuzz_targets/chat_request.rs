//! Bodies of `/v1/chat/completions`: an error that says what is wrong, or a job and its answer.
#![no_main]

#[path = "../requests.rs"]
mod requests;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| requests::check(flashmill_server::openai::chat::parse(body, requests::head())));
