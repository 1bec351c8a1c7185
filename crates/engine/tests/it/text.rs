//! What the text tests share: fixtures and their cases.

use std::path::{Path, PathBuf};

use flashmill_engine::{ChatTemplate, Message, Rendered, TemplateOptions, TextPart, Tokenizer};
use serde::Deserialize;
use serde_json::Value;

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// Files of other projects, which are read where they lie; `None`, with a word, if they are not there.
pub(crate) fn reference(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/tokenizer").join(name);
    if path.exists() {
        return Some(path);
    }
    #[allow(clippy::print_stderr)]
    {
        eprintln!("skipped: {} is not there", path.display());
    }
    None
}

pub(crate) fn tokenizer() -> Tokenizer {
    Tokenizer::open(&fixture("qwen3_5_moe")).unwrap()
}

pub(crate) fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> T {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A case of chat_template_cases.json.
#[derive(Deserialize)]
pub(crate) struct ChatCase {
    pub(crate) name: String,
    pub(crate) messages: Vec<Message>,
    #[serde(default)]
    pub(crate) tools: Option<Value>,
    #[serde(default)]
    pub(crate) enable_thinking: Option<bool>,
    #[serde(default)]
    pub(crate) add_generation_prompt: Option<bool>,
    #[serde(default)]
    pub(crate) rendered: Option<String>,
    #[serde(default)]
    pub(crate) error: Option<String>,
}

impl ChatCase {
    pub(crate) fn render(
        &self,
        template: &ChatTemplate,
        tokenizer: &Tokenizer,
    ) -> Result<Rendered, flashmill_engine::EngineError> {
        let options = TemplateOptions {
            add_generation_prompt: self.add_generation_prompt.unwrap_or(true),
            enable_thinking: self.enable_thinking,
            ..TemplateOptions::default()
        };
        template.render(tokenizer, &self.messages, self.tools.as_ref(), &options)
    }
}

/// The control tokens that are in a rendering.
pub(crate) fn control_texts(rendered: &Rendered) -> Vec<&str> {
    let controls = rendered.parts.iter().filter_map(|part| match part {
        TextPart::Template(text) => Some(text.as_str()),
        TextPart::Data(_) => None,
    });
    controls.collect()
}

/// All text of the parts.
pub(crate) fn joined(parts: &[TextPart]) -> String {
    parts
        .iter()
        .map(|part| match part {
            TextPart::Template(text) | TextPart::Data(text) => text.as_str(),
        })
        .collect()
}
