//! What the next layer may want: experts that are read before its router has spoken.

use flashmill_checkpoint::ModelSpec;
use flashmill_kernels::{Backend, Buffer, Picks};

use crate::forward::Pass;
use crate::weights::{Ffn, Layer};
use crate::work::{FfnWork, MAX_ARRIVAL_ROWS};

/// Memory of slots that may be filled ahead of a layer's router.
pub(crate) const AHEAD_BYTES: u64 = 64 << 20;

/// Writes into `ahead` what the next layer may want: what a guess says if prefetching is on, or everything if this layer's
/// `n_picked` experts are nearly all.
#[expect(clippy::too_many_arguments, reason = "the pieces of one formula")]
pub(crate) fn look_ahead(
    b: &mut dyn Backend,
    next: &Layer,
    spec: &ModelSpec,
    work: &FfnWork,
    x: Buffer,
    scratch: Buffer,
    pass: &Pass<'_, '_>,
    n_picked: usize,
    guessed: &mut Picks,
    ahead: &mut Vec<u32>,
) {
    ahead.clear();
    let (Ffn::Moe(_), Some(sizes)) = (&next.ffn, &spec.moe) else { return };
    let n = pass.n_rows;
    if n > MAX_ARRIVAL_ROWS {
        let n_ahead = if n_picked * 10 >= sizes.n_experts * 9 { sizes.n_experts } else { 0 };
        ahead.extend(0..n_ahead as u32);
    } else if guessed.top_k > 0 && pass.route.is_none() {
        guess(b, next, spec, work, x, scratch, n, guessed);
        ahead.extend_from_slice(&guessed.experts[..n * guessed.top_k]);
        if n > 1 {
            // One row's guesses are distinct, and the best of them are read first.
            ahead.sort_unstable();
            ahead.dedup();
        }
    }
}

/// The next layer's router on the residual stream that this layer's router saw: what a prefetch can know. `scratch` has room for
/// `n` rows of the hidden size.
#[expect(clippy::too_many_arguments, reason = "the pieces of one formula")]
fn guess(
    b: &mut dyn Backend,
    next: &Layer,
    spec: &ModelSpec,
    work: &FfnWork,
    x: Buffer,
    scratch: Buffer,
    n: usize,
    guess: &mut Picks,
) {
    let (Ffn::Moe(moe), Some(sizes)) = (&next.ffn, &spec.moe) else { return };
    b.rms_norm(x, next.post_norm, spec.rms_norm_eps, n, scratch);
    b.linear(scratch, n, &[(moe.router, work.router_logits)]);
    b.route(work.router_logits, n, sizes.n_experts, sizes.normalize_top_k, guess);
}

/// The guess for an observer that asks.
pub(crate) fn show_guess(
    b: &mut dyn Backend,
    next: &Layer,
    spec: &ModelSpec,
    work: &FfnWork,
    x: Buffer,
    h: Buffer,
    pass: &mut Pass<'_, '_>,
) {
    let (Ffn::Moe(_), Some(sizes)) = (&next.ffn, &spec.moe) else { return };
    let (n, top_k) = (pass.n_rows, pass.watch.n_guesses().min(sizes.n_experts));
    if top_k > 0 {
        let mut picks = Picks { top_k, experts: vec![0; n * top_k], weights: vec![0.0; n * top_k] };
        guess(b, next, spec, work, x, h, n, &mut picks);
        pass.watch.guess(pass.layer + 1, &picks);
    }
}
