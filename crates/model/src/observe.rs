//! A look inside the forward pass, for tests, `logits --trace` and routing traces.

use flashmill_kernels::{Backend, Buffer, Glu, Picks};
use flashmill_layout::{Encoding, Float, MatrixShape, MatrixView};

/// Sees what passes by. Reading a buffer waits for the device, so an observed pass is slower, but computes the same bits.
pub trait Observer {
    /// A tensor of `n_rows` rows at a named place of layer `layer` (`None`: before the first or after the last).
    ///
    /// Names are those of the golden traces: `attn_in`, `conv_out`, `delta_out`, `q_rope`, `o_proj_in`, `mlp_in`, `out` ...
    fn tensor(&mut self, layer: Option<usize>, name: &'static str, n_rows: usize, values: &[f32]);

    /// What the router of layer `layer` picked, for as many rows as the pass has.
    fn picks(&mut self, layer: usize, picks: &Picks);

    /// How many experts a row to guess for each layer, ahead of its router; none unless this says otherwise.
    fn n_guesses(&self) -> usize {
        0
    }

    /// What the router of layer `layer` says of the residual stream as it stands when the layer before it routes: the best
    /// [`Observer::n_guesses`] experts of each row, best first. A first layer has no guess.
    fn guess(&mut self, layer: usize, guess: &Picks) {
        let _ = (layer, guess);
    }

    /// Whether to be shown hidden units: [`Observer::units`], and the tensors `shared_units` and `dense_units`.
    fn wants_units(&self) -> bool {
        false
    }

    /// `silu(gate x) * up x`, the input of `down`, of an expert for the rows that picked it: `[rows.len()][intermediate]`.
    fn units(&mut self, layer: usize, expert: u32, rows: &[u32], values: &[f32]) {
        let _ = (layer, expert, rows, values);
    }
}

/// Picks experts in the router's place: for measuring with routing of a known kind. What the model computes is then not its own.
pub trait Route: Send {
    /// Writes the experts of `n_rows` rows, distinct in each row, into `picks.experts`; the weights stay the router's.
    fn route(&mut self, layer: usize, n_rows: usize, picks: &mut Picks);
}

/// Hands rows to an observer, if there is one.
pub(crate) struct Watch<'a>(pub Option<&'a mut dyn Observer>);

impl Watch<'_> {
    pub(crate) fn tensor(
        &mut self,
        backend: &mut dyn Backend,
        layer: Option<usize>,
        name: &'static str,
        buffer: Buffer,
        n_rows: usize,
        row_len: usize,
    ) {
        if let Some(observer) = &mut self.0 {
            let mut values = vec![0.0; n_rows * row_len];
            backend.read(buffer, 0, &mut values);
            observer.tensor(layer, name, n_rows, &values);
        }
    }

    pub(crate) fn picks(&mut self, layer: usize, picks: &Picks, n_rows: usize) {
        if let Some(observer) = &mut self.0 {
            observer.picks(layer, &rows_of(picks, n_rows));
        }
    }

    pub(crate) fn n_guesses(&self) -> usize {
        self.0.as_ref().map_or(0, |observer| observer.n_guesses())
    }

    pub(crate) fn wants_units(&self) -> bool {
        self.0.as_ref().is_some_and(|observer| observer.wants_units())
    }

    pub(crate) fn units(&mut self, layer: usize, expert: u32, rows: &[u32], values: &[f32]) {
        if let Some(observer) = &mut self.0 {
            observer.units(layer, expert, rows, values);
        }
    }

    pub(crate) fn guess(&mut self, layer: usize, guess: &Picks) {
        if let Some(observer) = &mut self.0 {
            observer.guess(layer, guess);
        }
    }
}

/// The picks of the first `n_rows` rows: the lists of a pass have room for the longest.
fn rows_of(picks: &Picks, n_rows: usize) -> Picks {
    let used = n_rows * picks.top_k;
    Picks {
        top_k: picks.top_k,
        experts: picks.experts[..used].to_vec(),
        weights: picks.weights[..used].to_vec(),
    }
}

/// The hidden units of experts, which no operation of a backend gives: the output of experts whose `down` is the identity. Only for
/// observers; computed beside the pass, which stays what it is.
pub(crate) struct Units {
    /// The identity, `[intermediate, intermediate]` in F32.
    identity: Vec<u8>,
    shape: MatrixShape,
    values: Vec<f32>,
}

impl Units {
    /// For passes of `n_rows`.
    pub(crate) fn new(n_rows: usize, bundle: &[MatrixShape; 3]) -> Units {
        let n = bundle[0].rows;
        let shape = MatrixShape { rows: n, cols: n, encoding: Encoding::Float(Float::F32) };
        let mut identity = vec![0; shape.bytes()];
        for i in 0..n {
            identity[4 * (i * n + i)..][..4].copy_from_slice(&1f32.to_le_bytes());
        }
        Units { identity, shape, values: vec![0.0; n_rows * n] }
    }

    /// Of one expert, `[rows.len()][intermediate]`.
    pub(crate) fn of(&mut self, b: &mut dyn Backend, glu: &Glu<'_>, h: Buffer, rows: &[u32]) -> &[f32] {
        let glu = Glu { down: MatrixView::new(self.shape, &[&self.identity]), ..*glu };
        let values = &mut self.values[..rows.len() * self.shape.rows];
        let out = b.buffer(values.len());
        b.expert(&glu, h, rows, out, 0);
        b.read(out, 0, values);
        b.release(out);
        values
    }
}
