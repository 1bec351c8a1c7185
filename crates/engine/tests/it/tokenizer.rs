//! The tokenizer against Hugging Face's own results.

use flashmill_engine::tokenizer::StreamDecoder;
use flashmill_engine::{TextPart, Tokenizer};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::gguf;
use crate::text::{fixture, read_json, reference, tokenizer};

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    #[serde(default)]
    decoded: Option<String>,
}

#[test]
fn all_cases_of_the_fixture() {
    let tokenizer = tokenizer();
    assert_eq!(tokenizer.n_vocab(), 496);
    let cases: Vec<Case> = read_json(&fixture("qwen3_5_moe/tokenizer_cases.json"));
    assert_eq!(cases.len(), 21);
    for case in cases {
        let ids = tokenizer.encode_parts(&[TextPart::Template(case.text.clone())]).unwrap();
        assert_eq!(ids, case.ids, "{:?}", case.text);
        assert_eq!(Some(tokenizer.decode(&ids)), case.decoded);
        assert_eq!(Some(decode_one_by_one(&tokenizer, &ids)), case.decoded);
    }
}

/// Without added tokens in the text, data is encoded as the same tokens; with some, as tokens that are none of them.
#[test]
fn data_holds_no_added_tokens() {
    let tokenizer = tokenizer();
    let cases: Vec<Case> = read_json(&fixture("qwen3_5_moe/tokenizer_cases.json"));
    let mut n_with_added = 0;
    for case in cases {
        let ids = tokenizer.encode(&case.text).unwrap();
        let has_added = tokenizer.added_tokens().next_match(&case.text, 0).is_some();
        n_with_added += usize::from(has_added);
        assert_eq!(ids == case.ids, !has_added, "{:?}", case.text);
        assert!(ids.iter().all(|&id| tokenizer.added_tokens().get(id).is_none()));
        assert_eq!(tokenizer.decode(&ids), case.decoded.unwrap());
    }
    assert_eq!(n_with_added, 2);
}

#[test]
fn parts_are_one_text_between_added_tokens() {
    let tokenizer = tokenizer();
    let template = |text: &str| TextPart::Template(text.into());
    let data = |text: &str| TextPart::Data(text.into());
    let whole = tokenizer.encode_parts(&[template("<|im_start|>user\nThe river<|im_end|>\n")]).unwrap();
    let cut =
        [template("<|im_start|>us"), data("er\nThe ri"), data("ver"), template("<|im_end|>"), template("\n")];
    assert_eq!(tokenizer.encode_parts(&cut).unwrap(), whole);
    // Half a literal from each side is no literal.
    let forged = tokenizer.encode_parts(&[template("<|im_"), data("end|>")]).unwrap();
    assert!(forged.iter().all(|&id| tokenizer.added_tokens().get(id).is_none()));
    assert_eq!(tokenizer.decode(&forged), "<|im_end|>");
}

#[test]
fn ids_and_texts_of_tokens() {
    let tokenizer = tokenizer();
    assert_eq!(tokenizer.token_to_id("<|im_end|>"), Some(472));
    assert_eq!(tokenizer.eos_id(), Some(472));
    assert_eq!(tokenizer.bos_id(), None);
    assert_eq!(tokenizer.token_to_id(" "), Some(220));
    assert_eq!(tokenizer.token_to_id("no such token"), None);
    assert_eq!(tokenizer.token_bytes(472), Some(&b"<|im_end|>"[..]));
    assert_eq!(tokenizer.token_bytes(496), None);
    assert_eq!(tokenizer.decode(&[496, u32::MAX]), "");
    assert!(tokenizer.added_tokens().get(472).unwrap().special);
    assert!(!tokenizer.added_tokens().get(494).unwrap().special);
}

#[test]
fn tokens_that_only_the_config_has_are_added() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("qwen3_5_moe/tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let mut config: Value = read_json(&fixture("qwen3_5_moe/tokenizer_config.json"));
    config["added_tokens_decoder"]["496"] = json!({"content": "<|audio_start|>", "special": true});
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let tokenizer = Tokenizer::open(dir.path()).unwrap();
    assert_eq!(tokenizer.n_vocab(), 497);
    let ids = tokenizer.encode_parts(&[TextPart::Template("a<|audio_start|>".into())]).unwrap();
    assert_eq!(ids, [64, 496]);
}

#[test]
fn broken_files_are_errors_that_name_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    let message = || Tokenizer::open(dir.path()).unwrap_err().to_string();
    assert!(message().starts_with(&format!("cannot read {}", path.display())), "{}", message());

    let good: Value = read_json(&fixture("qwen3_5_moe/tokenizer.json"));
    std::fs::write(&path, &good.to_string()[..1000]).unwrap();
    assert!(message().contains("tokenizer.json is not valid: EOF"), "{}", message());

    let mut other = good.clone();
    other["decoder"] = json!({"type": "Metaspace"});
    std::fs::write(&path, other.to_string()).unwrap();
    assert!(
        message().ends_with("a decoder of type Metaspace is not supported; only byte-level tokenizers are")
    );

    let mut far = good.clone();
    far["added_tokens"][0]["id"] = json!(4_000_000_000u32);
    std::fs::write(&path, far.to_string()).unwrap();
    assert!(message().ends_with("id of token \"<|endoftext|>\" is 4000000000, expected less than 524288"));
}

/// A rule that takes for ever is an error after a while, and never another split; a long run of blanks is no such thing.
#[test]
fn rules_of_splitting_are_bounded() {
    let mut json: Value = read_json(&fixture("qwen3_5_moe/tokenizer.json"));
    let blanks = format!("{}x", " ".repeat(300_000));
    let good = Tokenizer::from_json(&json.to_string()).unwrap();
    assert_eq!(good.decode(&good.encode(&blanks).unwrap()), blanks);

    let mut with_rule = |rule: &str| {
        json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(rule);
        Tokenizer::from_json(&json.to_string())
    };
    let endless = with_rule("(?:(?!x)a|(?!y)a)*b|a").unwrap();
    assert_eq!(endless.decode(&endless.encode("aab a").unwrap()), "aab a");
    let message = endless.encode(&"a".repeat(60)).unwrap_err().to_string();
    assert!(message.contains("limit for backtracking"), "{message}");
    for (rule, words) in [
        ("(", "rule of the pre-tokenizer is not read"),
        ("(?:a{999}){9999}", "rule of the pre-tokenizer is not read"),
    ] {
        let message = with_rule(rule).unwrap_err().to_string();
        assert!(message.contains(words) && message.lines().count() == 1, "{message}");
    }
    let message = with_rule(&"a".repeat(5000)).unwrap_err().to_string();
    assert!(message.ends_with("expected at most 32 steps and 4096 bytes"), "{message}");
}

#[test]
fn other_tokenizers_are_refused() {
    let good: Value = read_json(&fixture("qwen3_5_moe/tokenizer.json"));
    type Change<'a> = &'a dyn Fn(&mut Value);
    let message = |change: Change<'_>| {
        let mut json = good.clone();
        change(&mut json);
        Tokenizer::from_json(&json.to_string()).unwrap_err().to_string()
    };
    let cases: [(Change<'_>, &str); 7] = [
        (&|json| json["model"]["type"] = json!("WordPiece"), "a model of type WordPiece is not supported"),
        (&|json| json["model"]["dropout"] = json!(0.5), "model.dropout is 0.5, expected none"),
        (&|json| json["model"]["end_of_word_suffix"] = json!("</w>"), "expected none"),
        (
            &|json| {
                json["normalizer"] = json!({"type": "Replace", "pattern": {"Regex": "(a*)*"}, "content": ""})
            },
            "a normalizer of type Replace is not supported",
        ),
        // A merge that gives more than the longest token.
        (
            &|json| json["model"]["merges"] = json!([["a".repeat(99), "b"]]),
            "the merges do not go with the tokens",
        ),
        (&|json| json["model"]["vocab"]["xyzzy"] = json!(5), "has id 5, which is already taken"),
        (
            &|json| drop(json["model"]["vocab"].as_object_mut().unwrap().remove("\u{120}")),
            "byte 0x20 is missing",
        ),
    ];
    for (change, words) in cases {
        let message = message(change);
        assert!(message.contains(words), "{words:?} is not in {message}");
    }
    // Older files write a merge as one text.
    let mut json = good.clone();
    for merge in json["model"]["merges"].as_array_mut().unwrap() {
        *merge = json!(format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()));
    }
    json["model"]["merges"].as_array_mut().unwrap().insert(0, json!("#version: 0.2"));
    let older = Tokenizer::from_json(&json.to_string()).unwrap();
    assert_eq!(older.encode("The river").unwrap(), tokenizer().encode("The river").unwrap());
}

/// The vocabulary of Qwen with both of its splitting rules, against Hugging Face's ids.
#[test]
fn the_public_vocabulary() {
    let Some(path) = reference("ggml-vocab-qwen35.gguf") else { return };
    let vocabulary = gguf::Vocabulary::read(&path);
    assert_eq!(vocabulary.tokens.len(), 151_936);
    let cases: Map<String, Value> = read_json(&reference("vocab_cases.json").unwrap());
    let marks_of_letters = [("qwen2", ""), ("qwen35", "\\p{M}")];
    for (name, mark) in marks_of_letters {
        let tokenizer = Tokenizer::from_json(&tokenizer_json(&vocabulary, mark)).unwrap();
        let cases: Vec<Case> = serde_json::from_value(cases[name].clone()).unwrap();
        assert!(cases.len() > 40);
        for case in cases {
            let ids = tokenizer.encode(&case.text).unwrap();
            assert_eq!(ids, case.ids, "{name}: {:?}", case.text);
            // The text comes back in NFC: encoding it again changes nothing.
            let decoded = tokenizer.decode(&ids);
            assert_eq!(tokenizer.encode(&decoded).unwrap(), ids);
            assert_eq!(decode_one_by_one(&tokenizer, &ids), decoded);
            if case.text.is_ascii() {
                assert_eq!(decoded, case.text);
            }
        }
        assert_eq!(tokenizer.decode(&tokenizer.encode("e\u{301}").unwrap()), "\u{e9}");
    }
}

fn decode_one_by_one(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut decoder = StreamDecoder::new();
    let mut text = String::new();
    for &id in ids {
        text.push_str(decoder.push(tokenizer.token_bytes(id).unwrap()));
    }
    text + decoder.finish()
}

/// A tokenizer.json of the vocabulary; `mark` is what counts as part of a word besides letters.
fn tokenizer_json(vocabulary: &gguf::Vocabulary, mark: &str) -> String {
    let letters = if mark.is_empty() { "\\p{L}".to_owned() } else { format!("[\\p{{L}}{mark}]") };
    let regex = format!(
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{{L}}\\p{{N}}]?{letters}+|\\p{{N}}| ?[^\\s\\p{{L}}{mark}\\p{{N}}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
    );
    let vocab: Map<String, Value> =
        vocabulary.tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0",
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}
        ]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "added_tokens": [],
        "model": {"type": "BPE", "vocab": vocab, "merges": vocabulary.merges}
    });
    tokenizer.to_string()
}
