//! The demo model that the program carries.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Ran, demo_files, flashmill, run, text};

const ARGS: [&str; 5] = ["run", "demo", "-p", "What's the weather in Oslo?", "--tools"];

fn run_demo(change: impl FnOnce(&mut std::process::Command)) -> Ran {
    let mut command = flashmill();
    command.args(ARGS).arg(demo_files().join("tools.json"));
    change(&mut command);
    Ran::from(command.output().expect("the program starts"))
}

const CALL: &str =
    "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>\n";

fn extracted_below(cache: &Path) -> Vec<PathBuf> {
    let list = fs::read_dir(cache.join("flashmill")).expect("the cache");
    list.map(|entry| entry.expect("an entry").path()).collect()
}

#[test]
fn the_right_tool_is_called() {
    let ran = run_demo(|_| {});
    assert_eq!(ran.success(), CALL);
    assert!(ran.stderr.contains("prompt 302 tokens") && ran.stderr.contains("peak memory"), "{}", ran.stderr);
}

#[test]
fn a_damaged_cache_is_repaired() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let in_home = |command: &mut std::process::Command| {
        command.env("XDG_CACHE_HOME", home.path());
    };
    assert_eq!(run_demo(in_home).success(), CALL);
    let before = extracted_below(home.path());
    let [path] = &before[..] else { panic!("one directory") };
    let weights = path.join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("weights");
    bytes[1_000_000] ^= 1;
    fs::write(&weights, bytes).expect("written");
    assert_eq!(run_demo(in_home).success(), CALL);
    let original = fs::read(demo_files().join("model.safetensors")).expect("weights");
    assert!(fs::read(&weights).expect("weights") == original, "repaired");
    assert_eq!(extracted_below(home.path()), before, "nothing is left over");
}

#[test]
fn without_a_cache_a_temporary_directory_is_used() {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let blocked = temporary.path().join("blocked");
    fs::write(&blocked, "a file, below which nothing can be made").expect("a file");
    let scratch = temporary.path().join("tmp");
    fs::create_dir(&scratch).expect("a directory");
    let ran = run_demo(|command| {
        command.env("XDG_CACHE_HOME", &blocked).env("TMPDIR", &scratch);
    });
    assert_eq!(ran.success(), CALL);
    assert_eq!(fs::read_dir(&scratch).expect("a directory").count(), 0, "removed at the end");
    let nowhere = run_demo(|command| {
        command.env("XDG_CACHE_HOME", &blocked).env("TMPDIR", blocked.join("no"));
    });
    nowhere.fails_with(&["the demo model cannot be extracted"]);
}

#[test]
fn a_directory_named_demo_needs_a_path() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(directory.path().join("demo")).expect("a directory");
    let in_it = |model: &str| {
        Ran::from(
            flashmill()
                .args(["inspect", model])
                .current_dir(&directory)
                .output()
                .expect("the program starts"),
        )
    };
    assert!(in_it("demo").success().contains("qwen3_5_moe"));
    in_it("./demo").fails_with(&["./demo", "config.json"]);
}

#[test]
fn the_same_files_as_a_directory() {
    let files = demo_files();
    let args = ["run", text(&files), "-p", ARGS[3], "--tools"];
    let ran = run(args.into_iter().chain([text(&files.join("tools.json"))]));
    assert_eq!(ran.success(), CALL);
}
