//! Bodies to typed requests. Unknown fields are passed over, as the real APIs do; what is wrong is named by its path.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::error::{ApiError, ErrorKind};

/// Reads one JSON object. Nesting beyond 128 levels is refused by the parser.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let invalid = |message: String| ApiError::new(ErrorKind::Invalid, message);
    let text =
        std::str::from_utf8(body).map_err(|error| invalid(format!("the body is not UTF-8: {error}")))?;
    if text.trim_start().is_empty() {
        return Err(invalid("the body is empty; send a JSON object".into()));
    }
    if !text.trim_start().starts_with('{') {
        return Err(invalid("the body is not a JSON object".into()));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        match inner.classify() {
            serde_json::error::Category::Data if path != "." => ApiError::field(path, inner),
            serde_json::error::Category::Data => invalid(inner.to_string()),
            _ => invalid(format!("the body is not valid JSON: {inner}")),
        }
    })?;
    json.end().map_err(|error| invalid(format!("the body is not valid JSON: {error}")))?;
    Ok(value)
}

/// A text, or something else that is told apart from it by its type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TextOr<T> {
    /// A string.
    Text(String),
    /// An array or an object.
    Other(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TextOr<T>, D::Error> {
        deserializer.deserialize_any(TextOrVisitor(PhantomData))
    }
}

struct TextOrVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for TextOrVisitor<T> {
    type Value = TextOr<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, or an array or object as the API describes it")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<TextOr<T>, E> {
        Ok(TextOr::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<TextOr<T>, A::Error> {
        T::deserialize(SeqAccessDeserializer::new(seq)).map(TextOr::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TextOr<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(TextOr::Other)
    }
}

impl TextOr<Vec<String>> {
    /// One or many as many.
    pub(crate) fn into_list(self) -> Vec<String> {
        match self {
            TextOr::Text(text) => vec![text],
            TextOr::Other(list) => list,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Outer {
        #[serde(rename = "items")]
        _items: Option<Vec<Inner>>,
        #[serde(rename = "stop")]
        _stop: Option<TextOr<Vec<String>>>,
    }

    #[derive(Debug, Deserialize)]
    struct Inner {
        #[serde(rename = "n")]
        _n: usize,
    }

    fn error(body: &[u8]) -> ApiError {
        read::<Outer>(body).expect_err("wrong")
    }

    #[test]
    fn the_field_is_named() {
        for (body, param) in [
            (r#"{"items": [{"n": 1}, {"n": "x"}]}"#, "items[1].n"),
            (r#"{"items": 5}"#, "items"),
            (r#"{"items": [{"n": -1}]}"#, "items[0].n"),
            (r#"{"stop": 5}"#, "stop"),
            (r#"{"stop": ["a", 5]}"#, "stop[1]"),
            (r#"{"items": [{}]}"#, "items[0]"),
        ] {
            let error = error(body.as_bytes());
            assert_eq!(error.param.as_deref(), Some(param), "{body}");
            assert!(error.message.starts_with(&format!("{param}: ")), "{}", error.message);
        }
        assert!(read::<Outer>(br#"{"items": null, "stop": ["a"], "other": {"x": [1]}}"#).is_ok());
    }

    #[test]
    fn what_is_no_json_object() {
        let deep = "[".repeat(100_000);
        for (body, word) in [
            (&b""[..], "empty"),
            (b"  \n", "empty"),
            (b"\xff\xfe", "not UTF-8"),
            (b"{\"a\": 1", "not valid JSON"),
            (b"{} {}", "not valid JSON"),
            (b"5", "not a JSON object"),
            (b"[{}]", "not a JSON object"),
            (deep.as_bytes(), ""),
            (b"{\"items\": 1e999}", "not valid JSON"),
        ] {
            let error = error(body);
            assert_eq!(error.kind, ErrorKind::Invalid);
            assert!(error.message.contains(word), "{}", error.message);
        }
    }
}
