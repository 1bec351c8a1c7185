use std::rc::Rc;

use flashmill_layout::{Affine, Encoding, Float};

use super::{Case, Random, Stage, StoredMatrix};
use crate::{Attend, Backend, Buffer, DeltaShape, Glu, KvKind, KvShape, NormRotate, Page, Segment, Term};

const N_ROWS: usize = 3;
const WIDTH: usize = 64;

/// What a backend keeps of a product's input, to use it again, must not outlive the input: a product, a call that overwrites its
/// input, and the product again.
pub(super) fn cases(random: &mut Random) -> Vec<Case> {
    let encoding = Encoding::Affine(Affine { bits: 4, group: 32, scales: Float::BF16 });
    let data = Rc::new(Data {
        square: StoredMatrix::random(random, WIDTH, WIDTH, encoding),
        values: [0; 3].map(|_| random.values(N_ROWS * 2 * WIDTH)),
    });
    let case = |&(name, op): &(&'static str, Op)| {
        let data = Rc::clone(&data);
        // An old input would be off by about 1.
        let bound = |_: &_| vec![5e-3; 2 * N_ROWS * WIDTH];
        Case::new(format!("product after {name}"), move |backend| data.twice(backend, op), bound)
    };
    let mut cases: Vec<Case> = OPS.iter().map(case).collect();
    cases.push(Case::new(
        "experts with other rows of one input".to_owned(),
        move |backend| data.selections(backend),
        |_| vec![2e-2; 6 * WIDTH],
    ));
    cases
}

struct Data {
    square: StoredMatrix,
    values: [Vec<f32>; 3],
}

/// What an operation that overwrites `x` may use.
struct Hands<'a, 'b> {
    stage: &'a mut Stage<'b>,
    square: &'a StoredMatrix,
    x: Buffer,
    /// `[N_ROWS][2 * WIDTH]`.
    other: Buffer,
    third: Buffer,
    ones: Buffer,
    segment: Segment<'a>,
}

type Op = fn(Hands<'_, '_>) -> Buffer;

/// Operations that overwrite `x`, or put another buffer in its place.
const OPS: [(&str, Op); 20] = [
    ("write", |hands| {
        hands.stage.backend.write(hands.x, WIDTH + 3, &[7.0, -5.0]);
        hands.x
    }),
    ("copy", |hands| {
        hands.stage.backend.copy(hands.other, hands.x);
        hands.x
    }),
    ("release", |hands| {
        // The new buffer may have the old one's handle and memory.
        let Hands { stage, x, other, .. } = hands;
        let mut values = vec![0.0; N_ROWS * WIDTH];
        stage.backend.read(other, 0, &mut values);
        stage.release(x);
        stage.given(&values)
    }),
    ("embed", |hands| {
        let table = hands.stage.matrix(hands.square);
        hands.stage.backend.embed(table, &[5, 6, 7], hands.x);
        hands.x
    }),
    ("rms norm", |hands| {
        hands.stage.backend.rms_norm(hands.other, hands.ones, 1e-6, N_ROWS, hands.x);
        hands.x
    }),
    ("rms norm in place", |hands| {
        hands.stage.backend.rms_norm(hands.x, hands.ones, 4.0, N_ROWS, hands.x);
        hands.x
    }),
    ("linear", |hands| {
        let w = hands.stage.matrix(hands.square);
        hands.stage.backend.linear(hands.other, N_ROWS, &[(w, hands.x)]);
        hands.x
    }),
    ("linear of some rows", |hands| {
        let w = hands.stage.matrix(hands.square);
        hands.stage.backend.linear_rows(hands.other, &[2, 0, 1], (w, hands.x));
        hands.x
    }),
    ("add", |hands| {
        hands.stage.backend.add(hands.x, hands.other, N_ROWS * WIDTH);
        hands.x
    }),
    ("silu", |hands| {
        hands.stage.backend.silu_mul(hands.other, hands.third, hands.x, N_ROWS * WIDTH);
        hands.x
    }),
    ("convolution", |hands| {
        let shape = delta_shape(1, 2, 16, 16);
        let taps = hands.stage.exact(&[0.5; WIDTH * 4]);
        hands.stage.backend.delta_conv(&shape, 0, &[hands.segment], hands.other, taps, hands.x);
        hands.x
    }),
    ("gates", |hands| {
        let Hands { stage, x, other, third, ones, .. } = hands;
        stage.backend.delta_gates(other, x, ones, ones, N_ROWS);
        stage.backend.delta_gates(x, third, ones, ones, N_ROWS);
        x
    }),
    ("delta rule", |hands| {
        let Hands { stage, x, other, segment, .. } = hands;
        let gates = stage.given(&[0.5; N_ROWS * 4]);
        stage.backend.delta_rule(&delta_shape(1, 4, 8, 16), 0, &[segment], other, gates, gates, x);
        x
    }),
    ("gated norm", |hands| {
        let Hands { stage, x, other, third, ones, .. } = hands;
        stage.backend.gated_norm(other, third, ones, 1e-6, N_ROWS * WIDTH, x);
        x
    }),
    ("norm and rotation", |hands| {
        let Hands { stage, x, other, .. } = hands;
        let (weight, cos, sin) = (stage.exact(&[1.0; 32]), stage.given(&[0.6; 12]), stage.given(&[0.8; 12]));
        let (n_rows, n_heads, stride, head_dim, eps, rotary_dim) = (N_ROWS, 2, 64, 32, 1e-6, 8);
        stage.backend.norm_rotate(&NormRotate {
            x: other,
            n_rows,
            n_heads,
            stride,
            head_dim,
            weight,
            eps,
            rotary_dim,
            cos,
            sin,
            out: x,
        });
        x
    }),
    ("attention", |hands| {
        let Hands { stage, x, other, third, segment, .. } = hands;
        stage.backend.kv_cache(KvShape { n_layers: 1, n_kv_heads: 1, head_dim: 32, kind: KvKind::F16 }, 1);
        stage.backend.append_kv(0, other, third, &[segment]);
        let (scale, gate, segments) = (0.2, None, &[segment]);
        stage.backend.attend(&Attend { layer: 0, q: other, n_heads: 2, scale, gate, out: x, segments });
        x
    }),
    ("expert", |hands| {
        let Hands { stage, square, x, other, .. } = hands;
        let glu = Glu { gate: square.view(), up: square.view(), down: square.view() };
        stage.backend.expert(&glu, other, &[1, 3], x, 1);
        x
    }),
    ("accumulate", |hands| {
        hands.stage.backend.accumulate(hands.x, hands.other, WIDTH, &[Term { row: 1, from: 2, weight: 1.5 }]);
        hands.x
    }),
    ("accumulate gated", |hands| {
        hands.stage.backend.accumulate_gated(hands.x, hands.other, hands.third, N_ROWS, WIDTH);
        hands.x
    }),
    ("zero", |hands| {
        hands.stage.backend.zero(hands.x, WIDTH);
        hands.x
    }),
];

fn delta_shape(n_key_heads: usize, n_value_heads: usize, key_dim: usize, value_dim: usize) -> DeltaShape {
    DeltaShape { n_key_heads, n_value_heads, key_dim, value_dim, conv_kernel: 4, tiled: false }
}

impl Data {
    fn twice(&self, backend: &mut dyn Backend, op: Op) -> Vec<f32> {
        let mut stage = Stage::new(backend, N_ROWS, 2 * WIDTH, 2);
        let w = stage.matrix(&self.square);
        let [x, other, third] = self.values.each_ref().map(|values| stage.given(values));
        let (ones, delta_state) = (stage.exact(&[1.0; WIDTH]), stage.room(4000));
        stage.backend.zero(delta_state, 4000);
        let [before, after] = [0; 2].map(|_| stage.room(N_ROWS * WIDTH));
        stage.backend.linear(x, N_ROWS, &[(w, before)]);
        let pages = [Page(0)];
        let segment = Segment { first_row: 0, n_rows: N_ROWS, position: 0, pages: &pages, delta_state };
        let x = op(Hands { stage: &mut stage, square: &self.square, x, other, third, ones, segment });
        stage.backend.linear(x, N_ROWS, &[(w, after)]);
        [before, after].map(|y| stage.result(y, N_ROWS * WIDTH)).concat()
    }

    /// One and two rows of one input in turn, through experts, selections and whole products.
    fn selections(&self, backend: &mut dyn Backend) -> Vec<f32> {
        let mut stage = Stage::new(backend, 2 * N_ROWS, WIDTH, 1);
        let w = stage.matrix(&self.square);
        let glu = Glu { gate: self.square.view(), up: self.square.view(), down: self.square.view() };
        let (x, y) = (stage.given(&self.values[0]), stage.room(6 * WIDTH));
        stage.backend.expert(&glu, x, &[0], y, 0);
        stage.backend.expert(&glu, x, &[4], y, 1);
        stage.backend.expert(&glu, x, &[4, 2], y, 2);
        let z = stage.room(2 * WIDTH);
        stage.backend.linear(x, 1, &[(w, z)]);
        let mut products = stage.result(z, 2 * WIDTH)[..WIDTH].to_vec();
        stage.backend.linear_rows(x, &[3], (w, z));
        products.extend(&stage.result(z, 2 * WIDTH)[..WIDTH]);
        [stage.result(y, 6 * WIDTH)[..4 * WIDTH].to_vec(), products].concat()
    }
}
