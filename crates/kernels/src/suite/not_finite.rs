use std::rc::Rc;

use super::random::encodings;
use super::schedule::{Batch, Piece, segments};
use super::{Case, Random, Stage, StoredMatrix};
use crate::{Attend, Backend, Buffer, DeltaShape, Glu, KvKind, KvShape, NormRotate, Page};

/// A value that is not finite must spoil all that depends on it, so that it is seen in the logits, and nothing else. The results
/// of these cases are ones where a value is finite.
pub(super) fn cases(random: &mut Random) -> Vec<Case> {
    let mut cases = Vec::new();
    for encoding in encodings() {
        let n = encoding.granularity().max(128);
        let w = Rc::new([0, 1, 2].map(|_| StoredMatrix::random(random, n, n, encoding)));
        let bad = random.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
        let at = random.below(n);
        cases.push(flags(format!("{bad} through {encoding}"), 4 * n, move |backend| {
            product(backend, &w, bad, at)
        }));
    }
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for kind in [KvKind::F32, KvKind::F16, KvKind::Q8] {
            let name = format!("{bad} through attention, {kind:?}");
            cases.push(flags(name, 4 * 2 * 3 * 32, move |backend| attention(backend, kind, bad)));
        }
        cases.push(flags(format!("{bad} through norms"), 6 * 24, move |backend| norms(backend, bad)));
        cases.push(flags(format!("{bad} through DeltaNet"), 8 * 24, move |backend| delta_net(backend, bad)));
    }
    cases
}

fn flags(name: String, len: usize, run: impl Fn(&mut dyn Backend) -> Vec<f32> + 'static) -> Case {
    let run = move |backend: &mut dyn Backend| {
        run(backend).into_iter().map(|x| f32::from(u8::from(x.is_finite()))).collect()
    };
    Case::new(name, run, move |_| vec![0.0; len])
}

/// The second of two rows is bad; outputs of a product and of an expert.
fn product(backend: &mut dyn Backend, w: &[StoredMatrix; 3], bad: f32, at: usize) -> Vec<f32> {
    let n = w[0].shape.cols;
    let mut stage = Stage::new(backend, 2, n, 1);
    let mut values = vec![0.5; 2 * n];
    values[n + at] = bad;
    let (x, y, z) = (stage.given(&values), stage.room(2 * n), stage.room(2 * n));
    let matrix = stage.matrix(&w[0]);
    stage.backend.linear(x, 2, &[(matrix, y)]);
    let glu = Glu { gate: w[0].view(), up: w[1].view(), down: w[2].view() };
    stage.backend.expert(&glu, x, &[0, 1], z, 0);
    [stage.result(y, 2 * n), stage.result(z, 2 * n)].concat()
}

/// A bad query in one head, a bad key and a bad value at position 1 of 3, a bad gate.
fn attention(backend: &mut dyn Backend, kind: KvKind, bad: f32) -> Vec<f32> {
    let (n, len) = (3, 2 * 32);
    backend.kv_cache(KvShape { n_layers: 1, n_kv_heads: 2, head_dim: 32, kind }, 1);
    let mut stage = Stage::new(backend, n, 2 * len, 2);
    let state = stage.room(0);
    let pages = [vec![Page(0)]];
    let batch: Batch = vec![Piece { sequence: 0, position: 0, n_rows: n }];
    let mut results = Vec::new();
    for which in 0..4 {
        let mut given: [Vec<f32>; 4] = [len, len, len, 2 * len].map(|len| vec![0.25; n * len]);
        // Row 1, head 1; for the gate the second half of the head.
        let at = if which == 3 { 2 * len + 3 * 32 + 5 } else { len + 32 + 5 };
        given[which][at] = bad;
        let [q, k, v, gate] = given.map(|values| stage.given(&values));
        let out = stage.room(n * len);
        let segments = segments(&batch, &pages, &[state]);
        stage.backend.append_kv(0, k, v, &segments);
        let (scale, gate) = (0.2, Some(gate));
        stage.backend.attend(&Attend { layer: 0, q, n_heads: 2, scale, gate, out, segments: &segments });
        results.extend(stage.result(out, n * len));
    }
    results
}

/// Two rows of a norm, a gated norm and a rotated norm, of which the second is bad.
fn norms(backend: &mut dyn Backend, bad: f32) -> Vec<f32> {
    let mut stage = Stage::new(backend, 2, 24, 1);
    let mut values = vec![0.5; 48];
    values[24 + 7] = bad;
    let (x, z, weight) = (stage.given(&values), stage.given(&[1.0; 48]), stage.exact(&[1.0; 24]));
    let (cos, sin) = (stage.given(&[0.6; 12]), stage.given(&[0.8; 12]));
    let outs: [Buffer; 3] = [0; 3].map(|_| stage.room(48));
    let (n_rows, n_heads, stride, head_dim, eps, rotary_dim) = (2, 1, 24, 24, 1e-6, 12);
    stage.backend.rms_norm(x, weight, eps, n_rows, outs[0]);
    stage.backend.gated_norm(x, z, weight, eps, 48, outs[1]);
    let out = outs[2];
    stage.backend.norm_rotate(&NormRotate {
        x,
        n_rows,
        n_heads,
        stride,
        head_dim,
        weight,
        eps,
        rotary_dim,
        cos,
        sin,
        out,
    });
    outs.map(|out| stage.result(out, 48)).concat()
}

/// One head of 8 values over 3 tokens: a bad query, key, value, decay and beta of the token in the middle; and
/// one bad channel through the convolution.
fn delta_net(backend: &mut dyn Backend, bad: f32) -> Vec<f32> {
    let shape = DeltaShape {
        n_key_heads: 1,
        n_value_heads: 1,
        key_dim: 8,
        value_dim: 8,
        conv_kernel: 4,
        tiled: false,
    };
    let (n, channels) = (3, shape.conv_channels());
    let mut stage = Stage::new(backend, n, channels, 1);
    let batch: Batch = vec![Piece { sequence: 0, position: 0, n_rows: n }];
    let pages = [Vec::new()];
    let mut results = Vec::new();
    for which in 0..5 {
        let (mut qkv, mut g, mut beta) = (vec![0.5; n * channels], vec![-0.1; n], vec![0.5; n]);
        match which {
            0..3 => qkv[channels + 8 * which + 3] = bad,
            3 => g[1] = bad,
            _ => beta[1] = bad,
        }
        let [qkv, g, beta] = [qkv, g, beta].map(|values| stage.given(&values));
        let (state, out) = (stage.given(&vec![0.1; shape.state_len()]), stage.room(n * 8));
        let segments = segments(&batch, &pages, &[state]);
        stage.backend.delta_rule(&shape, 0, &segments, qkv, g, beta, out);
        results.extend(stage.result(out, n * 8));
    }
    let mut m = vec![0.5; n * channels];
    m[channels + 3] = bad;
    let (m, taps) = (stage.given(&m), stage.exact(&vec![0.5; channels * 4]));
    let (state, out) = (stage.given(&vec![0.1; shape.state_len()]), stage.room(n * channels));
    let segments = segments(&batch, &pages, &[state]);
    stage.backend.delta_conv(&shape, 0, &segments, m, taps, out);
    results.extend(stage.result(out, n * channels));
    results
}
