//! The flags as they are typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::eval::LowEval;
use super::pack::{LowPack, LowPullPack, LowVerify};
use super::serve::LowServe;
use super::size::parse_size;
use super::tune::{LowLoss, LowTune};

/// Runs mixture-of-experts language models that are larger than memory: the experts stay on the SSD.
#[derive(Debug, Parser)]
#[command(name = "flashmill", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct LowArgs {
    #[command(subcommand)]
    pub(crate) command: LowCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LowCommand {
    /// Answer one prompt
    Run(LowRun),
    /// Talk to a model
    Chat(LowChat),
    /// Answer over HTTP, in the words of OpenAI's and Anthropic's APIs
    Serve(LowServe),
    /// Show what will be resident, cached and read, and how fast, without loading the model
    Plan(LowPlan),
    /// Show what a model's files hold
    Inspect(LowInspect),
    /// Fetch a model from a hub into the cache that other tools share, and go on where an earlier pull was
    Pull(LowPull),
    /// Write the logits of given tokens to a safetensors file
    Logits(LowLogits),
    /// Measure the speed of a model, or of a synthetic one of a real shape
    Bench(LowBench),
    /// Measure how good a model is, and what fewer bits or experts cost
    Eval(LowEval),
    /// Find the settings with which a model is the fastest on this machine
    Tune(LowTune),
    /// Measure on a text what fewer experts or cache-aware routing lose against the model as it is, and the reads they save; prints JSON
    Loss(LowLoss),
    /// Record which experts the tokens of a prompt and its answer pick
    Trace(LowTrace),
    /// Replay a routing trace: hit rates of cache policies, and what a prefetch would bring
    Replay(LowReplay),
    /// Rewrite a model with one page-aligned record an expert, as it is or with fewer bits
    Pack(LowPack),
    /// Check every byte of a model
    Verify(LowVerify),
}

#[derive(Debug, Args)]
pub(crate) struct LowRun {
    #[command(flatten)]
    pub(crate) question: LowQuestion,
    /// Print one JSON object with the answer, its tool calls and the statistics
    #[arg(long)]
    pub(crate) json: bool,
}

/// One prompt, and how it is answered.
#[derive(Debug, Args)]
pub(crate) struct LowQuestion {
    #[command(flatten)]
    pub(crate) model: LowModel,
    /// The prompt; what -f and standard input hold is appended to it
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// A file with the prompt, or a part of it; - is standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Vec<PathBuf>,
    /// Tools that the model may call: a JSON file with an OpenAI `tools` array
    #[arg(long, value_name = "FILE", conflicts_with = "raw")]
    pub(crate) tools: Option<PathBuf>,
    /// Give the prompt to the model as it is, without the chat template
    #[arg(long, conflicts_with_all = ["system", "no_think"])]
    pub(crate) raw: bool,
    #[command(flatten)]
    pub(crate) talk: LowTalk,
    #[command(flatten)]
    pub(crate) engine: LowEngine,
}

#[derive(Debug, Args)]
pub(crate) struct LowChat {
    #[command(flatten)]
    pub(crate) model: LowModel,
    /// Do not offer the built-in tools (calculator, get_time, list_files, read_file)
    #[arg(long)]
    pub(crate) no_tools: bool,
    #[command(flatten)]
    pub(crate) talk: LowTalk,
    #[command(flatten)]
    pub(crate) engine: LowEngine,
}

#[derive(Debug, Args)]
pub(crate) struct LowPlan {
    #[command(flatten)]
    pub(crate) model: LowModel,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Measure this machine again, instead of taking what was measured the first time
    #[arg(long)]
    pub(crate) measure: bool,
    #[command(flatten)]
    pub(crate) engine: LowEngine,
}

#[derive(Debug, Args)]
pub(crate) struct LowInspect {
    #[command(flatten)]
    pub(crate) model: LowModel,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LowPull {
    /// The model as org/name, or org/name:Q4_K_M for one of the GGUF files of a repository
    #[arg(value_name = "REPO")]
    pub(crate) repo: String,
    /// A branch, a tag or a commit
    #[arg(long, value_name = "NAME", default_value = "main")]
    pub(crate) revision: String,
    /// Connections at the same time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) connections: u8,
    #[command(flatten)]
    pub(crate) pack: LowPullPack,
}

#[derive(Debug, Args)]
pub(crate) struct LowLogits {
    #[command(flatten)]
    pub(crate) model: LowModel,
    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", required = true, value_delimiter = ',')]
    pub(crate) tokens: Vec<u32>,
    /// The file to write: tensors `logits`, F32, positions x vocabulary, and `tokens`, I32
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Also write hidden states and expert choices of every layer: `hidden.*`, `router.N.indices`, `router.N.weights`
    #[arg(long)]
    pub(crate) trace: bool,
    /// Tokens of one forward pass; the result is the same for any number
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) chunk: Option<usize>,
    #[command(flatten)]
    pub(crate) engine: LowEngine,
}

#[derive(Debug, Args)]
pub(crate) struct LowBench {
    /// A model's directory or file, `demo`, or a shape: 35b, 122b or 397b writes random weights, measures and removes them
    #[arg(value_name = "MODEL|SHAPE")]
    pub(crate) model: PathBuf,
    /// Tokens that a sequence already has
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "0,4096")]
    pub(crate) contexts: Vec<usize>,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value = "512", value_parser = at_least_one)]
    pub(crate) prompt_tokens: usize,
    /// Tokens that are decoded
    #[arg(short = 'n', long, value_name = "N", default_value = "64", value_parser = at_least_one)]
    pub(crate) decode_tokens: usize,
    /// Measure the first context once more with nothing cached
    #[arg(long)]
    pub(crate) cold: bool,
    /// Do not measure what the machine gives: it takes longer than a small model does
    #[arg(long)]
    pub(crate) no_peaks: bool,
    /// Draw the experts: `uniform`, or SKEW:REUSE such as 1.0:0.6 (Zipf exponent; share taken over from the token before)
    #[arg(long, value_name = "KIND")]
    pub(crate) routing: Option<String>,
    /// Layers of a shape; all of them if not given
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) layers: Option<usize>,
    /// How a shape's weights are stored: a GGUF file in Q4_K, MLX's affine groups of 64, or those in the packed form
    #[arg(long, value_name = "FORMAT", default_value = "gguf")]
    pub(crate) format: LowFormat,
    /// Bits of a shape's weights in MLX's format or the packed form
    #[arg(long, value_name = "N", default_value = "4")]
    pub(crate) bits: usize,
    /// Where a shape's weights are written
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Most seconds of each phase
    #[arg(long, value_name = "S", default_value = "30", value_parser = at_least_one)]
    pub(crate) patience: usize,
    /// Also draw a chart: an SVG file
    #[arg(long, value_name = "FILE")]
    pub(crate) chart: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) engine: LowEngine,
}

#[derive(Debug, Args)]
pub(crate) struct LowTrace {
    #[command(flatten)]
    pub(crate) question: LowQuestion,
    /// The file to write: JSON lines, a header and then a line a token
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct LowReplay {
    /// A trace that `flashmill trace` wrote; several are replayed one after the other on the same cache
    #[arg(value_name = "TRACE", required = true)]
    pub(crate) traces: Vec<PathBuf>,
    /// lfru, lru, lfu or belady (the optimum, which knows the future); all of them if not given
    #[arg(long, value_name = "NAME")]
    pub(crate) policy: Vec<String>,
    /// Slots of the cache, or a share of all experts such as 25%; 5, 12.5, 25 and 50% if not given
    #[arg(long, value_name = "N")]
    pub(crate) slots: Vec<String>,
    /// Count the prompts' tokens as well, as if each had been decoded
    #[arg(long)]
    pub(crate) prompts: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct LowModel {
    /// A GGUF file, a model's directory, or `demo` for the built-in model (`./demo` is a directory)
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
}

/// How a conversation is led and answers are sampled.
#[derive(Debug, Args)]
pub(crate) struct LowTalk {
    /// The system message
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Ask the model not to think before it answers
    #[arg(long)]
    pub(crate) no_think: bool,
    /// Most tokens of an answer; until the model ends it or the context is full if not given
    #[arg(short = 'n', long, value_name = "N", value_parser = at_least_one)]
    pub(crate) max_tokens: Option<usize>,
    /// End the answer before this text; may be given more than once
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Print where the time went, layer by layer
    #[arg(long)]
    pub(crate) timing: bool,
    #[command(flatten)]
    pub(crate) form: LowForm,
    #[command(flatten)]
    pub(crate) sampling: LowSampling,
}

/// The form of answers; at most one.
#[derive(Debug, Args)]
#[command(next_help_heading = "Form of the answer (at most one; thoughts are free)")]
#[group(multiple = false)]
pub(crate) struct LowForm {
    /// JSON of a schema: a file, or the schema itself if it starts with {
    #[arg(long, value_name = "FILE|JSON")]
    pub(crate) json_schema: Option<String>,
    /// A JSON object
    #[arg(long)]
    pub(crate) json_object: bool,
    /// Text that a regular expression matches from end to end
    #[arg(long, value_name = "REGEX")]
    pub(crate) regex: Option<String>,
    /// Text of a Lark grammar
    #[arg(long, value_name = "FILE")]
    pub(crate) grammar: Option<PathBuf>,
    /// Text, in which every tool call is a valid one
    #[arg(long)]
    pub(crate) tool_grammar: bool,
}

/// Sampling; the model's own generation_config.json where a flag is not given.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling (the model's own settings if not given)")]
pub(crate) struct LowSampling {
    /// Always take the likeliest token
    #[arg(long, conflicts_with_all = ["temp", "top_k", "top_p", "min_p", "seed"])]
    pub(crate) greedy: bool,
    /// Temperature; 0 is greedy
    #[arg(long, visible_alias = "temperature", value_name = "T")]
    pub(crate) temp: Option<f32>,
    /// Only the K likeliest tokens; 0 is all
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Only the likeliest tokens that together have probability P
    #[arg(long, value_name = "P")]
    pub(crate) top_p: Option<f32>,
    /// Only tokens at least P times as likely as the likeliest
    #[arg(long, value_name = "P")]
    pub(crate) min_p: Option<f32>,
    /// Divide the logits of tokens that were already there; 1 is off
    #[arg(long, visible_alias = "repetition-penalty", value_name = "X")]
    pub(crate) repeat_penalty: Option<f32>,
    /// Subtract from the logits of tokens that the answer already has
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// Subtract as often as the answer already has the token
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) frequency_penalty: Option<f32>,
    /// Add V to the logit of token ID; may be given more than once
    #[arg(long, value_name = "ID=V", value_parser = parse_bias)]
    pub(crate) logit_bias: Vec<(u32, f32)>,
    /// Makes the answer repeatable; random if not given
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

/// How the model is opened.
#[derive(Debug, Args)]
#[command(next_help_heading = "Engine")]
pub(crate) struct LowEngine {
    /// Most memory to use, for example 8G or 512M; 80 % of what the machine and its control groups allow if not given
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) ram: Option<u64>,
    /// Threads that compute; as many as there are processors if not given
    #[arg(short, long, value_name = "N", value_parser = at_least_one)]
    pub(crate) threads: Option<usize>,
    /// What computes: `reference` is slow and the definition of right
    #[arg(long, value_name = "KIND", default_value = "cpu")]
    pub(crate) backend: LowBackend,
    /// SIMD level of the CPU: scalar, avx2, avx512 or neon; the best if not given
    #[arg(long, value_name = "LEVEL")]
    pub(crate) level: Option<String>,
    /// How keys and values are stored
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    pub(crate) kv: LowKv,
    /// Most tokens of a conversation
    #[arg(short, long, value_name = "N", value_parser = at_least_one)]
    pub(crate) context: Option<usize>,
    /// Experts per token; fewer than the model's own are faster and worse. `eval` takes several, separated by commas
    #[arg(long, value_name = "K", value_delimiter = ',', value_parser = at_least_one)]
    pub(crate) experts: Vec<usize>,
    /// How experts are read: auto, uring, pread or page-cache; auto if not given
    #[arg(long, value_name = "KIND")]
    pub(crate) reader: Option<String>,
    /// Most reads in flight; 32 if not given
    #[arg(long, value_name = "N", value_parser = up_to::<1024>)]
    pub(crate) depth: Option<usize>,
    /// Threads of the readers that use threads; 4 if not given
    #[arg(long, value_name = "N", value_parser = up_to::<64>)]
    pub(crate) io_threads: Option<usize>,
    /// Which experts leave the cache first: lfru, lru or lfu; lfru if not given
    #[arg(long, value_name = "NAME")]
    pub(crate) cache_policy: Option<String>,
    /// Most memory for the cache of experts, within the budget; all that is left if not given
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) cache: Option<u64>,
    /// Most prompt tokens of one forward pass; as many as the budget allows if not given
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) prompt_chunk: Option<usize>,
    /// What is read ahead of the routers: off, router or router-2x; it changes no answer; off if not given
    #[arg(long, value_name = "KIND")]
    pub(crate) prefetch: Option<String>,
    /// Where the router holds two experts for nearly as good, take the one in the cache: a layer of a decoded token gives up at most this
    /// share of the router's probability, from 0 (off) to below 1, for example 0.1. Changes answers, which then depend on the cache; off
    /// if not given. `eval` compares with it
    #[arg(long, value_name = "X", value_parser = share_below_one)]
    pub(crate) cache_aware: Option<f64>,
    /// Do not use the settings that `tune` found for this model on this machine
    #[arg(long)]
    pub(crate) no_tuned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LowBackend {
    Cpu,
    Reference,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LowFormat {
    Gguf,
    Mlx,
    Packed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LowKv {
    F32,
    F16,
    Q8,
}

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(n) => Ok(n),
        Err(_) => Err("must be a whole number".to_owned()),
    }
}

fn share_below_one(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..1.0).contains(share));
    share.ok_or_else(|| "must be at least 0 and below 1".to_owned())
}

/// A number from 1 to `MOST`.
fn up_to<const MOST: usize>(text: &str) -> Result<usize, String> {
    match at_least_one(text)? {
        n if n <= MOST => Ok(n),
        _ => Err(format!("must be at most {MOST}")),
    }
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let parts =
        text.split_once('=').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse::<f32>().ok()?)));
    parts
        .filter(|(_, bias)| bias.is_finite())
        .ok_or_else(|| "must be a token's number, = and what is added, for example 42=-1.5".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<LowArgs, clap::Error> {
        LowArgs::try_parse_from(std::iter::once("flashmill").chain(line.split_whitespace()))
    }

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        LowArgs::command().debug_assert();
    }

    #[test]
    fn a_line_with_everything() {
        let line = "run demo -p hi -f a -f b --tools t.json --ram 8G --threads 3 --backend reference --level avx2 --kv q8 \
                    --context 100 --max-tokens 5 --temperature 0.5 --top-k 3 --top-p 0.9 --min-p 0.1 --repeat-penalty 1.1 \
                    --presence-penalty -0.5 --frequency-penalty 0.2 --logit-bias 7=-1.5 --logit-bias 8=100 --seed 4 \
                    --stop x --stop y --system s --no-think --experts 4 --reader pread --json --timing";
        let LowCommand::Run(LowRun { question: run, .. }) = parse(line).expect("valid").command else {
            panic!("run")
        };
        assert_eq!((run.prompt.as_deref(), run.file.len()), (Some("hi"), 2));
        assert_eq!(run.engine.ram, Some(8 << 30));
        assert_eq!(run.talk.sampling.temp, Some(0.5));
        assert_eq!(run.talk.sampling.presence_penalty, Some(-0.5));
        assert_eq!(run.talk.sampling.logit_bias, [(7, -1.5), (8, 100.0)]);
        assert_eq!((run.engine.kv, run.engine.backend), (LowKv::Q8, LowBackend::Reference));
        let LowCommand::Logits(logits) =
            parse("logits m --tokens 1,2,3 --out f --trace").expect("valid").command
        else {
            panic!("logits")
        };
        assert_eq!(logits.tokens, [1, 2, 3]);
    }

    #[test]
    fn wrong_lines() {
        for line in [
            "",
            "run",
            "walk demo",
            "run demo --ram lots",
            "run demo --threads 0",
            "run demo --context x",
            "run demo --logit-bias 5",
            "run demo --logit-bias 5=nan",
            "run demo --logit-bias 5=-inf",
            "run demo --greedy --temp 1",
            "run demo --raw --tools f",
            "logits demo --out f",
            "logits demo --tokens 1,-2 --out f",
            "logits demo --tokens 1,,2 --out f",
            "logits demo --tokens 1",
            "plan demo --kv f8",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
