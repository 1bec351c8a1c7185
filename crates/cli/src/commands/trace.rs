//! `flashmill trace MODEL -p TEXT --out FILE`: which experts the tokens of a prompt and its answer pick.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use flashmill_engine::{FfnKind, LayerKind, ModelSpec, Observer, Picks, Piece, Sampler, Session};
use flashmill_lab::trace::{TraceHeader, TracedToken, VERSION};

use super::run::{make_prompt, read_tools};
use crate::answer::{End, Question, answer};
use crate::flags::TraceOptions;
use crate::form::FormFlag;
use crate::interrupt::{EXIT_INTERRUPTED, Interrupt};
use crate::load;
use crate::model_path::ModelPath;
use crate::prompt::read_prompt;
use crate::report::Report;
use crate::terminal::{dim_stderr, note};

/// Answers the prompt and writes what every token picked. An answer that is interrupted leaves a trace of what there is.
pub(crate) fn trace(options: TraceOptions) -> Result<ExitCode> {
    let TraceOptions { run, out } = options;
    let interrupt = Interrupt::install()?;
    let tools = run.tools.as_deref().map(read_tools).transpose()?;
    let form = run.talk.form.as_ref().map(FormFlag::read).transpose()?;
    let text = read_prompt(run.prompt.as_deref(), &run.prompt_files)?;
    let model = ModelPath::find(&run.model)?;
    let mut file =
        File::create(&out).map(BufWriter::new).with_context(|| format!("cannot create {}", out.display()))?;
    let mut engine = load::open_engine(model.path(), &run.engine, &run.tuned)?;
    let prompt = make_prompt(&engine, &run, tools.as_ref(), text)?;
    let form = form.map(|form| form.compile(&engine, tools.as_ref())).transpose()?;
    let question = Question { prompt, form: form.as_ref() };
    let sampling = run.talk.sampling(&engine.defaults().sampling);
    let mut sampler = Sampler::new(sampling, engine.tokenizer().n_vocab())?;
    let header = header(&run.model.to_string_lossy(), engine.model().spec(), engine.plan().experts_per_token);
    let recorder = Recorder::new(header.n_experts.len(), 2 * header.top_k);
    let mut session = engine.session()?;
    session.set_observer(Box::new(recorder.clone()));
    let answer =
        answer(&mut session, &mut sampler, question, &run.talk, &interrupt, &mut |_: &Piece| Ok(()))?;
    read_last(&mut session, &mut sampler, answer.n_tokens)?;
    let n_prompt = answer.n_prompt_tokens;

    let tokens = recorder.tokens(n_prompt);
    let mut write = || -> std::io::Result<()> {
        header.write(&mut file)?;
        tokens.iter().try_for_each(|token| token.write(&mut file))?;
        file.flush()
    };
    write().with_context(|| format!("cannot write {}", out.display()))?;
    note!(
        "{} prompt tokens and {} generated ones in {}",
        n_prompt.min(tokens.len()),
        tokens.len().saturating_sub(n_prompt),
        out.display()
    );
    note!("{}", dim_stderr(&Report::of(&session).line()));
    Ok(if answer.end == End::Interrupted { ExitCode::from(EXIT_INTERRUPTED) } else { ExitCode::SUCCESS })
}

/// The last token of an answer has been sampled but not read, so that its picks are not known.
fn read_last(session: &mut Session<'_>, sampler: &mut Sampler, n_tokens: usize) -> Result<()> {
    let has_room = session.tokens().len() <= session.engine().plan().context;
    if n_tokens > 0 && has_room {
        session.next(sampler)?;
    }
    Ok(())
}

fn header(model: &str, spec: &ModelSpec, top_k: usize) -> TraceHeader {
    let n_experts = spec.moe.as_ref().map_or(0, |moe| moe.n_experts);
    let of_layer = |layer: &LayerKind| match layer.ffn {
        FfnKind::Moe => n_experts,
        FfnKind::Dense => 0,
    };
    TraceHeader {
        version: VERSION,
        model: model.to_owned(),
        top_k,
        n_experts: spec.layers.iter().map(of_layer).collect(),
    }
}

/// Looks on at every pass. Clones share what they saw.
#[derive(Clone)]
struct Recorder {
    n_layers: usize,
    n_guesses: usize,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    tokens: Vec<TracedToken>,
    /// Tokens before the present pass.
    before: usize,
    /// The last layer that was seen: a lower one begins a pass.
    layer: Option<usize>,
}

impl Recorder {
    fn new(n_layers: usize, n_guesses: usize) -> Recorder {
        Recorder { n_layers, n_guesses, seen: Arc::default() }
    }

    /// What was seen, of which the first `n_prompt` tokens are the prompt's.
    fn tokens(&self, n_prompt: usize) -> Vec<TracedToken> {
        let mut seen = self.seen.lock().expect("nobody panicked with the lock");
        let mut tokens = std::mem::take(&mut seen.tokens);
        for token in tokens.iter_mut().take(n_prompt) {
            token.prompt = true;
        }
        tokens
    }
}

impl Observer for Recorder {
    fn tensor(&mut self, _layer: Option<usize>, _name: &'static str, _n_rows: usize, _values: &[f32]) {}

    fn picks(&mut self, layer: usize, picks: &Picks) {
        let mut seen = self.seen.lock().expect("nobody panicked with the lock");
        let rows = picks.experts.chunks_exact(picks.top_k);
        if seen.layer.is_none_or(|last| last >= layer) {
            seen.before = seen.tokens.len();
            let (n_layers, n_rows) = (self.n_layers, rows.len());
            let empty = || TracedToken {
                prompt: false,
                picks: vec![Vec::new(); n_layers],
                guess: vec![Vec::new(); n_layers],
            };
            seen.tokens.extend(std::iter::repeat_with(empty).take(n_rows));
        }
        seen.layer = Some(layer);
        let before = seen.before;
        for (token, picks) in seen.tokens[before..].iter_mut().zip(rows) {
            token.picks[layer] = picks.to_vec();
        }
    }

    fn n_guesses(&self) -> usize {
        self.n_guesses
    }

    fn guess(&mut self, layer: usize, guess: &Picks) {
        let mut seen = self.seen.lock().expect("nobody panicked with the lock");
        let before = seen.before;
        for (token, guess) in seen.tokens[before..].iter_mut().zip(guess.experts.chunks_exact(guess.top_k)) {
            token.guess[layer] = guess.to_vec();
        }
    }
}
