//! The rules that cut a text into words before merging: `pre_tokenizer` of tokenizer.json, `tokenizer.ggml.pre` of GGUF.

use std::path::Path;

use fancy_regex::{Regex, RegexBuilder};
use serde::Deserialize;
use serde_json::Value;
use tokenizers::pattern::Invert;
use tokenizers::{PreTokenizedString, PreTokenizer, PreTokenizerWrapper, SplitDelimiterBehavior};

use crate::EngineError;

/// Steps back at one place of a text. Ordinary rules take a few; a rule that takes more is an error, never another split.
const BACKTRACK_LIMIT: usize = 100_000;
/// Bytes of a compiled part of a rule; Unicode's letters take some 100 KB.
const COMPILED_LIMIT: usize = 2 << 20;
/// Bytes of all rules; long ones have 600.
const RULES_LIMIT: usize = 4096;
const MAX_STEPS: usize = 32;

/// A list of steps, one after the other.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    steps: Vec<Step>,
    rules_len: usize,
}

#[derive(Debug)]
enum Step {
    /// `tokenizers` has the same, but takes a text that exceeds the limit for one without further matches.
    Split {
        regex: Box<Regex>,
        behavior: SplitDelimiterBehavior,
        invert: bool,
    },
    Other(Box<PreTokenizerWrapper>),
}

/// `Split` of tokenizer.json.
#[derive(Deserialize)]
struct SplitJson {
    pattern: Pattern,
    behavior: SplitDelimiterBehavior,
    #[serde(default)]
    invert: bool,
}

#[derive(Deserialize)]
enum Pattern {
    String(String),
    Regex(String),
}

impl Splitter {
    /// The rule of a family of models, then the byte alphabet.
    pub(super) fn of_rule(rule: &str, path: &Path) -> Result<Splitter, EngineError> {
        let mut splitter = Splitter::default();
        splitter.push_rule(rule, SplitDelimiterBehavior::Isolated, false, path)?;
        let bytes = tokenizers::pre_tokenizers::byte_level::ByteLevel::new(false, true, false);
        splitter.steps.push(Step::Other(Box::new(bytes.into())));
        Ok(splitter)
    }

    /// `pre_tokenizer` of tokenizer.json.
    pub(super) fn of_json(json: &Value, path: &Path) -> Result<Splitter, EngineError> {
        let mut splitter = Splitter::default();
        splitter.push(json, path)?;
        Ok(splitter)
    }

    fn push(&mut self, json: &Value, path: &Path) -> Result<(), EngineError> {
        let wrong = |source| EngineError::Json { path: path.to_owned(), source };
        match json["type"].as_str() {
            Some("Sequence") => json["pretokenizers"]
                .as_array()
                .into_iter()
                .flatten()
                .try_for_each(|json| self.push(json, path)),
            Some("Split") => {
                let split = SplitJson::deserialize(json).map_err(wrong)?;
                let rule = match split.pattern {
                    Pattern::String(text) => fancy_regex::escape(&text).into_owned(),
                    Pattern::Regex(rule) => rule,
                };
                self.push_rule(&rule, split.behavior, split.invert, path)
            }
            _ => {
                let step = PreTokenizerWrapper::deserialize(json).map_err(wrong)?;
                self.check(self.steps.len() < MAX_STEPS, path)?;
                self.steps.push(Step::Other(Box::new(step)));
                Ok(())
            }
        }
    }

    fn push_rule(
        &mut self,
        rule: &str,
        behavior: SplitDelimiterBehavior,
        invert: bool,
        path: &Path,
    ) -> Result<(), EngineError> {
        self.rules_len += rule.len();
        self.check(self.steps.len() < MAX_STEPS && self.rules_len <= RULES_LIMIT, path)?;
        let regex = RegexBuilder::new(rule)
            .backtrack_limit(BACKTRACK_LIMIT)
            .delegate_size_limit(COMPILED_LIMIT)
            .build()
            .map_err(|source| EngineError::SplitRule { path: path.to_owned(), source: Box::new(source) })?;
        self.steps.push(Step::Split { regex: Box::new(regex), behavior, invert });
        Ok(())
    }

    fn check(&self, is_small: bool, path: &Path) -> Result<(), EngineError> {
        match is_small {
            true => Ok(()),
            false => Err(EngineError::Field {
                path: path.to_owned(),
                field: "pre_tokenizer".to_owned(),
                found: format!("{} steps with rules of {} bytes", self.steps.len() + 1, self.rules_len),
                expected: "at most 32 steps and 4096 bytes",
            }),
        }
    }
}

impl PreTokenizer for Splitter {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        self.steps.iter().try_for_each(|step| match step {
            Step::Split { regex, behavior, invert: false } => {
                text.split(|_, part| part.split(&**regex, *behavior))
            }
            Step::Split { regex, behavior, invert: true } => {
                text.split(|_, part| part.split(Invert(&**regex), *behavior))
            }
            Step::Other(step) => step.pre_tokenize(text),
        })
    }
}
