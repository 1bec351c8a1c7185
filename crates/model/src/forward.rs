//! The forward pass: one function a block, to be read from top to bottom beside the papers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flashmill_checkpoint::{AttentionSpec, ModelSpec};
use flashmill_kernels::{Attend, Backend, Buffer, DeltaShape, Glu, NormRotate, PAGE_TOKENS, Segment, Term};
use flashmill_layout::{MAX_PARTS, MatrixShape, MatrixView};
use flashmill_store::{Lease, Order, Store};

use crate::ahead::{AHEAD_BYTES, look_ahead, show_guess};
use crate::observe::{Units, Watch};
use crate::timing::{Part, Timing};
use crate::weights::{Attention, DeltaNet, Ffn, Layer, Mixer, Moe, Shared};
use crate::work::{AttentionWork, DeltaWork, FfnWork, Host, MAX_ARRIVAL_ROWS, Work};
use crate::{Model, ModelError, Observer, Route, State};

/// Most sequences of one forward pass.
pub const MAX_SEQUENCES: usize = 64;

/// Tokens of one sequence that a forward pass reads.
pub struct Sequence<'a> {
    /// The sequence so far; it is extended by `tokens`.
    pub state: &'a mut State,
    /// At least one.
    pub tokens: &'a [u32],
    /// The rows whose logits are wanted.
    pub wanted: Wanted,
}

/// Rows of a sequence whose logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// None: a chunk inside a prompt.
    None,
    /// The last token's.
    Last,
    /// Every token's.
    All,
}

/// Where a layer's pass stands: the rows, and who looks on.
pub(crate) struct Pass<'a, 'b> {
    pub(crate) layer: usize,
    pub(crate) n_rows: usize,
    segments: &'a [Segment<'a>],
    pub(crate) watch: Watch<'b>,
    pub(crate) route: Option<&'b mut (dyn Route + 'static)>,
}

impl Model {
    /// Reads the tokens of every sequence into its state; [`Model::logits`] has what was wanted.
    ///
    /// `stop` is looked at before every layer. After an error the states are broken, except where the error says that nothing was
    /// begun (tokens out of range, a full context), or that logits are no numbers: then only the states of those sequences are, and the
    /// others' logits are there.
    ///
    /// # Panics
    /// If there are no sequences or more than [`MAX_SEQUENCES`], a sequence without tokens, or more rows or wanted logits than the model
    /// was loaded for.
    pub fn forward(
        &mut self,
        batch: &mut [Sequence<'_>],
        stop: Option<&AtomicBool>,
        observer: Option<&mut dyn Observer>,
    ) -> Result<(), ModelError> {
        let n_rows = self.prepare(batch)?;
        for sequence in batch.iter_mut() {
            sequence.state.broken = true;
        }
        let mut segments = [EMPTY; MAX_SEQUENCES];
        let mut row = 0;
        for (segment, sequence) in segments.iter_mut().zip(batch.iter()) {
            *segment = Segment {
                first_row: row,
                n_rows: sequence.tokens.len(),
                position: sequence.state.n_tokens,
                pages: &sequence.state.pages,
                delta_state: sequence.state.delta,
            };
            row += sequence.tokens.len();
        }
        self.timing.start(n_rows);
        let mut watch = Watch(observer);
        self.layers(&segments[..batch.len()], n_rows, stop, &mut watch)?;
        self.head(n_rows, &mut watch)?;
        for sequence in batch.iter_mut() {
            sequence.state.n_tokens += sequence.tokens.len();
            sequence.state.broken = false;
        }
        self.check_logits(batch)
    }

    /// Rows are independent: one that is no number says nothing about its neighbours.
    fn check_logits(&self, batch: &mut [Sequence<'_>]) -> Result<(), ModelError> {
        let host = &self.work.host;
        let mut wanted = host.logit_rows.iter().zip(&host.logit_positions).enumerate().peekable();
        let (mut end, mut result) = (0, Ok(()));
        for sequence in batch {
            end += sequence.tokens.len();
            while let Some((index, (_, &position))) = wanted.next_if(|(_, (row, _))| (**row as usize) < end) {
                if !self.logits(index).iter().all(|logit| logit.is_finite()) {
                    sequence.state.broken = true;
                    result = result.and(Err(ModelError::NotFinite { position }));
                }
            }
        }
        result
    }

    /// The `index`-th row of logits that the last pass was asked for, in the order of its rows: `[vocab_size]`.
    pub fn logits(&self, index: usize) -> &[f32] {
        let vocab = self.spec.vocab_size;
        assert!(
            index < self.work.host.logit_rows.len(),
            "the last pass was not asked for row {index} of logits"
        );
        &self.work.host.logits[index * vocab..][..vocab]
    }

    /// Checks the batch, takes its pages and writes what every layer needs. Nothing is begun if it fails.
    fn prepare(&mut self, batch: &mut [Sequence<'_>]) -> Result<usize, ModelError> {
        let n_rows: usize = batch.iter().map(|sequence| sequence.tokens.len()).sum();
        assert!((1..=MAX_SEQUENCES).contains(&batch.len()), "a pass has 1 to {MAX_SEQUENCES} sequences");
        assert!(
            n_rows <= self.options.max_rows,
            "{n_rows} rows in a model loaded for {}",
            self.options.max_rows
        );
        let host = &mut self.work.host;
        host.tokens.clear();
        host.logit_rows.clear();
        host.logit_positions.clear();
        for sequence in batch.iter() {
            assert!(!sequence.tokens.is_empty(), "a sequence of a pass has tokens");
            let vocab_size = self.spec.vocab_size;
            if let Some(&token) = sequence.tokens.iter().find(|&&token| token as usize >= vocab_size) {
                return Err(ModelError::TokenOutOfRange { token, vocab_size });
            }
            if sequence.state.broken {
                return Err(ModelError::BrokenState);
            }
            if sequence.state.n_tokens + sequence.tokens.len() > self.options.context {
                return Err(ModelError::ContextFull { context: self.options.context });
            }
        }
        for sequence in batch.iter_mut() {
            let start = sequence.state.n_tokens;
            let n = sequence.tokens.len();
            sequence.state.grow(start + n)?;
            for (i, &token) in sequence.tokens.iter().enumerate() {
                let row = host.tokens.len();
                host.rotate(row, start + i);
                host.tokens.push(token);
                let wanted = match sequence.wanted {
                    Wanted::None => false,
                    Wanted::Last => i + 1 == n,
                    Wanted::All => true,
                };
                if wanted {
                    host.logit_rows.push(row as u32);
                    host.logit_positions.push(start + i);
                }
            }
        }
        assert!(host.logit_rows.len() <= self.options.max_logit_rows, "more logits wanted than planned for");
        if let Some(attention) = &self.work.attention {
            let n = n_rows * host.inv_freq.len();
            self.backend.write(attention.cos, 0, &host.cos[..n]);
            self.backend.write(attention.sin, 0, &host.sin[..n]);
        }
        Ok(n_rows)
    }

    /// `x = embed(tokens)`, then for each layer `x += mixer(norm(x)); x += ffn(norm(x))`.
    fn layers(
        &mut self,
        segments: &[Segment<'_>],
        n_rows: usize,
        stop: Option<&AtomicBool>,
        watch: &mut Watch<'_>,
    ) -> Result<(), ModelError> {
        let Model { spec, backend, weights, store, work, timing, route, .. } = self;
        let b = backend.as_mut();
        let Work { x, h, y, attention, delta, ffn, host, .. } = work;
        let (x, h, y) = (*x, *h, *y);
        let (n, hidden, eps) = (n_rows, spec.hidden_size, spec.rms_norm_eps);

        b.embed(weights.embed, &host.tokens, x);
        watch.tensor(b, None, "embed", x, n, hidden);
        timing.mark(None, Part::Embed);
        for (index, layer) in weights.layers.iter().enumerate() {
            if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                return Err(ModelError::Interrupted);
            }
            let mut pass = Pass {
                layer: index,
                n_rows,
                segments,
                watch: Watch(watch.0.as_mut().map(|o| &mut **o as _)),
                route: route.as_deref_mut(),
            };

            b.rms_norm(x, layer.input_norm, eps, n, h);
            pass.see(b, "attn_in", h, hidden);
            let part = match &layer.mixer {
                Mixer::Attention(weights) => {
                    let work = attention.as_ref().expect("made for models with attention");
                    attend(b, weights, &spec.attention, eps, work, h, y, &mut pass);
                    Part::Attention
                }
                Mixer::DeltaNet(weights) => {
                    let work = delta.as_ref().expect("made for models with DeltaNet");
                    delta_net(b, weights, eps, work, h, y, &mut pass);
                    Part::DeltaNet
                }
            };
            pass.see(b, "attn_out", y, hidden);
            b.add(x, y, n * hidden);
            b.rms_norm(x, layer.post_norm, eps, n, h);
            pass.see(b, "mlp_in", h, hidden);
            timing.mark(Some(index), part);

            match &layer.ffn {
                Ffn::Moe(moe) => {
                    let busy_ns = store.busy_ns();
                    let next = weights.layers.get(index + 1);
                    mixture(b, moe, next, spec, store, ffn, host, x, h, y, &mut pass, timing)?;
                    timing.end_layer(Duration::from_nanos(store.busy_ns() - busy_ns));
                    if let Some(next) = next {
                        show_guess(b, next, spec, ffn, x, h, &mut pass);
                    }
                }
                Ffn::Dense(glu) => {
                    b.linear(h, n, &[(glu.gate, ffn.gate), (glu.up, ffn.up)]);
                    let units = spec.dense_intermediate_size.expect("a dense layer has a width");
                    b.silu_mul(ffn.gate, ffn.up, ffn.gate, n * units);
                    pass.see_units(b, "dense_units", ffn.gate, units);
                    b.linear(ffn.gate, n, &[(glu.down, y)]);
                    timing.mark(Some(index), Part::Shared);
                    timing.end_layer(Duration::ZERO);
                }
            }
            pass.see(b, "mlp_out", y, hidden);
            b.add(x, y, n * hidden);
            pass.see(b, "out", x, hidden);
        }
        Ok(())
    }

    /// Final norm, then the logits of the rows that are wanted.
    fn head(&mut self, n_rows: usize, watch: &mut Watch<'_>) -> Result<(), ModelError> {
        let Model { spec, backend, weights, work, timing, .. } = self;
        let host = &mut work.host;
        if host.logit_rows.is_empty() && watch.0.is_none() {
            return Ok(());
        }
        backend.rms_norm(work.x, weights.final_norm, spec.rms_norm_eps, n_rows, work.h);
        watch.tensor(backend.as_mut(), None, "final_norm", work.h, n_rows, spec.hidden_size);
        if host.logit_rows.is_empty() {
            return Ok(());
        }
        backend.linear_rows(work.h, &host.logit_rows, (weights.head, work.logits));
        backend.read(work.logits, 0, &mut host.logits[..host.logit_rows.len() * spec.vocab_size]);
        timing.mark(None, Part::Head);
        timing.end_layer(Duration::ZERO);
        Ok(())
    }
}

impl Pass<'_, '_> {
    fn see(&mut self, backend: &mut dyn Backend, name: &'static str, buffer: Buffer, row_len: usize) {
        self.watch.tensor(backend, Some(self.layer), name, buffer, self.n_rows, row_len);
    }

    fn see_units(&mut self, backend: &mut dyn Backend, name: &'static str, buffer: Buffer, row_len: usize) {
        if self.watch.wants_units() {
            self.see(backend, name, buffer, row_len);
        }
    }
}

/// Gated softmax attention with partial rotary embedding: `y = o(attend(q, k, v) * sigmoid(gate))`.
#[expect(clippy::too_many_arguments, reason = "the pieces of one formula")]
fn attend(
    b: &mut dyn Backend,
    weights: &Attention,
    spec: &AttentionSpec,
    eps: f32,
    work: &AttentionWork,
    h: Buffer,
    y: Buffer,
    pass: &mut Pass<'_, '_>,
) {
    let n_rows = pass.n_rows;
    let AttentionSpec { n_heads, n_kv_heads, head_dim, rotary_dim, gated, .. } = *spec;
    b.linear(h, n_rows, &[(weights.q, work.q_raw), (weights.k, work.k), (weights.v, work.v)]);
    let rotate = |x, n_heads, stride, weight, out| NormRotate {
        x,
        n_rows,
        n_heads,
        stride,
        head_dim,
        weight,
        eps,
        rotary_dim,
        cos: work.cos,
        sin: work.sin,
        out,
    };
    let stride = if gated { 2 * head_dim } else { head_dim };
    b.norm_rotate(&rotate(work.q_raw, n_heads, stride, weights.q_norm, work.q));
    b.norm_rotate(&rotate(work.k, n_kv_heads, head_dim, weights.k_norm, work.k));
    pass.see(b, "q_rope", work.q, n_heads * head_dim);
    pass.see(b, "k_rope", work.k, n_kv_heads * head_dim);
    b.append_kv(weights.ordinal, work.k, work.v, pass.segments);
    b.attend(&Attend {
        layer: weights.ordinal,
        q: work.q,
        n_heads,
        scale: 1.0 / (head_dim as f32).sqrt(),
        gate: gated.then_some(work.q_raw),
        out: work.out,
        segments: pass.segments,
    });
    pass.see(b, "o_proj_in", work.out, n_heads * head_dim);
    b.linear(work.out, n_rows, &[(weights.o, y)]);
}

/// Gated DeltaNet: convolution, gates, the delta rule, gated norm, output projection.
fn delta_net(
    b: &mut dyn Backend,
    weights: &DeltaNet,
    eps: f32,
    work: &DeltaWork,
    h: Buffer,
    y: Buffer,
    pass: &mut Pass<'_, '_>,
) {
    let n_rows = pass.n_rows;
    let shape: &DeltaShape = &work.shape;
    let values = shape.n_value_heads * shape.value_dim;
    b.linear(
        h,
        n_rows,
        &[(weights.qkv, work.m), (weights.z, work.z), (weights.b, work.b), (weights.a, work.a)],
    );
    b.delta_conv(shape, weights.ordinal, pass.segments, work.m, weights.conv, work.conv_out);
    pass.see(b, "conv_out", work.conv_out, shape.conv_channels());
    b.delta_gates(work.b, work.a, weights.decay, weights.dt_bias, n_rows);
    pass.see(b, "delta_g", work.a, shape.n_value_heads);
    pass.see(b, "delta_beta", work.b, shape.n_value_heads);
    b.delta_rule(shape, weights.ordinal, pass.segments, work.conv_out, work.a, work.b, work.out);
    pass.see(b, "delta_out", work.out, values);
    b.gated_norm(work.out, work.z, weights.norm, eps, n_rows * values, work.out);
    pass.see(b, "out_proj_in", work.out, values);
    b.linear(work.out, n_rows, &[(weights.out, y)]);
}

/// Mixture of experts: the sum over each row's picks in ascending expert order, the shared expert last.
///
/// All missing bundles are asked for at once; what the next layer may want comes behind them, and the shared expert is computed while
/// they land. A few rows take their experts as they arrive and add at the end; many rows take them in ascending order, each expert once
/// for all its rows.
#[expect(clippy::too_many_arguments, reason = "the pieces of one formula")]
fn mixture(
    b: &mut dyn Backend,
    moe: &Moe,
    next: Option<&Layer>,
    spec: &ModelSpec,
    store: &mut Store,
    work: &FfnWork,
    host: &mut Host,
    x: Buffer,
    h: Buffer,
    y: Buffer,
    pass: &mut Pass<'_, '_>,
    timing: &mut Timing,
) -> Result<(), ModelError> {
    let (n, hidden, layer) = (pass.n_rows, spec.hidden_size, Some(pass.layer));
    let sizes = spec.moe.as_ref().expect("a model with a router has sizes for it");
    b.linear(h, n, &[(moe.router, work.router_logits)]);
    pass.see(b, "router_logits", work.router_logits, sizes.n_experts);
    b.route(work.router_logits, n, sizes.n_experts, sizes.normalize_top_k, &mut host.picks);
    if let Some(route) = &mut pass.route {
        route.route(pass.layer, n, &mut host.picks);
    } else if let Some(near) = &mut host.near {
        // Only tokens that come alone, as decoded ones do: a prompt's chunk reads nearly everything anyway.
        for row in pass.segments.iter().filter(|segment| segment.n_rows == 1).map(|segment| segment.first_row)
        {
            let picks = &mut host.picks;
            near.prefer(b, work.router_logits, row, sizes.normalize_top_k, picks, pass.layer, store);
        }
    }
    pass.watch.picks(pass.layer, &host.picks, n);
    let Host { picks, union, terms, guess: guessed, ahead, .. } = host;
    union.gather(picks, n);
    timing.mark(layer, Part::Router);

    let as_they_land = n <= MAX_ARRIVAL_ROWS;
    let order = if as_they_land { Order::Arrival } else { Order::Ascending };
    let mut fetch = store.fetch(pass.layer, &union.experts, order)?;
    timing.mark(layer, Part::ReadWait);
    if let Some(next) = next {
        let scratch = y;
        look_ahead(b, next, spec, work, x, scratch, pass, union.experts.len(), guessed, ahead);
        fetch.ahead(pass.layer + 1, ahead, AHEAD_BYTES)?;
        timing.mark(layer, Part::Router);
    }
    if let Some(shared) = &moe.shared {
        shared_expert(b, shared, work, h, n);
        pass.see_units(b, "shared_units", work.gate, shared.intermediate);
        pass.see(b, "shared_expert_out", work.shared_out, hidden);
        pass.see(b, "shared_expert_gate_logit", work.shared_logit, 1);
        timing.mark(layer, Part::Shared);
    }
    b.zero(y, n * hidden);
    let mut units = pass.watch.wants_units().then(|| Units::new(n, &moe.bundle));
    while let Some((i, lease)) = fetch.next()? {
        timing.mark(layer, Part::ReadWait);
        let entries = union.entries(i);
        let first = if as_they_land { entries.start } else { 0 };
        let (glu, rows) = (glu(&lease, &moe.bundle), &union.rows[entries.clone()]);
        b.expert(&glu, h, rows, work.expert_out, first);
        if let Some(units) = &mut units {
            pass.watch.units(pass.layer, union.experts[i], rows, units.of(b, &glu, h, rows));
        }
        if !as_they_land {
            terms.clear();
            terms.extend(
                entries.enumerate().map(|(from, entry)| term(union.rows[entry], from, union.weights[entry])),
            );
            b.accumulate(y, work.expert_out, hidden, terms);
        }
        timing.mark(layer, Part::Experts);
    }
    if as_they_land {
        // The entries are sorted by expert, so each row's terms come in ascending expert order.
        terms.clear();
        terms.extend((0..n * picks.top_k).map(|entry| term(union.rows[entry], entry, union.weights[entry])));
        b.accumulate(y, work.expert_out, hidden, terms);
    }
    pass.see(b, "experts_out", y, hidden);
    timing.mark(layer, Part::Experts);
    if moe.shared.is_some() {
        b.accumulate_gated(y, work.shared_out, work.shared_logit, n, hidden);
        timing.mark(layer, Part::Shared);
    }
    Ok(())
}

/// `shared_out = down(silu(gate h) * up h)` and the logit of its gate.
fn shared_expert(b: &mut dyn Backend, shared: &Shared, work: &FfnWork, h: Buffer, n: usize) {
    let products =
        [(shared.glu.gate, work.gate), (shared.glu.up, work.up), (shared.gate_logit, work.shared_logit)];
    b.linear(h, n, &products);
    b.silu_mul(work.gate, work.up, work.gate, n * shared.intermediate);
    b.linear(work.gate, n, &[(shared.glu.down, work.shared_out)]);
}

fn term(row: u32, from: usize, weight: f32) -> Term {
    Term { row, from: from as u32, weight }
}

/// The matrices of a bundle on the bytes of its lease: gate's parts, up's parts, down's parts.
fn glu<'a>(lease: &'a Lease, shapes: &[MatrixShape; 3]) -> Glu<'a> {
    let mut part = 0;
    let mut matrix = |shape: &MatrixShape| {
        let n_parts = shape.encoding.n_parts();
        let mut parts: [&[u8]; MAX_PARTS] = [&[]; MAX_PARTS];
        for slot in &mut parts[..n_parts] {
            *slot = lease.part(part);
            part += 1;
        }
        MatrixView::new(*shape, &parts[..n_parts])
    };
    let [gate, up, down] = shapes;
    Glu { gate: matrix(gate), up: matrix(up), down: matrix(down) }
}

const EMPTY: Segment<'static> =
    Segment { first_row: 0, n_rows: 0, position: 0, pages: &[], delta_state: Buffer(u32::MAX) };

const _: () = assert!(PAGE_TOKENS.is_power_of_two(), "a page's place is found with a shift");
