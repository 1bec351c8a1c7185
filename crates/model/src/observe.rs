//! A look inside the forward pass, for tests, `logits --trace` and routing traces.

use flashmill_kernels::{Backend, Buffer, Picks};

/// Sees what passes by. Reading a buffer waits for the device, so an observed pass is slower, but computes the same bits.
pub trait Observer {
    /// A tensor of `n_rows` rows at a named place of layer `layer` (`None`: before the first or after the last).
    ///
    /// Names are those of the golden traces: `attn_in`, `conv_out`, `delta_out`, `q_rope`, `o_proj_in`, `mlp_in`, `out` ...
    fn tensor(&mut self, layer: Option<usize>, name: &'static str, n_rows: usize, values: &[f32]);

    /// What the router of layer `layer` picked.
    fn picks(&mut self, layer: usize, picks: &Picks);
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

    pub(crate) fn picks(&mut self, layer: usize, picks: &Picks) {
        if let Some(observer) = &mut self.0 {
            observer.picks(layer, picks);
        }
    }
}
