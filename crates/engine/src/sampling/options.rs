//! How tokens are chosen, and what the model's makers advise.

use std::path::Path;

use serde::{Deserialize, Deserializer};

use crate::EngineError;
use crate::gguf_keys::GgufKeys;
use crate::json_file::{CONFIG_LIMIT, read_json};

/// How the next token is chosen. See [`Sampler`](super::Sampler) for the order in which these act.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingOptions {
    /// Logits are divided by it; 0 takes the most likely token.
    pub temperature: f32,
    /// Only this many of the most likely tokens; 0 for all.
    pub top_k: usize,
    /// Only the most likely tokens that together have this probability; 1 for all.
    pub top_p: f32,
    /// Only tokens at least this many times as likely as the most likely one; 0 for all.
    pub min_p: f32,
    /// Logits of tokens of the prompt or the answer are divided by it if positive, multiplied if negative; 1 does nothing.
    pub repetition_penalty: f32,
    /// Taken from the logits of tokens of the answer.
    pub presence_penalty: f32,
    /// Taken from the logits of tokens of the answer, once for each time they occur.
    pub frequency_penalty: f32,
    /// Makes a run repeatable; a fresh one if not given.
    pub seed: Option<u64>,
    /// Added to the logits of tokens before anything else.
    pub logit_bias: Vec<(u32, f32)>,
}

impl Default for SamplingOptions {
    /// llama.cpp's and ollama's settings, for models that do not say.
    fn default() -> SamplingOptions {
        SamplingOptions { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, ..SamplingOptions::plain() }
    }
}

impl SamplingOptions {
    /// Always the most likely token.
    pub fn greedy() -> SamplingOptions {
        SamplingOptions { temperature: 0.0, ..SamplingOptions::plain() }
    }

    /// The model's own probabilities.
    pub fn plain() -> SamplingOptions {
        SamplingOptions {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
            logit_bias: Vec::new(),
        }
    }

    /// An error that names the first setting without meaning.
    pub fn check(&self) -> Result<(), EngineError> {
        let at_least_0 = |x: f32| x >= 0.0 && x.is_finite();
        let checks = [
            ("temperature", self.temperature, at_least_0(self.temperature), "0 or more"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "more than 0 and at most 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "between 0 and 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite(),
                "more than 0",
            ),
            ("presence_penalty", self.presence_penalty, self.presence_penalty.is_finite(), "a number"),
            ("frequency_penalty", self.frequency_penalty, self.frequency_penalty.is_finite(), "a number"),
        ];
        for (name, value, is_good, expected) in checks {
            if !is_good {
                return Err(EngineError::SamplingOption { name, value: value.into(), expected });
            }
        }
        match self.logit_bias.iter().find(|(_, bias)| !bias.is_finite()) {
            Some(&(_, bias)) => Err(EngineError::SamplingOption {
                name: "logit_bias",
                value: bias.into(),
                expected: "a number",
            }),
            None => Ok(()),
        }
    }
}

/// What generation_config.json says, and all tokens that end an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// Sampling as the model's makers advise; [`SamplingOptions::default`] where they are silent.
    pub sampling: SamplingOptions,
    /// Tokens that end an answer, ascending. Chat models often have two: the end of a turn and the end of a text.
    pub eos_ids: Vec<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GenerationConfig {
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    #[serde(deserialize_with = "one_or_many")]
    eos_token_id: Vec<u32>,
}

impl GenerationDefaults {
    /// Reads generation_config.json of a model directory, if there is one. `config_eos_ids` are those of config.json.
    pub fn open(dir: &Path, config_eos_ids: &[u32]) -> Result<GenerationDefaults, EngineError> {
        let path = dir.join("generation_config.json");
        let config: Option<GenerationConfig> = read_json(&path, CONFIG_LIMIT)?;
        GenerationDefaults::new(&config.unwrap_or_default(), config_eos_ids)
    }

    /// Reads the keys of GGUF metadata that llama.cpp's converter takes from generation_config.json. `config_eos_ids` are those
    /// that the metadata name themselves.
    pub(crate) fn of_keys(
        keys: &GgufKeys,
        config_eos_ids: &[u32],
    ) -> Result<GenerationDefaults, EngineError> {
        let number = |name: &str| keys.number(&format!("general.sampling.{name}"));
        let float = |name: &str| Ok::<_, EngineError>(number(name)?.map(|number| number as f32));
        let config = GenerationConfig {
            temperature: float("temp")?,
            // What is not positive takes all tokens.
            top_k: number("top_k")?.map(|k| k.max(0.0) as usize),
            top_p: float("top_p")?,
            min_p: float("min_p")?,
            repetition_penalty: float("penalty_repeat")?,
            ..GenerationConfig::default()
        };
        GenerationDefaults::new(&config, config_eos_ids)
    }

    fn new(config: &GenerationConfig, config_eos_ids: &[u32]) -> Result<GenerationDefaults, EngineError> {
        let sampling = config.sampling();
        sampling.check()?;
        let mut eos_ids = [config_eos_ids, &config.eos_token_id].concat();
        eos_ids.sort_unstable();
        eos_ids.dedup();
        Ok(GenerationDefaults { sampling, eos_ids })
    }

    /// Another token that ends an answer, such as the tokenizer's `eos_token`.
    pub fn add_eos(&mut self, id: u32) {
        if let Err(at) = self.eos_ids.binary_search(&id) {
            self.eos_ids.insert(at, id);
        }
    }
}

impl GenerationConfig {
    fn sampling(&self) -> SamplingOptions {
        if self.do_sample == Some(false) {
            let repetition_penalty = self.repetition_penalty.unwrap_or(1.0);
            return SamplingOptions { repetition_penalty, ..SamplingOptions::greedy() };
        }
        // A file that gives any of these means transformers' values for the rest: no filter but top_k 50.
        let is_silent = self.temperature.is_none()
            && self.top_k.is_none()
            && self.top_p.is_none()
            && self.min_p.is_none();
        let rest = match is_silent {
            true => SamplingOptions::default(),
            false => SamplingOptions { top_k: 50, ..SamplingOptions::plain() },
        };
        SamplingOptions {
            temperature: self.temperature.unwrap_or(rest.temperature),
            top_k: self.top_k.unwrap_or(rest.top_k),
            top_p: self.top_p.unwrap_or(rest.top_p),
            min_p: self.min_p.unwrap_or(rest.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            ..rest
        }
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Ids {
        One(u32),
        Many(Vec<u32>),
    }
    Ok(match Option::deserialize(deserializer)? {
        None => Vec::new(),
        Some(Ids::One(id)) => vec![id],
        Some(Ids::Many(ids)) => ids,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaults(json: &str) -> GenerationDefaults {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("generation_config.json"), json).unwrap();
        GenerationDefaults::open(dir.path(), &[7, 3]).unwrap()
    }

    #[test]
    fn the_file_is_followed() {
        let found =
            defaults(r#"{"do_sample": true, "temperature": 0.6, "top_p": 0.95, "eos_token_id": [9, 3]}"#);
        let expected =
            SamplingOptions { temperature: 0.6, top_k: 50, top_p: 0.95, ..SamplingOptions::plain() };
        assert_eq!(found.sampling, expected);
        assert_eq!(found.eos_ids, [3, 7, 9]);
        assert_eq!(
            defaults(r#"{"do_sample": false, "temperature": 0.6}"#).sampling,
            SamplingOptions::greedy()
        );
        let silent = defaults(r#"{"eos_token_id": 5}"#);
        assert_eq!((silent.sampling, silent.eos_ids), (SamplingOptions::default(), vec![3, 5, 7]));
    }

    #[test]
    fn a_missing_file_is_silent() {
        let dir = tempfile::tempdir().unwrap();
        let mut found = GenerationDefaults::open(dir.path(), &[]).unwrap();
        assert_eq!(found, GenerationDefaults::default());
        found.add_eos(4);
        found.add_eos(4);
        assert_eq!(found.eos_ids, [4]);
    }

    #[test]
    fn settings_without_meaning_are_named() {
        let bad = [
            (
                "temperature is -1, expected 0 or more",
                SamplingOptions { temperature: -1.0, ..SamplingOptions::plain() },
            ),
            (
                "top_p is 0, expected more than 0 and at most 1",
                SamplingOptions { top_p: 0.0, ..SamplingOptions::plain() },
            ),
            (
                "min_p is 2, expected between 0 and 1",
                SamplingOptions { min_p: 2.0, ..SamplingOptions::plain() },
            ),
            (
                "logit_bias is inf, expected a number",
                SamplingOptions { logit_bias: vec![(1, f32::INFINITY)], ..SamplingOptions::plain() },
            ),
        ];
        for (message, options) in bad {
            assert_eq!(options.check().unwrap_err().to_string(), message);
        }
        assert!(SamplingOptions { temperature: f32::NAN, ..SamplingOptions::plain() }.check().is_err());
    }
}
