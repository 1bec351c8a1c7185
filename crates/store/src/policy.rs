//! Who leaves when a slot is needed: a pure type over record numbers, without memory, files or time of day.

use std::fmt;
use std::str::FromStr;

use crate::options::UnknownName;

/// The rule by which a record loses its slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    /// Least uses over age: what is used often stays, unless it has not been for long.
    #[default]
    Lfru,
    /// Longest unused.
    Lru,
    /// Fewest uses.
    Lfu,
}

impl PolicyKind {
    /// Every kind.
    pub const ALL: [PolicyKind; 3] = [PolicyKind::Lfru, PolicyKind::Lru, PolicyKind::Lfu];

    fn name(self) -> &'static str {
        match self {
            PolicyKind::Lfru => "lfru",
            PolicyKind::Lru => "lru",
            PolicyKind::Lfu => "lfu",
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for PolicyKind {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<PolicyKind, UnknownName> {
        PolicyKind::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| UnknownName {
            what: "policy",
            text: text.to_owned(),
            known: "lfru, lru, lfu",
        })
    }
}
