//! Schemas, regular expressions, grammars and tools from outside: an error, or a form whose masks can be computed.
#![no_main]

use std::sync::LazyLock;

use flashmill_engine::Tokenizer;
use flashmill_grammar::{Grammars, ToolChoice};
use libfuzzer_sys::fuzz_target;

static GRAMMARS: LazyLock<Grammars> = LazyLock::new(|| {
    let json = include_str!("../../models/demo/tokenizer.json");
    Grammars::new(&Tokenizer::from_json(json).unwrap(), &[2], None).unwrap()
});

fuzz_target!(|data: &[u8]| {
    let Some((kind, Ok(text))) = data.split_first().map(|(kind, text)| (kind, std::str::from_utf8(text))) else {
        return;
    };
    let json = || serde_json::from_str(text).unwrap_or_default();
    let form = match kind % 4 {
        0 => GRAMMARS.json_schema(&json()),
        1 => GRAMMARS.regex(text),
        2 => GRAMMARS.lark(text),
        _ => GRAMMARS.tool_calls(&json(), &ToolChoice::Required, true),
    };
    let Ok(form) = form else { return };
    let mut constraint = form.start(false);
    for step in 0..8 {
        let Ok(Some(mask)) = constraint.allowed() else { return };
        let allowed: Vec<u32> = (0..32 * mask.len() as u32).filter(|id| mask[(id / 32) as usize] >> (id % 32) & 1 == 1).collect();
        let Some(&token) = allowed.get((usize::from(*kind) + step) % allowed.len().max(1)) else { return };
        if constraint.accept(token).is_err() {
            return;
        }
    }
});
