//! tokenizer_config.json.

use std::path::Path;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::AddedToken;
use crate::EngineError;

/// What we read of tokenizer_config.json. The named tokens are variables of the chat template.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TokenizerConfig {
    /// Starts a text, for models that want one.
    #[serde(deserialize_with = "token_text")]
    pub bos_token: Option<String>,
    /// Ends a text or a turn.
    #[serde(deserialize_with = "token_text")]
    pub eos_token: Option<String>,
    /// Fills batches; not used.
    #[serde(deserialize_with = "token_text")]
    pub pad_token: Option<String>,
    /// Stands for what is not in the vocabulary; not used.
    #[serde(deserialize_with = "token_text")]
    pub unk_token: Option<String>,
    /// Plain text starts with `bos_token`.
    #[serde(deserialize_with = "or_false")]
    pub add_bos_token: bool,
    /// Added tokens by id; Qwen3.5 has seven here that tokenizer.json lacks.
    pub(super) added_tokens_decoder: Map<String, Value>,
}

impl TokenizerConfig {
    /// The named tokens under the names that chat templates use.
    pub fn named_tokens(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("bos_token", &self.bos_token),
            ("eos_token", &self.eos_token),
            ("pad_token", &self.pad_token),
            ("unk_token", &self.unk_token),
        ]
        .into_iter()
        .filter_map(|(name, token)| token.as_deref().map(|token| (name, token)))
    }

    pub(super) fn added_tokens(&self, path: &Path) -> Result<Vec<AddedToken>, EngineError> {
        let mut tokens = Vec::new();
        for (key, value) in &self.added_tokens_decoder {
            let id = key.parse().map_err(|_| EngineError::Field {
                path: path.to_owned(),
                field: "a key of added_tokens_decoder".into(),
                found: format!("{key:?}"),
                expected: "a token id",
            })?;
            let token = AddedToken::deserialize(value)
                .map_err(|source| EngineError::Json { path: path.to_owned(), source })?;
            tokens.push(AddedToken { id, ..token });
        }
        Ok(tokens)
    }
}

/// A token is written as its text or as an object with `content`.
fn token_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Token {
        Text(String),
        Object { content: String },
        Other(serde::de::IgnoredAny),
    }
    Ok(match Option::deserialize(deserializer)? {
        Some(Token::Text(text) | Token::Object { content: text }) => Some(text),
        Some(Token::Other(_)) | None => None,
    })
}

fn or_false<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_texts_or_objects() {
        let config: TokenizerConfig = serde_json::from_str(
            r#"{"bos_token": null, "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": "p", "add_bos_token": null}"#,
        )
        .unwrap();
        let named: Vec<_> = config.named_tokens().collect();
        assert_eq!(named, [("eos_token", "</s>"), ("pad_token", "p")]);
        assert!(!config.add_bos_token);
    }

    #[test]
    fn keys_of_added_tokens_are_ids() {
        let config: TokenizerConfig = serde_json::from_str(
            r#"{"added_tokens_decoder": {"7": {"content": "<x>"}, "y": {"content": "<y>"}}}"#,
        )
        .unwrap();
        let error = config.added_tokens(Path::new("c.json")).unwrap_err().to_string();
        assert_eq!(error, "c.json: a key of added_tokens_decoder is \"y\", expected a token id");
    }
}
