//! Text to tokens and back, as the model's own tokenizer.json says.

mod added;
mod bytes;
mod config;

use std::path::Path;

use serde::Deserialize;
use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper};

pub use self::added::{AddedToken, AddedTokens};
pub use self::bytes::StreamDecoder;
use self::bytes::{TokenBytes, gpt2_alphabet};
pub use self::config::TokenizerConfig;
use crate::EngineError;
use crate::json_file::{CONFIG_LIMIT, read_json};

/// The largest tokenizer.json that is read, in bytes; Qwen3.5's has 20 MB.
const TOKENIZER_LIMIT: u64 = 256 << 20;
/// Ids are below this; it bounds the tables that are made from a file.
const MAX_IDS: u32 = 1 << 24;

/// A piece of a prompt, by who wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextPart {
    /// The chat template or the program: the texts of added tokens are those tokens.
    Template(String),
    /// Anyone else: whatever it says, it is plain text.
    Data(String),
}

/// A byte-level tokenizer.
///
/// The added tokens are kept apart from the rest, so that text from outside can be encoded without them.
pub struct Tokenizer {
    /// Normaliser, splitter and merges; it knows no added token.
    plain: tokenizers::Tokenizer,
    added: AddedTokens,
    bytes: TokenBytes,
    config: TokenizerConfig,
}

/// What we read of tokenizer.json.
#[derive(Deserialize)]
struct TokenizerJson {
    model: ModelWrapper,
    #[serde(default)]
    normalizer: Option<NormalizerWrapper>,
    #[serde(default)]
    pre_tokenizer: Option<PreTokenizerWrapper>,
    #[serde(default)]
    decoder: Option<serde_json::Value>,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

impl Tokenizer {
    /// Reads tokenizer.json, and tokenizer_config.json if there is one, from a model directory.
    pub fn open(dir: &Path) -> Result<Tokenizer, EngineError> {
        let path = dir.join("tokenizer.json");
        let missing =
            || EngineError::Read { path: path.clone(), source: std::io::ErrorKind::NotFound.into() };
        let json: TokenizerJson = read_json(&path, TOKENIZER_LIMIT)?.ok_or_else(missing)?;
        let config_path = dir.join("tokenizer_config.json");
        let config: TokenizerConfig = read_json(&config_path, CONFIG_LIMIT)?.unwrap_or_default();
        Tokenizer::build(json, config, &path, &config_path)
    }

    /// The same from the text of a tokenizer.json, without a tokenizer_config.json.
    pub fn from_json(text: &str) -> Result<Tokenizer, EngineError> {
        let path = Path::new("tokenizer.json");
        let json = serde_json::from_str(text)
            .map_err(|source| EngineError::Json { path: path.to_owned(), source })?;
        Tokenizer::build(json, TokenizerConfig::default(), path, path)
    }

    fn build(
        json: TokenizerJson,
        config: TokenizerConfig,
        path: &Path,
        config_path: &Path,
    ) -> Result<Tokenizer, EngineError> {
        check_decoder(json.decoder.as_ref(), path)?;
        let mut plain = tokenizers::Tokenizer::new(json.model);
        plain.with_normalizer(json.normalizer).map_err(|source| EngineError::Encode { source })?;
        plain.with_pre_tokenizer(json.pre_tokenizer);

        let mut tokens = vocabulary(&plain, path)?;
        let mut added = Vec::new();
        for token in json.added_tokens {
            add_token(&mut tokens, &mut added, token, path)?;
        }
        for token in config.added_tokens(config_path)? {
            // transformers takes tokenizer.json's word where both name a token.
            if !added.iter().any(|known: &AddedToken| known.id == token.id || known.content == token.content)
            {
                add_token(&mut tokens, &mut added, token, config_path)?;
            }
        }
        let bytes = TokenBytes::new(&tokens);
        Ok(Tokenizer { plain, added: AddedTokens::new(added), bytes, config })
    }

    /// The tokens of a text from outside: the texts of added tokens are plain text in it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let mut ids = Vec::new();
        self.encode_plain(text, &mut ids)?;
        Ok(ids)
    }

    /// The tokens of a prompt. Between two added tokens the parts are one text, so that where a part ends changes nothing.
    pub fn encode_parts(&self, parts: &[TextPart]) -> Result<Vec<u32>, EngineError> {
        let mut ids = Vec::new();
        // Text since the last added token.
        let mut plain = String::new();
        let mut strip_start = false;
        for part in parts {
            let text = match part {
                TextPart::Data(text) => {
                    push_text(&mut plain, text, &mut strip_start);
                    continue;
                }
                TextPart::Template(text) => text,
            };
            let mut at = 0;
            while let Some((start, token)) = self.added.next_match(text, at) {
                push_text(&mut plain, &text[at..start], &mut strip_start);
                let before = if token.lstrip { plain.trim_end() } else { &plain };
                self.encode_plain(before, &mut ids)?;
                plain.clear();
                ids.push(token.id);
                strip_start = token.rstrip;
                at = start + token.content.len();
            }
            push_text(&mut plain, &text[at..], &mut strip_start);
        }
        self.encode_plain(&plain, &mut ids)?;
        Ok(ids)
    }

    /// The text of tokens, added tokens included. Ids without a token are left out; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().filter_map(|&id| self.bytes.get(id)).flatten().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes of one token; `None` if the id has no token.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.bytes.get(id)
    }

    /// The id of a token, by its text: an added token's, or the bytes of any other.
    pub fn token_to_id(&self, text: &str) -> Option<u32> {
        let added = self.added.iter().find(|token| token.content == text).map(|token| token.id);
        added.or_else(|| {
            (0..self.n_vocab() as u32)
                .find(|&id| self.bytes.get(id).is_some_and(|bytes| bytes == text.as_bytes()))
        })
    }

    /// One more than the highest id that has a token. Models often have more rows than this; those are never sampled.
    pub fn n_vocab(&self) -> usize {
        self.bytes.n_ids()
    }

    /// The added tokens.
    pub fn added_tokens(&self) -> &AddedTokens {
        &self.added
    }

    /// What tokenizer_config.json says.
    pub fn config(&self) -> &TokenizerConfig {
        &self.config
    }

    /// The id of tokenizer_config.json's `eos_token`.
    pub fn eos_id(&self) -> Option<u32> {
        self.config.eos_token.as_deref().and_then(|text| self.token_to_id(text))
    }

    /// The id that every text starts with, for the few tokenizers that ask for one.
    pub fn bos_id(&self) -> Option<u32> {
        let wanted = self.config.add_bos_token;
        self.config.bos_token.as_deref().filter(|_| wanted).and_then(|text| self.token_to_id(text))
    }

    fn encode_plain(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), EngineError> {
        if text.is_empty() {
            return Ok(());
        }
        let encoding =
            self.plain.encode_fast(text, false).map_err(|source| EngineError::Encode { source })?;
        for &id in encoding.get_ids() {
            match self.added.get(id) {
                None => ids.push(id),
                // A vocabulary whose merges lead to an added token: spell it in two halves instead.
                Some(token) => self.encode_halves(&token.content, id, ids)?,
            }
        }
        Ok(())
    }

    fn encode_halves(&self, text: &str, id: u32, ids: &mut Vec<u32>) -> Result<(), EngineError> {
        let n_chars = text.chars().count();
        let Some((middle, _)) = text.char_indices().nth(n_chars / 2).filter(|_| n_chars > 1) else {
            // A single character has no other spelling; it cannot be a control token of any use.
            ids.push(id);
            return Ok(());
        };
        self.encode_plain(&text[..middle], ids)?;
        self.encode_plain(&text[middle..], ids)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("n_vocab", &self.n_vocab()).finish_non_exhaustive()
    }
}

fn push_text(plain: &mut String, text: &str, strip_start: &mut bool) {
    let text = if *strip_start { text.trim_start() } else { text };
    *strip_start &= text.is_empty();
    plain.push_str(text);
}

/// Only decoders that map characters to bytes are read: the bytes of a token then do not depend on its neighbours.
fn check_decoder(decoder: Option<&serde_json::Value>, path: &Path) -> Result<(), EngineError> {
    let kind = |value: &serde_json::Value| value["type"].as_str().unwrap_or("unknown").to_owned();
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
    Err(EngineError::UnsupportedTokenizer { path: path.to_owned(), kind: found })
}

/// The bytes of each token of the vocabulary, at its id.
fn vocabulary(plain: &tokenizers::Tokenizer, path: &Path) -> Result<Vec<Option<Vec<u8>>>, EngineError> {
    let alphabet = gpt2_alphabet();
    let mut tokens = Vec::new();
    for (text, id) in plain.get_vocab(false) {
        // Every character in the alphabet, or the text as it is (control tokens that sit in the vocabulary).
        let bytes: Option<Vec<u8>> = text.chars().map(|c| alphabet.get(&c).copied()).collect();
        *entry(&mut tokens, id, &text, path)? = Some(bytes.unwrap_or_else(|| text.clone().into_bytes()));
    }
    Ok(tokens)
}

/// Adds a token to both lists; one that the vocabulary holds already keeps its place.
fn add_token(
    tokens: &mut Vec<Option<Vec<u8>>>,
    added: &mut Vec<AddedToken>,
    token: AddedToken,
    path: &Path,
) -> Result<(), EngineError> {
    let taken = |other: String| EngineError::AddedToken {
        path: path.to_owned(),
        content: token.content.clone(),
        id: token.id,
        other,
    };
    if let Some(other) = added.iter().find(|other| other.id == token.id && other.content != token.content) {
        return Err(taken(format!("{:?}", other.content)));
    }
    *entry(tokens, token.id, &token.content, path)? = Some(token.content.clone().into_bytes());
    added.push(token);
    Ok(())
}

fn entry<'a>(
    tokens: &'a mut Vec<Option<Vec<u8>>>,
    id: u32,
    text: &str,
    path: &Path,
) -> Result<&'a mut Option<Vec<u8>>, EngineError> {
    if id >= MAX_IDS {
        return Err(EngineError::Field {
            path: path.to_owned(),
            field: format!("id of token {text:?}"),
            found: id.to_string(),
            expected: "less than 16777216",
        });
    }
    if tokens.len() <= id as usize {
        tokens.resize(id as usize + 1, None);
    }
    Ok(&mut tokens[id as usize])
}
