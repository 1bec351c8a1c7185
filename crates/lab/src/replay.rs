//! A cache on a recorded trace, without a model: hit rates of policies, of the optimum, and what a prefetch would bring.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;

use flashmill_store::{Policy, PolicyKind};

use crate::trace::{Trace, TracedToken};

/// Who leaves when a slot is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// A policy that the store has.
    Policy(PolicyKind),
    /// Whoever is used again last (Belady, "A study of replacement algorithms", 1966): no policy has more hits, and none can
    /// know the future.
    Belady,
}

impl Eviction {
    /// Every one.
    pub const ALL: [Eviction; 4] = {
        let [a, b, c] = PolicyKind::ALL;
        [Eviction::Policy(a), Eviction::Policy(b), Eviction::Policy(c), Eviction::Belady]
    };
}

impl fmt::Display for Eviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Eviction::Policy(kind) => kind.fmt(f),
            Eviction::Belady => f.pad("belady"),
        }
    }
}

/// Not the name of a policy.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown policy {0:?}; there are lfru, lru, lfu and belady")]
pub struct UnknownEviction(String);

impl FromStr for Eviction {
    type Err = UnknownEviction;

    fn from_str(text: &str) -> Result<Eviction, UnknownEviction> {
        let known = Eviction::ALL.into_iter().find(|eviction| eviction.to_string() == text);
        known.ok_or_else(|| UnknownEviction(text.to_owned()))
    }
}

/// The policy of the store where nothing else is asked for.
pub const DEFAULT_POLICY: PolicyKind = PolicyKind::Lfru;

/// What is replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tokens {
    /// What the model generated; prompts are read by sweeps that leave the cache alone.
    #[default]
    Generated,
    /// Every token, as if each had been decoded.
    All,
}

/// Uses of experts, and those that found theirs in a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// Picks that were in a slot.
    pub hits: u64,
    /// All picks.
    pub picks: u64,
}

impl Hits {
    /// In 0 ..= 1.
    pub fn rate(self) -> f64 {
        share(self.hits, self.picks)
    }
}

/// A guess at the next picks of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predictor {
    /// The experts that the last tokens picked in the same layer.
    LastTokens,
    /// The layer's router on the hidden state one layer earlier.
    NextRouter,
}

impl Predictor {
    /// Every one.
    pub const ALL: [Predictor; 2] = [Predictor::LastTokens, Predictor::NextRouter];
}

impl fmt::Display for Predictor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Predictor::LastTokens => "last tokens",
            Predictor::NextRouter => "next router",
        })
    }
}

/// How good guesses were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Foresight {
    /// Picks of layers and tokens for which there was a guess.
    pub picks: u64,
    /// Picks that were guessed.
    pub guessed: u64,
    /// Reads of picks that were not in a slot and had been guessed.
    pub saved: u64,
    /// Reads of experts that were guessed, not in a slot, and not picked.
    pub wasted: u64,
    /// Reads of picks that were not in a slot and not guessed.
    pub left: u64,
}

impl Foresight {
    /// The share of picks that were guessed.
    pub fn recall(self) -> f64 {
        share(self.guessed, self.picks)
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The picks of one layer of one token, as record numbers, with the token.
struct Fetch<'a> {
    layer: usize,
    token: usize,
    of: &'a TracedToken,
    records: Vec<u32>,
}

/// Hits of a cache with `n_slots` slots, at first empty, shared by all layers.
pub fn replay(trace: &Trace, tokens: Tokens, eviction: Eviction, n_slots: usize) -> Hits {
    let fetches = fetches(trace, tokens);
    let mut cache = Cache::new(trace, eviction, n_slots, &fetches);
    let mut hits = Hits::default();
    for fetch in &fetches {
        hits.picks += fetch.records.len() as u64;
        hits.hits += fetch.records.iter().filter(|record| cache.holds(**record)).count() as u64;
        cache.fetch(&fetch.records);
    }
    hits
}

/// What a predictor that guesses `n_guesses` experts for each layer would have brought beside a cache. Wrong guesses are read
/// into staging and never take a slot.
pub fn foresee(
    trace: &Trace,
    tokens: Tokens,
    eviction: Eviction,
    n_slots: usize,
    predictor: Predictor,
    n_guesses: usize,
) -> Foresight {
    let fetches = fetches(trace, tokens);
    let mut cache = Cache::new(trace, eviction, n_slots, &fetches);
    let first = first_records(trace);
    let mut all = Foresight::default();
    for fetch in &fetches {
        let guess: Vec<u32> = match predictor {
            Predictor::LastTokens => last_tokens(trace, fetch, n_guesses),
            Predictor::NextRouter => {
                let guess = fetch.of.guess.get(fetch.layer).map_or(&[][..], |guess| guess);
                guess.iter().copied().take(n_guesses).collect()
            }
        };
        if !guess.is_empty() {
            let guess: Vec<u32> = guess.iter().map(|expert| first[fetch.layer] + expert).collect();
            let guessed = |record: &&u32| guess.contains(record);
            let missing = |record: &&u32| !cache.holds(**record);
            let missed: Vec<u32> = fetch.records.iter().filter(missing).copied().collect();
            all.picks += fetch.records.len() as u64;
            all.guessed += fetch.records.iter().filter(guessed).count() as u64;
            let saved = missed.iter().filter(guessed).count() as u64;
            all.saved += saved;
            all.left += missed.len() as u64 - saved;
            let wrong = guess.iter().filter(missing).filter(|record| !fetch.records.contains(record));
            all.wasted += wrong.count() as u64;
        }
        cache.fetch(&fetch.records);
    }
    all
}

/// Up to `n` experts of the layer, those of the token before first.
fn last_tokens(trace: &Trace, fetch: &Fetch<'_>, n: usize) -> Vec<u32> {
    let mut guess = Vec::new();
    for before in trace.tokens[..fetch.token].iter().rev().take(n) {
        for &expert in &before.picks[fetch.layer] {
            if guess.len() < n && !guess.contains(&expert) {
                guess.push(expert);
            }
        }
        if guess.len() == n {
            break;
        }
    }
    guess
}

/// The number of each layer's first record.
fn first_records(trace: &Trace) -> Vec<u32> {
    let sum = |sum: &mut u32, &n: &usize| {
        *sum += n as u32;
        Some(*sum - n as u32)
    };
    trace.header.n_experts.iter().scan(0, sum).collect()
}

fn fetches(trace: &Trace, tokens: Tokens) -> Vec<Fetch<'_>> {
    let first = first_records(trace);
    let mut fetches = Vec::new();
    for (token, of) in trace.tokens.iter().enumerate() {
        if of.prompt && tokens == Tokens::Generated {
            continue;
        }
        for (layer, picks) in of.picks.iter().enumerate().filter(|(_, picks)| !picks.is_empty()) {
            let records = picks.iter().map(|expert| first[layer] + expert).collect();
            fetches.push(Fetch { layer, token, of, records });
        }
    }
    fetches
}

/// The records in slots.
struct Cache {
    n_slots: usize,
    rule: Rule,
}

enum Rule {
    Policy {
        policy: Policy,
        held: Vec<u32>,
    },
    Belady {
        /// The fetches that use each record, last first; those that are past are taken off.
        uses: HashMap<u32, Vec<usize>>,
        /// By next use.
        held: BTreeSet<(usize, u32)>,
        /// When each held record is used next.
        next: HashMap<u32, usize>,
        now: usize,
    },
}

impl Cache {
    fn new(trace: &Trace, eviction: Eviction, n_slots: usize, fetches: &[Fetch<'_>]) -> Cache {
        let rule = match eviction {
            Eviction::Policy(kind) => {
                let half_life = Policy::half_life(trace.header.n_experts.len());
                Rule::Policy { policy: Policy::new(kind, trace.n_records(), half_life), held: Vec::new() }
            }
            Eviction::Belady => {
                let mut uses: HashMap<u32, Vec<usize>> = HashMap::new();
                for (at, fetch) in fetches.iter().enumerate().rev() {
                    fetch.records.iter().for_each(|&record| uses.entry(record).or_default().push(at));
                }
                Rule::Belady { uses, held: BTreeSet::new(), next: HashMap::new(), now: 0 }
            }
        };
        Cache { n_slots, rule }
    }

    fn holds(&self, record: u32) -> bool {
        match &self.rule {
            Rule::Policy { held, .. } => held.contains(&record),
            Rule::Belady { next, .. } => next.contains_key(&record),
        }
    }

    /// Uses the records, and brings those that are missing.
    fn fetch(&mut self, records: &[u32]) {
        let n_slots = self.n_slots;
        match &mut self.rule {
            Rule::Policy { policy, held } => {
                policy.tick();
                records.iter().for_each(|&record| policy.touch(record));
                for &record in records {
                    if held.contains(&record) {
                        continue;
                    }
                    if held.len() >= n_slots {
                        let free = held.iter().copied().filter(|held| !records.contains(held));
                        let Some(victim) = policy.victim(free) else { continue };
                        held.retain(|&held| held != victim);
                    }
                    held.push(record);
                }
            }
            Rule::Belady { uses, held, next, now } => {
                for &record in records {
                    let uses = uses.get_mut(&record).expect("every use was counted");
                    uses.pop();
                    let again = uses.last().copied().unwrap_or(usize::MAX);
                    debug_assert!(again > *now, "the next use is later");
                    if let Some(was) = next.insert(record, again) {
                        held.remove(&(was, record));
                    }
                    held.insert((again, record));
                }
                while held.len() > n_slots {
                    let (_, last) = held.pop_last().expect("more than none");
                    next.remove(&last);
                }
                *now += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{TraceHeader, VERSION};

    /// One layer of `n` experts, one pick a token.
    fn single(n: usize, picks: &[u32]) -> Trace {
        let token = |&pick: &u32| TracedToken { prompt: false, picks: vec![vec![pick]], guess: Vec::new() };
        Trace {
            header: TraceHeader { version: VERSION, model: String::new(), top_k: 1, n_experts: vec![n] },
            tokens: picks.iter().map(token).collect(),
        }
    }

    fn hits(trace: &Trace, eviction: &str, n_slots: usize) -> u64 {
        replay(trace, Tokens::Generated, eviction.parse().expect("known"), n_slots).hits
    }

    #[test]
    fn a_cycle_is_lru_s_worst_case_and_belady_s_textbook_one() {
        // 0 1 2 0 1 2 ... in two slots: LRU always evicts what comes next; the optimum keeps 0 and 1 and reads 2 in passing.
        let trace = single(3, &[0, 1, 2, 0, 1, 2, 0, 1, 2]);
        assert_eq!(hits(&trace, "lru", 2), 0);
        assert_eq!(hits(&trace, "belady", 2), 4);
        for policy in ["lru", "lfu", "lfru", "belady"] {
            assert_eq!(hits(&trace, policy, 3), 6, "{policy}");
        }
    }

    /// Hits of the best of all possible evictions, by trying them all.
    fn best(trace: &[u32], held: &mut Vec<u32>, n_slots: usize) -> u64 {
        let Some((&pick, rest)) = trace.split_first() else { return 0 };
        if held.contains(&pick) {
            return 1 + best(rest, held, n_slots);
        }
        if held.len() < n_slots {
            held.push(pick);
            let hits = best(rest, held, n_slots);
            held.pop();
            return hits;
        }
        let mut most = best(rest, held, n_slots); // read and given up at once
        for slot in 0..held.len() {
            let was = std::mem::replace(&mut held[slot], pick);
            most = most.max(best(rest, held, n_slots));
            held[slot] = was;
        }
        most
    }

    #[test]
    fn belady_is_the_optimum() {
        let mut state = 7u64;
        for _ in 0..40 {
            let picks: Vec<u32> = (0..12)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    (state >> 33) as u32 % 5
                })
                .collect();
            for n_slots in 1..4 {
                let most = best(&picks, &mut Vec::new(), n_slots);
                assert_eq!(hits(&single(5, &picks), "belady", n_slots), most, "{picks:?}, {n_slots} slots");
            }
        }
    }

    #[test]
    fn the_default_is_the_store_s_and_ahead_of_lru_on_the_demo_model_s_traces() {
        assert_eq!(DEFAULT_POLICY, PolicyKind::default());
        for text in [
            &include_bytes!("../../../fixtures/demo/routing.jsonl")[..],
            include_bytes!("../../../fixtures/demo/routing_facts.jsonl"),
        ] {
            let trace = Trace::read(text).expect("a trace");
            // From a quarter of the experts on. With slots for hardly more than one token's picks, LRU is ahead.
            for n_slots in [96, 134, 192] {
                let rate = |eviction| replay(&trace, Tokens::Generated, eviction, n_slots).rate();
                let default = rate(Eviction::Policy(DEFAULT_POLICY));
                assert!(rate(Eviction::Policy(PolicyKind::Lru)) < default, "{n_slots} slots");
                assert!(default < rate(Eviction::Belady), "{n_slots} slots");
            }
        }
    }

    #[test]
    fn prompts_are_left_out_unless_asked_for() {
        let mut trace = single(3, &[0, 0, 0, 1]);
        trace.tokens[0].prompt = true;
        trace.tokens[1].prompt = true;
        let eviction = Eviction::Policy(PolicyKind::Lru);
        assert_eq!(replay(&trace, Tokens::Generated, eviction, 3), Hits { hits: 0, picks: 2 });
        assert_eq!(replay(&trace, Tokens::All, eviction, 3), Hits { hits: 2, picks: 4 });
    }

    #[test]
    fn guesses_are_counted_against_what_the_cache_lacks() {
        let token = |a: &[u32], b: &[u32], guess: &[u32]| TracedToken {
            prompt: false,
            picks: vec![a.to_vec(), b.to_vec()],
            guess: vec![vec![], guess.to_vec()],
        };
        let header = TraceHeader { version: VERSION, model: String::new(), top_k: 2, n_experts: vec![4, 4] };
        let tokens = vec![token(&[0, 1], &[0, 1], &[1, 2, 3]), token(&[0, 2], &[1, 3], &[3, 0, 2])];
        let trace = Trace { header, tokens };
        let of = |predictor, n| {
            foresee(&trace, Tokens::Generated, Eviction::Policy(PolicyKind::Lru), 8, predictor, n)
        };
        // The second layer's two guesses: {1, 2} of {0, 1} saves 1, wastes 2, leaves 0; {3, 0} of {1, 3}: 3 saved, 0 and 1 held.
        let next = of(Predictor::NextRouter, 2);
        assert_eq!(next, Foresight { picks: 4, guessed: 2, saved: 2, wasted: 1, left: 1 });
        assert_eq!(next.recall(), 0.5);
        // The second token as the first: 0 of {0, 2} and 1 of {1, 3}, all of them held.
        let last = of(Predictor::LastTokens, 2);
        assert_eq!(last, Foresight { picks: 4, guessed: 2, saved: 0, wasted: 0, left: 2 });
    }
}
