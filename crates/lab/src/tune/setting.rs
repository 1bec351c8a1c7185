//! One setting: as a flag, as options of the engine, as text.

use std::fmt;
use std::str::FromStr;

use flashmill_engine::{EngineOptions, PolicyKind, Prefetch, ReaderKind};

/// A value of one of the engine's options that tuning may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// How experts are read.
    Reader(ReaderKind),
    /// Reads in flight at most.
    Depth(usize),
    /// Threads of the readers that use threads.
    IoThreads(usize),
    /// Who leaves the cache first.
    Policy(PolicyKind),
    /// What is read ahead of the routers.
    Prefetch(Prefetch),
    /// Threads that compute.
    Threads(usize),
    /// Most prompt tokens of one pass.
    Chunk(usize),
    /// Most bytes of memory for experts; what the budget leaves if `None`.
    Cache(Option<u64>),
    /// Experts per token.
    Experts(usize),
    /// Thousandths of the router's probability that may be given up for experts in the cache.
    CacheAware(u32),
}

/// A text that names no setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no setting of this version")]
pub struct UnknownSetting(pub String);

impl Setting {
    /// Its name in journals: what is on the left of `=`.
    pub fn name(&self) -> &'static str {
        match self {
            Setting::Reader(_) => "reader",
            Setting::Depth(_) => "depth",
            Setting::IoThreads(_) => "io-threads",
            Setting::Policy(_) => "cache-policy",
            Setting::Prefetch(_) => "prefetch",
            Setting::Threads(_) => "threads",
            Setting::Chunk(_) => "prompt-chunk",
            Setting::Cache(_) => "cache",
            Setting::Experts(_) => "experts",
            Setting::CacheAware(_) => "cache-aware",
        }
    }

    /// It changes answers.
    pub fn is_lossy(&self) -> bool {
        matches!(self, Setting::Experts(_) | Setting::CacheAware(1..))
    }

    /// The program's flag and its value; none for what is so without a flag.
    pub fn flag(&self) -> Option<[String; 2]> {
        (*self != Setting::Cache(None)).then(|| [format!("--{}", self.name()), self.value()])
    }

    /// Sets the option.
    pub fn apply(&self, options: &mut EngineOptions) {
        match *self {
            Setting::Reader(reader) => options.reader = reader,
            Setting::Depth(depth) => options.depth = Some(depth),
            Setting::IoThreads(threads) => options.io_threads = Some(threads),
            Setting::Policy(policy) => options.policy = policy,
            Setting::Prefetch(prefetch) => options.prefetch = prefetch,
            Setting::Threads(threads) => options.threads = Some(threads),
            Setting::Chunk(chunk) => options.max_chunk = Some(chunk),
            Setting::Cache(bytes) => options.cache_bytes = bytes,
            Setting::Experts(experts) => options.experts_per_token = Some(experts),
            Setting::CacheAware(thousandths) => options.cache_aware = f64::from(thousandths) / 1000.0,
        }
    }

    fn value(&self) -> String {
        match self {
            Setting::Reader(reader) => reader.to_string(),
            Setting::Policy(policy) => policy.to_string(),
            Setting::Prefetch(prefetch) => prefetch.to_string(),
            Setting::Depth(n)
            | Setting::IoThreads(n)
            | Setting::Threads(n)
            | Setting::Chunk(n)
            | Setting::Experts(n) => n.to_string(),
            Setting::CacheAware(thousandths) => format!("{}", f64::from(*thousandths) / 1000.0),
            Setting::Cache(bytes) => bytes.map_or_else(|| "all".to_owned(), |bytes| bytes.to_string()),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name(), self.value())
    }
}

impl FromStr for Setting {
    type Err = UnknownSetting;

    fn from_str(text: &str) -> Result<Setting, UnknownSetting> {
        let unknown = || UnknownSetting(text.chars().take(100).collect());
        let (name, value) = text.split_once('=').ok_or_else(unknown)?;
        let number = || value.parse().ok().filter(|&n| n > 0);
        let setting = match name {
            "reader" => value.parse().ok().map(Setting::Reader),
            "depth" => number().map(Setting::Depth),
            "io-threads" => number().map(Setting::IoThreads),
            "cache-policy" => value.parse().ok().map(Setting::Policy),
            "prefetch" => value.parse().ok().map(Setting::Prefetch),
            "threads" => number().map(Setting::Threads),
            "prompt-chunk" => number().map(Setting::Chunk),
            "cache" if value == "all" => Some(Setting::Cache(None)),
            "cache" => value.parse().ok().map(|bytes| Setting::Cache(Some(bytes))),
            "experts" => number().map(Setting::Experts),
            "cache-aware" => value
                .parse()
                .ok()
                .filter(|share| (0.0..1.0).contains(share))
                .map(|share: f64| Setting::CacheAware((1000.0 * share).round() as u32)),
            _ => None,
        };
        setting.ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_back() {
        for text in [
            "reader=page-cache",
            "depth=64",
            "io-threads=8",
            "cache-policy=lfu",
            "prefetch=router-2x",
            "threads=2",
            "prompt-chunk=512",
            "cache=all",
            "cache=1048576",
            "experts=6",
            "cache-aware=0",
            "cache-aware=0.15",
        ] {
            let setting: Setting = text.parse().unwrap();
            assert_eq!(setting.to_string(), text);
            let (name, value) = text.split_once('=').unwrap();
            assert_eq!(setting.flag().is_none(), value == "all");
            assert!(setting.flag().is_none_or(|flag| flag == [format!("--{name}"), value.to_owned()]));
        }
        for text in
            ["", "reader", "reader=tape", "depth=0", "depth=-1", "cache=some", "cache-aware=1", "colour=red"]
        {
            assert_eq!(text.parse::<Setting>(), Err(UnknownSetting(text.to_owned())));
        }
    }
}
