//! What a file says of a tokenizer, whatever its form, made ready for use.

use std::collections::HashMap;
use std::path::Path;

use tokenizers::NormalizerWrapper;
use tokenizers::models::bpe::{BPE, Merges, Vocab};

use super::bytes::gpt2_alphabet;
use super::{AddedToken, Splitter, TokenizerConfig};
use crate::EngineError;

/// Ids are below this, and there are no more merges: twice the largest vocabulary. It bounds the tables made from a file.
pub(super) const MAX_IDS: usize = 1 << 19;
/// Added tokens are looked for at every place of a template.
const MAX_ADDED: usize = 1 << 13;
const MAX_ADDED_BYTES: usize = 1 << 10;

/// A byte-level BPE tokenizer.
pub(super) struct Definition {
    /// Tokens in GPT-2's alphabet, with their ids.
    pub(super) vocab: Vocab,
    /// Best first.
    pub(super) merges: Merges,
    /// A word that is a token is not put together from merges.
    pub(super) ignore_merges: bool,
    pub(super) normalizer: Option<NormalizerWrapper>,
    pub(super) splitter: Splitter,
    pub(super) added: Vec<AddedToken>,
    pub(super) config: TokenizerConfig,
}

/// The bytes of each token of the vocabulary, at its id.
pub(super) fn token_bytes(vocab: &Vocab, path: &Path) -> Result<Vec<Option<Vec<u8>>>, EngineError> {
    let alphabet = gpt2_alphabet();
    if let Some((letter, byte)) = alphabet.iter().find(|(letter, _)| !vocab.contains_key(&letter.to_string()))
    {
        // Text with this byte would lose it.
        return Err(EngineError::Field {
            path: path.to_owned(),
            field: format!("the token {letter:?} of byte {byte:#04x}"),
            found: "missing".to_owned(),
            expected: "a token for every byte",
        });
    }
    let mut tokens: Vec<Option<Vec<u8>>> = Vec::new();
    for (text, &id) in vocab {
        // Every character in the alphabet, or the text as it is (control tokens that sit in the vocabulary).
        let bytes: Option<Vec<u8>> = text.chars().map(|c| alphabet.get(&c).copied()).collect();
        let place = entry(&mut tokens, id, text, path)?;
        if let Some(other) = place {
            return Err(taken(path, text, id, &String::from_utf8_lossy(other)));
        }
        *place = Some(bytes.unwrap_or_else(|| text.clone().into_bytes()));
    }
    Ok(tokens)
}

/// Writes the added tokens into the table of all tokens; one that the vocabulary holds already keeps its place.
pub(super) fn add_tokens(
    tokens: &mut Vec<Option<Vec<u8>>>,
    added: &[AddedToken],
    path: &Path,
) -> Result<(), EngineError> {
    let limit = |field: &str, found: usize, expected| EngineError::Field {
        path: path.to_owned(),
        field: field.to_owned(),
        found: found.to_string(),
        expected,
    };
    if added.len() > MAX_ADDED {
        return Err(limit("the number of added tokens", added.len(), "at most 8192"));
    }
    let mut text_of: HashMap<u32, &str> = HashMap::new();
    for token in added {
        let (id, text) = (token.id, token.content.as_str());
        if text.len() > MAX_ADDED_BYTES {
            return Err(limit("the length of an added token", text.len(), "at most 1024 bytes"));
        }
        if let Some(other) = text_of.insert(id, text).filter(|&other| other != text) {
            return Err(taken(path, text, id, other));
        }
        let place = entry(tokens, id, text, path)?;
        // A byte that is no longer plain text would turn into the added token wherever it stands.
        if let Some([byte]) = place.as_deref().filter(|&bytes| bytes != text.as_bytes()) {
            return Err(taken(path, text, id, &format!("byte {byte:#04x}")));
        }
        *place = Some(text.as_bytes().to_vec());
    }
    Ok(())
}

/// The model that merges a word's bytes to tokens.
pub(super) fn bpe(
    vocab: Vocab,
    merges: Merges,
    ignore_merges: bool,
    path: &Path,
) -> Result<BPE, EngineError> {
    if merges.len() > MAX_IDS {
        return Err(EngineError::Field {
            path: path.to_owned(),
            field: "the number of merges".to_owned(),
            found: merges.len().to_string(),
            expected: "at most 524288",
        });
    }
    // The builder takes it on trust that a merge gives no more than the longest token.
    let longest = vocab.keys().map(String::len).max().unwrap_or(0);
    let merge = |source: Box<dyn std::error::Error + Send + Sync>| EngineError::Merges {
        path: path.to_owned(),
        source,
    };
    if let Some((a, b)) = merges.iter().find(|(a, b)| a.len() + b.len() > longest) {
        let cut = |text: &str| text.chars().take(80).collect::<String>();
        return Err(merge(format!("{:?} and {:?} give no token", cut(a), cut(b)).into()));
    }
    BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(ignore_merges).build().map_err(merge)
}

fn taken(path: &Path, content: &str, id: u32, other: &str) -> EngineError {
    let (content, other) = (content.to_owned(), format!("{other:?}"));
    EngineError::TokenTaken { path: path.to_owned(), content, id, other }
}

fn entry<'a>(
    tokens: &'a mut Vec<Option<Vec<u8>>>,
    id: u32,
    text: &str,
    path: &Path,
) -> Result<&'a mut Option<Vec<u8>>, EngineError> {
    if id as usize >= MAX_IDS {
        return Err(EngineError::Field {
            path: path.to_owned(),
            field: format!("id of token {text:?}"),
            found: id.to_string(),
            expected: "less than 524288",
        });
    }
    if tokens.len() <= id as usize {
        tokens.resize(id as usize + 1, None);
    }
    Ok(&mut tokens[id as usize])
}
