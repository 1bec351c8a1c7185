//! `flashmill run`.

use std::fs;
use std::io::Read as _;
use std::process::Stdio;

use crate::support::{Ran, demo_files, fixture, flashmill, run, run_with_input, text};

#[test]
fn usage_is_checked_with_code_2() {
    for args in [&["run"][..], &["run", "demo", "--ram", "lots"], &["sing"], &[]] {
        let ran = run(args);
        assert_eq!(ran.code, Some(2), "{ran:#?}");
        assert!(ran.stdout.is_empty());
    }
    let help = run(["run", "--help"]);
    assert!(help.success().contains("--experts") && help.stderr.is_empty());
    assert!(run(["--version"]).success().starts_with("flashmill "));
}

#[test]
fn a_prompt_is_needed() {
    run(["run", "demo"]).fails_with(&["there is no prompt", "-p TEXT"]);
    run(["run", "demo", "-p", ""]).fails_with(&["there is no prompt"]);
}

#[test]
fn the_prompt_comes_from_flag_file_and_standard_input_alike() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("prompt.txt");
    fs::write(&file, "Who are you?\n").expect("a file");
    let greedy = ["--greedy", "--max-tokens", "30"];
    let by_flag = run(["run", "demo", "-p", "Who are you?"].iter().chain(&greedy));
    let by_file = run(["run", "demo", "-f", text(&file)].iter().chain(&greedy));
    let by_stdin = run_with_input(["run", "demo"].iter().chain(&greedy), "Who are you?\n");
    let by_dash = run_with_input(["run", "demo", "-f", "-"].iter().chain(&greedy), "Who are you?");
    assert!(by_flag.success().len() > 10, "{by_flag:#?}");
    for other in [by_file, by_stdin, by_dash] {
        assert_eq!(other.success(), by_flag.stdout);
    }
    let both = run_with_input(["run", "demo", "--json", "-p", "Who"].iter().chain(&greedy), "are you?");
    let split = run(["run", "demo", "--json", "-p", "Who\n\nare you?"].iter().chain(&greedy));
    assert_eq!(both.json()["text"], split.json()["text"]);
    assert_eq!(both.json()["usage"], split.json()["usage"]);
}

#[test]
fn json_holds_the_call_and_the_numbers() {
    let tools = demo_files().join("tools.json");
    let ran = run(["run", "demo", "-p", "What's the weather in Oslo?", "--tools", text(&tools), "--json"]);
    let json = ran.json();
    assert_eq!(json["finish_reason"], "tool_calls");
    assert_eq!(json["tool_calls"][0]["function"]["name"], "get_weather");
    assert_eq!(json["tool_calls"][0]["function"]["arguments"], r#"{"city":"Oslo"}"#);
    assert_eq!(json["usage"]["prompt_tokens"], 302);
    let statistics = &json["statistics"];
    assert_eq!(statistics["experts_per_token"], 6);
    assert!(statistics["bytes_read"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{statistics}");
    let peak = statistics["peak_rss_bytes"].as_u64().expect("a number");
    assert!(peak < statistics["ram_bytes"].as_u64().expect("a number"), "{statistics}");
}

/// The largest memory of the whole run, as Linux keeps it, from just above the floor to more than the model needs.
#[cfg(target_os = "linux")]
#[test]
fn memory_stays_within_the_budget() {
    let plan = run(["plan", "demo", "--json"]).json();
    let floor = plan["floor_bytes"].as_u64().expect("a number");
    for ram in [floor + (6 << 20), floor + (16 << 20), 200 << 20] {
        let tools = demo_files().join("tools.json");
        let ram = ram.to_string();
        let args = ["run", "demo", "-p", "What is 3 + 4?", "--tools", text(&tools), "--json", "--ram", &ram];
        let json = run(args).json();
        let statistics = &json["statistics"];
        let peak = statistics["peak_rss_bytes"].as_u64().expect("a number");
        assert!(peak <= ram.parse().expect("a number"), "{peak} bytes of {ram}");
        assert_eq!(json["tool_calls"][0]["function"]["name"], "calculator", "{json}");
    }
}

#[test]
fn a_seed_repeats_an_answer() {
    let sample = |seed: &str| {
        let args = [
            "-p",
            "Hello",
            "--temp",
            "1.5",
            "--top-k",
            "0",
            "--top-p",
            "1",
            "--min-p",
            "0",
            "--max-tokens",
            "24",
        ];
        run(["run", "demo", "--seed", seed].iter().chain(&args)).success().to_owned()
    };
    assert_eq!(sample("7"), sample("7"));
    let all: Vec<String> = ["1", "2", "3"].map(sample).into();
    assert!(all.iter().any(|text| *text != all[0]), "{all:?}");
}

#[test]
fn limits_and_stops_end_an_answer() {
    let json = |args: &[&str]| {
        run(["run", "demo", "--greedy", "--json", "-p", "Who are you?"].iter().chain(args)).json()
    };
    let whole = json(&[]);
    assert_eq!(whole["finish_reason"], "stop");
    let text = whole["text"].as_str().expect("a text");
    let short = json(&["--max-tokens", "3"]);
    assert_eq!(
        (&short["finish_reason"], &short["usage"]["completion_tokens"]),
        (&"length".into(), &3.into())
    );
    let word = text.split(' ').nth(2).expect("a third word");
    let stopped = json(&["--stop", word]);
    assert_eq!(stopped["text"].as_str(), text.split_once(word).map(|(before, _)| before));
}

#[test]
fn a_full_context_stops_clearly() {
    let ran = run(["run", "demo", "--greedy", "-p", "Who are you?", "--context", "24"]);
    assert!(ran.success().len() > 1);
    assert!(ran.stderr.contains("the context of 24 tokens is full; raise --context"), "{}", ran.stderr);
    let long = "word ".repeat(100);
    run(["run", "demo", "-p", &long, "--context", "24"]).fails_with(&["the context holds 24", "--context"]);
}

#[test]
fn fewer_experts_are_warned_of() {
    let ran = run(["run", "demo", "--greedy", "-p", "Hello", "--experts", "4"]);
    ran.success();
    assert!(
        ran.stderr.contains("warning: 4 experts per token instead of the model's own 6"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("4 experts per token instead of 6"), "{}", ran.stderr);
    run(["run", "demo", "-p", "Hello", "--experts", "49"]).fails_with(&["49 experts", "48"]);
}

#[test]
fn timing_lists_every_layer() {
    let ran = run(["run", "demo", "--greedy", "-p", "Hello", "--timing"]);
    for word in ["layer 0", "layer 7", "whole", "read wait", "router", "head"] {
        assert!(ran.stderr.contains(word), "{word}: {}", ran.stderr);
    }
}

#[test]
fn settings_without_meaning_are_errors() {
    let fails = |args: &[&str], words: &[&str]| {
        run(["run", "demo", "-p", "Hello"].iter().chain(args)).fails_with(words);
    };
    fails(&["--top-p", "2"], &["top_p is 2"]);
    fails(&["--level", "sse9"], &["--level", "sse9"]);
    fails(&["--reader", "tape"], &["--reader", "tape"]);
    fails(&["--logit-bias", "99999=1"], &["logit_bias"]);
    fails(&["--tools", "/nowhere/tools.json"], &["/nowhere/tools.json"]);
}

#[test]
fn every_backend_level_and_cache_type_answers_alike() {
    let answer = |args: &[&str]| {
        run(["run", "demo", "--greedy", "-p", "Who are you?", "--max-tokens", "12"].iter().chain(args))
            .success()
            .to_owned()
    };
    let expected = answer(&[]);
    for args in [
        &["--backend", "reference"][..],
        &["--level", "scalar"],
        &["--kv", "f32"],
        &["--kv", "q8"],
        &["--reader", "pread"],
        &["--reader", "page-cache"],
        &["--threads", "3"],
    ] {
        assert_eq!(answer(args), expected, "{args:?}");
    }
}

/// A model that would go on for long, in a process that has begun to answer.
fn talking() -> (std::process::Child, Vec<u8>) {
    let model = fixture("qwen3_5_moe");
    let mut command = flashmill();
    command.args([
        "run",
        text(&model),
        "--raw",
        "-p",
        "one two three",
        "--max-tokens",
        "2000",
        "--temp",
        "1",
    ]);
    // Its random weights may end the answer at any time otherwise.
    for id in [470, 472] {
        command.args(["--logit-bias", &format!("{id}=-1000")]);
    }
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut first = vec![0; 8];
    child.stdout.as_mut().expect("a pipe").read_exact(&mut first).expect("it begins to answer");
    (child, first)
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_answer_and_keeps_it() {
    let (mut child, first) = talking();
    let pid = child.id().to_string();
    let status = std::process::Command::new("kill").args(["-INT", &pid]).status().expect("kill is there");
    assert!(status.success());
    let mut rest = Vec::new();
    child.stdout.as_mut().expect("a pipe").read_to_end(&mut rest).expect("the rest of the answer");
    let output = child.wait_with_output().expect("the program ends");
    let ran = Ran::from(output);
    assert_eq!(ran.code, Some(130), "{ran:#?}");
    assert!(ran.stderr.contains("answer ") && !ran.stderr.contains("error"), "{}", ran.stderr);
    assert!(rest.ends_with(b"\n") && !first.is_empty(), "the line is ended");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let (mut child, _) = talking();
    drop(child.stdout.take());
    let ran = Ran::from(child.wait_with_output().expect("the program ends"));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:#?}");
}
