//! The flags of `eval`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use flashmill_engine::EngineOptions;
use flashmill_lab::eval::{AskOptions, TextOptions, Weights};

use super::engine::engine_options;
use super::low::{LowEngine, LowModel, at_least_one};

/// As they are typed.
#[derive(Debug, Args)]
pub(crate) struct LowEval {
    #[command(flatten)]
    model: LowModel,
    /// What is measured, separated by commas
    #[arg(long, value_name = "NAME", value_delimiter = ',', required = true)]
    suite: Vec<SuiteName>,
    /// The text of ppl and kld
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// The names of special tokens in the text, such as <|im_start|>, are those tokens
    #[arg(long)]
    special_tokens: bool,
    /// Most tokens of the text; all of it if not given, for kld as many as 4 GiB of logits
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    limit: Option<usize>,
    /// Tokens by which the window of ppl moves; half of it if not given. The windows of ppl and kld are --context long, 1024 tokens
    /// if not given
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    stride: Option<usize>,
    /// What kld compares with: a file that `flashmill logits` wrote, with its tokens, or a model; the model as stored if not given
    #[arg(long, value_name = "FILE|MODEL")]
    reference: Option<PathBuf>,
    /// Cases of tools instead of the built-in ones: JSON lines, or a file of the Berkeley Function-Calling Leaderboard
    #[arg(long, value_name = "FILE")]
    cases: Option<PathBuf>,
    /// The questions of facts: JSON lines with question and answer, such as models/demo/quality/facts.jsonl
    #[arg(long, value_name = "FILE")]
    facts: Option<PathBuf>,
    /// Most tokens of an answer of tools and facts, its thoughts included
    #[arg(short = 'n', long, value_name = "N", default_value = "400", value_parser = at_least_one)]
    max_tokens: usize,
    /// Ask the model not to think before it answers
    #[arg(long)]
    no_think: bool,
    /// Compare with what `pack --bits` makes of the model, packed into the work directory and removed again
    #[arg(long, value_name = "BITS", value_delimiter = ',')]
    bits: Vec<u8>,
    /// Compare with other files of the model, such as packed ones
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    variant: Vec<PathBuf>,
    /// Write the report as JSON; - is standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Write the report as one HTML file with charts
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Where what is done is kept, so that the same command goes on after an interruption; a directory in the user's cache if not
    /// given
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    #[command(flatten)]
    engine: LowEngine,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SuiteName {
    /// Perplexity of a text
    Ppl,
    /// Divergence from the predictions of another run
    Kld,
    /// Tool calls, free and held to a grammar
    Tools,
    /// Questions with one right answer
    Facts,
    /// Prompt and decode speed
    Speed,
}

/// Where a report goes.
pub(crate) enum Out {
    Stdout,
    File(PathBuf),
}

/// As they are meant.
pub(crate) struct EvalFlags {
    pub(crate) model: PathBuf,
    pub(crate) suites: Vec<SuiteName>,
    pub(crate) text: Option<PathBuf>,
    pub(crate) text_options: TextOptions,
    /// Tokens of a window.
    pub(crate) window: usize,
    pub(crate) stride: usize,
    pub(crate) reference: Option<PathBuf>,
    pub(crate) cases: Option<PathBuf>,
    pub(crate) facts: Option<PathBuf>,
    /// How answers are asked for.
    pub(crate) ask: AskOptions,
    pub(crate) weights: Vec<Weights>,
    pub(crate) experts: Vec<usize>,
    pub(crate) cache_aware: Vec<f64>,
    pub(crate) json: Option<Out>,
    pub(crate) markdown: Option<PathBuf>,
    pub(crate) html: Option<PathBuf>,
    pub(crate) work: Option<PathBuf>,
    pub(crate) engine: EngineOptions,
}

/// Tokens of a window of text if none are given: what transformers' page on perplexity takes, with half of it as stride.
const WINDOW: usize = 1024;

impl EvalFlags {
    pub(super) fn new(mut low: LowEval) -> Result<EvalFlags> {
        let experts = std::mem::take(&mut low.engine.experts);
        let mut engine = engine_options(low.engine)?;
        // It is the text's alone: requests have the room that the plan gives.
        let window = engine.context.take().unwrap_or(WINDOW);
        if window < 2 {
            bail!("--context {window}: a window needs two tokens at least");
        }
        let cache_aware = std::mem::take(&mut engine.cache_aware);
        let stride = low.stride.unwrap_or(window / 2);
        if stride > window {
            bail!("--stride {stride}: at most the window of {window} tokens (--context)");
        }
        if let Some(bits) = low.bits.iter().find(|bits| ![2, 3, 4, 5, 6, 8].contains(*bits)) {
            bail!("--bits {bits}: must be 2, 3, 4, 5, 6 or 8; the model as stored is always the first arm");
        }
        let mut suites = low.suite;
        let mut seen = Vec::new();
        suites.retain(|suite| {
            !seen.contains(suite) && {
                seen.push(*suite);
                true
            }
        });
        let of_text = |suite: &SuiteName| match suite {
            SuiteName::Ppl => true,
            SuiteName::Kld => !low.reference.as_ref().is_some_and(|path| is_logits(path)),
            SuiteName::Tools | SuiteName::Facts | SuiteName::Speed => false,
        };
        if low.text.is_none()
            && let Some(suite) = suites.iter().find(|suite| of_text(suite))
        {
            let name =
                suite.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
            bail!("--suite {name} needs a text; give one with --text");
        }
        let bits = low.bits.into_iter().map(Weights::Bits);
        let out = |path: PathBuf| if path.as_os_str() == "-" { Out::Stdout } else { Out::File(path) };
        Ok(EvalFlags {
            model: low.model.model,
            suites,
            text: low.text,
            text_options: TextOptions { special_tokens: low.special_tokens, limit: low.limit },
            window,
            stride,
            reference: low.reference,
            cases: low.cases,
            facts: low.facts,
            ask: AskOptions { max_tokens: low.max_tokens, thinking: low.no_think.then_some(false) },
            weights: bits.chain(low.variant.into_iter().map(Weights::Variant)).collect(),
            experts,
            cache_aware: Some(cache_aware).filter(|&share| share > 0.0).into_iter().collect(),
            json: low.json.map(out),
            markdown: low.markdown,
            html: low.html,
            work: low.work,
            engine,
        })
    }
}

/// Whether a reference is a file of logits: models are directories, `demo`, or files of GGUF.
pub(crate) fn is_logits(path: &std::path::Path) -> bool {
    path.is_file() && path.extension().is_none_or(|extension| extension != "gguf")
}
