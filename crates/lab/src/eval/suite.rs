//! A suite is a list of cases, each scored on its own; an arm says how the model is opened that is scored.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use flashmill_engine::{Engine, EngineOptions};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::answers::{AskOptions, Asker};
use super::facts::{self, Fact};
use super::kld::{self, Compared};
use super::reference::Reference;
use super::text::{self, Window};
use super::{EvalError, arm, tools};
use crate::bench::{self, BenchOptions};

/// What is asked of a model.
pub struct Suite {
    name: String,
    kind: Kind,
    /// A number for all cases and settings.
    key: u64,
}

enum Kind {
    Ppl { tokens: Vec<u32>, windows: Vec<Window>, context: usize, stride: usize },
    Kld { reference: KldReference, n_windows: usize, window: usize },
    Tools { cases: Vec<tools::Case>, options: AskOptions },
    Facts { cases: Vec<Fact>, options: AskOptions },
    Speed(Box<BenchOptions>),
}

/// Where the logits are that others are compared with.
enum KldReference {
    /// In a file.
    File(PathBuf),
    /// In a file that is made when it is needed.
    Made { model: PathBuf, engine: Box<EngineOptions>, tokens: Vec<u32>, out: PathBuf, is_base: bool },
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A window of a text.
    Text {
        /// The negative log-likelihoods of the tokens that count, in nats.
        nlls: Vec<f32>,
    },
    /// A window of a text, against the reference.
    Compared(Compared),
    /// An answer, judged.
    Judged(Judged),
    /// The speed.
    Speed(Speed),
}

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// Its category.
    pub category: String,
    /// The answer is the reference.
    pub is_right: bool,
    /// Calls that were begun.
    pub n_calls: usize,
    /// Calls that a tool takes: read without an error, the tool is there, its arguments fit.
    pub n_valid: usize,
    /// The answer was cut off by the most tokens, or the context.
    pub is_cut: bool,
}

/// How fast a model is, without context.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Prompt tokens a second.
    pub prefill_tok_per_s: f64,
    /// Decoded tokens a second.
    pub decode_tok_per_s: f64,
    /// Picks that were in memory, 0 to 1.
    pub hit_rate: f64,
    /// Bytes that the disk gave for a decoded token.
    pub read_bytes_per_token: f64,
}

/// What the tokens of a text are, for `ppl` and `kld`.
#[derive(Clone, Copy, Debug)]
pub struct TextOptions {
    /// The names of special tokens in it are those tokens.
    pub special_tokens: bool,
    /// Most tokens.
    pub limit: Option<usize>,
}

/// The longest text, in bytes.
const MAX_TEXT_BYTES: u64 = 1 << 30;

/// The most bytes of a reference that is made by itself.
const MAX_REFERENCE_BYTES: usize = 4 << 30;

/// The tokens of the text at `path` in the words of `model`, after the token that texts begin with, if the model has one.
pub fn read_text(model: &Path, path: &Path, options: TextOptions) -> Result<Vec<u32>, EvalError> {
    let cannot = |error| EvalError::Read { path: path.to_owned(), error };
    let n_bytes = std::fs::metadata(path).map_err(cannot)?.len();
    if n_bytes > MAX_TEXT_BYTES {
        return Err(EvalError::TextTooLong { path: path.to_owned(), n_bytes });
    }
    let text = std::fs::read_to_string(path).map_err(cannot)?;
    let side = Engine::text_of(model)?;
    let tokenizer = side.tokenizer();
    let mut tokens: Vec<u32> = tokenizer.bos_id().into_iter().collect();
    tokens.extend(match options.special_tokens {
        true => tokenizer.encode_parts(&[flashmill_engine::TextPart::Template(text)])?,
        false => tokenizer.encode(&text)?,
    });
    tokens.truncate(options.limit.unwrap_or(usize::MAX));
    if tokens.len() < 2 {
        return Err(EvalError::TextTooShort { path: path.to_owned() });
    }
    Ok(tokens)
}

impl Suite {
    /// Perplexity of a text: windows of `context` tokens that move by `stride`.
    ///
    /// # Panics
    /// If `stride` is 0 or more than `context`.
    pub fn ppl(tokens: Vec<u32>, context: usize, stride: usize) -> Suite {
        let windows = text::windows(tokens.len(), context, stride);
        let key = hash(&format!("ppl {context} {stride}"), &tokens);
        let context = context.min(tokens.len());
        Suite { name: "ppl".into(), kind: Kind::Ppl { tokens, windows, context, stride }, key }
    }

    /// Divergence from the logits in a file, on its tokens.
    pub fn kld_of_file(path: &Path) -> Result<Suite, EvalError> {
        let reference = Reference::open(path)?;
        let (window, n_tokens) = (reference.window().min(reference.tokens().len()), reference.tokens().len());
        let file = std::fs::metadata(path)
            .and_then(|data| data.modified())
            .map_err(|error| EvalError::Read { path: path.to_owned(), error })?;
        let key = hash(&format!("kld {window} {file:?} {}", path.display()), reference.tokens());
        let n_windows = n_tokens.div_ceil(window);
        let reference = KldReference::File(path.to_owned());
        Ok(Suite { name: "kld".into(), kind: Kind::Kld { reference, n_windows, window }, key })
    }

    /// Divergence from what `model` predicts, in windows of `window` tokens. Its logits are kept in `work` while they are needed: of as
    /// many tokens as 4 GiB hold. `is_base`: it is the model whose arms are compared, so that its own divergence is 0.
    pub fn kld_of_model(
        mut tokens: Vec<u32>,
        window: usize,
        model: &Path,
        engine: &EngineOptions,
        work: &Path,
        is_base: bool,
    ) -> Result<Suite, EvalError> {
        let checkpoint =
            flashmill_engine::Checkpoint::open(model).map_err(flashmill_engine::EngineError::from)?;
        tokens.truncate((MAX_REFERENCE_BYTES / 4 / checkpoint.spec().vocab_size.max(1)).max(1));
        let window = window.min(tokens.len());
        let own = checkpoint.spec().moe.map_or(0, |moe| moe.top_k);
        let about = format!("kld {window} {:x} {}", arm::identity(model)?, arm::settings(engine, own));
        let key = hash(&about, &tokens);
        let n_windows = tokens.len().div_ceil(window);
        let out = work.join(format!("reference-{key:016x}.safetensors"));
        let engine = Box::new(EngineOptions { experts_per_token: None, ..engine.clone() });
        let reference = KldReference::Made { model: model.to_owned(), engine, tokens, out, is_base };
        Ok(Suite { name: "kld".into(), kind: Kind::Kld { reference, n_windows, window }, key })
    }

    /// Tool calls, each request asked twice: free, and with calls held to the grammar of the tools.
    pub fn tools(cases: Vec<tools::Case>, options: AskOptions) -> Suite {
        let key = hash(&format!("tools {options:?} {cases:?}"), &[]);
        Suite { name: "tools".into(), kind: Kind::Tools { cases, options }, key }
    }

    /// Questions with one right answer.
    pub fn facts(cases: Vec<Fact>, options: AskOptions) -> Suite {
        let key = hash(&format!("facts {options:?} {cases:?}"), &[]);
        Suite { name: "facts".into(), kind: Kind::Facts { cases, options }, key }
    }

    /// The speed of models that are opened with `engine`, but for what the arms say, on the machine called `host`: none of which matters
    /// to the other suites.
    pub fn speed(options: BenchOptions, engine: &EngineOptions, host: &str) -> Suite {
        let key = hash(&format!("speed {options:?} {engine:?} {host}"), &[]);
        Suite { name: "speed".into(), kind: Kind::Speed(Box::new(options)), key }
    }

    /// Its name in reports.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many cases it has.
    pub fn n_cases(&self) -> usize {
        match &self.kind {
            Kind::Ppl { windows, .. } => windows.len(),
            Kind::Kld { n_windows, .. } => *n_windows,
            Kind::Tools { cases, .. } => 2 * cases.len(),
            Kind::Facts { cases, .. } => cases.len(),
            Kind::Speed(_) => 1,
        }
    }

    /// What is reported of it: names, and which of `outcomes`, those of all cases, belong to each.
    pub(super) fn parts(&self, outcomes: &[Outcome]) -> Vec<(String, Vec<Outcome>)> {
        let each_second = |from: usize| outcomes.iter().skip(from).step_by(2).cloned().collect();
        match self.kind {
            Kind::Tools { .. } => {
                vec![
                    (self.name.clone(), each_second(0)),
                    (format!("{}_constrained", self.name), each_second(1)),
                ]
            }
            _ => vec![(self.name.clone(), outcomes.to_vec())],
        }
    }

    /// How it is run, in words.
    pub fn about(&self) -> String {
        match &self.kind {
            Kind::Ppl { tokens, context, stride, .. } => {
                format!("{} tokens, context {context}, stride {stride}", tokens.len())
            }
            Kind::Kld { reference, n_windows, window } => {
                let of = match reference {
                    KldReference::File(path) => path.display().to_string(),
                    KldReference::Made { is_base: true, .. } => "the model as stored".to_owned(),
                    KldReference::Made { model, .. } => model.display().to_string(),
                };
                format!("{n_windows} windows of {window} tokens, from {of}")
            }
            Kind::Tools { cases, options } => format!(
                "{} requests, at most {} tokens an answer; constrained: calls held to the grammar of the tools",
                cases.len(),
                options.max_tokens
            ),
            Kind::Facts { cases, .. } => format!("{} questions", cases.len()),
            Kind::Speed(options) => {
                format!("prompt of {} tokens, {} decoded", options.prompt_tokens, options.decode_tokens)
            }
        }
    }

    pub(super) fn key(&self) -> u64 {
        self.key
    }

    /// The first arm is the reference itself, and has no outcome.
    pub(super) fn passes_over_base(&self) -> bool {
        matches!(self.kind, Kind::Kld { reference: KldReference::Made { is_base: true, .. }, .. })
    }

    /// Scores the cases `missing` on the model at `path`, and gives each outcome to `done` as soon as it is there.
    pub(super) fn score(
        &self,
        path: &Path,
        engine: &EngineOptions,
        missing: &[usize],
        stop: &AtomicBool,
        done: &mut dyn FnMut(usize, Outcome) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let mut each = |score: &mut dyn FnMut(usize) -> Result<Outcome, EvalError>| {
            for &case in missing {
                if stop.load(Ordering::Relaxed) {
                    return Err(EvalError::Interrupted);
                }
                let outcome = score(case)?;
                done(case, outcome)?;
            }
            Ok(())
        };
        match &self.kind {
            Kind::Ppl { tokens, windows, context, .. } => {
                let (_, mut model) = text::open(path, engine, *context)?;
                kld::check_tokens(tokens, model.spec().vocab_size)?;
                each(&mut |case| {
                    Ok(Outcome::Text { nlls: text::nlls(&mut model, tokens, windows[case], stop)? })
                })
            }
            Kind::Kld { reference, window, .. } => {
                let file = reference.file(*window, stop)?;
                let mut reference = Reference::open(file)?;
                let (_, mut model) = text::open(path, engine, *window)?;
                let (expected, found) = (reference.vocab_size(), model.spec().vocab_size);
                if expected != found {
                    return Err(EvalError::OtherVocabulary { expected, found });
                }
                each(&mut |case| Ok(Outcome::Compared(kld::compare(&mut model, &mut reference, case, stop)?)))
            }
            Kind::Tools { cases, options } => {
                let mut engine = Engine::open(path, engine, &mut |_, _| ())?;
                let mut asker = Asker::new(&mut engine, *options)?;
                each(&mut |case| {
                    let (case, is_held) = (&cases[case / 2], case % 2 == 1);
                    Ok(Outcome::Judged(tools::score(&mut asker, case, is_held)?))
                })
            }
            Kind::Facts { cases, options } => {
                let mut engine = Engine::open(path, engine, &mut |_, _| ())?;
                let mut asker = Asker::new(&mut engine, *options)?;
                each(&mut |case| Ok(Outcome::Judged(facts::score(&mut asker, &cases[case])?)))
            }
            Kind::Speed(options) => {
                let options = BenchOptions { engine: engine.clone(), ..(**options).clone() };
                each(&mut |_| {
                    let report = bench::bench(path, &options, &mut |_, _, _| ()).map_err(Box::new)?;
                    Ok(Outcome::Speed(Speed {
                        prefill_tok_per_s: report.prefill_tok_per_s,
                        decode_tok_per_s: report.decode_tok_per_s,
                        hit_rate: report.hit_rate,
                        read_bytes_per_token: report.bytes_per_token,
                    }))
                })
            }
        }
    }
}

impl KldReference {
    /// The file, which is made if it has to be and is not there.
    fn file(&self, window: usize, stop: &AtomicBool) -> Result<&Path, EvalError> {
        match self {
            KldReference::File(path) => Ok(path),
            KldReference::Made { out, .. } if out.exists() => Ok(out),
            KldReference::Made { model, engine, tokens, out, .. } => {
                let unfinished = out.with_extension("part");
                let made =
                    kld::write_reference(model, engine, tokens, window, &unfinished, stop).and_then(|()| {
                        std::fs::rename(&unfinished, out)
                            .map_err(|error| EvalError::Work { path: out.clone(), error })
                    });
                if made.is_err() {
                    let _ = std::fs::remove_file(&unfinished);
                }
                made.map(|()| &**out)
            }
        }
    }
}

impl Drop for KldReference {
    fn drop(&mut self) {
        if let KldReference::Made { out, .. } = self {
            let _ = std::fs::remove_file(out);
        }
    }
}

fn hash(about: &str, tokens: &[u32]) -> u64 {
    let mut bytes = about.as_bytes().to_vec();
    bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
    xxh3_64(&bytes)
}
