//! The tokenizer in GGUF metadata. What opens encodes any text and gives it back.
#![no_main]

use std::path::Path;

use flashmill_checkpoint::gguf::read_header;
use flashmill_engine::Tokenizer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let path = Path::new("fuzz.gguf");
    let Ok(header) = read_header(path, input, input.len() as u64 + (1 << 40)) else { return };
    match Tokenizer::from_gguf(path, header.metadata) {
        Ok(tokenizer) => {
            let text = "Hello, world 42!\n  \u{e9} <|im_end|>";
            let ids = tokenizer.encode(text).expect("the rules are known ones");
            assert_eq!(tokenizer.decode(&ids), text);
        }
        Err(error) => assert!(error.to_string().starts_with("fuzz.gguf: "), "{error}"),
    }
});
