//! Text to tokens and back, as the model's own tokenizer.json or GGUF metadata say.

mod added;
mod bytes;
mod config;
mod definition;
mod gguf;
mod json;
mod splitter;

use std::path::Path;

use flashmill_checkpoint::gguf::Metadata;
use tokenizers::models::bpe::BPE;
use tokenizers::{DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, TokenizerImpl};

pub use self::added::{AddedToken, AddedTokens};
pub use self::bytes::StreamDecoder;
use self::bytes::TokenBytes;
pub use self::config::TokenizerConfig;
use self::definition::Definition;
use self::json::TokenizerJson;
use self::splitter::Splitter;
use crate::EngineError;
use crate::gguf_keys::GgufKeys;
use crate::json_file::{CONFIG_LIMIT, read_json};

/// The largest tokenizer.json that is read, in bytes; Qwen3.5's has 20 MB.
const TOKENIZER_LIMIT: u64 = 256 << 20;

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
    plain: Plain,
    added: AddedTokens,
    bytes: TokenBytes,
    config: TokenizerConfig,
}

type Plain = TokenizerImpl<BPE, NormalizerWrapper, Splitter, PostProcessorWrapper, DecoderWrapper>;

impl Tokenizer {
    /// Reads tokenizer.json, and tokenizer_config.json if there is one, from a model directory.
    pub fn open(dir: &Path) -> Result<Tokenizer, EngineError> {
        let path = dir.join("tokenizer.json");
        let missing =
            || EngineError::Read { path: path.clone(), source: std::io::ErrorKind::NotFound.into() };
        let json: TokenizerJson = read_json(&path, TOKENIZER_LIMIT)?.ok_or_else(missing)?;
        let config_path = dir.join("tokenizer_config.json");
        let config: TokenizerConfig = read_json(&config_path, CONFIG_LIMIT)?.unwrap_or_default();
        Tokenizer::new(json.definition(config, &path, &config_path)?, &path)
    }

    /// The same from the text of a tokenizer.json, without a tokenizer_config.json.
    pub fn from_json(text: &str) -> Result<Tokenizer, EngineError> {
        let path = Path::new("tokenizer.json");
        let json: TokenizerJson = serde_json::from_str(text)
            .map_err(|source| EngineError::Json { path: path.to_owned(), source })?;
        Tokenizer::new(json.definition(TokenizerConfig::default(), path, path)?, path)
    }

    /// Takes the tokenizer of GGUF metadata; `path` is for messages.
    pub fn from_gguf(path: &Path, metadata: Metadata) -> Result<Tokenizer, EngineError> {
        Tokenizer::of_keys(&GgufKeys::new(path, metadata))
    }

    pub(crate) fn of_keys(keys: &GgufKeys) -> Result<Tokenizer, EngineError> {
        Tokenizer::new(gguf::definition(keys)?, keys.path())
    }

    fn new(definition: Definition, path: &Path) -> Result<Tokenizer, EngineError> {
        let Definition { vocab, merges, ignore_merges, normalizer, splitter, added, config } = definition;
        let mut tokens = definition::token_bytes(&vocab, path)?;
        definition::add_tokens(&mut tokens, &added, path)?;
        let bytes = TokenBytes::new(&tokens);
        drop(tokens);
        let mut plain = Plain::new(definition::bpe(vocab, merges, ignore_merges, path)?);
        plain.with_normalizer(normalizer).map_err(|source| EngineError::Encode { source })?;
        plain.with_pre_tokenizer(Some(splitter));
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

    /// What tokenizer_config.json says, or the keys of GGUF that say the same.
    pub fn config(&self) -> &TokenizerConfig {
        &self.config
    }

    /// The id of the config's `eos_token`.
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
