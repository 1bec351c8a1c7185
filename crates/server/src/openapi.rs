//! `/openapi.json`: what can be asked for, for programs that read such documents.

use serde_json::{Value, json};

use crate::job::MAX_ANSWERS;

const DOCUMENT: &str = include_str!("openapi.json");

/// The document, with what depends on the program and on the model filled in: `sessions` answers run at the same time.
pub(crate) fn document(sessions: usize) -> Value {
    let Ok(mut document) = serde_json::from_str::<Value>(DOCUMENT) else {
        unreachable!("the document is JSON: a test reads it");
    };
    document["info"]["version"] = env!("CARGO_PKG_VERSION").into();
    let most = json!(sessions.min(MAX_ANSWERS));
    for request in ["ChatRequest", "CompletionRequest"] {
        document["components"]["schemas"][request]["properties"]["n"]["maximum"] = most.clone();
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document(4);
        assert_eq!(document["components"]["schemas"]["ChatRequest"]["properties"]["n"]["maximum"], 4);
        let mut open = vec![&document];
        let mut n_references = 0;
        while let Some(value) = open.pop() {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(path)) = map.get("$ref") {
                        n_references += 1;
                        let found = path.strip_prefix('#').and_then(|path| document.pointer(path));
                        assert!(found.is_some(), "{path}");
                    }
                    open.extend(map.values());
                }
                Value::Array(list) => open.extend(list),
                _ => {}
            }
        }
        assert!(n_references > 50);
    }
}
