//! `flashmill eval`: its reports, what it refuses, and a run that is killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{copy_of, demo_files, fixture, flashmill, run, text};

const TEXT: &str = "The river ran north past the mill.\nNobody had counted the boats that went down it, \
                    but the miller's daughter remembered 1,024 of them.\n";

/// A file in a directory of the test's own.
fn write(dir: &Path, name: &str, content: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, content).expect("written");
    path
}

#[test]
fn a_run_beside_itself_diverges_by_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let model = fixture("qwen3_5_moe");
    let logits = dir.path().join("logits.safetensors");
    run(["logits", text(&model), "--tokens", "5,9,33,7,120,64,64,3", "--out", text(&logits)]).success();
    let mine = write(dir.path(), "mine.txt", TEXT);
    let work = dir.path().join("work");
    let args = ["eval", text(&model), "--suite", "kld,ppl", "--reference", text(&logits), "--experts", "2"];
    let report = run(args.iter().chain(&[
        "--text",
        text(&mine),
        "--context",
        "32",
        "--stride",
        "8",
        "--work",
        text(&work),
        "--json",
        "-",
    ]));
    let report = report.json();
    let kld = &report["suites"]["kld"];
    assert_eq!(
        (&kld["mean"], &kld["max"], &kld["same_top"], &kld["n"]),
        (&0.0.into(), &0.0.into(), &1.0.into(), &8.into())
    );
    assert!(report["suites"]["ppl"]["perplexity"].as_f64().expect("a number") > 1.0);
    let arms = report["arms"].as_array().expect("arms");
    assert_eq!(arms.len(), 2);
    assert!(arms[1]["suites"]["kld"]["mean"].as_f64().expect("a number") > 0.0);
    assert_eq!(arms[1]["experts_per_token"], 2);
    assert!(arms[1]["against_first"]["ppl"]["ratio"].as_f64().expect("a number") > 0.0);
}

/// Questions of the encyclopedia whose answers the demo model knows.
fn facts(dir: &Path, n: usize) -> PathBuf {
    let all = fs::read_to_string(demo_files().join("quality/facts.jsonl")).expect("the demo's facts");
    let some: Vec<&str> = all.lines().take(n).collect();
    write(dir, "facts.jsonl", &some.join("\n"))
}

fn lines_of(work: &Path) -> usize {
    let Ok(entries) = fs::read_dir(work) else { return 0 };
    let mut paths = entries.map(|entry| entry.expect("an entry").path());
    let journal = paths.find(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    journal.map_or(0, |path| fs::read_to_string(path).expect("a journal").lines().count())
}

#[test]
fn a_killed_run_goes_on() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let facts = facts(dir.path(), 16);
    let (work, fresh) = (dir.path().join("work"), dir.path().join("fresh"));
    let page = dir.path().join("report.html");
    let args = |work: &Path| {
        let args =
            ["eval", "demo", "--suite", "facts", "--facts", text(&facts), "--bits", "2", "--experts", "3"];
        let more = ["--work", text(work), "--json", "-", "--html", text(&page)];
        args.iter().chain(&more).map(|arg| (*arg).to_owned()).collect::<Vec<_>>()
    };
    // One arm is done, and the next has begun.
    for n_lines in [4, 24, 40] {
        let mut child = flashmill()
            .args(args(&work))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let begun = Instant::now();
        while lines_of(&work) < n_lines && child.try_wait().expect("a child").is_none() {
            assert!(begun.elapsed() < Duration::from_secs(120), "the run does nothing");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().expect("killed");
        child.wait().expect("ended");
    }
    let report = run(args(&work)).json();
    assert_eq!(report, run(args(&fresh)).json());
    assert_eq!((lines_of(&work), lines_of(&fresh)), (4 * 17, 4 * 17), "nothing was done twice");
    let left: Vec<_> = fs::read_dir(&work).expect("a directory").collect();
    assert_eq!(left.len(), 1, "only the journal stays: {left:?}");

    let facts = &report["suites"]["facts"];
    assert_eq!((&facts["accuracy"], &facts["right"]["n"]), (&1.0.into(), &16.into()));
    let arms = report["arms"].as_array().expect("arms");
    let names: Vec<&str> = arms.iter().map(|arm| arm["name"].as_str().expect("a name")).collect();
    assert_eq!(
        names,
        ["as stored, 6 experts", "as stored, 3 experts", "2 bits, 6 experts", "2 bits, 3 experts"]
    );
    let bytes = |arm: &Value| arm["expert_bytes_per_token"].as_u64().expect("bytes");
    assert_eq!(bytes(&arms[0]), 2 * bytes(&arms[1]));
    assert!(bytes(&arms[2]) * 5 < bytes(&arms[0]) * 2);
    let html = fs::read_to_string(&page).expect("a page");
    assert!(html.contains("<svg") && html.contains("2 bits, 3 experts") && !html.contains("://"));
}

#[test]
fn without_a_template_texts_can_be_read() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let model = copy_of(&demo_files());
    fs::remove_file(model.path().join("chat_template.jinja")).expect("removed");
    let (mine, facts) = (write(dir.path(), "mine.txt", TEXT), facts(dir.path(), 2));
    let eval = |args: &[&str]| {
        let work = ["--work", text(dir.path())];
        run(["eval", text(model.path())].iter().chain(args).chain(&work))
    };
    eval(&["--suite", "tools"]).fails_with(&["has no chat template", "ppl"]);
    eval(&["--suite", "facts", "--facts", text(&facts)]).fails_with(&["has no chat template"]);
    let table = eval(&["--suite", "ppl", "--text", text(&mine)]);
    assert!(table.success().contains("| as stored, 6 experts |"), "{table:?}");
}

#[test]
fn what_cannot_be_measured() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mine = write(dir.path(), "mine.txt", TEXT);
    let empty = write(dir.path(), "empty.txt", "");
    let wrong = write(dir.path(), "wrong.jsonl", "{\"question\": \"Who?\"}\n");
    let eval = |args: &str| {
        let args =
            args.replace("MINE", text(&mine)).replace("EMPTY", text(&empty)).replace("WRONG", text(&wrong));
        let work = ["--work", text(dir.path())];
        run(["eval", "demo"].into_iter().chain(args.split(' ')).chain(work))
    };
    eval("--suite ppl").fails_with(&["--suite ppl needs a text"]);
    eval("--suite kld --text MINE").fails_with(&["nothing to compare with"]);
    eval("--suite kld --reference MINE").fails_with(&["mine.txt is no file of logits"]);
    eval("--suite ppl --text EMPTY").fails_with(&["empty.txt has no two tokens"]);
    eval("--suite ppl --text nowhere.txt").fails_with(&["cannot read nowhere.txt"]);
    eval("--suite ppl --text MINE --context 8 --stride 9").fails_with(&["--stride 9"]);
    eval("--suite ppl --text MINE --bits 7").fails_with(&["--bits 7"]);
    eval("--suite ppl --text MINE --experts 49").fails_with(&["49 experts", "48"]);
    eval("--suite facts").fails_with(&["--facts"]);
    eval("--suite facts --facts WRONG").fails_with(&["wrong.jsonl, line 1", "answer"]);
    eval("--suite tools --cases WRONG").fails_with(&["wrong.jsonl, line 1"]);
    run(["run", "demo", "-p", "hi", "--experts", "2,3"]).fails_with(&["--experts"]);
}
