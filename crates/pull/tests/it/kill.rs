//! A pull that is killed at any moment goes on where it was.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use flashmill_pull::{PullOptions, pull};

use crate::server::{Act, COMMIT, Hub, bytes};

const ENDPOINT: &str = "FLASHMILL_TEST_ENDPOINT";
const CACHE: &str = "FLASHMILL_TEST_CACHE";
const KILLS: u64 = 50;

/// What the killed processes run; without its settings it does nothing.
#[test]
fn child() {
    let (Ok(endpoint), Ok(cache)) = (env::var(ENDPOINT), env::var(CACHE)) else { return };
    let cache = PathBuf::from(cache);
    let options = PullOptions { endpoint, connections: 4, piece_bytes: 10_000, ..PullOptions::new(&cache) };
    pull(&"org/model".parse().unwrap(), &options, &|_| ()).unwrap();
}

#[test]
fn killed_at_random_moments() {
    let files = [
        ("config.json", b"{}".to_vec()),
        ("model-00001-of-00002.safetensors", bytes(1, 3_000_000)),
        ("model-00002-of-00002.safetensors", bytes(2, 2_000_001)),
    ];
    let hub = Hub::new(&files, |_| Act::Slow(2_000));
    let cache = tempfile::tempdir().unwrap();
    let snapshot = cache.path().join("models--org--model/snapshots").join(COMMIT);
    let moments = bytes(u64::from(std::process::id()), KILLS as usize);
    println!("seed {}", std::process::id());
    let mut n_killed = 0;
    loop {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "kill::child", "--test-threads", "1"]);
        command.env(ENDPOINT, &hub.endpoint).env(CACHE, cache.path());
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        if n_killed < KILLS {
            thread::sleep(Duration::from_millis(u64::from(moments[n_killed as usize]) / 3));
            child.kill().unwrap();
            let status = child.wait().unwrap();
            if !status.success() {
                assert!(!snapshot.join("model-00001-of-00002.safetensors").exists());
                n_killed += 1;
                continue;
            }
        } else {
            assert!(child.wait().unwrap().success());
        }
        break;
    }
    hub.assert_same(&snapshot);
    let total: u64 = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    // A kill loses what each connection had of its piece; what is in the sockets was sent too.
    let most = total + n_killed * 4 * 2 * 10_000;
    assert!(hub.sent_bytes() <= most, "{} bytes were sent, {n_killed} kills", hub.sent_bytes());
    assert!(n_killed > 5, "only {n_killed} kills");
    let left = fs::read_dir(cache.path().join("models--org--model/blobs")).unwrap().count();
    assert_eq!(left, files.len());
}
