//! `flashmill logits MODEL --tokens 1,2,3 --out F`: the door for outside checks.

mod file;

use std::process::ExitCode;

use anyhow::{Result, bail};
use flashmill_engine::{FfnKind, Model, Observer, Picks, Sequence, Wanted};

use crate::flags::LogitsOptions;
use crate::interrupt::{EXIT_INTERRUPTED, Interrupt};
use crate::load;
use crate::model_path::ModelPath;
use crate::progress::Progress;
use file::{Dtype, Tensor, TensorFile};

/// Reads the tokens and writes the logits after each of them.
pub(crate) fn logits(options: LogitsOptions) -> Result<ExitCode> {
    let interrupt = Interrupt::install()?;
    let path = ModelPath::find(&options.model)?;
    let mut model = load::open_model(path.path(), &options.engine)?;
    let vocab_size = model.spec().vocab_size;
    if let Some(token) = options.tokens.iter().find(|&&token| token as usize >= vocab_size) {
        bail!("token {token} is outside the model's vocabulary of {vocab_size}");
    }
    // An interrupt ends the pass with an error, so that the unfinished file is removed on the way out.
    match interrupt.during(|| write_logits(&mut model, &options, &interrupt)) {
        Err(_) if interrupt.is_stopped() => Ok(ExitCode::from(EXIT_INTERRUPTED)),
        result => result.map(|()| ExitCode::SUCCESS),
    }
}

fn write_logits(model: &mut Model, options: &LogitsOptions, interrupt: &Interrupt) -> Result<()> {
    let n = options.tokens.len();
    let mut tensors =
        vec![tensor("logits", Dtype::F32, n, model.spec().vocab_size), tensor("tokens", Dtype::I32, n, 1)];
    if options.trace {
        tensors.extend(trace_tensors(model, n));
    }
    let mut file = TensorFile::create(&options.out, tensors)?;
    let tokens: Vec<i32> = options.tokens.iter().map(|&token| token as i32).collect();
    file.write_i32("tokens", 0, &tokens)?;
    let mut state = model.new_state()?;
    let mut bar = Progress::of_tokens("reading");
    let stop = interrupt.stop();
    let chunk = model.options().max_rows.min(model.options().max_logit_rows);
    for (index, tokens) in options.tokens.chunks(chunk).enumerate() {
        let first = index * chunk;
        bar.set(first as u64, n as u64);
        let mut trace = Trace::default();
        let mut batch = [Sequence { state: &mut state, tokens, wanted: Wanted::All }];
        let observer = options.trace.then_some(&mut trace as &mut dyn Observer);
        model.forward(&mut batch, Some(&stop), observer)?;
        for row in 0..tokens.len() {
            file.write_f32("logits", first + row, model.logits(row))?;
        }
        trace.write(&mut file, first)?;
    }
    file.finish()
}

fn tensor(name: impl Into<String>, dtype: Dtype, rows: usize, cols: usize) -> Tensor {
    Tensor { name: name.into(), dtype, rows, cols }
}

/// Hidden states before the first layer, after each and after the last norm; each router's picks, as the model used them.
fn trace_tensors(model: &Model, n: usize) -> Vec<Tensor> {
    let spec = model.spec();
    let hidden = |name: String| tensor(name, Dtype::F32, n, spec.hidden_size);
    let mut tensors = vec![hidden("hidden.embed".to_owned())];
    for (layer, kind) in spec.layers.iter().enumerate() {
        tensors.push(hidden(format!("hidden.layer.{layer}.out")));
        if kind.ffn == FfnKind::Moe {
            let top_k = model.experts_per_token();
            tensors.push(tensor(format!("router.{layer}.indices"), Dtype::I32, n, top_k));
            tensors.push(tensor(format!("router.{layer}.weights"), Dtype::F32, n, top_k));
        }
    }
    tensors.push(hidden("hidden.final_norm".to_owned()));
    tensors
}

/// What one pass showed.
#[derive(Default)]
struct Trace {
    hidden: Vec<(String, Vec<f32>)>,
    picks: Vec<(usize, Picks)>,
}

impl Observer for Trace {
    fn tensor(&mut self, layer: Option<usize>, name: &'static str, _n_rows: usize, values: &[f32]) {
        let name = match (layer, name) {
            (None, "embed" | "final_norm") => format!("hidden.{name}"),
            (Some(layer), "out") => format!("hidden.layer.{layer}.out"),
            _ => return,
        };
        self.hidden.push((name, values.to_vec()));
    }

    fn picks(&mut self, layer: usize, picks: &Picks) {
        self.picks.push((layer, picks.clone()));
    }
}

impl Trace {
    /// Writes the rows of a pass that starts at position `first`.
    fn write(&self, file: &mut TensorFile, first: usize) -> Result<()> {
        for (name, values) in &self.hidden {
            file.write_f32(name, first, values)?;
        }
        for (layer, picks) in &self.picks {
            let indices: Vec<i32> = picks.experts.iter().map(|&expert| expert as i32).collect();
            file.write_i32(&format!("router.{layer}.indices"), first, &indices)?;
            file.write_f32(&format!("router.{layer}.weights"), first, &picks.weights)?;
        }
        Ok(())
    }
}
