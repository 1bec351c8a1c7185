//! Tokenizer, chat template and sampling settings out of GGUF metadata, against those of the same model's Hugging Face files.

use std::path::{Path, PathBuf};

use flashmill_checkpoint::gguf::read_metadata;
use flashmill_engine::{
    BackendKind, ChatTemplate, Engine, EngineOptions, SamplingOptions, TextPart, Tokenizer,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::gguf::{ARRAY, Draft, F32, I32, STRING, U32, numbers, string, strings};
use crate::text::{fixture, read_json, reference, tokenizer};

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    #[serde(default)]
    decoded: Option<String>,
}

fn model() -> PathBuf {
    fixture("qwen3_5_moe_gguf/model.gguf")
}

fn open(path: &Path) -> Tokenizer {
    try_open(path).unwrap_or_else(|error| panic!("{error}"))
}

fn try_open(path: &Path) -> Result<Tokenizer, String> {
    let metadata = read_metadata(path).expect("the header is sound");
    Tokenizer::from_gguf(path, metadata).map_err(|error| {
        let message = error.to_string();
        assert!(message.starts_with(path.to_str().unwrap()), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        message
    })
}

#[test]
fn all_cases_of_the_fixture() {
    let (ours, theirs) = (open(&model()), tokenizer());
    // The rows that fill the embedding table have no token.
    assert_eq!(ours.n_vocab(), 496);
    for id in 0..512 {
        assert_eq!(ours.token_bytes(id), theirs.token_bytes(id), "token {id}");
        assert_eq!(ours.added_tokens().get(id), theirs.added_tokens().get(id), "token {id}");
    }
    assert_eq!((ours.eos_id(), ours.bos_id()), (theirs.eos_id(), theirs.bos_id()));
    let cases: Vec<Case> = read_json(&fixture("qwen3_5_moe/tokenizer_cases.json"));
    assert_eq!(cases.len(), 21);
    for case in cases {
        let ids = ours.encode_parts(&[TextPart::Template(case.text.clone())]).unwrap();
        assert_eq!(ids, case.ids, "{:?}", case.text);
        assert_eq!(Some(ours.decode(&ids)), case.decoded);
        assert_eq!(ours.encode(&case.text).unwrap(), theirs.encode(&case.text).unwrap());
    }
}

/// The public vocabulary, read where it lies, by both of its splitting rules.
#[test]
fn the_public_vocabulary() {
    let Some(path) = reference("ggml-vocab-qwen35.gguf") else { return };
    let cases: Map<String, Value> = read_json(&reference("vocab_cases.json").unwrap());
    let dir = tempfile::tempdir().unwrap();
    for name in ["qwen35", "qwen2"] {
        let path = match name {
            "qwen35" => path.clone(),
            _ => {
                let mut draft = Draft::of(&path);
                draft.set("tokenizer.ggml.pre", STRING, string(name));
                draft.write(dir.path())
            }
        };
        let tokenizer = open(&path);
        // 151,643 and three control tokens; the 290 behind them fill the table.
        assert_eq!(tokenizer.n_vocab(), 151_646);
        let cases: Vec<Case> = serde_json::from_value(cases[name].clone()).unwrap();
        assert!(cases.len() > 40);
        for case in cases {
            let ids = tokenizer.encode(&case.text).unwrap();
            assert_eq!(ids, case.ids, "{name}: {:?}", case.text);
            let decoded = tokenizer.decode(&ids);
            assert_eq!(tokenizer.encode(&decoded).unwrap(), ids);
            if case.text.is_ascii() {
                assert_eq!(decoded, case.text);
            }
        }
        assert_eq!(tokenizer.decode(&tokenizer.encode("e\u{301}").unwrap()), "\u{e9}");
    }
}

#[test]
fn what_does_not_fit_is_named() {
    type Change = fn(&mut Draft);
    let cases: [(Change, &[&str]); 13] = [
        (
            |d| d.set("tokenizer.ggml.pre", STRING, string("llama-bpe")),
            &["\"llama-bpe\"", "tokenizer.ggml.pre", "qwen2 and qwen35"],
        ),
        (|d| d.remove("tokenizer.ggml.pre"), &["tokenizer.ggml.pre is missing"]),
        (|d| d.set("tokenizer.ggml.model", STRING, string("llama")), &["\"llama\"", "\"gpt2\""]),
        (|d| d.remove("tokenizer.ggml.model"), &["tokenizer.ggml.model is missing"]),
        (|d| d.set("tokenizer.ggml.pre", U32, vec![1, 0, 0, 0]), &["tokenizer.ggml.pre is 1", "a string"]),
        (|d| d.remove("tokenizer.ggml.tokens"), &["tokenizer.ggml.tokens is missing"]),
        (|d| d.remove("tokenizer.ggml.merges"), &["tokenizer.ggml.merges is missing"]),
        (|d| d.set("tokenizer.ggml.merges", ARRAY, strings(&["ab"])), &["merges[0] is \"ab\""]),
        (
            |d| d.set("tokenizer.ggml.merges", ARRAY, strings(&["no such"])),
            &["merges do not go with the tokens", "out of vocabulary"],
        ),
        (
            |d| d.set("tokenizer.ggml.merges", ARRAY, strings(&[&format!("{0} {0}", "a".repeat(99))])),
            &["merges do not go with the tokens"],
        ),
        (
            |d| d.set("tokenizer.ggml.token_type", ARRAY, numbers(&[1; 3])),
            &["token_type is 3 values for 512"],
        ),
        (|d| d.set("tokenizer.ggml.token_type", ARRAY, numbers(&[9; 512])), &["token_type[0] is 9"]),
        (
            |d| d.set("tokenizer.ggml.eos_token_id", U32, vec![0, 2, 0, 0]),
            &["eos_token_id is 512", "the id of a token"],
        ),
    ];
    let dir = tempfile::tempdir().unwrap();
    let good = Draft::of(&model());
    for (change, words) in cases {
        let mut draft = good.clone();
        change(&mut draft);
        let message = try_open(&draft.write(dir.path())).expect_err("the tokenizer is damaged");
        for word in words {
            assert!(message.contains(word), "{word:?} is not in {message}");
        }
    }
}

/// The table of tokens as a list that a test may change.
fn with_tokens(change: impl FnOnce(&mut Vec<String>)) -> Draft {
    let mut draft = Draft::of(&model());
    let metadata = read_metadata(&model()).unwrap();
    let tokens = metadata.get("tokenizer.ggml.tokens").unwrap().as_strings().unwrap();
    let mut tokens: Vec<String> = tokens.iter().map(str::to_owned).collect();
    change(&mut tokens);
    draft.set("tokenizer.ggml.tokens", ARRAY, strings(&tokens));
    draft
}

#[test]
fn tokens_are_one_for_each_text_and_byte() {
    let dir = tempfile::tempdir().unwrap();
    let twice = with_tokens(|tokens| tokens[400] = tokens[399].clone()).write(dir.path());
    let message = try_open(&twice).unwrap_err();
    assert!(message.contains("has id 400, which is already taken by"), "{message}");
    // Byte 0xff: text with it would lose it.
    let lost =
        with_tokens(|tokens| *tokens.iter_mut().find(|t| *t == "\u{ff}").unwrap() = "xyzzy".to_owned());
    let message = try_open(&lost.write(dir.path())).unwrap_err();
    assert!(message.contains("0xff is missing, expected a token for every byte"), "{message}");
}

fn engine(path: &Path) -> Engine {
    let options = EngineOptions { backend: BackendKind::Reference, ..EngineOptions::default() };
    Engine::open(path, &options, &mut |_, _| ()).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_gguf_model_brings_its_text_side() {
    let engine = engine(&model());
    let template = ChatTemplate::open(&fixture("qwen3_5_moe")).unwrap().unwrap();
    assert_eq!(engine.template().unwrap().source(), template.source());
    // The end of a turn and the end of a text, as generation_config.json of the same model has it.
    assert_eq!(engine.defaults().eos_ids, [470, 472]);
    assert_eq!(engine.defaults().sampling, SamplingOptions::default());
    assert_eq!(engine.tokenizer().decode(&engine.tokenizer().encode("The river").unwrap()), "The river");
}

/// A model in another form keeps its metadata in a file without tensors.
#[test]
fn metadata_stand_beside_weights_of_another_form() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        std::fs::copy(fixture("qwen3_5_moe_mlx4").join(name), dir.path().join(name)).unwrap();
    }
    let mut draft = Draft::of(&model());
    let float = |x: f32| x.to_le_bytes().to_vec();
    draft.set("general.sampling.temp", F32, float(0.6));
    draft.set("general.sampling.top_p", F32, float(0.95));
    draft.set("general.sampling.top_k", I32, (-1i32).to_le_bytes().to_vec());
    draft.set("tokenizer.chat_template.tool_use", STRING, string("with tools"));
    std::fs::rename(draft.write(dir.path()), dir.path().join("metadata.gguf")).unwrap();
    let engine = engine(dir.path());
    assert_eq!(engine.tokenizer().n_vocab(), 496);
    let expected = SamplingOptions { temperature: 0.6, top_p: 0.95, top_k: 0, ..SamplingOptions::plain() };
    assert_eq!(engine.defaults().sampling, expected);
    assert_eq!(engine.template().unwrap().path(), dir.path().join("metadata.gguf"));

    // What the metadata lack may lie beside them.
    draft.remove("tokenizer.chat_template");
    std::fs::rename(draft.write(dir.path()), dir.path().join("metadata.gguf")).unwrap();
    assert!(self::engine(dir.path()).template().is_none());
    std::fs::write(dir.path().join("chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    let beside = self::engine(dir.path()).template().unwrap().source().to_owned();
    assert_eq!(beside, "{{ messages[0].content }}");
}
