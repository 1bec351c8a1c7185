//! Whole streams of tokens, with the fixture's tokenizer.

use flashmill_engine::tool_calls::ToolSchemas;
use flashmill_engine::{EndReason, OutputOptions, OutputStream, Piece, TextPart, Tokenizer};
use proptest::prelude::*;
use serde_json::json;

use crate::text::tokenizer;

const EOS: u32 = 472;

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_parts(&[TextPart::Template(text.into())]).unwrap()
}

fn run(tokenizer: &Tokenizer, options: &OutputOptions, tokens: &[u32]) -> (Vec<Piece>, Option<EndReason>) {
    let mut stream = OutputStream::new(options.clone());
    let mut pieces = Vec::new();
    for &token in tokens {
        stream.push(tokenizer, token, &mut pieces);
    }
    stream.finish(&mut pieces);
    (merge(pieces), stream.end())
}

/// Neighbours of a kind put together.
fn merge(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut merged: Vec<Piece> = Vec::new();
    for piece in pieces {
        match (merged.last_mut(), piece) {
            (Some(Piece::Thought(last)), Piece::Thought(text)) => last.push_str(&text),
            (Some(Piece::Answer(last)), Piece::Answer(text)) => last.push_str(&text),
            (_, piece) => merged.push(piece),
        }
    }
    merged
}

fn options() -> OutputOptions {
    let schemas = ToolSchemas::new(&json!([{"type": "function", "function": {"name": "f",
        "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}}}]));
    OutputOptions { eos_ids: vec![EOS, 470], schemas, ..OutputOptions::default() }
}

#[test]
fn a_turn_with_everything_in_it() {
    let tokenizer = tokenizer();
    let text = "They say \u{1f680}.\n</think>\n\nThe r\u{e9}sum\u{e9}:\n\n<tool_call>\n<function=f>\n<parameter=n>\n3\n</parameter>\n</function>\n</tool_call><|im_end|>ignored";
    let in_thought = OutputOptions { in_thought: true, ..options() };
    let (pieces, end) = run(&tokenizer, &in_thought, &ids(&tokenizer, text));
    assert_eq!(end, Some(EndReason::EndToken(EOS)));
    assert_eq!(pieces[0], Piece::Thought("They say \u{1f680}.".into()));
    assert_eq!(pieces[1], Piece::Answer("The r\u{e9}sum\u{e9}:".into()));
    let Piece::ToolCall(call) = &pieces[2] else { panic!("{pieces:?}") };
    let parsed = call.call.as_ref().unwrap();
    assert_eq!(
        (parsed.id.as_str(), parsed.name.as_str(), &parsed.arguments),
        ("call_0", "f", &json!({"n": 3}))
    );
    assert!(call.raw.starts_with("<tool_call>\n") && call.raw.ends_with("</tool_call>"));
    assert_eq!(pieces.len(), 3);
}

/// The markers as one token each, or spelt out letter by letter: the same.
#[test]
fn markers_may_be_spelt() {
    let tokenizer = tokenizer();
    let text = "a</think>b<tool_call>{\"name\": \"f\"}</tool_call>";
    let in_thought = OutputOptions { in_thought: true, ..options() };
    let spelt = tokenizer.encode(text).unwrap();
    let whole = ids(&tokenizer, text);
    assert!(spelt.len() > whole.len() + 10);
    assert_eq!(run(&tokenizer, &in_thought, &spelt), run(&tokenizer, &in_thought, &whole));
}

#[test]
fn control_tokens_are_not_shown() {
    let tokenizer = tokenizer();
    let tokens = ids(&tokenizer, "a<|im_start|>b<|vision_pad|>c<|fim_prefix|>");
    let (pieces, end) = run(&tokenizer, &options(), &tokens);
    assert_eq!((pieces, end), (vec![Piece::Answer("abc<|fim_prefix|>".into())], None));
}

#[test]
fn stop_strings_end_the_output() {
    let tokenizer = tokenizer();
    let stopped = OutputOptions { stops: vec!["zzz".into(), "the page".into()], ..options() };
    let tokens = ids(&tokenizer, "When the page is not in memory");
    let (pieces, end) = run(&tokenizer, &stopped, &tokens);
    assert_eq!((pieces, end), (vec![Piece::Answer("When ".into())], Some(EndReason::StopString(1))));
    let (pieces, end) = run(&tokenizer, &stopped, &ids(&tokenizer, "When the p"));
    assert_eq!((pieces, end), (vec![Piece::Answer("When the p".into())], None));
}

#[test]
fn broken_bytes_are_replaced() {
    let tokenizer = tokenizer();
    let rocket = ids(&tokenizer, "\u{1f680}");
    assert_eq!(rocket.len(), 4, "one token for each byte");
    let cut = [&rocket[..2], &ids(&tokenizer, "a"), &rocket[..3]].concat();
    let (pieces, _) = run(&tokenizer, &options(), &cut);
    assert_eq!(pieces, [Piece::Answer("\u{fffd}a\u{fffd}".into())]);
    // Ids that no token has are nothing.
    assert_eq!(run(&tokenizer, &options(), &[511, 100_000]).0, []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any tokens: no panic, and the same text through the stream as through one decoding, cut at the same places.
    #[test]
    fn any_tokens_give_their_text(tokens in proptest::collection::vec(0u32..520, 0..60), in_thought in any::<bool>()) {
        let tokenizer = shared();
        let options = OutputOptions { in_thought, ..options() };
        let (pieces, end) = run(tokenizer, &options, &tokens);
        let shown: Vec<u32> = tokens.iter().copied().take_while(|id| !options.eos_ids.contains(id)).collect();
        prop_assert_eq!(end.is_some(), shown.len() < tokens.len());
        let spelt: Vec<u32> = shown.iter().copied().filter(|&id| tokenizer.added_tokens().get(id).is_none_or(|token| !token.special)).collect();
        let text = tokenizer.decode(&spelt);
        let letters = |text: &str| text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect::<String>();
        let mut joined = String::new();
        for piece in &pieces {
            match piece {
                Piece::Thought(text) | Piece::Answer(text) => joined.push_str(text),
                Piece::ToolCall(call) => joined.push_str(&call.raw),
            }
        }
        // The markers of thoughts are all that is taken out, besides line ends.
        let without = |text: String| text.replace("<think>", "").replace("</think>", "");
        prop_assert_eq!(without(letters(&joined)), without(letters(&text)));
    }
}

fn shared() -> &'static Tokenizer {
    static TOKENIZER: std::sync::OnceLock<Tokenizer> = std::sync::OnceLock::new();
    TOKENIZER.get_or_init(tokenizer)
}
