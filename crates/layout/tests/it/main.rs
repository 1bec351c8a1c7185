//! Decoders against the vectors of `fixtures/vectors`, to the bit.

mod vectors;
