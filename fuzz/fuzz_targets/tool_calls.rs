//! Tool calls, thoughts and stop strings: no text panics, and how a text is cut does not change what comes out.
#![no_main]

use flashmill_engine::thinking::Splitter;
use flashmill_engine::tool_calls::ToolSchemas;
use flashmill_engine::{Piece, StopMatcher};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, u8, &str)| {
    let (in_thought, step, text) = input;
    let schemas = ToolSchemas::new(&serde_json::json!([
        {"function": {"name": "f", "parameters": {"properties": {"n": {"type": "integer"}, "s": {"type": "string"}}}}}
    ]));
    let whole = run(in_thought, &schemas, [text].into_iter());
    let step = usize::from(step % 7) + 1;
    let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).step_by(step).chain([text.len()]).collect();
    let cut = run(in_thought, &schemas, ends.windows(2).map(|pair| &text[pair[0]..pair[1]]));
    assert_eq!(whole, cut);
});

fn run<'a>(in_thought: bool, schemas: &ToolSchemas, pieces: impl Iterator<Item = &'a str>) -> Vec<Piece> {
    let mut stops = StopMatcher::new(vec!["</s>".into(), "\n\n\n".into()]);
    let mut splitter = Splitter::new(in_thought, schemas.clone());
    let mut out = Vec::new();
    for piece in pieces {
        let mut shown = String::new();
        stops.push(piece, &mut shown);
        splitter.push(&shown, &mut out);
    }
    let mut shown = String::new();
    stops.finish(&mut shown);
    splitter.push(&shown, &mut out);
    splitter.finish(&mut out);
    out
}
