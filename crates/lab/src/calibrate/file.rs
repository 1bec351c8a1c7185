//! An importance file: for each matrix `NAME.in_sum2`, the sums of squares `[n_matrices, n_inputs]`, and `NAME.counts`, how many rows
//! went into them, `[n_matrices, 1]`, both F32 (`tools/imatrix` of github.com/ggml-org/llama.cpp).

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use super::{CalibrateError, Calibration};
use crate::gguf::{ALIGNMENT, Pairs, TYPE_F32, put_string};

impl Calibration {
    /// Writes an importance file under a name that it has only when it is whole; `text` names what was read, for people.
    pub fn write(&self, path: &Path, text: &str) -> Result<(), CalibrateError> {
        let mut unnamed = path.as_os_str().to_owned();
        unnamed.push(".new");
        let write = || {
            self.write_all(Path::new(&unnamed), text)?;
            fs::rename(&unnamed, path)
        };
        write().map_err(|error| CalibrateError::Write { path: path.to_owned(), error })
    }

    fn write_all(&self, path: &Path, text: &str) -> io::Result<()> {
        let mut pairs = Pairs::default();
        pairs.string("general.type", "imatrix");
        pairs.strings("imatrix.datasets", &[text.to_owned()]);
        pairs.u32("imatrix.chunk_count", self.n_windows());
        pairs.u32("imatrix.chunk_size", self.n_tokens().div_ceil(self.n_windows().max(1).into()) as u32);
        let named = self.named();
        let (mut tensors, mut data) = (Vec::new(), Vec::new());
        let mut offset = 0;
        for (name, sums) in &named {
            let n = sums.counts.len();
            for (what, cols, values) in [("in_sum2", sums.cols, &sums.squares), ("counts", 1, &sums.counts)] {
                put_string(&mut tensors, &format!("{name}.{what}"));
                tensors.extend(2u32.to_le_bytes());
                tensors.extend((cols as u64).to_le_bytes());
                tensors.extend((n as u64).to_le_bytes());
                tensors.extend(TYPE_F32.to_le_bytes());
                tensors.extend(u64::to_le_bytes(offset));
                offset += (4 * values.len() as u64).next_multiple_of(ALIGNMENT);
                data.push(values);
            }
        }
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        let mut header = Vec::from(*b"GGUF");
        header.extend(3u32.to_le_bytes());
        header.extend((data.len() as u64).to_le_bytes());
        header.extend(pairs.n.to_le_bytes());
        header.extend(pairs.bytes);
        header.extend(tensors);
        header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
        out.write_all(&header)?;
        for values in data {
            for value in values {
                out.write_all(&value.to_le_bytes())?;
            }
            let padding = (4 * values.len() as u64).next_multiple_of(ALIGNMENT) - 4 * values.len() as u64;
            out.write_all(&[0; ALIGNMENT as usize][..padding as usize])?;
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }
}
