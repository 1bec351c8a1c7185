use std::fmt;
use std::str::FromStr;

use crate::policy::PolicyKind;

/// How a store is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// How bytes come from the disk.
    pub reader: ReaderKind,
    /// Ceiling, in bytes, of the memory for slots. Reads go straight into slots: there is no staging beside them.
    pub slot_bytes: u64,
    /// Reads in flight at most.
    pub depth: usize,
    /// Threads of the readers that use threads.
    pub io_threads: usize,
    /// Who leaves when a slot is needed.
    pub policy: PolicyKind,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            reader: ReaderKind::Auto,
            slot_bytes: 1 << 30,
            depth: 32,
            io_threads: 4,
            policy: PolicyKind::Lfru,
        }
    }
}

/// How bytes come from the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReaderKind {
    /// io_uring and direct reads where both are allowed, else the next best.
    #[default]
    Auto,
    /// io_uring, with direct reads where the file system has them.
    Uring,
    /// A pool of threads with positional reads, direct where the file system has them.
    Pread,
    /// A pool of threads with reads through the page cache, which may then hold what the slots do not.
    PageCache,
}

impl ReaderKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [ReaderKind; 4] =
        [ReaderKind::Auto, ReaderKind::Uring, ReaderKind::Pread, ReaderKind::PageCache];

    fn name(self) -> &'static str {
        match self {
            ReaderKind::Auto => "auto",
            ReaderKind::Uring => "uring",
            ReaderKind::Pread => "pread",
            ReaderKind::PageCache => "page-cache",
        }
    }
}

impl fmt::Display for ReaderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for ReaderKind {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<ReaderKind, UnknownName> {
        ReaderKind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| UnknownName {
            what: "reader",
            text: text.to_owned(),
            known: "auto, uring, pread, page-cache",
        })
    }
}

/// A name that stands for nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {text:?}; known are {known}")]
pub struct UnknownName {
    /// What was to be named.
    pub what: &'static str,
    /// The name given.
    pub text: String,
    /// The names that exist.
    pub known: &'static str,
}

/// The order in which a fetch hands its picks over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// What is resident first, then what is read as it lands: decode.
    Arrival,
    /// Ascending picks, read ahead: a prefill sweep. What it loads is the first to leave again.
    Ascending,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for kind in ReaderKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        let error = "mmap".parse::<ReaderKind>().unwrap_err();
        assert_eq!(error.to_string(), "unknown reader \"mmap\"; known are auto, uring, pread, page-cache");
    }
}
