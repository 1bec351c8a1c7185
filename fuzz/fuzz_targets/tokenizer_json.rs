//! `tokenizer.json`. What opens encodes a text or says why not, in bounded time.
#![no_main]

use flashmill_engine::{TextPart, Tokenizer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let Ok(tokenizer) = Tokenizer::from_json(input) else { return };
    let text = "Hello, world 42!\n  aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa \u{e9} <|im_end|>";
    for part in [TextPart::Data(text.to_owned()), TextPart::Template(text.to_owned())] {
        if let Ok(ids) = tokenizer.encode_parts(&[part]) {
            tokenizer.decode(&ids);
        }
    }
});
