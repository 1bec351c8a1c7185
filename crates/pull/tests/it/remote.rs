//! Large files that come one by one and go again.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use flashmill_pull::{Progress, PullError, Remote};

use crate::server::{Act, COMMIT, Hub, bytes};

/// Header of the test's large files: 8 bytes and as many more as the first says.
fn header_bytes(start: &[u8; 8]) -> u64 {
    8 + 100 * u64::from(start[0])
}

fn quiet(_: Progress<'_>) {}

fn large(seed: u64, n: usize, header: u8) -> Vec<u8> {
    let mut bytes = bytes(seed, n);
    bytes[0] = header;
    bytes
}

fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", b"{}".to_vec()),
        ("chat_template.jinja", bytes(7, 3_000)),
        ("chat_template.json", bytes(8, 3_000)),
        ("model-00001-of-00002.safetensors", large(1, 400_000, 40)),
        // Its header is longer than the piece that is asked for first.
        ("model-00002-of-00002.safetensors", large(2, 5 << 20, 255)),
    ]
}

fn open(hub: &Hub, dir: &Path) -> Result<Remote, PullError> {
    Remote::open(&"org/model".parse().unwrap(), &hub.options(dir), dir)
}

#[test]
fn headers_first_then_file_by_file() {
    let mut files = files();
    files[4].1[0] = 255;
    let hub = Hub::new(&files, |asked| if asked.nth % 3 == 1 { Act::Cut(70) } else { Act::Serve });
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("model.pull");
    let remote = open(&hub, &dir).unwrap();
    assert!(matches!(open(&hub, &dir), Err(PullError::Busy { .. })));
    remote.prepare(&header_bytes, &quiet).unwrap();
    assert_eq!(remote.source(), dir.join(COMMIT));
    for (name, bytes) in &files {
        let found = fs::read(remote.source().join(name)).unwrap();
        assert_eq!(found.len(), bytes.len(), "{name}");
        let kept = if name.starts_with("model") { 8 + 100 * usize::from(bytes[0]) } else { bytes.len() };
        assert!(found[..kept] == bytes[..kept] && found[kept..].iter().all(|&byte| byte == 0), "{name}");
    }
    assert_eq!(remote.here_bytes(), 0);
    let before = hub.n_asked();
    remote.prepare(&header_bytes, &quiet).unwrap();
    assert_eq!(hub.n_asked(), before, "what is here is not asked for again");

    let stop = AtomicBool::new(false);
    for (name, bytes) in &files[3..] {
        assert_eq!(remote.size(name), Some(bytes.len() as u64));
        let path = remote.fetch(name, &quiet, &stop).unwrap().unwrap();
        assert!(fs::read(&path).unwrap() == *bytes, "{name}");
        assert!(remote.here_bytes() >= bytes.len() as u64);
        remote.discard(name).unwrap();
        assert!(!path.exists());
    }
    assert_eq!((remote.size("config.json"), remote.size("x")), (None, None));
    remote.remove().unwrap();
    assert!(!dir.exists());
}

/// A server that sends whole files only: each of its answers gives the first bytes, also where the header is asked for in two
/// pieces and where a connection breaks.
#[test]
fn headers_of_a_server_without_ranges() {
    let mut files = files();
    files[4].1[0] = 255;
    // A header beyond what is asked for first.
    let header_bytes = |start: &[u8; 8]| 8 + 2_000 * u64::from(start[0]);
    for n_broken in [0, 3] {
        let hub = Hub::new(&files, move |asked| match asked.nth {
            nth if nth < n_broken => Act::Cut(70),
            _ => Act::IgnoreRange,
        });
        let dir = tempfile::tempdir().unwrap();
        let remote = open(&hub, dir.path()).unwrap();
        remote.prepare(&header_bytes, &quiet).unwrap();
        for (name, bytes) in &files[3..] {
            let found = fs::read(remote.source().join(name)).unwrap();
            let kept = 8 + 2_000 * usize::from(bytes[0]);
            assert_eq!(found.len(), bytes.len(), "{name}");
            assert!(found[..kept] == bytes[..kept] && found[kept..].iter().all(|&byte| byte == 0), "{name}");
        }
        let path = remote.fetch(files[3].0, &quiet, &AtomicBool::new(false)).unwrap().unwrap();
        assert!(fs::read(path).unwrap() == files[3].1);
    }
}

#[test]
fn what_is_needed_no_more_goes() {
    let files = files();
    let hub = Hub::new(&files, |_| Act::Serve);
    let dir = tempfile::tempdir().unwrap();
    let remote = open(&hub, dir.path()).unwrap();
    let (first, second) = (files[3].0, files[4].0);
    let first_path = remote.fetch(first, &quiet, &AtomicBool::new(false)).unwrap().unwrap();
    // Of the other a part came.
    let (stop, n_told) = (AtomicBool::new(false), AtomicUsize::new(0));
    let tell = |_: Progress<'_>| stop.store(n_told.fetch_add(1, Ordering::Relaxed) >= 300, Ordering::Relaxed);
    assert_eq!(remote.fetch(second, &tell, &stop).unwrap(), None);
    let n_here = || fs::read_dir(dir.path().join(format!("{COMMIT}.files"))).unwrap().count();
    assert_eq!(n_here(), 3, "a whole file, a part and its journal");
    remote.keep_only(&[first, second]).unwrap();
    assert_eq!(n_here(), 3);
    remote.keep_only(&[first]).unwrap();
    assert!(n_here() == 1 && first_path.exists());
    remote.keep_only(&[]).unwrap();
    assert_eq!((n_here(), remote.here_bytes()), (0, 0));
}

#[test]
fn told_to_stop_it_keeps_what_came() {
    let files = files();
    let hub = Hub::new(&files, |_| Act::Serve);
    let dir = tempfile::tempdir().unwrap();
    let remote = open(&hub, dir.path()).unwrap();
    let (stop, n_told) = (AtomicBool::new(false), AtomicUsize::new(0));
    let name = files[4].0;
    let fetched = remote.fetch(
        name,
        &|_| {
            if n_told.fetch_add(1, Ordering::Relaxed) == 300 {
                stop.store(true, Ordering::Relaxed);
            }
        },
        &stop,
    );
    assert_eq!(fetched.unwrap(), None);
    let sent = hub.sent_bytes();
    assert!(sent > 100_000, "{sent}");
    drop(remote);
    let remote = open(&hub, dir.path()).unwrap();
    assert!(remote.fetch(name, &quiet, &AtomicBool::new(false)).unwrap().is_some());
    // Pieces in flight may come twice.
    let twice = 4 * 10_000 + 4 * (256 << 10);
    assert!(hub.sent_bytes() <= files[4].1.len() as u64 + twice, "{}", hub.sent_bytes());
}

#[test]
fn what_is_wrong_with_a_file_is_said() {
    let files = files();
    let hub =
        Hub::new(&files, |asked| if asked.path.starts_with("model") { Act::Corrupt } else { Act::Serve });
    let dir = tempfile::tempdir().unwrap();
    let remote = open(&hub, dir.path()).unwrap();
    let error = remote.fetch(files[3].0, &quiet, &AtomicBool::new(false)).unwrap_err();
    assert!(matches!(error, PullError::Hash { .. }), "{error}");
    let path = dir.path().join(format!("{COMMIT}.files")).join(files[3].0);
    assert!(!path.exists(), "a file that is not what was promised is not there");

    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("letter.txt"), "dear").unwrap();
    let error = open(&hub, other.path()).err().unwrap();
    assert!(matches!(error, PullError::NotOurs { .. }), "{error}");
    assert!(other.path().join("letter.txt").exists());
}
