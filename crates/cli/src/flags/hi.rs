//! The flags as they are meant: options of the engine and of each mode.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use flashmill_engine::{EngineOptions, SamplingOptions, TemplateOptions};
use flashmill_lab::bench::BenchOptions;
use flashmill_lab::replay::{Eviction, Tokens};
use flashmill_lab::routing::Drawn;
use flashmill_lab::{Shape, SyntheticOptions};
use flashmill_pack::PackOptions;
use flashmill_pull::Repo;

use super::engine::{engine_options, tuned_use};
use super::eval::EvalFlags;
use super::low::{
    LowArgs, LowBench, LowChat, LowCommand, LowForm, LowFormat, LowInspect, LowLogits, LowPlan, LowPull,
    LowQuestion, LowReplay, LowRun, LowSampling, LowTalk, LowTrace,
};
use super::pack::PackCommand;
use super::serve::ServeOptions;
use super::tune::{LossFlags, TuneFlags};
use crate::form::FormFlag;
use crate::tuned::TunedUse;

/// What the program shall do.
pub(crate) enum Mode {
    Run(RunOptions),
    Chat(ChatOptions),
    Serve(ServeOptions),
    Plan(PlanOptions),
    Inspect(InspectOptions),
    Pull(PullFlags),
    Logits(LogitsOptions),
    Bench(BenchFlags),
    Eval(EvalFlags),
    Tune(TuneFlags),
    Loss(LossFlags),
    Trace(TraceOptions),
    Replay(ReplayOptions),
    Pack(PackCommand),
    Verify(PathBuf),
}

/// Answer one prompt.
pub(crate) struct RunOptions {
    pub(crate) model: PathBuf,
    pub(crate) engine: EngineOptions,
    pub(crate) tuned: TunedUse,
    pub(crate) talk: TalkOptions,
    pub(crate) prompt: Option<String>,
    pub(crate) prompt_files: Vec<PathBuf>,
    pub(crate) tools: Option<PathBuf>,
    pub(crate) raw: bool,
    pub(crate) json: bool,
}

/// Talk to a model.
pub(crate) struct ChatOptions {
    pub(crate) model: PathBuf,
    pub(crate) engine: EngineOptions,
    pub(crate) tuned: TunedUse,
    pub(crate) talk: TalkOptions,
    pub(crate) offer_tools: bool,
}

/// Show what would be resident, cached and read.
pub(crate) struct PlanOptions {
    pub(crate) model: PathBuf,
    pub(crate) engine: EngineOptions,
    pub(crate) tuned: TunedUse,
    pub(crate) json: bool,
    /// Measure the machine although it was measured before.
    pub(crate) measure: bool,
}

/// Show what files hold.
pub(crate) struct InspectOptions {
    pub(crate) model: PathBuf,
    pub(crate) json: bool,
}

/// Fetch a model.
pub(crate) struct PullFlags {
    pub(crate) repo: Repo,
    pub(crate) revision: String,
    pub(crate) connections: usize,
    /// Pack the files as they arrive; the source is still to be filled in.
    pub(crate) pack: Option<PackOptions>,
}

/// Write logits to a file.
pub(crate) struct LogitsOptions {
    pub(crate) model: PathBuf,
    pub(crate) engine: EngineOptions,
    pub(crate) tokens: Vec<u32>,
    pub(crate) out: PathBuf,
    pub(crate) trace: bool,
}

/// Measure speed.
pub(crate) struct BenchFlags {
    pub(crate) subject: Subject,
    pub(crate) bench: BenchOptions,
    pub(crate) tuned: TunedUse,
    pub(crate) chart: Option<PathBuf>,
    pub(crate) json: bool,
}

/// What is measured.
pub(crate) enum Subject {
    Model(PathBuf),
    /// Random weights, to be written below `dir`.
    Synthetic {
        options: SyntheticOptions,
        format: Format,
        dir: PathBuf,
    },
}

/// How random weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// One GGUF file, in Q4_K.
    Gguf,
    /// MLX's affine groups.
    Mlx,
    /// The same in the packed form.
    Packed,
}

/// Record routing.
pub(crate) struct TraceOptions {
    /// The model, the prompt and how it is answered.
    pub(crate) run: RunOptions,
    pub(crate) out: PathBuf,
}

/// Replay recorded routing.
pub(crate) struct ReplayOptions {
    pub(crate) traces: Vec<PathBuf>,
    pub(crate) evictions: Vec<Eviction>,
    pub(crate) slots: Vec<Slots>,
    pub(crate) tokens: Tokens,
    pub(crate) json: bool,
}

/// The size of a cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Slots {
    Number(usize),
    /// In 0 ..= 1, of all experts.
    Share(f64),
}

/// How a conversation is led and answers are sampled.
#[derive(Clone)]
pub(crate) struct TalkOptions {
    pub(crate) system: Option<String>,
    /// `None`: the chat template decides.
    pub(crate) thinking: Option<bool>,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) stops: Vec<String>,
    pub(crate) timing: bool,
    /// What answers have to be; anything if not given.
    pub(crate) form: Option<FormFlag>,
    sampling: SamplingFlags,
}

/// Sampling as far as the user asked for it.
#[derive(Clone)]
struct SamplingFlags {
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    logit_bias: Vec<(u32, f32)>,
    seed: Option<u64>,
}

/// Positions of one forward pass of `logits`, whose rows of logits are all wanted: few, for each is as wide as the vocabulary.
const LOGITS_CHUNK: usize = 64;

impl Mode {
    /// What the flags mean; an error if a value means nothing on this machine.
    pub(crate) fn new(args: LowArgs) -> Result<Mode> {
        Ok(match args.command {
            LowCommand::Run(LowRun { question, json }) => Mode::Run(RunOptions::new(question, json)?),
            LowCommand::Chat(chat) => Mode::Chat(ChatOptions::new(chat)?),
            LowCommand::Serve(serve) => Mode::Serve(ServeOptions::new(serve)?),
            LowCommand::Plan(LowPlan { model, json, measure, engine }) => {
                let tuned = tuned_use(&engine);
                let engine = engine_options(engine)?;
                Mode::Plan(PlanOptions { model: model.model, engine, tuned, json, measure })
            }
            LowCommand::Inspect(LowInspect { model, json }) => {
                Mode::Inspect(InspectOptions { model: model.model, json })
            }
            LowCommand::Pull(LowPull { repo, revision, connections, pack }) => {
                let repo: Repo = repo.parse()?;
                let pack = pack.options(repo.name());
                Mode::Pull(PullFlags { repo, revision, connections: usize::from(connections), pack })
            }
            LowCommand::Logits(logits) => Mode::Logits(LogitsOptions::new(logits)?),
            LowCommand::Bench(bench) => Mode::Bench(BenchFlags::new(bench)?),
            LowCommand::Eval(eval) => Mode::Eval(EvalFlags::new(eval)?),
            LowCommand::Tune(tune) => Mode::Tune(TuneFlags::new(tune)?),
            LowCommand::Loss(loss) => Mode::Loss(LossFlags::new(loss)?),
            LowCommand::Trace(trace) => Mode::Trace(TraceOptions::new(trace)?),
            LowCommand::Replay(replay) => Mode::Replay(ReplayOptions::new(replay)?),
            LowCommand::Pack(pack) => Mode::Pack(pack.into()),
            LowCommand::Verify(verify) => Mode::Verify(verify.model.model),
        })
    }
}

impl RunOptions {
    fn new(low: LowQuestion, json: bool) -> Result<RunOptions> {
        Ok(RunOptions {
            model: low.model.model,
            tuned: tuned_use(&low.engine),
            engine: engine_options(low.engine)?,
            talk: low.talk.into(),
            prompt: low.prompt,
            prompt_files: low.file,
            tools: low.tools,
            raw: low.raw,
            json,
        })
    }
}

impl BenchFlags {
    fn new(low: LowBench) -> Result<BenchFlags> {
        let subject = match low.model.to_str().and_then(Shape::named) {
            Some(mut shape) => {
                shape.n_layers = low.layers.unwrap_or(shape.n_layers);
                if ![2, 3, 4, 5, 6, 8].contains(&low.bits) {
                    bail!("--bits {}: must be 2, 3, 4, 5, 6 or 8", low.bits);
                }
                let options = SyntheticOptions { shape, bits: low.bits, group: 64, seed: 1 };
                let format = match low.format {
                    LowFormat::Gguf => Format::Gguf,
                    LowFormat::Mlx => Format::Mlx,
                    LowFormat::Packed => Format::Packed,
                };
                Subject::Synthetic { options, format, dir: low.dir }
            }
            None => Subject::Model(low.model),
        };
        let routing = low.routing.as_deref().map(parse_routing).transpose()?;
        let mut tuned = tuned_use(&low.engine);
        let engine = engine_options(low.engine)?;
        if routing.is_some() {
            refuse_cache_aware(&engine)?;
            tuned.given.push("cache-aware");
        }
        let bench = BenchOptions {
            engine,
            contexts: low.contexts,
            prompt_tokens: low.prompt_tokens,
            decode_tokens: low.decode_tokens,
            cold: low.cold,
            peaks: !low.no_peaks,
            routing,
            patience: Duration::from_secs(low.patience as u64),
        };
        Ok(BenchFlags { subject, bench, tuned, chart: low.chart, json: low.json })
    }
}

/// Experts that are drawn are not the router's to choose.
pub(super) fn refuse_cache_aware(engine: &EngineOptions) -> Result<()> {
    if engine.cache_aware > 0.0 {
        bail!("--cache-aware: has no effect on experts that --routing draws; leave one of them out");
    }
    Ok(())
}

fn parse_routing(text: &str) -> Result<Drawn> {
    let drawn = |skew, reuse| Drawn { skew, reuse, seed: 1 };
    if text == "uniform" {
        return Ok(drawn(0.0, 0.0));
    }
    let numbers = text.split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    numbers
        .filter(|(skew, reuse)| (0.0..=10.0).contains(skew) && (0.0..=1.0).contains(reuse))
        .map(|(skew, reuse)| drawn(skew, reuse))
        .with_context(|| format!("--routing {text}: must be `uniform` or SKEW:REUSE, for example 1.0:0.6"))
}

impl TraceOptions {
    fn new(low: LowTrace) -> Result<TraceOptions> {
        Ok(TraceOptions { run: RunOptions::new(low.question, false)?, out: low.out })
    }
}

impl ReplayOptions {
    fn new(low: LowReplay) -> Result<ReplayOptions> {
        let evictions: Result<Vec<Eviction>, _> = low.policy.iter().map(|name| name.parse()).collect();
        let slots: Result<Vec<Slots>> = low.slots.iter().map(|text| parse_slots(text)).collect();
        let or_all = |list: Vec<Eviction>| if list.is_empty() { Eviction::ALL.to_vec() } else { list };
        let or_some =
            |list: Vec<Slots>| if list.is_empty() { REPLAY_SHARES.map(Slots::Share).to_vec() } else { list };
        Ok(ReplayOptions {
            traces: low.traces,
            evictions: or_all(evictions?),
            slots: or_some(slots?),
            tokens: if low.prompts { Tokens::All } else { Tokens::Generated },
            json: low.json,
        })
    }
}

/// Shares of all experts for which a replay shows the hits.
const REPLAY_SHARES: [f64; 4] = [0.05, 0.125, 0.25, 0.5];

fn parse_slots(text: &str) -> Result<Slots> {
    let slots = match text.strip_suffix('%') {
        Some(percent) => {
            percent.parse().ok().filter(|p| (0.0..=100.0).contains(p)).map(|p: f64| Slots::Share(p / 100.0))
        }
        None => text.parse().ok().map(Slots::Number),
    };
    slots.with_context(|| format!("--slots {text}: must be a number of slots or a percentage such as 25%"))
}

impl ChatOptions {
    fn new(low: LowChat) -> Result<ChatOptions> {
        Ok(ChatOptions {
            model: low.model.model,
            tuned: tuned_use(&low.engine),
            engine: engine_options(low.engine)?,
            talk: low.talk.into(),
            offer_tools: !low.no_tools,
        })
    }
}

impl LogitsOptions {
    fn new(low: LowLogits) -> Result<LogitsOptions> {
        let chunk = low.chunk.unwrap_or(LOGITS_CHUNK).min(low.tokens.len());
        let mut engine = engine_options(low.engine)?;
        engine.max_chunk = Some(chunk);
        engine.max_logit_rows = Some(chunk);
        engine.context = engine.context.or(Some(low.tokens.len()));
        Ok(LogitsOptions {
            model: low.model.model,
            engine,
            tokens: low.tokens,
            out: low.out,
            trace: low.trace,
        })
    }
}

impl TalkOptions {
    /// How a conversation is rendered.
    pub(crate) fn template(&self) -> TemplateOptions {
        TemplateOptions { enable_thinking: self.thinking, ..TemplateOptions::default() }
    }

    /// The model's own settings, with what the user asked for in their place.
    pub(crate) fn sampling(&self, defaults: &SamplingOptions) -> SamplingOptions {
        let flags = &self.sampling;
        SamplingOptions {
            temperature: flags.temperature.unwrap_or(defaults.temperature),
            top_k: flags.top_k.unwrap_or(defaults.top_k),
            top_p: flags.top_p.unwrap_or(defaults.top_p),
            min_p: flags.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: flags.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            presence_penalty: flags.presence_penalty.unwrap_or(defaults.presence_penalty),
            frequency_penalty: flags.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            logit_bias: flags.logit_bias.clone(),
            seed: flags.seed.or(defaults.seed),
        }
    }
}

impl From<LowTalk> for TalkOptions {
    fn from(low: LowTalk) -> TalkOptions {
        TalkOptions {
            system: low.system,
            thinking: low.no_think.then_some(false),
            max_tokens: low.max_tokens,
            stops: low.stop,
            timing: low.timing,
            form: low.form.into(),
            sampling: low.sampling.into(),
        }
    }
}

impl From<LowForm> for Option<FormFlag> {
    fn from(low: LowForm) -> Option<FormFlag> {
        let schema = low.json_schema.map(FormFlag::JsonSchema);
        let object = low.json_object.then_some(FormFlag::JsonObject);
        let calls = low.tool_grammar.then_some(FormFlag::ToolGrammar);
        schema.or(object).or(low.regex.map(FormFlag::Regex)).or(low.grammar.map(FormFlag::Grammar)).or(calls)
    }
}

impl From<LowSampling> for SamplingFlags {
    fn from(low: LowSampling) -> SamplingFlags {
        SamplingFlags {
            temperature: if low.greedy { Some(0.0) } else { low.temp },
            top_k: low.top_k,
            top_p: low.top_p,
            min_p: low.min_p,
            repetition_penalty: low.repeat_penalty,
            presence_penalty: low.presence_penalty,
            frequency_penalty: low.frequency_penalty,
            logit_bias: low.logit_bias,
            seed: low.seed,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use flashmill_engine::KvKind;

    use super::*;

    fn mode(line: &str) -> Result<Mode> {
        Mode::new(LowArgs::try_parse_from(std::iter::once("flashmill").chain(line.split_whitespace()))?)
    }

    #[test]
    fn the_models_settings_stand_where_the_user_is_silent() {
        let Mode::Run(run) = mode("run m --top-k 7 --presence-penalty 0.5").expect("valid") else {
            panic!("run")
        };
        let defaults =
            SamplingOptions { temperature: 0.6, top_k: 20, top_p: 0.9, ..SamplingOptions::plain() };
        let sampling = run.talk.sampling(&defaults);
        assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p), (0.6, 7, 0.9));
        assert_eq!(sampling.presence_penalty, 0.5);
        let Mode::Run(run) = mode("run m --greedy").expect("valid") else { panic!("run") };
        assert_eq!(run.talk.sampling(&defaults).temperature, 0.0);
    }

    #[test]
    fn engine_flags() {
        let Mode::Plan(plan) = mode("plan m --ram 1G --level scalar --kv q8 --experts 3").expect("valid")
        else {
            panic!("plan")
        };
        assert_eq!(plan.engine.ram_bytes, Some(1 << 30));
        assert_eq!(plan.engine.level.map(|level| level.to_string()).as_deref(), Some("scalar"));
        assert_eq!((plan.engine.kv, plan.engine.experts_per_token), (KvKind::Q8, Some(3)));
        let Mode::Plan(plan) = mode("plan m --cache-aware 0 --depth 8").expect("valid") else {
            panic!("plan")
        };
        assert_eq!(plan.tuned.given, ["depth", "cache-aware"], "off is as good a choice as any");
        for line in ["plan m --level sse9", "plan m --reader carrier-pigeon", "plan m --prefetch stars"] {
            assert!(mode(line).is_err(), "{line}");
        }
    }

    #[test]
    fn drawn_experts_are_not_cache_aware() {
        for command in ["bench", "tune"] {
            let error =
                mode(&format!("{command} m --routing uniform --cache-aware 0.1")).err().expect("refused");
            assert!(error.to_string().contains("--routing"), "{error}");
        }
        let Mode::Bench(bench) = mode("bench m --routing uniform").expect("valid") else { panic!("bench") };
        assert_eq!(bench.tuned.given, ["cache-aware"], "nor if it was tuned");
        let Mode::Tune(tune) = mode("tune m --routing uniform --depth 8").expect("valid") else {
            panic!("tune")
        };
        assert_eq!(tune.given, ["depth", "cache-aware"]);
    }

    #[test]
    fn logits_makes_room_for_every_row() {
        let Mode::Logits(logits) = mode("logits m --tokens 1,2,3 --out f").expect("valid") else {
            panic!("logits")
        };
        assert_eq!(logits.engine.max_chunk, Some(3));
        assert_eq!(logits.engine.max_logit_rows, Some(3));
        assert_eq!(logits.engine.context, Some(3));
        let Mode::Logits(logits) = mode("logits m --tokens 1,2,3 --out f --chunk 2").expect("valid") else {
            panic!("logits")
        };
        assert_eq!(logits.engine.max_chunk, Some(2));
    }
}
