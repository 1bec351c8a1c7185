//! The flags of `tune`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use flashmill_engine::EngineOptions;

use super::engine::{engine_options, tuned_use};
use super::hi::refuse_cache_aware;
use super::low::{LowEngine, LowModel, at_least_one};

/// As they are typed.
#[derive(Debug, Args)]
pub(crate) struct LowTune {
    #[command(flatten)]
    model: LowModel,
    /// How long it may take: 90s, 10m or 2h
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_time)]
    time: Duration,
    /// Also try settings that change answers, as far as they diverge by no more than X nats a token from the model as it is; needs --text
    #[arg(long, value_name = "X", requires = "text")]
    max_loss: Option<f64>,
    /// The text on which the loss is measured
    #[arg(long, value_name = "FILE", requires = "max_loss")]
    text: Option<PathBuf>,
    /// Tokens of the text that are used
    #[arg(long, value_name = "N", default_value = "256", value_parser = at_least_one)]
    text_tokens: usize,
    /// The journal: every experiment a line; what it holds is not done again
    #[arg(long, value_name = "FILE", default_value = "results.tsv")]
    results: PathBuf,
    /// The chart of progress, an SVG file; beside the journal if not given
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
    /// Tokens of the prompt of each run
    #[arg(long, value_name = "N", default_value = "64", value_parser = at_least_one)]
    prompt_tokens: usize,
    /// Tokens that each run decodes
    #[arg(short = 'n', long, value_name = "N", default_value = "64", value_parser = at_least_one)]
    decode_tokens: usize,
    /// Most seconds of each phase of a run
    #[arg(long, value_name = "S", default_value = "10", value_parser = at_least_one)]
    patience: usize,
    /// Most pairs of runs of one experiment, from 6 to 48: fewer are done sooner, and see less where runs differ much
    #[arg(long, value_name = "N", default_value = "48", value_parser = clap::value_parser!(u8).range(6..=48))]
    pairs: u8,
    /// Draw the experts, as `bench` does
    #[arg(long, value_name = "KIND")]
    routing: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: LowEngine,
}

/// Find settings.
pub(crate) struct TuneFlags {
    pub(crate) model: PathBuf,
    pub(crate) engine: EngineOptions,
    /// Settings that are not to be tried.
    pub(crate) given: Vec<&'static str>,
    pub(crate) time: Duration,
    pub(crate) loss: Option<MaxLoss>,
    pub(crate) results: PathBuf,
    pub(crate) chart: PathBuf,
    pub(crate) runs: Runs,
    pub(crate) pairs: usize,
    pub(crate) json: bool,
}

/// What may be lost, and where that is seen.
pub(crate) struct MaxLoss {
    /// In nats.
    pub(crate) most: f64,
    pub(crate) text: PathBuf,
    pub(crate) n_tokens: usize,
}

/// What a run is.
pub(crate) struct Runs {
    pub(crate) prompt_tokens: usize,
    pub(crate) decode_tokens: usize,
    pub(crate) patience: usize,
    pub(crate) routing: Option<String>,
}

/// As they are typed.
#[derive(Debug, Args)]
pub(crate) struct LowLoss {
    #[command(flatten)]
    model: LowModel,
    /// The text
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// The names of special tokens in the text, such as <|im_start|>, are those tokens
    #[arg(long)]
    special_tokens: bool,
    /// Tokens of it that are decoded, each in windows of 32
    #[arg(long, value_name = "N", default_value = "256", value_parser = at_least_one)]
    text_tokens: usize,
    #[command(flatten)]
    engine: LowEngine,
}

/// Measure a loss.
pub(crate) struct LossFlags {
    pub(crate) model: PathBuf,
    pub(crate) engine: EngineOptions,
    pub(crate) text: PathBuf,
    pub(crate) special_tokens: bool,
    pub(crate) n_tokens: usize,
}

impl TuneFlags {
    pub(super) fn new(low: LowTune) -> Result<TuneFlags> {
        if low.max_loss.is_some_and(|most| !(most > 0.0 && most.is_finite())) {
            bail!("--max-loss: must be a number of nats above 0, for example 0.01");
        }
        let loss = low.max_loss.zip(low.text);
        let mut given = tuned_use(&low.engine).given;
        let engine = engine_options(low.engine)?;
        if low.routing.is_some() {
            refuse_cache_aware(&engine)?;
            given.push("cache-aware");
        }
        let chart = low.chart.unwrap_or_else(|| low.results.with_extension("svg"));
        let place = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        if place(&chart) == place(&low.results) {
            bail!("--results {}: is the file of the chart as well; give another --chart", chart.display());
        }
        Ok(TuneFlags {
            model: low.model.model,
            engine,
            given,
            time: low.time,
            loss: loss.map(|(most, text)| MaxLoss { most, text, n_tokens: low.text_tokens }),
            chart,
            results: low.results,
            runs: Runs {
                prompt_tokens: low.prompt_tokens,
                decode_tokens: low.decode_tokens,
                patience: low.patience,
                routing: low.routing,
            },
            pairs: usize::from(low.pairs),
            json: low.json,
        })
    }
}

impl LossFlags {
    pub(super) fn new(low: LowLoss) -> Result<LossFlags> {
        Ok(LossFlags {
            model: low.model.model,
            engine: engine_options(low.engine)?,
            text: low.text,
            special_tokens: low.special_tokens,
            n_tokens: low.text_tokens,
        })
    }
}

/// `90s`, `10m`, `2h`; a bare number is seconds.
fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time; write a number and s, m or h, for example 10m");
    let end = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let seconds = match &text[end..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    let number: u32 = text[..end].parse().map_err(|_| wrong())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("2h", 7200), ("5", 5)] {
            assert_eq!(parse_time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "m", "1d", "1.5h", "-1s", "99999999999s", "10 m"] {
            assert!(parse_time(text).is_err_and(|error| error.contains("not a time")), "{text}");
        }
    }
}
