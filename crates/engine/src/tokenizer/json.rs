//! tokenizer.json.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokenizers::NormalizerWrapper;
use tokenizers::models::bpe::Vocab;

use super::definition::Definition;
use super::{AddedToken, Splitter, TokenizerConfig};
use crate::EngineError;

/// What we read of tokenizer.json.
#[derive(Deserialize)]
pub(super) struct TokenizerJson {
    model: Model,
    #[serde(default)]
    normalizer: Option<Value>,
    #[serde(default)]
    pre_tokenizer: Option<Value>,
    #[serde(default)]
    decoder: Option<Value>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    vocab: Vocab,
    #[serde(default)]
    merges: Vec<Merge>,
    #[serde(default)]
    dropout: Option<f32>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    ignore_merges: bool,
}

/// `["a", "b"]`, or `"a b"` in older files; `None` for a line of theirs that is no merge.
struct Merge(Option<(String, String)>);

impl TokenizerJson {
    /// The tokenizer that both files describe; where both name a token, tokenizer.json counts, as in transformers.
    pub(super) fn definition(
        self,
        config: TokenizerConfig,
        path: &Path,
        config_path: &Path,
    ) -> Result<Definition, EngineError> {
        check_decoder(self.decoder.as_ref(), path)?;
        self.model.check(path)?;
        let mut added = self.added_tokens;
        let ids: HashSet<u32> = added.iter().map(|token| token.id).collect();
        let texts: HashSet<String> = added.iter().map(|token| token.content.clone()).collect();
        let known = |token: &AddedToken| ids.contains(&token.id) || texts.contains(&token.content);
        added.extend(config.added_tokens(config_path)?.into_iter().filter(|token| !known(token)));
        Ok(Definition {
            vocab: self.model.vocab,
            merges: self.model.merges.into_iter().filter_map(|merge| merge.0).collect(),
            ignore_merges: self.model.ignore_merges,
            normalizer: self.normalizer.map(|json| normalizer(json, path)).transpose()?,
            splitter: match &self.pre_tokenizer {
                Some(json) => Splitter::of_json(json, path)?,
                None => Splitter::default(),
            },
            added,
            config,
        })
    }
}

impl Model {
    /// Anything that gives other tokens than bytes and merges do is an error.
    fn check(&self, path: &Path) -> Result<(), EngineError> {
        if let Some(kind) = self.kind.as_deref().filter(|&kind| kind != "BPE") {
            return Err(unsupported(path, "model", kind));
        }
        let wrong = |field: &str, found: String, expected| {
            Err(EngineError::Field { path: path.to_owned(), field: field.to_owned(), found, expected })
        };
        if let Some(dropout) = self.dropout.filter(|&dropout| dropout != 0.0) {
            return wrong("model.dropout", dropout.to_string(), "none");
        }
        for (field, text) in [
            ("model.continuing_subword_prefix", &self.continuing_subword_prefix),
            ("model.end_of_word_suffix", &self.end_of_word_suffix),
        ] {
            if let Some(text) = text.as_deref().filter(|text| !text.is_empty()) {
                return wrong(field, format!("{text:?}"), "none");
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Merge, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("two tokens that merge")
            }

            fn visit_str<E: Error>(self, line: &str) -> Result<Merge, E> {
                if line.starts_with("#version") {
                    return Ok(Merge(None));
                }
                match line.split_once(' ') {
                    Some((a, b)) if !b.contains(' ') => Ok(Merge(Some((a.to_owned(), b.to_owned())))),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(line), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Merge, A::Error> {
                let (a, b) = (items.next_element()?, items.next_element()?);
                match (a, b, items.next_element::<serde::de::IgnoredAny>()?) {
                    (Some(a), Some(b), None) => Ok(Merge(Some((a, b)))),
                    _ => Err(A::Error::custom("a merge is two tokens")),
                }
            }
        }
        deserializer.deserialize_any(Pair)
    }
}

/// Normalisers without rules of their own: those that byte-level tokenizers have.
fn normalizer(json: Value, path: &Path) -> Result<NormalizerWrapper, EngineError> {
    check_normalizer(&json, path)?;
    NormalizerWrapper::deserialize(json).map_err(|source| EngineError::Json { path: path.to_owned(), source })
}

fn check_normalizer(json: &Value, path: &Path) -> Result<(), EngineError> {
    match json["type"].as_str() {
        Some("Sequence") => json["normalizers"]
            .as_array()
            .into_iter()
            .flatten()
            .try_for_each(|json| check_normalizer(json, path)),
        Some("NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase" | "Strip" | "StripAccents") => Ok(()),
        kind => Err(unsupported(path, "normalizer", kind.unwrap_or("unknown"))),
    }
}

/// Only decoders that map characters to bytes are read: the bytes of a token then do not depend on its neighbours.
fn check_decoder(decoder: Option<&Value>, path: &Path) -> Result<(), EngineError> {
    let kind = |value: &Value| value["type"].as_str().unwrap_or("unknown").to_owned();
    let found = match decoder {
        None => "none".to_owned(),
        Some(decoder) => match decoder["decoders"].as_array() {
            Some(list) => {
                list.iter().map(kind).find(|kind| kind == "ByteLevel").unwrap_or_else(|| kind(decoder))
            }
            None => kind(decoder),
        },
    };
    if found == "ByteLevel" {
        return Ok(());
    }
    Err(unsupported(path, "decoder", &found))
}

fn unsupported(path: &Path, part: &'static str, kind: &str) -> EngineError {
    EngineError::UnsupportedTokenizer { path: path.to_owned(), part, kind: kind.to_owned() }
}
