//! Connections: how many, how long, and how they end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::app::App;
use super::routes;
use super::writes::ImpatientStream;
use crate::error::ServerError;
use crate::options::ServerOptions;
use flashmill_engine::serving::Scheduler;

/// After the grace of running answers, until their last bytes are with the clients.
const LAST_BYTES: Duration = Duration::from_secs(2);

/// An address that is had, for a model that may still have to be opened.
pub struct Server {
    runtime: tokio::runtime::Runtime,
    listener: TcpListener,
    address: SocketAddr,
    options: ServerOptions,
    stop: watch::Sender<Stop>,
}

/// Ends a server from any thread.
#[derive(Clone)]
pub struct Stopper(watch::Sender<Stop>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    No,
    /// Running answers go on.
    Gently,
    AtOnce,
}

impl Stopper {
    /// Takes no new requests and ends when the running ones are over; said again, ends at once.
    pub fn stop(&self) {
        self.0.send_modify(|stop| *stop = if *stop == Stop::No { Stop::Gently } else { Stop::AtOnce });
    }
}

impl Server {
    /// Listens; connections wait until it runs.
    pub fn bind(options: ServerOptions) -> Result<Server, ServerError> {
        options.check()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            // They render and tokenise conversations.
            .max_blocking_threads(4)
            .thread_name("http")
            .enable_all()
            .build()
            .map_err(ServerError::Runtime)?;
        let listener = runtime.block_on(listen(&options))?;
        let address = listener.local_addr().map_err(ServerError::Runtime)?;
        Ok(Server { runtime, listener, address, options, stop: watch::Sender::new(Stop::No) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What ends it.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.stop.clone())
    }

    /// Serves until the stopper is used or, on Unix, SIGTERM comes. Then running answers go on for as long as the grace lasts, and the
    /// scheduler ends.
    ///
    /// # Errors
    /// If the scheduler's thread has panicked, so that nothing can be answered any more.
    pub fn run(self, scheduler: Scheduler) -> Result<(), ServerError> {
        let Server { runtime, listener, address, options, stop } = self;
        let app = Arc::new(App::new(scheduler.clone(), options, address.ip().is_loopback()));
        #[cfg(unix)]
        runtime.spawn(watch_sigterm(Stopper(stop.clone())));
        runtime.block_on(serve(listener, app, stop.subscribe()));
        // What is left is not waited for.
        runtime.shutdown_background();
        if scheduler.has_failed() { Err(ServerError::SchedulerFailed) } else { Ok(()) }
    }
}

/// Returns when the scheduler has failed.
async fn failure(scheduler: &Scheduler) {
    const LOOK: Duration = Duration::from_millis(500);
    while !scheduler.has_failed() {
        sleep(LOOK).await;
    }
}

/// Takes the first address of the host that can be had. Without a key all must be of this machine.
async fn listen(options: &ServerOptions) -> Result<TcpListener, ServerError> {
    let address = format!("{}:{}", options.host, options.port);
    let failed = |source| ServerError::Listen { address: address.clone(), source };
    let found: Vec<SocketAddr> =
        lookup_host((options.host.as_str(), options.port)).await.map_err(failed)?.collect();
    if options.api_key.is_none()
        && !options.allow_no_key
        && !found.iter().all(|found| found.ip().is_loopback())
    {
        return Err(ServerError::KeyNeeded { address });
    }
    TcpListener::bind(&found[..]).await.map_err(failed)
}

/// Where the signal cannot be watched, it ends the program as it always does.
#[cfg(unix)]
async fn watch_sigterm(stopper: Stopper) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut signals) = signal(SignalKind::terminate()) else { return };
    while signals.recv().await.is_some() {
        stopper.stop();
    }
}

async fn serve(listener: TcpListener, app: Arc<App>, mut stop: watch::Receiver<Stop>) {
    let places = Arc::new(Semaphore::new(app.options.limits.connections));
    let graceful = GracefulShutdown::new();
    let service = TowerToHyperService::new(routes::router(Arc::clone(&app)));
    let failure = failure(&app.scheduler);
    tokio::pin!(failure);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => {
                    // Out of file descriptors, most likely: some will come back.
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            _ = stop.wait_for(|stop| *stop != Stop::No) => break,
            () = &mut failure => break,
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            app.counters.refused_connections.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(turn_away(stream));
            continue;
        };
        // Tokens are small and each counts.
        let _ = stream.set_nodelay(true);
        let limits = &app.options.limits;
        let stream = TokioIo::new(ImpatientStream::new(stream, limits.write_time));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_time)
            .max_buf_size(limits.header_bytes)
            .serve_connection(stream, service.clone());
        let connection = graceful.watch(connection);
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            app.counters.connections.fetch_add(1, Ordering::Relaxed);
            // A client that breaks off is no news.
            let _ = connection.await;
            app.counters.connections.fetch_sub(1, Ordering::Relaxed);
            drop(place);
        });
    }
    drop(listener);
    end(&app, graceful, stop).await;
}

/// Says that there is no place. Whoever sends at once, before reading, may not hear it.
async fn turn_away(mut stream: TcpStream) {
    const SORRY: &str = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-type: application/json\r\n\
        content-length: 117\r\n\r\n\
        {\"error\": {\"message\": \"too many connections; try again in 1 s\", \"type\": \"server_error\", \"param\": null, \"code\": null}}";
    let _ = timeout(Duration::from_secs(1), stream.write_all(SORRY.as_bytes())).await;
}

async fn end(app: &Arc<App>, graceful: GracefulShutdown, mut stop: watch::Receiver<Stop>) {
    app.is_ending.store(true, Ordering::Relaxed);
    let grace = app.options.limits.grace;
    let (scheduler, ended) = (app.scheduler.clone(), tokio::sync::oneshot::channel());
    let (tell, told) = ended;
    std::thread::spawn(move || {
        scheduler.shutdown(grace);
        let _ = tell.send(());
    });
    let gently = async {
        let _ = timeout(grace + LAST_BYTES, async {
            let _ = told.await;
            let _ = timeout(LAST_BYTES, graceful.shutdown()).await;
        })
        .await;
    };
    tokio::select! {
        () = gently => {}
        _ = stop.wait_for(|stop| *stop == Stop::AtOnce) => {}
    }
}
