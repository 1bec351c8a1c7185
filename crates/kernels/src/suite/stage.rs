use crate::{Backend, Buffer, Matrix};

use super::StoredMatrix;

/// What lies behind the values of a buffer, and in outputs before they are written.
const UNTOUCHED: f32 = -12345.678;
/// Values behind those that a call may write.
const MARGIN: usize = 21;

/// A backend with buffers that are larger than they need to be, to see that nothing else is written.
pub struct Stage<'a> {
    /// The backend.
    pub backend: &'a mut dyn Backend,
    buffers: Vec<Buffer>,
}

impl<'a> Stage<'a> {
    /// A stage for batches of `n_rows` rows, `max_cols` wide, and `n_heads` attention heads.
    pub fn new(backend: &'a mut dyn Backend, n_rows: usize, max_cols: usize, n_heads: usize) -> Self {
        backend.reserve(n_rows, max_cols, n_heads);
        Stage { backend, buffers: Vec::new() }
    }

    /// A buffer with these values.
    pub fn given(&mut self, values: &[f32]) -> Buffer {
        let buffer = self.room(values.len());
        self.backend.write(buffer, 0, values);
        buffer
    }

    /// A buffer with exactly these values and no margin, for weights whose length means something.
    pub fn exact(&mut self, values: &[f32]) -> Buffer {
        let buffer = self.backend.buffer(values.len());
        self.buffers.push(buffer);
        self.backend.write(buffer, 0, values);
        buffer
    }

    /// A buffer for `len` values.
    pub fn room(&mut self, len: usize) -> Buffer {
        self.exact(&vec![UNTOUCHED; len + MARGIN])
    }

    /// Gives a buffer back before the stage ends.
    pub fn release(&mut self, buffer: Buffer) {
        self.buffers.retain(|&other| other != buffer);
        self.backend.release(buffer);
    }

    /// A matrix of the trunk.
    pub fn matrix(&mut self, stored: &StoredMatrix) -> Matrix {
        let matrix = self.backend.matrix(stored.shape);
        for part in 0..stored.shape.encoding.n_parts() {
            self.backend.matrix_part(matrix, part).copy_from_slice(stored.part(part));
        }
        matrix
    }

    /// The first `len` values of a buffer that [`Stage::room`] or [`Stage::given`] made for as many.
    pub fn result(&mut self, buffer: Buffer, len: usize) -> Vec<f32> {
        let mut values = vec![0.0; len + MARGIN];
        self.backend.read(buffer, 0, &mut values);
        let margin = values.split_off(len);
        assert!(
            margin.iter().all(|&x| x == UNTOUCHED),
            "nothing is written behind the {len} values of a result"
        );
        values
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        for buffer in self.buffers.drain(..) {
            self.backend.release(buffer);
        }
    }
}
