//! `flashmill trace` and `flashmill replay`.

use std::fs;

use serde_json::Value;

use crate::support::{fixture, run, text};

fn lines(path: &std::path::Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("a trace");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_trace_holds_every_token_of_prompt_and_answer() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("t.jsonl");
    let traced = run(["trace", "demo", "-p", "What time is it?", "--greedy", "-n", "5", "--out", text(&out)]);
    assert_eq!(traced.success(), "", "the text goes nowhere");
    let answered = run(["run", "demo", "-p", "What time is it?", "--greedy", "-n", "5", "--json"]);
    let answered: Value = serde_json::from_str(answered.success()).expect("JSON");

    let lines = lines(&out);
    let header = &lines[0];
    assert_eq!((&header["flashmill_trace"], &header["top_k"]), (&Value::from(1), &Value::from(6)));
    let n_layers = header["n_experts"].as_array().expect("a list").len();
    let prompt = lines[1..].iter().take_while(|line| line["prompt"] == true).count();
    let generated = lines[1 + prompt..].len();
    assert_eq!(Value::from(prompt), answered["usage"]["prompt_tokens"]);
    assert_eq!(Value::from(generated), answered["usage"]["completion_tokens"]);
    for line in &lines[1..] {
        let picks = line["picks"].as_array().expect("a list");
        assert_eq!(picks.len(), n_layers);
        assert!(picks.iter().all(|picks| picks.as_array().is_some_and(|picks| picks.len() == 6)));
        let guesses = line["guess"].as_array().expect("a list");
        let lens: Vec<usize> = guesses.iter().map(|guess| guess.as_array().map_or(0, Vec::len)).collect();
        assert_eq!((lens[0], &lens[1..]), (0, &vec![12; n_layers - 1][..]));
    }
}

#[test]
fn a_replay_shows_policies_and_predictors() {
    let trace = fixture("demo").join("routing.jsonl");
    let table = run(["replay", text(&trace), "--slots", "25%"]);
    let table = table.success();
    assert!(table.contains("lfru") && table.contains("belady") && table.contains("next router"), "{table}");

    let json = run(["replay", text(&trace), "--slots", "96", "--slots", "384", "--json"]);
    let json: Value = serde_json::from_str(json.success()).expect("JSON");
    let rate = |slots: u64, policy: &str| {
        let rates = json["hit_rates"].as_array().expect("a list");
        let found = rates.iter().find(|rate| rate["slots"] == slots && rate["policy"] == policy);
        found.expect("a row")["hit_rate"].as_f64().expect("a number")
    };
    for policy in ["lfru", "lru", "lfu"] {
        assert!(rate(96, policy) <= rate(96, "belady"));
        assert_eq!(rate(384, policy), rate(384, "belady"), "with a slot for each all are the same");
    }
}

#[test]
fn what_is_no_trace_is_an_error() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("t.jsonl");
    fs::write(
        &path,
        "{\"flashmill_trace\":1,\"model\":\"m\",\"top_k\":1,\"n_experts\":[2]}\n{\"prompt\":true}\n",
    )
    .expect("a file");
    let failed = run(["replay", text(&path)]);
    failed.fails_with(&["t.jsonl", "line 2 is not a line of a routing trace"]);
    run(["replay", text(&path), "--slots", "120%"]).fails_with(&["--slots 120%"]);
    run(["replay", text(&path), "--policy", "fifo"]).fails_with(&["unknown policy \"fifo\""]);
}
