//! Routing that is drawn instead of computed, so that a model with random weights can have the cache hits of a trained one.

use flashmill_engine::{Picks, Route};

use crate::random::SplitMix64;
use crate::replay::{DEFAULT_POLICY, Eviction, Hits, Tokens, replay};
use crate::trace::{Trace, TraceHeader, TracedToken, VERSION};

/// How picks are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    /// The exponent of a Zipf law over a layer's experts, in an order of its own for each layer; 0 is uniform.
    pub skew: f64,
    /// The probability that a pick is taken over from the token before, 0 to 1.
    pub reuse: f64,
    /// Of all draws.
    pub seed: u64,
}

/// Draws the picks of every layer, each row from those of the row before; in a batch, from those of the same sequence.
pub struct DrawnRoute {
    options: Drawn,
    layers: Vec<Layer>,
    random: SplitMix64,
}

struct Layer {
    /// Experts from the most to the least popular.
    order: Vec<u32>,
    /// Cumulative weights in that order.
    cumulative: Vec<f64>,
    /// The picks of the last pass, row by row.
    last: Vec<u32>,
}

/// Up to so many rows, a pass as long as the one before is taken for the next tokens of the same sequences.
const MAX_BATCH: usize = 64;

impl DrawnRoute {
    /// For layers of `n_experts` experts each.
    pub fn new(options: Drawn, n_layers: usize, n_experts: usize) -> DrawnRoute {
        let mut random = SplitMix64(options.seed);
        let layers = (0..n_layers).map(|_| Layer::new(options.skew, n_experts, &mut random)).collect();
        DrawnRoute { options, layers, random }
    }
}

/// Share of drawn picks that hit slots for `resident_share` of the experts, 0 to 1: the draws of a few layers, replayed.
pub fn drawn_hit_rate(drawn: Drawn, n_experts: usize, top_k: usize, resident_share: f64) -> f64 {
    const LAYERS: usize = 4;
    const TOKENS: usize = 400;
    let mut route = DrawnRoute::new(drawn, LAYERS, n_experts);
    let mut one = Picks { top_k, experts: vec![0; top_k], weights: vec![0.0; top_k] };
    let mut token = || {
        let picks = (0..LAYERS).map(|layer| {
            route.route(layer, 1, &mut one);
            one.experts.clone()
        });
        TracedToken { prompt: false, picks: picks.collect(), guess: Vec::new() }
    };
    let header = TraceHeader {
        version: VERSION,
        model: "drawn".to_owned(),
        top_k,
        n_experts: vec![n_experts; LAYERS],
    };
    let tokens: Vec<TracedToken> = (0..TOKENS).map(|_| token()).collect();
    let first = Trace { header: header.clone(), tokens: tokens[..TOKENS / 2].to_vec() };
    let n_slots = (resident_share * (LAYERS * n_experts) as f64) as usize;
    // The first half fills the cache: what it hits is not what a warm cache does.
    let hits = |trace: &Trace| replay(trace, Tokens::All, Eviction::Policy(DEFAULT_POLICY), n_slots);
    let (all, first) = (hits(&Trace { header, tokens }), hits(&first));
    Hits { hits: all.hits - first.hits, picks: all.picks - first.picks }.rate()
}

impl Layer {
    fn new(skew: f64, n_experts: usize, random: &mut SplitMix64) -> Layer {
        let mut order: Vec<u32> = (0..n_experts as u32).collect();
        for i in (1..n_experts).rev() {
            order.swap(i, random.below(i as u64 + 1) as usize);
        }
        let weights = (0..n_experts).scan(0.0, |sum, rank| {
            *sum += (rank as f64 + 1.0).powf(-skew);
            Some(*sum)
        });
        Layer { order, cumulative: weights.collect(), last: Vec::new() }
    }

    fn draw(&self, random: &mut SplitMix64) -> u32 {
        let all = self.cumulative[self.cumulative.len() - 1];
        let at = random.unit() * all;
        let rank = self.cumulative.partition_point(|&sum| sum <= at);
        self.order[rank.min(self.order.len() - 1)]
    }
}

impl Layer {
    /// Draws the picks of a row, distinct ones, after those of the token before.
    fn draw_row(&self, reuse: f64, before: &[u32], random: &mut SplitMix64, row: &mut [u32]) {
        for at in 0..row.len() {
            row[at] = loop {
                let pick = match before.get(at) {
                    Some(&last) if random.unit() < reuse => last,
                    _ => self.draw(random),
                };
                if !row[..at].contains(&pick) {
                    break pick;
                }
                // What is taken may be taken over again and again: draw afresh.
                let pick = self.order[random.below(self.order.len() as u64) as usize];
                if !row[..at].contains(&pick) {
                    break pick;
                }
            };
        }
    }
}

impl Route for DrawnRoute {
    fn route(&mut self, layer: usize, n_rows: usize, picks: &mut Picks) {
        let DrawnRoute { options, layers, random } = self;
        let layer = &mut layers[layer];
        let top_k = picks.top_k;
        let is_batch = n_rows <= MAX_BATCH && layer.last.len() == n_rows * top_k;
        let before = std::mem::take(&mut layer.last);
        for index in 0..n_rows {
            let (done, rest) = picks.experts.split_at_mut(index * top_k);
            let before = if is_batch {
                &before[index * top_k..][..top_k]
            } else if index > 0 {
                &done[(index - 1) * top_k..]
            } else {
                &before[before.len().saturating_sub(top_k)..]
            };
            layer.draw_row(options.reuse, before, random, &mut rest[..top_k]);
        }
        layer.last = before;
        layer.last.clear();
        layer.last.extend_from_slice(&picks.experts[..n_rows * top_k]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_hits_of_drawn_picks() {
        let rate = |skew, reuse, share| drawn_hit_rate(Drawn { skew, reuse, seed: 1 }, 64, 8, share);
        assert_eq!(rate(0.0, 0.0, 1.0), 1.0);
        assert!((rate(0.0, 0.0, 0.5) - 0.5).abs() < 0.06, "{}", rate(0.0, 0.0, 0.5));
        assert!(rate(0.0, 0.7, 0.5) > 0.75);
        assert!(rate(1.2, 0.0, 0.25) > rate(0.0, 0.0, 0.25) + 0.1);
        assert_eq!(rate(0.0, 0.0, 0.0), 0.0);
    }

    fn picks(drawn: Drawn, n_rows: usize) -> Vec<Vec<u32>> {
        let (top_k, n_experts) = (8, 64);
        let mut picks = Picks { top_k, experts: vec![0; n_rows * top_k], weights: vec![0.0; n_rows * top_k] };
        DrawnRoute::new(drawn, 2, n_experts).route(1, n_rows, &mut picks);
        picks.experts.chunks_exact(top_k).map(<[u32]>::to_vec).collect()
    }

    /// The share of a row's picks that the row before has, on the average.
    fn repeats(rows: &[Vec<u32>]) -> f64 {
        let repeats = |pair: &[Vec<u32>]| pair[1].iter().filter(|pick| pair[0].contains(pick)).count();
        rows.windows(2).map(repeats).sum::<usize>() as f64 / (8 * (rows.len() - 1)) as f64
    }

    #[test]
    fn draws_are_distinct_reproducible_and_of_the_kind_asked_for() {
        let drawn = |skew, reuse| Drawn { skew, reuse, seed: 3 };
        for (skew, reuse) in [(0.0, 0.0), (1.2, 0.0), (0.0, 0.7), (0.0, 1.0), (5.0, 0.5)] {
            let rows = picks(drawn(skew, reuse), 400);
            assert_eq!(rows, picks(drawn(skew, reuse), 400));
            for row in &rows {
                assert!((1..8).all(|at| !row[..at].contains(&row[at])), "{row:?}");
                assert!(row.iter().all(|&pick| pick < 64));
            }
        }
        let uniform = repeats(&picks(drawn(0.0, 0.0), 2000));
        assert!((uniform - 8.0 / 64.0).abs() < 0.02, "{uniform}");
        let reused = repeats(&picks(drawn(0.0, 0.7), 2000));
        assert!((reused - (0.7 + 0.3 * 8.0 / 64.0)).abs() < 0.05, "{reused}");
        assert_eq!(repeats(&picks(drawn(0.0, 1.0), 50)), 1.0);
        let mut uses = [0; 64];
        picks(drawn(1.2, 0.0), 2000).iter().flatten().for_each(|&pick| uses[pick as usize] += 1);
        uses.sort_unstable_by(|a, b| b.cmp(a));
        assert!(uses[..8].iter().sum::<usize>() > 3 * uses[32..].iter().sum::<usize>() / 2, "{uses:?}");
    }
}
