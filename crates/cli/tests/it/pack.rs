//! `flashmill pack` and `flashmill verify`: what comes out runs, survives kills and full disks, and is checked to the byte.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{Ran, copy_of, demo_files, fixture, flashmill, run, text};

fn packed(source: &Path, flags: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("out");
    run(["pack", text(source), text(&out)].iter().chain(flags)).success();
    dir
}

/// Names and bytes of a directory's files.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry"))
        .map(|entry| {
            (entry.file_name().into_string().expect("UTF-8"), fs::read(entry.path()).expect("a file"))
        })
        .collect();
    files.sort();
    files
}

#[test]
fn a_packed_model_answers_as_its_source() {
    let source = demo_files();
    let dir = packed(&source, &[]);
    let out = dir.path().join("out");
    let ask = |model: &Path| {
        run(["run", text(model), "-p", "What can you do?", "--greedy", "--max-tokens", "30"])
            .success()
            .to_owned()
    };
    assert_eq!(ask(&source), ask(&out));
    let ran = run(["inspect", text(&out)]);
    for word in ["packed from", "packed experts        as stored", "Packed"] {
        assert!(ran.success().contains(word), "{word}: {}", ran.stdout);
    }
    assert_eq!(run(["inspect", text(&out), "--json"]).json()["recipe"]["trunk"], "as stored");
    let report = run(["pack", text(&source), text(&dir.path().join("again")), "--bits", "4", "--timing"]);
    for word in ["experts 4 bits, groups of 64", "MB/s", "compute"] {
        assert!(report.success().contains(word), "{word}: {}", report.stdout);
    }
}

#[test]
fn verify_reads_every_byte() {
    let dir = packed(&fixture("qwen3_5_moe"), &["--bits", "4"]);
    let out = dir.path().join("out");
    assert!(run(["verify", text(&out)]).success().contains("agree with their checksums"));
    let path = out.join("experts-00001.safetensors");
    let whole = fs::read(&path).expect("a file");
    let stride = (whole.len() - 4096) / 10;
    for (at, bit) in [(4096, 0), (4096 + 3 * stride + 100, 7), (4096 + 9 * stride + 12_000, 3)] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << bit;
        fs::write(&path, damaged).expect("written");
        let ran = run(["verify", text(&out)]);
        assert_eq!(ran.code, Some(1), "{ran:#?}");
        let expert = format!("expert {} of layer 1", (at - 4096) / stride);
        for word in ["experts-00001.safetensors", &expert, "1 of"] {
            assert!(ran.stderr.contains(word), "{word}: {ran:#?}");
        }
    }
    fs::write(&path, whole).expect("written");
    let trunk = out.join("trunk.safetensors");
    let mut bytes = fs::read(&trunk).expect("a file");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&trunk, bytes).expect("written");
    let ran = run(["verify", text(&out)]);
    assert!(ran.code == Some(1) && ran.stderr.contains("trunk.safetensors"), "{ran:#?}");
}

#[test]
fn verify_of_other_files_finds_what_is_no_number() {
    for name in ["qwen3_5_moe", "qwen3_5_moe_mlx4"] {
        let model = copy_of(&fixture(name));
        assert!(run(["verify", text(model.path())]).success().contains("no checksums"));
    }
    assert!(
        run(["verify", text(&fixture("qwen3_5_moe_gguf").join("model.gguf"))]).success().contains("finite")
    );
    let model = copy_of(&fixture("qwen3_moe"));
    let path = model.path().join("model.safetensors");
    let mut bytes = fs::read(&path).expect("a file");
    let len = bytes.len();
    // The last value of the last tensor, in BF16.
    bytes[len - 2..].copy_from_slice(&[0xc0, 0x7f]);
    fs::write(&path, bytes).expect("written");
    let ran = run(["verify", text(model.path())]);
    assert!(ran.code == Some(1) && ran.stderr.contains("NaN or an infinity"), "{ran:#?}");
}

#[test]
fn packing_again_what_has_few_bits_is_noted() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (source, out) = (fixture("qwen3_5_moe_mlx4"), dir.path().join("out"));
    let ran = run(["pack", text(&source), text(&out), "--bits", "3"]);
    ran.success();
    assert!(ran.stderr.contains("quantised again"), "{ran:#?}");
}

/// Kills `pack` after a time that grows until it gets through, then compares with a run that nothing disturbed.
fn kill_at_many_moments(source: &Path, flags: &[&str], n_kills: u32) {
    let whole = packed(source, flags);
    let expected = files(&whole.path().join("out"));
    let start = Instant::now();
    drop(packed(source, flags));
    let usual = start.elapsed();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut n_killed = 0;
    let seed = Instant::now().elapsed().as_nanos() as u32 ^ std::process::id();
    eprintln!("seed {seed}");
    let mut state = seed;
    while n_killed < n_kills {
        let out = dir.path().join(format!("out{n_killed}"));
        // One to four kills, then it is let through.
        let mut left = 1 + n_killed % 4;
        loop {
            let mut command = flashmill();
            command.args(["pack", text(source), text(&out)]).args(flags);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
            if left == 0 {
                let ran = Ran::from(child.wait_with_output().expect("it ends"));
                assert_eq!(ran.code, Some(0), "{ran:#?}");
                break;
            }
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            std::thread::sleep(usual.mul_f64(f64::from(state >> 8) / f64::from(1 << 24)));
            child.kill().expect("SIGKILL");
            child.wait().expect("it ends");
            (left, n_killed) = (left - 1, n_killed + 1);
            if !out.join("flashmill.json").exists() && out.exists() {
                let message =
                    Ran::from(flashmill().args(["inspect", text(&out)]).output().expect("it starts"));
                assert_eq!(message.code, Some(1), "what is not finished is no model: {message:#?}");
            }
        }
        assert!(files(&out) == expected, "{n_killed} kills so far: the bytes differ");
        fs::remove_dir_all(&out).expect("removed");
    }
}

#[test]
fn a_killed_run_is_finished_by_the_next() {
    kill_at_many_moments(&fixture("qwen3_5_moe"), &["--bits", "3"], 6);
}

/// Fifty kills, of a larger model: .ci/long/kills.
#[test]
#[ignore = "takes minutes"]
fn fifty_kills() {
    kill_at_many_moments(&demo_files(), &["--bits", "4"], 50);
    kill_at_many_moments(&demo_files(), &[], 50);
}

/// What a killed run wrote is not written again.
#[test]
fn nothing_is_done_twice() {
    let (source, dir) = (demo_files(), tempfile::tempdir().expect("a temporary directory"));
    let out = dir.path().join("out");
    let mut child = flashmill()
        .args(["pack", text(&source), text(&out), "--bits", "3", "--threads", "1"])
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    let journal = out.join("flashmill.journal");
    let n_done = || fs::read_to_string(&journal).map_or(0, |text| text.matches("\ndone ").count());
    let deadline = Instant::now() + Duration::from_secs(60);
    while n_done() < 40 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(200));
    }
    child.kill().expect("SIGKILL");
    child.wait().expect("it ends");
    if out.join("flashmill.json").exists() {
        eprintln!("skipped: it was done before it could be killed");
        return;
    }
    let done = n_done();
    assert!(done >= 40, "{done} tasks in time");
    run(["run", text(&out), "-p", "Hello"]).fails_with(&["not finished", "flashmill pack"]);
    let other = run(["pack", text(&source), text(&out), "--bits", "4"]);
    let error = other.stderr.lines().last().unwrap_or_default();
    assert!(other.code == Some(1) && error.contains("was begun with experts: 3 bits"), "{other:#?}");
    let mut command = flashmill();
    command.args(["pack", text(&source), text(&out), "--bits", "3"]);
    let ran = Ran::from(command.output().expect("it starts"));
    assert!(ran.success().contains("written before"), "{ran:#?}");
    assert!(run(["verify", text(&out)]).success().contains("checksums"));
}

/// Small file systems, where this process may mount some: too small from the start, without room for a further file, and filled
/// by another program while packing, which takes no room from the weights but from what is written last.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_and_then_room() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let source = demo_files();
    let program = env!("CARGO_BIN_EXE_flashmill");
    // In a name space of its own; $0 is the mount point, $1 the program, $2 the source.
    let script = r#"
        mount -t tmpfs -o size=4m none "$0" 2>/dev/null || exit 99
        "$1" pack "$2" "$0/small" 2>&1 && exit 10
        test -e "$0/small/flashmill.json" && exit 11
        mount -t tmpfs -o size=64m,nr_inodes=6 none "$0"
        "$1" pack "$2" "$0/out" 2>&1 && exit 12
        test -e "$0/out/flashmill.json" && exit 13
        mount -t tmpfs -o remount,nr_inodes=100 "$0"
        "$1" pack "$2" "$0/out" --threads 1 2>&1 & pid=$!
        until [ "$(grep -c ^done "$0/out/flashmill.journal" 2>/dev/null)" -ge 5 ]; do :; done
        kill -STOP $pid
        cat /dev/zero >"$0/filler" 2>/dev/null
        kill -CONT $pid
        wait $pid && echo "it was done before the disk was full"
        rm "$0/filler"
        "$1" pack "$2" "$0/out" || exit 14
        "$1" verify "$0/out"
    "#;
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script, text(directory.path()), program, text(&source)])
        .stdin(Stdio::null())
        .output()
        .map(Ran::from);
    let Some(ran) = output.ok().filter(|ran| ran.code != Some(99) && !ran.stderr.starts_with("unshare"))
    else {
        eprintln!("skipped: this process may not mount a file system");
        return;
    };
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    let mut lines = ran.stdout.lines();
    let mut next = |words: &[&str]| {
        let line = lines.next().unwrap_or_default();
        assert!(words.iter().all(|word| line.contains(word)), "{words:?} are not in {line:?}: {ran:#?}");
    };
    next(&["error: ", "bytes more, and the disk has"]);
    next(&["error: ", "No space left on device", "give the same command again"]);
    if !ran.stdout.contains("it was done before") {
        next(&["error: ", "No space left on device", "give the same command again"]);
        next(&["packed ", "written before"]);
    }
    assert!(ran.stdout.ends_with("finite\n"), "{ran:#?}");
}

/// What `--calibrate` writes beside the output is what `--imatrix` reads, and is not made twice.
#[test]
fn calibrated_with_a_text() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (source, text_file) = (fixture("qwen3_5_moe"), dir.path().join("text.txt"));
    fs::write(&text_file, "The river ran north past the mill, and nobody counted the boats.\n".repeat(20))
        .expect("written");
    let pack = |out: &str, args: &[&str]| {
        let out = dir.path().join(out);
        run(["pack", text(&source), text(&out), "--bits", "3"].iter().chain(args))
    };
    let ran = pack("out", &["--calibrate", text(&text_file), "--ram", "200M"]);
    ran.success();
    assert!(ran.stderr.contains("calibrated on ") && ran.stderr.contains("tokens into"), "{ran:#?}");
    let importance = fs::read_dir(dir.path())
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| text(path).contains("out.imatrix-"))
        .expect("an importance file");
    pack("again", &["--imatrix", text(&importance)]).success();
    assert!(files(&dir.path().join("out")) == files(&dir.path().join("again")));
    pack("plain", &["--no-calibrate"]).success();
    let experts =
        |out: &str| fs::read(dir.path().join(out).join("experts-00000.safetensors")).expect("a file");
    assert!(experts("out") != experts("plain"), "the scales follow the importance");
    let manifest = run(["inspect", text(&dir.path().join("out")), "--json"]).json();
    assert_eq!(manifest["recipe"]["importance"], importance.file_name().and_then(|n| n.to_str()).unwrap());

    fs::remove_dir_all(dir.path().join("out")).expect("removed");
    let ran = pack("out", &["--calibrate", text(&text_file)]);
    ran.success();
    assert!(ran.stderr.contains("is there from an earlier run"), "{ran:#?}");
    assert!(files(&dir.path().join("out")) == files(&dir.path().join("again")));

    pack("x", &["--calibrate", "/nowhere.txt"]).fails_with(&["cannot read the text", "/nowhere.txt"]);
    fs::write(&text_file, b"\xff\xfe").expect("written");
    pack("x", &["--calibrate", text(&text_file)]).fails_with(&["not UTF-8 at byte 0", "plain text file"]);
}

/// Few bits are fitted to a built-in text, whose traces are the scales and a word in the manifest.
#[test]
fn few_bits_are_calibrated_unasked() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = fixture("qwen3_5_moe");
    let pack = |out: &str, args: &[&str]| {
        let out = dir.path().join(out);
        run(["pack", text(&source), text(&out)].iter().chain(args))
    };
    let ran = pack("out", &["--bits", "2", "--ram", "200M"]);
    assert!(ran.success().contains("scales fitted") && ran.stderr.contains("calibrated on "), "{ran:#?}");
    let names: Vec<_> =
        fs::read_dir(dir.path()).expect("a directory").map(|e| e.expect("an entry")).collect();
    assert_eq!(names.len(), 1, "nothing stays beside it: {names:?}");
    let recipe = |out: &str| run(["inspect", text(&dir.path().join(out)), "--json"]).json()["recipe"].clone();
    assert_eq!(recipe("out")["importance"], "built-in text");
    let again = pack("out", &["--bits", "2"]);
    assert!(again.success().starts_with("packed ") && !again.stderr.contains("calibrated"), "{again:#?}");
    pack("twin", &["--experts-bits", "2", "--trunk-bits", "8"]).success();
    let experts =
        |out: &str| fs::read(dir.path().join(out).join("experts-00000.safetensors")).expect("a file");
    assert!(experts("out") == experts("twin"), "the same every time");
    for (out, args) in [("a", ["--no-calibrate"].as_slice()), ("b", &["--recipe", "fit"])] {
        let ran = pack(out, &[&["--bits", "2"], args].concat());
        assert!(ran.success().contains("scales fitted") && !ran.stderr.contains("calibrated"), "{ran:#?}");
        assert!(recipe(out)["importance"].is_null());
    }
    assert!(experts("a") == experts("b") && experts("a") != experts("out"));
    let ran = pack("four", &["--bits", "4"]);
    assert!(ran.success().contains("4 bits") && !ran.stderr.contains("calibrated"), "{ran:#?}");
    pack("five", &["--bits", "5", "--ram", "1G"]).fails_with(&["--ram is the most memory of calibrating"]);
}

/// Without a tokenizer, or before GPTQ's weights are rearranged, a model does not run.
#[test]
fn what_does_not_run_is_packed_without_calibrating() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let no_tokenizer = copy_of(&fixture("qwen3_5_moe"));
    fs::remove_file(no_tokenizer.path().join("tokenizer.json")).expect("removed");
    let gptq = fixture("qwen3_5_moe_gptq4");
    let too_little = fixture("qwen3_5_moe");
    for (source, ram, why) in
        [(no_tokenizer.path(), "1G", "tokenizer.json"), (&gptq, "1G", "GPTQ"), (&too_little, "1M", "floor")]
    {
        let pack = |out: &str, args: &[&str]| {
            let out = dir.path().join(out);
            fs::remove_dir_all(&out).ok();
            let ran = run(["pack", text(source), text(&out), "--bits", "3"].iter().chain(args));
            ran.success();
            (ran.stderr, files(&out))
        };
        let (said, found) = pack("out", &["--ram", ram]);
        assert!(said.contains("without calibrating") && said.contains(why), "{said}");
        assert!(found == pack("plain", &["--no-calibrate"]).1);
    }
}

/// A text that cannot be read to its end shows whether calibrating began.
#[test]
fn what_is_refused_is_refused_before_a_text_is_read() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let text_file = dir.path().join("text.txt");
    fs::write(&text_file, b"\xff\xfe").expect("written");
    let pack = |source: &Path, out: &str, bits: &str| {
        let out = dir.path().join(out);
        run(["pack", text(source), text(&out), "--bits", bits, "--calibrate", text(&text_file)])
    };
    let model = copy_of(&fixture("qwen3_5_moe"));
    let source = model.path();
    pack(source, "new", "4").fails_with(&["not UTF-8 at byte 0"]);
    assert!(!dir.path().join("new").exists());
    fs::create_dir(dir.path().join("letters")).expect("made");
    fs::write(dir.path().join("letters/letter.txt"), "dear").expect("written");
    pack(source, "letters", "4").fails_with(&["letters is not empty"]);
    run(["pack", text(source), text(&dir.path().join("finished")), "--bits", "4"]).success();
    pack(source, "finished", "4").fails_with(&["already holds a packed model", "other settings"]);

    // A weight that is no number ends packing in the middle.
    let path = source.join("model-00002-of-00003.safetensors");
    let mut bytes = fs::read(&path).expect("a file");
    let len = bytes.len();
    bytes[len - 2..].copy_from_slice(&[0xc0, 0x7f]);
    fs::write(&path, bytes).expect("written");
    let begun = dir.path().join("begun");
    run(["pack", text(source), text(&begun), "--bits", "3", "--no-calibrate"]).fails_with(&["NaN"]);
    pack(source, "begun", "4").fails_with(&["was begun with experts: 3 bits"]);
    pack(source, "begun", "3").fails_with(&["was begun with importance: none", "still to be made"]);
}

/// They do not run as they are: the message says what to do, and that does it.
#[test]
fn gptq_weights_are_calibrated_once_they_are_packed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let text_file = dir.path().join("text.txt");
    fs::write(&text_file, "The river ran north past the mill.\n".repeat(5)).expect("written");
    let model = copy_of(&fixture("qwen3_5_moe_gptq4"));
    let tokenizer = fixture("qwen3_5_moe").join("tokenizer.json");
    fs::copy(tokenizer, model.path().join("tokenizer.json")).expect("copied");
    let (plain, out) = (dir.path().join("plain"), dir.path().join("out"));
    let flags = ["--bits", "3", "--calibrate", text(&text_file)];
    run(["pack", text(model.path()), text(&out)].iter().chain(&flags))
        .fails_with(&["GPTQ", "pack them once without bits and --calibrate"]);
    run(["pack", text(model.path()), text(&plain)]).success();
    let ran = run(["pack", text(&plain), text(&out)].iter().chain(&flags));
    ran.success();
    assert!(ran.stderr.contains("calibrated on "), "{ran:#?}");
    let importance =
        fs::read_dir(dir.path()).expect("a directory").map(|entry| entry.expect("an entry").path());
    let mut importance = importance.filter(|path| text(path).contains("out.imatrix-"));
    // Without it, a model that is there is not calibrated again.
    fs::remove_file(importance.next().expect("an importance file")).expect("removed");
    let again = run(["pack", text(&plain), text(&out)].iter().chain(&flags));
    assert!(again.success().starts_with("packed ") && !again.stderr.contains("calibrated"), "{again:#?}");
}

/// The importance file of a model says nothing of another one in its place.
#[test]
fn a_model_that_was_replaced_is_calibrated_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let text_file = dir.path().join("text.txt");
    fs::write(&text_file, "The river ran north past the mill.\n".repeat(5)).expect("written");
    let model = copy_of(&fixture("qwen3_5_moe"));
    let pack = || {
        let out = dir.path().join("out");
        let ran =
            run(["pack", text(model.path()), text(&out), "--bits", "4", "--calibrate", text(&text_file)]);
        ran.success();
        fs::remove_dir_all(&out).expect("removed");
        ran.stderr
    };
    assert!(pack().contains("calibrated on "));
    assert!(pack().contains("is there from an earlier run"));
    let weights = fs::File::options()
        .write(true)
        .open(model.path().join("model-00002-of-00003.safetensors"))
        .expect("a file");
    weights.set_modified(std::time::SystemTime::now() + Duration::from_secs(60)).expect("a new time");
    assert!(pack().contains("calibrated on "));
}

#[test]
fn places_that_cannot_be() {
    let source = fixture("qwen3_moe");
    run(["pack", text(&source), text(&source.join("packed"))]).fails_with(&["inside the source"]);
    assert!(!source.join("packed").exists());
    #[cfg(target_os = "linux")]
    run(["pack", text(&source), "/proc/packed"]).fails_with(&["/proc/packed", "cannot create"]);
    run(["pack", "/nowhere", "/tmp/x"]).fails_with(&["/nowhere does not exist"]);
}
