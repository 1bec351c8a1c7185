//! The tokenizer in GGUF metadata: the keys below `tokenizer.ggml`, as llama.cpp's converter writes them.

use flashmill_checkpoint::gguf::{Array, Strings};
use tokenizers::models::bpe::Vocab;
use tokenizers::normalizers::NFC;

use super::definition::{Definition, MAX_IDS};
use super::{AddedToken, Splitter, TokenizerConfig};
use crate::EngineError;
use crate::gguf_keys::GgufKeys;

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// How Qwen3.5 cuts a text into words. Marks belong to letters.
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// How Qwen2 and Qwen3 do.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What a token is for (`llama_token_type`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum TokenType {
    Normal,
    /// Added, and not part of what a model says.
    Control,
    /// Added.
    UserDefined,
    /// Fills the table up to the embedding's rows.
    Unused,
}

/// Reads the tokenizer.
pub(super) fn definition(keys: &GgufKeys) -> Result<Definition, EngineError> {
    let need_text = |key| keys.text(key).and_then(|text| keys.need(key, text));
    const MODEL: &str = "tokenizer.ggml.model";
    match need_text(MODEL)? {
        "gpt2" => {}
        other => return Err(keys.wrong(MODEL, format!("{other:?}"), "\"gpt2\", byte-level BPE")),
    }
    let rule = match need_text("tokenizer.ggml.pre")? {
        "qwen2" => QWEN2,
        "qwen35" => QWEN35,
        other => {
            let (path, name) = (keys.path().to_owned(), other.to_owned());
            return Err(EngineError::UnknownPreTokenizer { path, name });
        }
    };
    let tokens = keys.strings(TOKENS).and_then(|tokens| keys.need(TOKENS, tokens))?;
    if tokens.len() > MAX_IDS {
        return Err(keys.wrong(TOKENS, format!("{} strings", tokens.len()), "at most 524288"));
    }
    let (vocab, added) = vocabulary(keys, tokens)?;
    Ok(Definition {
        vocab,
        merges: merges(keys)?,
        ignore_merges: false,
        normalizer: Some(NFC.into()),
        splitter: Splitter::of_rule(rule, keys.path())?,
        added,
        config: config(keys, tokens)?,
    })
}

/// All tokens but those that only fill the table, and those that are added.
fn vocabulary(keys: &GgufKeys, tokens: &Strings) -> Result<(Vocab, Vec<AddedToken>), EngineError> {
    let types = match keys.array(TYPES)? {
        Some(types) if types.len() == tokens.len() as u64 => Some(types),
        Some(types) => {
            let found = format!("{} values for {} tokens", types.len(), tokens.len());
            return Err(keys.wrong(TYPES, found, "one for each token"));
        }
        None => None,
    };
    let mut types = types.into_iter().flat_map(Array::numbers);
    let mut vocab = Vocab::with_capacity(tokens.len());
    let mut added = Vec::new();
    for (id, text) in (0u32..).zip(tokens.iter()) {
        let ty = match types.next().map(|ty| (ty.as_u64(), ty)) {
            // Unknown and byte tokens do not occur in a byte-level vocabulary; they would be as any other.
            None | Some((Some(1 | 2 | 6), _)) => TokenType::Normal,
            Some((Some(3), _)) => TokenType::Control,
            Some((Some(4), _)) => TokenType::UserDefined,
            Some((Some(5), _)) => TokenType::Unused,
            Some((_, ty)) => return Err(keys.wrong(&format!("{TYPES}[{id}]"), ty, "1 to 6")),
        };
        // Older converters call the tokens that fill the table user-defined; they all name them so.
        if ty == TokenType::Unused || is_padding(text, id) {
            continue;
        }
        if let Some(other) = vocab.insert(text.to_owned(), id) {
            let content = text.to_owned();
            let (path, other) = (keys.path().to_owned(), format!("{text:?} of id {other}"));
            return Err(EngineError::TokenTaken { path, content, id, other });
        }
        if ty != TokenType::Normal {
            let special = ty == TokenType::Control;
            added.push(AddedToken { id, content: text.to_owned(), special, ..AddedToken::default() });
        }
    }
    Ok((vocab, added))
}

fn is_padding(text: &str, id: u32) -> bool {
    let number = text.strip_prefix("[PAD").and_then(|rest| rest.strip_suffix(']'));
    number.is_some_and(|number| number.parse() == Ok(id))
}

/// `left right`, best first.
fn merges(keys: &GgufKeys) -> Result<Vec<(String, String)>, EngineError> {
    let lines = keys.strings(MERGES).and_then(|merges| keys.need(MERGES, merges))?;
    if lines.len() > MAX_IDS {
        return Err(keys.wrong(MERGES, format!("{} strings", lines.len()), "at most 524288"));
    }
    let pair = |(index, line): (usize, &str)| {
        // As llama.cpp reads them: a token has one character at least, so that the first may be a space.
        let first = line.chars().next().map_or(0, char::len_utf8);
        match line[first..].find(' ') {
            Some(at) => Ok((line[..first + at].to_owned(), line[first + at + 1..].to_owned())),
            None => {
                Err(keys.wrong(&format!("{MERGES}[{index}]"), format!("{line:?}"), "two tokens and a space"))
            }
        }
    };
    lines.iter().enumerate().map(pair).collect()
}

/// The tokens with a role, by their text.
fn config(keys: &GgufKeys, tokens: &Strings) -> Result<TokenizerConfig, EngineError> {
    let token = |key: &str| -> Result<Option<String>, EngineError> {
        let Some(id) = keys.number(key)? else { return Ok(None) };
        // No token at all, in the words of llama.cpp.
        if id == -1.0 || id == f64::from(u32::MAX) {
            return Ok(None);
        }
        let index = Some(id).filter(|id| *id >= 0.0 && id.fract() == 0.0).map(|id| id as usize);
        match index.and_then(|index| tokens.get(index)) {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(keys.wrong(key, id, "the id of a token")),
        }
    };
    Ok(TokenizerConfig {
        bos_token: token("tokenizer.ggml.bos_token_id")?,
        eos_token: token("tokenizer.ggml.eos_token_id")?,
        pad_token: token("tokenizer.ggml.padding_token_id")?,
        unk_token: token("tokenizer.ggml.unknown_token_id")?,
        add_bos_token: keys.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(false),
        ..TokenizerConfig::default()
    })
}
