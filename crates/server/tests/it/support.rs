//! A server on the demo model.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, OnceLock};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use flashmill_engine::{Engine, EngineOptions, Scheduler, SchedulerOptions};
use flashmill_server::{Limits, Server, ServerError, ServerOptions, Stopper};
use serde_json::{Value, json};

/// A server of one test. It ends with it.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) scheduler: Scheduler,
    stopper: Stopper,
    thread: Option<JoinHandle<Result<(), ServerError>>>,
}

impl Served {
    /// Tells the server to end, as Ctrl-C does.
    pub(crate) fn stop(&self) {
        self.stopper.stop();
    }

    /// Waits until the server has ended, and gives what it ended with.
    pub(crate) fn join(&mut self) -> Result<(), ServerError> {
        self.thread.take().map_or(Ok(()), |thread| thread.join().expect("no thread of the server panics"))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop();
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.scheduler.shutdown(Duration::ZERO);
    }
}

pub(crate) fn demo_files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo")
}

/// What tests of limits change.
pub(crate) struct Setup {
    pub(crate) server: ServerOptions,
    pub(crate) scheduler: SchedulerOptions,
    pub(crate) sessions: usize,
    pub(crate) context: usize,
    pub(crate) cache_aware: f64,
}

impl Default for Setup {
    fn default() -> Setup {
        let limits = Limits { grace: Duration::from_secs(60), ..Limits::default() };
        Setup {
            server: ServerOptions { port: 0, model: "demo".into(), limits, ..ServerOptions::default() },
            scheduler: SchedulerOptions::default(),
            sessions: 4,
            context: 2048,
            cache_aware: 0.0,
        }
    }
}

/// Serves the demo model.
pub(crate) fn serve(setup: Setup) -> Served {
    let options = EngineOptions {
        ram_bytes: Some(2 << 30),
        threads: Some(1),
        context: Some(setup.context),
        sessions: Some(setup.sessions),
        cache_aware: setup.cache_aware,
        ..EngineOptions::default()
    };
    let server = Server::bind(setup.server).expect("an address");
    let engine = Engine::open(&demo_files(), &options, &mut |_, _| {}).expect("the demo model opens");
    let scheduler = Scheduler::start(engine, setup.scheduler).expect("it starts");
    let (address, stopper, mine) = (server.address(), server.stopper(), scheduler.clone());
    let thread = std::thread::spawn(move || server.run(mine));
    Served { address, scheduler, stopper, thread: Some(thread) }
}

/// One server for all tests that leave it as it is.
pub(crate) fn shared() -> &'static Served {
    static SHARED: OnceLock<Served> = OnceLock::new();
    SHARED.get_or_init(|| serve(Setup::default()))
}

/// The tools of the demo model's example.
pub(crate) static TOOLS: LazyLock<Value> = LazyLock::new(|| {
    let text = std::fs::read_to_string(demo_files().join("tools.json")).expect("the tools");
    serde_json::from_str(&text).expect("JSON")
});

/// A request whose answer is as long as the context.
pub(crate) fn endless() -> Value {
    // A bias against the end of a turn, and towards some word.
    json!({"prompt": "a", "max_tokens": 100_000, "temperature": 0, "logit_bias": no_end()})
}

/// Keeps the demo model from ending.
pub(crate) fn no_end() -> Value {
    let text = shared().scheduler.text();
    let eos = text.defaults().eos_ids.iter().map(|id| (id.to_string(), json!(-1e6)));
    Value::Object(eos.collect())
}

/// Waits for something that must come true.
#[track_caller]
pub(crate) fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_true() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}");
        sleep(Duration::from_millis(5));
    }
}
