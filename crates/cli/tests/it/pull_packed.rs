//! `flashmill pull REPO --pack BITS`: the packed model is the one that `pull` and then `pack` make, whatever happens on the way.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::server::{Act, COMMIT, Hub};
use crate::support::{Ran, fixture, flashmill, text};

const N_FILES: usize = 9;

/// The fixture's files, with its tensors dealt out in order to nine files of weights: matrices of one expert, and weights of one
/// layer, lie in different ones.
fn model() -> Vec<(String, Vec<u8>)> {
    let mut tensors: Vec<(String, Value, Vec<u8>)> = Vec::new();
    let mut files = Vec::new();
    for entry in fs::read_dir(fixture("qwen3_5_moe")).expect("a fixture") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8").to_owned();
        let bytes = fs::read(&path).expect("a file");
        if name.ends_with(".safetensors") && name.starts_with("model-") {
            let start = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
            let header: Map<String, Value> = serde_json::from_slice(&bytes[8..start]).expect("a header");
            for (name, entry) in header.into_iter().filter(|(name, _)| name != "__metadata__") {
                let at = |i: usize| start + entry["data_offsets"][i].as_u64().expect("a number") as usize;
                let data = bytes[at(0)..at(1)].to_vec();
                tensors.push((name, entry, data));
            }
        } else if !name.starts_with("golden") && !name.contains("cases") {
            files.push((name, bytes));
        }
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let total: usize = tensors.iter().map(|(_, _, data)| data.len()).sum();
    let (mut shards, mut done) = (vec![Vec::new(); N_FILES], 0);
    for tensor in tensors {
        shards[done * N_FILES / total].push(tensor.clone());
        done += tensor.2.len();
    }
    let mut map = Map::new();
    for (i, shard) in shards.into_iter().enumerate() {
        let name = format!("model-{:05}-of-{N_FILES:05}.safetensors", i + 1);
        let (mut header, mut data) = (Map::new(), Vec::new());
        assert!(!shard.is_empty(), "every file holds something");
        for (tensor, entry, bytes) in shard {
            let place = [data.len(), data.len() + bytes.len()];
            header.insert(
                tensor.clone(),
                json!({"dtype": entry["dtype"], "shape": entry["shape"], "data_offsets": place}),
            );
            data.extend(bytes);
            map.insert(tensor, name.clone().into());
        }
        let header = Value::Object(header).to_string().into_bytes();
        files.push((name, [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()));
    }
    let index = json!({"weight_map": map}).to_string().into_bytes();
    files.retain(|(name, _)| name != "model.safetensors.index.json");
    files.push(("model.safetensors.index.json".to_owned(), index));
    files
}

fn hub(files: &[(String, Vec<u8>)], act: impl Fn() -> Act + Send + Sync + 'static) -> Hub {
    let files: Vec<(&str, Vec<u8>)> =
        files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    Hub::new(&files, move |_| act())
}

/// `pull org/model` in a directory of its own, from this hub.
fn pull(hub: &Hub, dir: &Path, args: &[&str]) -> Command {
    let mut command = flashmill();
    command.args(["pull", "org/model"]).args(args).current_dir(dir).env_remove("HF_HUB_CACHE");
    command.env("HF_ENDPOINT", &hub.endpoint).env("HF_HOME", dir.join("hf"));
    command
}

fn end(command: &mut Command) -> Ran {
    Ran::from(command.output().expect("it starts"))
}

fn files_of(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry"));
    let name = |entry: &fs::DirEntry| entry.file_name().into_string().expect("UTF-8");
    entries.map(|entry| (name(&entry), fs::read(entry.path()).expect("a file"))).collect()
}

/// What `pull` and then `pack` make.
fn expected(hub: &Hub, dir: &Path, flags: &[&str]) -> BTreeMap<String, Vec<u8>> {
    let model = end(&mut pull(hub, dir, &[])).success().trim_end().to_owned();
    assert!(model.ends_with(COMMIT), "{model}");
    let out = dir.join("expected");
    let ran = end(flashmill().args(["pack", &model, text(&out)]).args(flags));
    ran.success();
    files_of(&out)
}

/// Large files, whole or in part, that lie in a directory at once.
fn n_large(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| !entry.file_name().to_string_lossy().ends_with(".flashmill-journal")).count()
}

#[test]
fn files_are_packed_and_go_as_they_come() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = model();
    let slow = hub(&files, || Act::Slow(20_000));
    for (bits, flags) in [("3", &["--bits", "3", "--no-calibrate"][..]), ("keep", &[])] {
        let expected = expected(&slow, dir.path(), flags);
        let arrivals = dir.path().join(format!("out.pull/{COMMIT}.files"));
        let (is_over, most) = (AtomicBool::new(false), AtomicUsize::new(0));
        let ran = thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    most.fetch_max(n_large(&arrivals), Ordering::Relaxed);
                }
            });
            let ran = end(&mut pull(&slow, dir.path(), &["--pack", bits, "--out", "out"]));
            is_over.store(true, Ordering::Relaxed);
            ran
        });
        assert_eq!(ran.success(), "out\n");
        let most = most.into_inner();
        assert!((1..=3).contains(&most), "{most} files lay there at once");
        let out = dir.path().join("out");
        assert!(files_of(&out) == expected, "{bits}: the bytes differ");
        assert!(!dir.path().join("out.pull").exists());
        let again = end(&mut pull(&slow, dir.path(), &["--pack", bits, "--out", "out"]));
        assert!(again.success() == "out\n" && files_of(&out) == expected);
        for name in ["out", "expected", "hf"] {
            fs::remove_dir_all(dir.path().join(name)).expect("removed");
        }
    }
}

#[test]
fn what_cannot_be_is_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = model();
    let hub = hub(&files, || Act::Serve);
    let fails = |args: &[&str], words: &[&str]| end(&mut pull(&hub, dir.path(), args)).fails_with(words);
    fails(&["--pack", "4", "--out", ".."], &["no name of a directory"]);
    fs::create_dir(dir.path().join("model-4bit.pull")).expect("made");
    fs::write(dir.path().join("model-4bit.pull/letter.txt"), "dear").expect("written");
    fails(&["--pack", "4"], &["model-4bit.pull is there and was not made by an earlier pull"]);
    fs::write(dir.path().join("letter.txt"), "dear").expect("written");
    let before = hub.n_asked();
    fails(&["--pack", "4", "--out", "letter.txt"], &["letter.txt is not a directory"]);
    fs::create_dir(dir.path().join("letters")).expect("made");
    fs::write(dir.path().join("letters/letter.txt"), "dear").expect("written");
    fails(&["--pack", "4", "--out", "letters"], &["letters is not empty"]);
    assert_eq!(hub.n_asked(), before, "no file is fetched before the place is known to be right");
    let usage = end(&mut pull(&hub, dir.path(), &["--imatrix", "x"]));
    assert!(usage.code == Some(2) && usage.stderr.contains("--pack"), "{usage:#?}");
    let mut gguf = flashmill();
    gguf.args(["pull", "org/model:Q4_K_M", "--pack", "4"]).env("HF_ENDPOINT", &hub.endpoint);
    end(gguf.current_dir(dir.path())).fails_with(&["--pack takes repositories of safetensors"]);
}

/// A run that was killed after everything of a file was packed and before the file was removed: the next removes it at once.
#[test]
fn a_file_that_was_packed_does_not_stay() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = model();
    let good = hub(&files, || Act::Serve);
    let expected = expected(&good, dir.path(), &["--bits", "4"]);
    let name = |i: usize| format!("model-{i:05}-of-{N_FILES:05}.safetensors");
    let args = ["--pack", "4", "--out", "out", "--connections", "1"];
    let list: Vec<(&str, Vec<u8>)> =
        files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let arrivals = dir.path().join(format!("out.pull/{COMMIT}.files"));
    // Headers come, and two files; then the hub has had enough.
    let (n_small, n_asked) = (files.len(), AtomicUsize::new(0));
    let tired = Hub::new(&list, move |_| match n_asked.fetch_add(1, Ordering::Relaxed) {
        nth if nth < n_small + 2 => Act::Serve,
        _ => Act::Status(404),
    });
    end(&mut pull(&tired, dir.path(), &args)).fails_with(&["the hub answers 404"]);
    let first = arrivals.join(name(1));
    assert!(arrivals.exists() && !first.exists(), "it was packed and removed");
    let (_, bytes) = files.iter().find(|(found, _)| *found == name(1)).expect("the first file");
    fs::write(&first, bytes).expect("written");
    let has_stayed = Arc::new(AtomicBool::new(false));
    let (seen, path) = (Arc::clone(&has_stayed), first.clone());
    let watching = Hub::new(&list, move |_| {
        seen.fetch_or(path.exists(), Ordering::Relaxed);
        Act::Serve
    });
    assert_eq!(end(&mut pull(&watching, dir.path(), &args)).success(), "out\n");
    assert!(watching.n_asked() > 0 && !has_stayed.load(Ordering::Relaxed), "it lay there while others came");
    assert!(files_of(&dir.path().join("out")) == expected);
}

/// Kills and lets through, as often as asked; every time the bytes are the same.
fn kill_at_many_moments(n_kills: u32) {
    let dir = tempfile::tempdir().expect("a directory");
    let files = model();
    let hub = hub(&files, || Act::Slow(40_000));
    let expected = expected(&hub, dir.path(), &["--bits", "4"]);
    let run = |out: &str| -> Child {
        let mut command = pull(&hub, dir.path(), &["--pack", "4", "--out", out, "--connections", "2"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
    };
    let start = Instant::now();
    let ran = Ran::from(run("usual").wait_with_output().expect("it ends"));
    ran.success();
    let usual = start.elapsed();
    let mut state = start.elapsed().as_nanos() as u32 ^ std::process::id();
    eprintln!("seed {state}, {usual:?} for an undisturbed run");
    let mut n_killed = 0;
    while n_killed < n_kills {
        let out = format!("out{n_killed}");
        let arrivals = dir.path().join(format!("{out}.pull/{COMMIT}.files"));
        let (is_over, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let watcher = thread::spawn({
            let (is_over, most) = (Arc::clone(&is_over), Arc::clone(&most));
            move || {
                while !is_over.load(Ordering::Relaxed) {
                    most.fetch_max(n_large(&arrivals), Ordering::Relaxed);
                    thread::sleep(Duration::from_micros(200));
                }
            }
        });
        let mut left = 1 + n_killed % 4;
        loop {
            let mut child = run(&out);
            if left == 0 {
                let ran = Ran::from(child.wait_with_output().expect("it ends"));
                assert_eq!(ran.code, Some(0), "{ran:#?}");
                break;
            }
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            thread::sleep(
                usual.mul_f64(f64::from(state >> 8) / f64::from(1 << 24)).min(Duration::from_secs(20)),
            );
            child.kill().expect("SIGKILL");
            child.wait().expect("it ends");
            (left, n_killed) = (left - 1, n_killed + 1);
        }
        is_over.store(true, Ordering::Relaxed);
        watcher.join().expect("it watched");
        let most = most.load(Ordering::Relaxed);
        assert!(most <= 3, "{n_killed} kills so far: {most} files lay there at once");
        let out = dir.path().join(&out);
        assert!(files_of(&out) == expected, "{n_killed} kills so far: the bytes differ");
        assert!(!out.with_extension("pull").exists());
        fs::remove_dir_all(&out).expect("removed");
    }
}

#[test]
fn a_killed_run_is_finished_by_the_next() {
    kill_at_many_moments(6);
}

/// Fifty kills: .ci/long/kills.
#[test]
#[ignore = "takes minutes"]
fn fifty_kills() {
    kill_at_many_moments(50);
}
