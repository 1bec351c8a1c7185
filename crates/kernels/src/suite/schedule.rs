use super::Random;
use crate::{Buffer, Page, Segment};

/// Neighbouring positions of one sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) sequence: usize,
    pub(super) position: usize,
    pub(super) n_rows: usize,
}

/// What is computed in one call, in the order of its rows.
pub(super) type Batch = Vec<Piece>;

/// All sequences in one batch.
pub(super) fn at_once(lens: &[usize]) -> Vec<Batch> {
    vec![whole(lens)]
}

/// A batch for each sequence, the last one first.
pub(super) fn one_by_one(lens: &[usize]) -> Vec<Batch> {
    whole(lens).into_iter().rev().map(|piece| vec![piece]).collect()
}

/// In each batch the next position of every sequence that has one left.
pub(super) fn token_by_token(lens: &[usize]) -> Vec<Batch> {
    let longest = lens.iter().copied().max().unwrap_or(0);
    let batch = |position| {
        let alive = (0..lens.len()).filter(move |&sequence| position < lens[sequence]);
        alive.map(|sequence| Piece { sequence, position, n_rows: 1 }).collect()
    };
    (0..longest).map(batch).collect()
}

/// Pieces of random length, of random sequences together, in random order.
pub(super) fn in_pieces(random: &mut Random, lens: &[usize]) -> Vec<Batch> {
    let mut done = vec![0; lens.len()];
    let mut batches = Vec::new();
    while done.iter().zip(lens).any(|(done, len)| done < len) {
        let mut batch = Vec::new();
        for sequence in random.shuffled(lens.len()) {
            let left = lens[sequence] - done[sequence];
            if left > 0 && random.below(3) > 0 {
                let longest = random.pick(&[1, 3, 40, 1000]);
                let n_rows = 1 + random.below(left.min(longest));
                batch.push(Piece { sequence, position: done[sequence], n_rows });
                done[sequence] += n_rows;
            }
        }
        batches.extend((!batch.is_empty()).then_some(batch));
    }
    batches
}

/// The batch's segments; `pages` and `states` are those of each sequence.
pub(super) fn segments<'a>(batch: &Batch, pages: &'a [Vec<Page>], states: &[Buffer]) -> Vec<Segment<'a>> {
    let mut first_row = 0;
    let mut segments = Vec::new();
    for piece in batch {
        segments.push(Segment {
            first_row,
            n_rows: piece.n_rows,
            position: piece.position,
            pages: &pages[piece.sequence],
            delta_state: states[piece.sequence],
        });
        first_row += piece.n_rows;
    }
    segments
}

/// Rows of a batch.
pub(super) fn n_rows(batch: &Batch) -> usize {
    batch.iter().map(|piece| piece.n_rows).sum()
}

/// The batch's rows out of `values`, for each sequence its rows of `len` values.
pub(super) fn gather(batch: &Batch, values: &[Vec<f32>], len: usize) -> Vec<f32> {
    let rows = |piece: &Piece| &values[piece.sequence][piece.position * len..][..piece.n_rows * len];
    batch.iter().flat_map(rows).copied().collect()
}

/// The way back: adds the batch's rows to those of each sequence.
pub(super) fn scatter(batch: &Batch, rows: &[f32], len: usize, values: &mut [Vec<f32>]) {
    let mut rows = rows;
    for piece in batch {
        let (these, others) = rows.split_at(piece.n_rows * len);
        values[piece.sequence].extend(these);
        rows = others;
    }
}

fn whole(lens: &[usize]) -> Batch {
    lens.iter().enumerate().map(|(sequence, &n_rows)| Piece { sequence, position: 0, n_rows }).collect()
}
