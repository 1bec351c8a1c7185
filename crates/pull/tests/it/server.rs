//! A hub on this machine, with the faults of real ones.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use flashmill_pull::{Progress, PullError, PullOptions, pull};
use sha2::{Digest, Sha256};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// From this size on a file has a SHA-256, as large files on a hub.
const LARGE: usize = 1000;

/// What the hub does with a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    Serve,
    /// Another status.
    Status(u16),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// The headers promise so many bytes fewer than there should be.
    Short(usize),
    /// The whole file, whatever range was asked for.
    IgnoreRange,
    /// A redirect to the same path on another port of this machine.
    Moved(u16),
    /// The right length from the wrong place.
    WrongRange,
    /// A byte of the body is another.
    Corrupt,
    /// Nothing more after so many bytes, with the connection open.
    Stall(usize),
    /// So many bytes at a time, with a millisecond between.
    Slow(usize),
}

/// A request for a file's bytes.
pub(crate) struct Asked<'a> {
    pub(crate) path: &'a str,
    /// How many requests for file bytes came before.
    pub(crate) nth: usize,
}

type Behave = Box<dyn Fn(&Asked<'_>) -> Act + Send + Sync>;

pub(crate) struct Hub {
    pub(crate) endpoint: String,
    shared: Arc<Shared>,
}

struct Shared {
    repo: String,
    files: Vec<(String, Vec<u8>)>,
    behave: Behave,
    asked: AtomicUsize,
    sent: AtomicU64,
    tokens: Mutex<Vec<Option<String>>>,
    /// Instead of the honest list of files.
    tree: Option<String>,
}

impl Hub {
    pub(crate) fn new(
        files: &[(&str, Vec<u8>)],
        behave: impl Fn(&Asked<'_>) -> Act + Send + Sync + 'static,
    ) -> Hub {
        Hub::start(files, None, Box::new(behave))
    }

    /// A hub whose list of files is this JSON.
    pub(crate) fn with_tree(tree: &str) -> Hub {
        Hub::start(&[], Some(tree.to_owned()), Box::new(|_| Act::Serve))
    }

    fn start(files: &[(&str, Vec<u8>)], tree: Option<String>, behave: Behave) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            repo: "org/model".to_owned(),
            files: files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.clone())).collect(),
            behave,
            asked: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
            tokens: Mutex::new(Vec::new()),
            tree,
        });
        let for_thread = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&for_thread);
                // A client that hangs up is no failure of the hub.
                thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        Hub { endpoint, shared }
    }

    /// Bytes of files that were sent.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Requests for bytes of files.
    pub(crate) fn n_asked(&self) -> usize {
        self.shared.asked.load(Ordering::Relaxed)
    }

    /// The `Authorization` of every request.
    pub(crate) fn tokens(&self) -> Vec<Option<String>> {
        self.shared.tokens.lock().unwrap().clone()
    }

    /// Quick settings for tests: small pieces, short waits.
    pub(crate) fn options(&self, cache: &Path) -> PullOptions {
        PullOptions {
            endpoint: self.endpoint.clone(),
            connections: 4,
            timeout: Duration::from_millis(500),
            attempts: 4,
            backoff: Duration::from_millis(2),
            piece_bytes: 10_000,
            ..PullOptions::new(cache)
        }
    }

    pub(crate) fn pull(&self, cache: &Path) -> Result<std::path::PathBuf, PullError> {
        pull(&"org/model".parse().unwrap(), &self.options(cache), &|_: Progress<'_>| ())
            .map(|pulled| pulled.dir)
    }

    /// The files in `snapshot` are those of the hub.
    #[track_caller]
    pub(crate) fn assert_same(&self, snapshot: &Path) {
        for (path, bytes) in &self.shared.files {
            let found = std::fs::read(snapshot.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(found == *bytes, "{path} differs");
        }
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut to = stream;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
            let (mut range, mut token) = (None, None);
            loop {
                let mut header = String::new();
                reader.read_line(&mut header)?;
                let header = header.trim_end();
                if header.is_empty() {
                    break;
                }
                let (name, value) = header.split_once(": ").unwrap_or((header, ""));
                match name.to_ascii_lowercase().as_str() {
                    "range" => range = parse_range(value),
                    "authorization" => token = Some(value.to_owned()),
                    _ => {}
                }
            }
            self.tokens.lock().unwrap().push(token);
            if !self.answer(&mut to, &target, range)? {
                return Ok(());
            }
        }
    }

    /// Whether the connection stays open.
    fn answer(
        &self,
        to: &mut TcpStream,
        target: &str,
        range: Option<(usize, usize)>,
    ) -> std::io::Result<bool> {
        let api = format!("/api/models/{}", self.repo);
        if target == format!("{api}/revision/main") || target == format!("{api}/revision/{COMMIT}") {
            return json(to, &format!("{{\"sha\": \"{COMMIT}\"}}"));
        }
        if target == format!("{api}/tree/{COMMIT}?recursive=true") {
            return json(to, self.tree.as_ref().unwrap_or(&self.listing()));
        }
        let prefix = format!("/{}/resolve/{COMMIT}/", self.repo);
        let file =
            target.strip_prefix(&prefix).and_then(|path| self.files.iter().find(|(name, _)| name == path));
        let Some((path, bytes)) = file else {
            return status(to, 404);
        };
        let nth = self.asked.fetch_add(1, Ordering::Relaxed);
        match (self.behave)(&Asked { path, nth }) {
            Act::Moved(port) => {
                let to_there = format!("Location: http://127.0.0.1:{port}{target}");
                write!(to, "HTTP/1.1 302 Found\r\n{to_there}\r\nContent-Length: 0\r\n\r\n")?;
                Ok(true)
            }
            act => self.file(to, act, bytes, range),
        }
    }

    fn file(
        &self,
        to: &mut TcpStream,
        act: Act,
        bytes: &[u8],
        range: Option<(usize, usize)>,
    ) -> std::io::Result<bool> {
        let range = range.filter(|_| !matches!(act, Act::IgnoreRange));
        let (first, end) = range.unwrap_or((0, bytes.len()));
        let mut body = bytes[first..end].to_vec();
        let mut start = first;
        match act {
            Act::Status(code) => return status(to, code),
            Act::Corrupt => body[0] ^= 1,
            Act::Short(n) => body.truncate(body.len().saturating_sub(n)),
            Act::WrongRange => start += 1,
            _ => {}
        }
        let head = match range {
            None => "200 OK".to_owned(),
            Some(_) => format!(
                "206 Partial Content\r\nContent-Range: bytes {start}-{}/{}",
                start + body.len() - 1,
                bytes.len()
            ),
        };
        write!(to, "HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len())?;
        let upto = match act {
            Act::Cut(n) | Act::Stall(n) => n.min(body.len()),
            _ => body.len(),
        };
        let step = if let Act::Slow(n) = act { n } else { 64 << 10 };
        for chunk in body[..upto].chunks(step) {
            to.write_all(chunk)?;
            self.sent.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if matches!(act, Act::Slow(_)) {
                thread::sleep(Duration::from_millis(1));
            }
        }
        if matches!(act, Act::Stall(_)) {
            thread::sleep(Duration::from_secs(20));
        }
        Ok(upto == body.len())
    }

    fn listing(&self) -> String {
        let entry = |(path, bytes): &(String, Vec<u8>)| {
            let git = &sha256(path.as_bytes())[..40];
            let lfs = format!(", \"lfs\": {{\"oid\": \"{}\", \"size\": {}}}", sha256(bytes), bytes.len());
            let lfs = if bytes.len() >= LARGE { lfs } else { String::new() };
            format!(
                "{{\"type\": \"file\", \"path\": \"{path}\", \"size\": {}, \"oid\": \"{git}\"{lfs}}}",
                bytes.len()
            )
        };
        let entries: Vec<String> = self.files.iter().map(entry).collect();
        format!("[{{\"type\": \"directory\", \"path\": \"x\", \"oid\": \"\"}}, {}]", entries.join(", "))
    }
}

fn json(to: &mut TcpStream, body: &str) -> std::io::Result<bool> {
    write!(to, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    Ok(true)
}

fn status(to: &mut TcpStream, code: u16) -> std::io::Result<bool> {
    write!(to, "HTTP/1.1 {code} No\r\nContent-Length: 2\r\n\r\nno")?;
    Ok(true)
}

fn parse_range(value: &str) -> Option<(usize, usize)> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse::<usize>().ok()? + 1))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that repeat with a seed.
pub(crate) fn bytes(seed: u64, n: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..n).map(|_| next()).collect()
}

/// A small model: two shards of several pieces, a ragged one among them, and what belongs to them.
pub(crate) fn model() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", b"{}".to_vec()),
        ("model-00001-of-00002.safetensors", bytes(1, 123_456)),
        ("model-00002-of-00002.safetensors", bytes(2, 50_000)),
        ("model.safetensors.index.json", bytes(3, 999)),
        ("tokenizer.json", bytes(4, 5_000)),
    ]
}
