//! From logits to the next token.

mod constraint;
mod logprobs;
mod options;
mod rng;
mod select;

use self::constraint::Among;
pub use self::constraint::{Constraint, ConstraintError};
pub use self::logprobs::{TokenLogprob, logprobs};
pub use self::options::{GenerationDefaults, SamplingOptions};
pub use self::rng::Rng;
use self::select::Scratch;
use crate::EngineError;

/// Chooses tokens.
///
/// The settings act in the order of transformers: bias, repetition penalty, presence and frequency penalties, temperature,
/// top-k, top-p (over what top-k left, made to sum to 1), min-p; then one token is drawn. The repetition penalty
/// looks at the prompt and the answer, the other two only at the answer, as vLLM has it. Equal logits go to the lower id, and
/// top-k keeps exactly k tokens. In steady state nothing is allocated.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplingOptions,
    seed: u64,
    rng: Rng,
    /// Ids from here on are padding of the model's output matrix.
    n_vocab: usize,
    /// Logits after bias and penalties; empty if there are none.
    adjusted: Vec<f32>,
    scratch: Scratch,
    /// The choice that a constraint leaves; empty until one is given.
    among: Among,
    history: History,
}

/// Which tokens the prompt and the answer hold. Empty if no penalty asks.
#[derive(Clone, Debug, Default)]
struct History {
    /// How often each id occurs in the answer; `u32::MAX` for one that only the prompt has.
    counts: Vec<u32>,
    /// The ids whose count is not 0.
    seen: Vec<u32>,
}

const ONLY_IN_PROMPT: u32 = u32::MAX;

/// At this temperature a token whose logit is 0.01 lower has no probability left; dividing by less could give infinity.
const COLDEST: f32 = 1e-4;

/// Settings can push a logit beyond all numbers; differences of bounded ones stay numbers.
fn bounded(logit: f32) -> f32 {
    logit.clamp(-1e30, 1e30)
}

impl Sampler {
    /// Whether [`Sampler::new`] would take these settings; makes nothing.
    pub fn check(options: &SamplingOptions, n_vocab: usize) -> Result<(), EngineError> {
        options.check()?;
        match options.logit_bias.iter().find(|&&(id, _)| id as usize >= n_vocab) {
            None => Ok(()),
            Some(&(id, _)) => {
                let expected = "ids of the model's vocabulary";
                Err(EngineError::SamplingOption { name: "logit_bias", value: id.into(), expected })
            }
        }
    }

    /// A sampler for a tokenizer with ids below `n_vocab`.
    pub fn new(options: SamplingOptions, n_vocab: usize) -> Result<Sampler, EngineError> {
        Sampler::check(&options, n_vocab)?;
        let seed = options.seed.unwrap_or_else(Rng::fresh_seed);
        let mut sampler = Sampler {
            seed,
            rng: Rng::new(seed),
            n_vocab,
            adjusted: Vec::new(),
            scratch: Scratch::default(),
            among: Among::default(),
            history: History::default(),
            options,
        };
        if sampler.has_penalties() {
            sampler.history =
                History { counts: vec![0; n_vocab], seen: Vec::with_capacity(n_vocab.min(1 << 14)) };
        }
        if sampler.has_penalties() || !sampler.options.logit_bias.is_empty() {
            sampler.adjusted.reserve_exact(n_vocab);
        }
        Ok(sampler)
    }

    /// The settings.
    pub fn options(&self) -> &SamplingOptions {
        &self.options
    }

    /// Ids from here on are no tokens.
    pub fn n_vocab(&self) -> usize {
        self.n_vocab
    }

    /// The seed in use, which makes the run repeatable.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Starts a new answer to `prompt`: penalties forget what was before. The random numbers go on.
    pub fn start(&mut self, prompt: &[u32]) {
        self.history.clear();
        for &id in prompt {
            self.history.add(id, true);
        }
    }

    /// Notes a token of the answer that was not sampled here.
    pub fn accept(&mut self, id: u32) {
        self.history.add(id, false);
    }

    /// Chooses the next token and notes it. `logits` has one value for each id; those beyond the vocabulary are ignored.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, EngineError> {
        self.sample_among(logits, None)
    }

    /// The same among the tokens of `allowed`, a mask as [`Constraint::allowed`] gives it; the filters look at those alone.
    /// With all tokens allowed the choice is that of [`Sampler::sample`].
    pub fn sample_among(&mut self, logits: &[f32], allowed: Option<&[u32]>) -> Result<u32, EngineError> {
        let logits = &logits[..logits.len().min(self.n_vocab)];
        if logits.is_empty() {
            return Err(EngineError::NoLogits);
        }
        check_finite(logits)?;
        let must_adjust = !self.options.logit_bias.is_empty() || !self.history.seen.is_empty();
        let id = if must_adjust {
            self.adjust(logits);
            let adjusted = std::mem::take(&mut self.adjusted);
            let id = self.choose_among(&adjusted, allowed);
            self.adjusted = adjusted;
            id?
        } else {
            self.choose_among(logits, allowed)?
        };
        self.history.add(id, false);
        Ok(id)
    }

    fn has_penalties(&self) -> bool {
        let options = &self.options;
        options.repetition_penalty != 1.0
            || options.presence_penalty != 0.0
            || options.frequency_penalty != 0.0
    }

    fn adjust(&mut self, logits: &[f32]) {
        self.adjusted.clear();
        self.adjusted.extend_from_slice(logits);
        for &(id, bias) in &self.options.logit_bias {
            if let Some(logit) = self.adjusted.get_mut(id as usize) {
                *logit = bounded(*logit + bias);
            }
        }
        for &id in &self.history.seen {
            let Some(logit) = self.adjusted.get_mut(id as usize) else { continue };
            let penalty = self.options.repetition_penalty;
            *logit = bounded(if *logit > 0.0 { *logit / penalty } else { *logit * penalty });
            let count = self.history.counts[id as usize];
            if count != ONLY_IN_PROMPT {
                let penalty = self.options.presence_penalty + self.options.frequency_penalty * count as f32;
                *logit = bounded(*logit - penalty);
            }
        }
    }

    fn choose_among(&mut self, logits: &[f32], allowed: Option<&[u32]>) -> Result<u32, EngineError> {
        let Some(allowed) = allowed else { return Ok(self.choose(logits)) };
        let mut among = std::mem::take(&mut self.among);
        among.gather(logits, allowed);
        let id = match among.ids.is_empty() {
            true => Err(EngineError::NothingAllowed),
            false => Ok(among.ids[self.choose(&among.logits) as usize]),
        };
        self.among = among;
        id
    }

    fn choose(&mut self, logits: &[f32]) -> u32 {
        if self.options.temperature <= COLDEST || self.options.top_k == 1 {
            return select::argmax(logits);
        }
        let u = self.rng.next_f64();
        select::draw(logits, &self.options, &mut self.scratch, u)
    }
}

impl History {
    fn add(&mut self, id: u32, is_prompt: bool) {
        let Some(count) = self.counts.get_mut(id as usize) else { return };
        if *count == 0 {
            self.seen.push(id);
        }
        *count = match (is_prompt, *count) {
            (true, 0) => ONLY_IN_PROMPT,
            (true, count) => count,
            (false, ONLY_IN_PROMPT) => 1,
            (false, count) => count + 1,
        };
    }

    fn clear(&mut self) {
        for id in self.seen.drain(..) {
            self.counts[id as usize] = 0;
        }
    }
}

fn check_finite(logits: &[f32]) -> Result<(), EngineError> {
    // x * 0 is 0 for every number and NaN for the rest; sixteen sums, so that it is done in vectors.
    let mut sums = [0.0f32; 16];
    let (rows, rest) = logits.as_chunks::<16>();
    for row in rows {
        for (sum, x) in sums.iter_mut().zip(row) {
            *sum += x * 0.0;
        }
    }
    let is_finite = sums.iter().sum::<f32>() == 0.0 && rest.iter().all(|x| x.is_finite());
    if is_finite {
        return Ok(());
    }
    let token = logits.iter().position(|x| !x.is_finite()).unwrap_or(0);
    Err(EngineError::LogitNotFinite { token, value: logits[token] })
}

#[cfg(test)]
mod tests;
