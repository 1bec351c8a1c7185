//! Damaged models, refusing disks and small budgets: one line that names what is wrong, code 1, never a wrong token.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::{Ran, copy_of, demo_files, fixture, flashmill, run, text};

/// `run` with a prompt, on a model that a test has damaged.
fn ask(model: &Path) -> Ran {
    run(["run", text(model), "-p", "Hello", "--max-tokens", "8", "--greedy"])
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("a file");
    change(&mut bytes);
    fs::write(path, bytes).expect("written");
}

fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    assert_eq!(old.len(), new.len(), "the header keeps its length");
    let at = bytes.windows(old.len()).position(|window| window == old).expect("the header holds it");
    bytes[at..at + new.len()].copy_from_slice(new);
}

const SHARD: &str = "model-00002-of-00003.safetensors";

#[test]
fn a_truncated_shard() {
    let model = copy_of(&fixture("qwen3_5_moe"));
    let shard = model.path().join(SHARD);
    let len = fs::metadata(&shard).expect("a file").len();
    for kept in [len - 1, len / 2, 100, 7, 0] {
        fs::OpenOptions::new()
            .write(true)
            .open(&shard)
            .and_then(|file| file.set_len(kept))
            .expect("truncated");
        ask(model.path()).fails_with(&[SHARD]);
        run(["inspect", text(model.path())]).fails_with(&[SHARD]);
    }
}

#[test]
fn a_missing_shard() {
    let model = copy_of(&fixture("qwen3_5_moe"));
    fs::remove_file(model.path().join(SHARD)).expect("removed");
    ask(model.path()).fails_with(&[SHARD, "missing"]);
}

/// Every bit of the header's length, and a bit of every 61st byte of the header.
#[test]
fn a_bit_flipped_header() {
    let model = copy_of(&fixture("qwen3_5_moe"));
    let shard = model.path().join(SHARD);
    let whole = fs::read(&shard).expect("a file");
    let header_len = u64::from_le_bytes(whole[..8].try_into().expect("8 bytes")) as usize;
    let in_length = (0..64).map(|bit| (bit / 8, bit % 8));
    let in_json = (8..8 + header_len).step_by(61).map(|at| (at, at % 7));
    let mut n_refused = 0;
    for (at, bit) in in_length.chain(in_json) {
        edit(&shard, |bytes| {
            bytes.copy_from_slice(&whole);
            bytes[at] ^= 1 << bit;
        });
        let ran = run(["inspect", text(model.path())]);
        // A letter in the name of a tensor that nothing uses may change without harm.
        if ran.code != Some(0) {
            ran.fails_with(&[text(model.path())]);
            n_refused += 1;
        } else {
            assert!(at >= 8, "a wrong length was accepted: byte {at}, bit {bit}: {ran:#?}");
        }
    }
    assert!(n_refused > 64, "{n_refused} refused");
}

#[test]
fn a_wrong_dtype() {
    let model = copy_of(&fixture("qwen3_5_moe"));
    // The same number of bytes, but no floats.
    edit(&model.path().join(SHARD), |bytes| replace(bytes, b"\"BF16\",", b"\"I16\" ,"));
    ask(model.path()).fails_with(&[SHARD, "I16"]);
    edit(&model.path().join(SHARD), |bytes| replace(bytes, b"\"I16\" ,", b"\"F17\" ,"));
    ask(model.path()).fails_with(&[SHARD, "F17"]);
}

#[test]
fn an_unknown_architecture() {
    let model = copy_of(&fixture("qwen3_5_moe"));
    let config = model.path().join("config.json");
    let text_of = fs::read_to_string(&config).expect("a config").replace("qwen3_5_moe", "gpt_17");
    fs::write(&config, text_of).expect("written");
    ask(model.path()).fails_with(&["config.json", "gpt_17", "qwen3_5_moe"]);
    fs::write(&config, "{\"model_type\": ").expect("written");
    ask(model.path()).fails_with(&["config.json", "JSON"]);
    fs::remove_file(&config).expect("removed");
    ask(model.path()).fails_with(&["config.json"]);
}

#[test]
fn a_model_without_its_tokenizer() {
    let model = copy_of(&fixture("qwen3_5_moe"));
    fs::write(model.path().join("tokenizer.json"), "{}").expect("written");
    ask(model.path()).fails_with(&["tokenizer.json"]);
    fs::remove_file(model.path().join("tokenizer.json")).expect("removed");
    ask(model.path()).fails_with(&["tokenizer.json"]);
}

#[test]
fn a_budget_below_the_floor() {
    for ram in ["0", "1M", "10M"] {
        run(["run", "demo", "-p", "Hello", "--ram", ram]).fails_with(&["floor", "--ram"]);
        run(["plan", "demo", "--ram", ram]).fails_with(&["floor"]);
    }
}

#[test]
fn what_is_no_model() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let gguf = directory.path().join("model.gguf");
    fs::write(&gguf, "GGUF").expect("a file");
    ask(&gguf).fails_with(&["model.gguf"]);
    let empty = directory.path().join("empty");
    fs::create_dir(&empty).expect("a directory");
    ask(&empty).fails_with(&[text(&empty), "config.json"]);
    ask(Path::new("Qwen/Qwen3.5-35B-A3B")).fails_with(&["Qwen/Qwen3.5-35B-A3B", "fetch it"]);
    ask(Path::new("/nowhere")).fails_with(&["/nowhere does not exist"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk() {
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    for args in [
        &["run", "demo", "-p", "Hello", "--greedy"][..],
        &["run", "demo", "-p", "Hello", "--greedy", "--json"],
        &["plan", "demo"],
        &["inspect", "demo"],
    ] {
        let ran = Ran::from(flashmill().args(args).stdout(full()).output().expect("the program starts"));
        ran.fails_with(&["No space left on device"]);
    }
    let silent = flashmill().args(["run", "demo", "-p", "Hello", "--greedy"]).stderr(full()).output();
    assert!(Ran::from(silent.expect("the program starts")).success().len() > 1, "only the answer matters");
    let model = fixture("qwen3_5_moe_mlx4");
    run(["logits", text(&model), "--tokens", "1,2", "--out", "/dev/full"])
        .fails_with(&["cannot write /dev/full", "No space left on device"]);
}

/// A file system of 64 KiB, where this process may mount one.
#[cfg(target_os = "linux")]
#[test]
fn a_full_working_directory() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let model = fixture("qwen3_5_moe");
    let script = "mount -t tmpfs -o size=64k none \"$0\" 2>/dev/null || exit 99; cd \"$0\" && \"$@\"; code=$?; ls -A . >&2; exit $code";
    let in_it = |args: &[&str]| {
        let mut command = std::process::Command::new("unshare");
        command.args(["-m", "sh", "-c", script, text(directory.path()), env!("CARGO_BIN_EXE_flashmill")]);
        command.args(args).stdin(Stdio::null());
        command
            .output()
            .ok()
            .map(Ran::from)
            .filter(|ran| ran.code != Some(99) && !ran.stderr.starts_with("unshare"))
    };
    let tokens = vec!["7"; 200].join(",");
    let Some(ran) = in_it(&["logits", text(&model), "--tokens", &tokens, "--out", "out.safetensors"]) else {
        eprintln!("skipped: this process may not mount a file system");
        return;
    };
    // The listing of the directory comes after the one line: nothing is left in it.
    ran.fails_with(&["cannot write", "out.safetensors", "No space left on device"]);
    let answer =
        in_it(&["run", text(&model), "-p", "Hello", "--max-tokens", "4"]).expect("mounted as before");
    answer.success();
}

/// Nobody, root included, creates a file in /proc.
#[cfg(target_os = "linux")]
#[test]
fn a_read_only_working_directory() {
    let model = fixture("qwen3_5_moe");
    let in_proc = |args: &[&str]| {
        Ran::from(flashmill().args(args).current_dir("/proc").output().expect("the program starts"))
    };
    in_proc(&["logits", text(&model), "--tokens", "1", "--out", "out.safetensors"])
        .fails_with(&["cannot write out.safetensors"]);
    in_proc(&["run", text(&model), "-p", "Hello", "--max-tokens", "4"]).success();
}

/// A budget in which the demo model keeps only a part of its experts, so that every answer reads.
fn small_ram() -> String {
    let plan = run(["plan", text(&demo_files()), "--context", "512", "--json"]).json();
    let floor = plan["floor_bytes"].as_u64().expect("a number");
    (floor + (12 << 20)).to_string()
}

#[test]
fn a_file_that_shrinks_while_in_use() {
    let model = copy_of(&demo_files());
    let weights: PathBuf = model.path().join("model.safetensors");
    let mut command = flashmill();
    command.args([
        "chat",
        text(model.path()),
        "--greedy",
        "--no-tools",
        "--context",
        "512",
        "--max-tokens",
        "30",
    ]);
    command.args(["--ram", &small_ram()]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    stdin.write_all(b"Hello\n").expect("written");
    let mut first = String::new();
    stdout.read_line(&mut first).expect("an answer");
    assert!(first.len() > 1, "{first:?}");

    fs::OpenOptions::new()
        .write(true)
        .open(&weights)
        .and_then(|file| file.set_len(1 << 20))
        .expect("truncated");
    let _ = stdin.write_all(b"What can you do for me today, and who are you?\n");
    drop(stdin);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("the rest");
    let ran = Ran::from(child.wait_with_output().expect("the program ends"));
    ran.fails_with(&["model.safetensors"]);
}
