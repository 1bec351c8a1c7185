//! The random numbers of sampling: the same seed gives the same numbers on every machine.

use std::hash::{BuildHasher, Hasher, RandomState};

/// xoshiro256++ (Blackman and Vigna, 2019), seeded through splitmix64 as its authors advise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Rng {
        let mut x = seed;
        let mut next = || {
            x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let z = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        Rng { state: [next(), next(), next(), next()] }
    }

    /// A seed that is different in each call.
    pub fn fresh_seed() -> u64 {
        // The standard library seeds its hash maps from the operating system.
        RandomState::new().build_hasher().finish()
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in [0, 1), a multiple of 2^-53.
    pub fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_sequence() {
        // First outputs of the authors' C code for the state 1, 2, 3, 4.
        let mut rng = Rng { state: [1, 2, 3, 4] };
        let first: Vec<u64> = (0..5).map(|_| rng.next_u64()).collect();
        assert_eq!(first, [41943041, 58720359, 3588806011781223, 3591011842654386, 9228616714210784205]);
    }

    #[test]
    fn numbers_are_uniform_and_seeds_differ() {
        let mut rng = Rng::new(1);
        let n = 100_000;
        let mut bins = [0u32; 10];
        for _ in 0..n {
            bins[(rng.next_f64() * 10.0) as usize] += 1;
        }
        // Standard deviation of a bin: sqrt(n / 10 * 0.9) = 95; five of them.
        assert!(bins.iter().all(|&bin| bin.abs_diff(n / 10) < 475), "{bins:?}");
        assert_ne!(Rng::new(1).next_u64(), Rng::new(2).next_u64());
        assert_ne!(Rng::fresh_seed(), Rng::fresh_seed());
    }
}
