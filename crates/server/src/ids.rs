//! Names that no other answer has.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::answer::Head;

/// Makes the heads of answers.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    random: RandomState,
    n: AtomicU64,
}

impl Heads {
    /// A fresh head for an answer of `model`.
    pub(crate) fn next(&self, model: &str) -> Head {
        Head { id: self.id(), created: now(), model: model.to_owned() }
    }

    /// 20 digits: a keyed hash of a counter, and the counter itself so that two are never the same.
    pub(crate) fn id(&self) -> String {
        let n = self.n.fetch_add(1, Ordering::Relaxed);
        let mut hasher = self.random.build_hasher();
        hasher.write_u64(n);
        format!("{:016x}{:04x}", hasher.finish(), n & 0xffff)
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// The same as a date, `2026-01-31T12:00:00Z`.
pub(crate) fn rfc3339(seconds: u64) -> String {
    let timestamp =
        i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    timestamp.unwrap_or_default().to_string()
}
