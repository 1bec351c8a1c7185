//! What the tests of the engine share: the demo model.

use std::path::PathBuf;
use std::sync::Arc;

use flashmill_engine::{Engine, EngineOptions, TextSide};

pub(crate) fn path(from_root: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../..", from_root].iter().collect()
}

pub(crate) fn options() -> EngineOptions {
    EngineOptions { ram_bytes: Some(2 << 30), threads: Some(2), ..EngineOptions::default() }
}

pub(crate) fn open(options: &EngineOptions) -> Engine {
    Engine::open(&path("models/demo"), options, &mut |_, _| ()).expect("the demo model opens")
}

pub(crate) fn demo_text() -> Arc<TextSide> {
    Arc::clone(open(&options()).text())
}
