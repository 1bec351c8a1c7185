//! The SIMD levels, found at run time.

use std::fmt;
use std::str::FromStr;

#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::scalar::Scalar;
use super::simd::{Kernel, Simd};
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};

/// An instruction set that this CPU has. All give the same bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Level(Token);

/// The proof that the CPU has the level.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

/// A level that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LevelError {
    /// Not the name of a level.
    #[error("unknown level {name:?}; this build has {}", KNOWN.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The CPU lacks the instructions.
    #[error("this cpu has no {name}; its best level is {best}")]
    Unsupported {
        /// What was asked for.
        name: String,
        /// What there is.
        best: Level,
    },
}

#[cfg(target_arch = "x86_64")]
const KNOWN: &[&str] = &["scalar", "avx2", "avx512"];
#[cfg(target_arch = "aarch64")]
const KNOWN: &[&str] = &["scalar", "neon"];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const KNOWN: &[&str] = &["scalar"];

impl Level {
    /// Plain Rust, on every CPU.
    pub const SCALAR: Level = Level(Token::Scalar(Scalar));

    /// The levels of this CPU, the slowest first.
    pub fn available() -> impl Iterator<Item = Level> {
        KNOWN.iter().filter_map(|name| Level::named(name)).map(Level)
    }

    /// The fastest level of this CPU.
    pub fn best() -> Level {
        Level::available().last().unwrap_or(Level::SCALAR)
    }

    fn named(name: &str) -> Option<Token> {
        match name {
            "scalar" => Some(Token::Scalar(Scalar)),
            #[cfg(target_arch = "x86_64")]
            "avx2" => Avx2::new().map(Token::Avx2),
            #[cfg(target_arch = "x86_64")]
            "avx512" => Avx512::new().map(Token::Avx512),
            #[cfg(target_arch = "aarch64")]
            "neon" => Neon::new().map(Token::Neon),
            _ => None,
        }
    }

    /// Runs a kernel, compiled for the level.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Token::Scalar(scalar) => scalar.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(avx2) => avx2.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(avx512) => avx512.vectorize(kernel),
            #[cfg(target_arch = "aarch64")]
            Token::Neon(neon) => neon.vectorize(kernel),
        }
    }
}

impl Default for Level {
    fn default() -> Self {
        Level::best()
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Token::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Token::Neon(_) => "neon",
        })
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Level {
    type Err = LevelError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if !KNOWN.contains(&name) {
            return Err(LevelError::Unknown { name: name.to_owned() });
        }
        let token = Level::named(name);
        token.map(Level).ok_or_else(|| LevelError::Unsupported { name: name.to_owned(), best: Level::best() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for level in Level::available() {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert_eq!("sse9".parse::<Level>(), Err(LevelError::Unknown { name: "sse9".to_owned() }));
        assert_eq!(Level::available().next(), Some(Level::SCALAR));
    }
}
