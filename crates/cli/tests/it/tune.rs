//! `flashmill tune`, with a cache of its own: what it finds is used by whoever shares the cache.

use std::path::Path;
use std::process::Command;

use crate::support::{Ran, flashmill, text};

fn program(home: &Path) -> Command {
    let mut command = flashmill();
    command.env("HOME", home).env("XDG_CACHE_HOME", home.join("cache"));
    command
}

fn run(home: &Path, line: &str) -> Ran {
    Ran::from(program(home).args(line.split(' ')).output().expect("the program starts"))
}

/// Reader, depth and the like are given, so that one option is left to try.
const ONE_KNOB: &str = "--ram 200M --threads 1 --reader pread --depth 16 --io-threads 2 --prefetch router --cache 8M --cache-policy lru --prompt-tokens 8 -n 4 --pairs 6";

#[test]
fn what_is_found_is_kept_used_and_shown() {
    let home = tempfile::tempdir().expect("a directory");
    let results = home.path().join("results.tsv");
    let line = format!("tune demo --time 1h --results {} {ONE_KNOB} --json", text(&results));
    let ran = run(home.path(), &line);
    let found = ran.json();
    assert_eq!(found["is_complete"], true, "{found:#}");
    let settings = found["tuned"]["settings"][0].as_str().expect("a setting");
    assert!(settings.starts_with("prompt-chunk="), "{found:#}");
    let experiments = found["experiments"].as_u64().expect("a number");
    assert!(experiments >= 1, "another length of chunks: {found:#}");

    let journal = std::fs::read_to_string(&results).expect("a journal");
    assert_eq!(journal.lines().count() as u64, 3 + experiments, "{journal}");
    assert!(journal.lines().skip(3).all(|line| line.split('\t').count() == 14), "{journal}");
    let svg = std::fs::read_to_string(results.with_extension("svg")).expect("a chart");
    assert_eq!(svg.matches("<circle").count() as u64, experiments);

    // Nothing is left, so nothing is done again.
    let again = run(home.path(), &line).json();
    assert_eq!(again["experiments"], experiments);
    assert_eq!(std::fs::read_to_string(&results).expect("a journal"), journal);
    // Another budget, context or choice is another journal.
    for (from, to) in [("--ram 200M", "--ram 250M"), ("--json", "--context 300"), ("--json", "--patience 3")]
    {
        run(home.path(), &line.replace(from, to)).fails_with(&["other conditions", "--results"]);
    }

    let plan = |flags: &str| run(home.path(), &format!("plan demo --json {flags}"));
    let chunk: u64 = settings.trim_start_matches("prompt-chunk=").parse().expect("a number");
    let used = plan("--ram 200M").json();
    assert_eq!((&used["tuned"]["settings"][0], &used["chunk"]), (&settings.into(), &chunk.into()));
    assert!(plan("--ram 200M --no-tuned").json()["tuned"].is_null());
    assert_eq!(plan("--ram 200M --prompt-chunk 40").json()["chunk"], 40, "a flag goes first");
    let other = plan("--ram 800M");
    assert!(other.json()["tuned"].is_null());
    assert!(other.stderr.contains("are not used") && other.stderr.contains("budget"), "{other:#?}");
    assert!(
        run(home.path(), "plan demo --ram 200M").success().contains("tuned                 prompt-chunk=")
    );
}

#[test]
fn losses_are_measured_and_bounded() {
    let home = tempfile::tempdir().expect("a directory");
    let words = home.path().join("text.txt");
    std::fs::write(&words, "The weather in Oslo is cold today, and in Rome it is warm. ".repeat(20))
        .expect("written");
    let loss = |flags: &str| {
        run(home.path(), &format!("loss demo --text {} --text-tokens 128 {flags}", text(&words))).json()
    };
    let none = loss("--ram 200M");
    assert_eq!((&none["mean"], &none["high"]), (&0.0.into(), &0.0.into()), "the same model");
    let few = loss("--experts 2");
    let number = |name: &str| few[name].as_f64().expect("a number");
    assert!(
        0.0 < number("mean") && number("low") < number("mean") && number("mean") < number("high"),
        "{few}"
    );
    assert!(loss("--experts 5")["mean"].as_f64().expect("a number") < number("mean"));

    let aware = loss("--ram 200M --cache 4M --cache-aware 0.3");
    let number = |name: &str| aware[name].as_f64().expect("a number");
    assert!(number("mean") > 0.0 && number("hit_rate") > number("reference_hit_rate"), "{aware}");
    assert!(
        number("picks_replaced_share") > 0.0 && number("router_share_given_up_most") <= 0.3001,
        "{aware}"
    );
    assert_eq!(none["picks_replaced_share"], 0.0);

    let results = home.path().join("results.tsv");
    let line = format!(
        "tune demo --time 1h --max-loss 0.0000001 --text {} --text-tokens 64 --results {} {ONE_KNOB} --prompt-chunk 64 --json",
        text(&words),
        text(&results)
    );
    let found = run(home.path(), &line).json();
    assert_eq!(found["tuned"]["settings"], serde_json::json!(["experts=6", "cache-aware=0"]), "{found:#}");
    let journal = std::fs::read_to_string(&results).expect("a journal");
    let rows: Vec<&str> = journal.lines().skip(3).collect();
    assert!(!rows.is_empty() && rows.iter().all(|row| row.contains("loses too much")), "{journal}");
    run(home.path(), &format!("tune demo --max-loss 0 --text {}", text(&words)))
        .fails_with(&["--max-loss", "above 0"]);
    assert_eq!(run(home.path(), "tune demo --max-loss 1").code, Some(2), "no text");
    let short = format!("tune demo --max-loss 1 --text {} --text-tokens 63", text(&words));
    run(home.path(), &short).fails_with(&["--text", "63 tokens", "64"]);
    run(home.path(), "tune demo --max-loss 1 --text nowhere.txt").fails_with(&["nowhere.txt"]);
}

#[test]
fn nothing_is_overwritten_or_lost() {
    let home = tempfile::tempdir().expect("a directory");
    // What somebody chose is not tried, the usual values included.
    let usual = ONE_KNOB.replace("--prefetch router", "--prefetch off").replace("lru", "lfru");
    run(home.path(), &format!("tune demo {usual} --prompt-chunk 64")).fails_with(&["nothing to try"]);
    let precious = home.path().join("precious.json");
    std::fs::write(&precious, "{}").expect("written");
    run(home.path(), &format!("tune demo {ONE_KNOB} --results {}", text(&precious)))
        .fails_with(&["no journal", "--results"]);
    assert_eq!(std::fs::read_to_string(&precious).expect("still there"), "{}");
    let drawing = home.path().join("results.svg");
    run(home.path(), &format!("tune demo --results {}", text(&drawing))).fails_with(&["--results", "chart"]);

    // A chart that cannot be drawn is an error, after the winner was kept.
    let results = home.path().join("results.tsv");
    let line =
        format!("tune demo --time 1h --results {} --chart /nowhere/at/all.svg {ONE_KNOB}", text(&results));
    let ran = run(home.path(), &line);
    assert!(ran.code == Some(1) && ran.stderr.contains("/nowhere/at/all.svg"), "{ran:#?}");
    assert!(ran.stdout.contains("best     prompt-chunk="), "{ran:#?}");
    assert!(!run(home.path(), "plan demo --json --ram 200M").json()["tuned"].is_null());
}

/// Whoever is told to end leaves no run behind that goes on.
#[cfg(target_os = "linux")]
#[test]
fn runs_end_with_the_program() {
    use std::process::Stdio;
    use std::time::{Duration, Instant};
    let home = tempfile::tempdir().expect("a directory");
    let results = home.path().join("results.tsv");
    let line = format!("tune demo --time 1h --ram 120M --patience 300 -n 7900 --results {}", text(&results));
    let mut command = program(home.path());
    let mut child =
        command.args(line.split(' ')).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let run = loop {
        assert!(child.try_wait().expect("a child").is_none(), "it goes on");
        let ids = std::fs::read_to_string(&children).unwrap_or_default();
        if let Some(id) = ids.split_whitespace().next() {
            break id.to_owned();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let kill = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill starts");
    assert!(kill.success());
    child.wait().expect("it ends");
    // A process that has ended and that nobody has waited for yet is a zombie.
    let goes_on = || {
        let stat = std::fs::read_to_string(format!("/proc/{run}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    };
    let killed = Instant::now();
    while goes_on() {
        assert!(killed.elapsed() < Duration::from_secs(5), "the run goes on to its end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ctrl-C, as the terminal sends it to all.
#[cfg(unix)]
#[test]
fn an_interrupt_leaves_a_whole_journal() {
    use std::os::unix::process::CommandExt as _;
    use std::process::Stdio;
    let home = tempfile::tempdir().expect("a directory");
    let results = home.path().join("results.tsv");
    let line = format!(
        "tune demo --time 1h --ram 90M --cache 8M --prompt-tokens 8 -n 4 --pairs 6 --results {}",
        text(&results)
    );
    let mut command = program(home.path());
    command.args(line.split(' ')).process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let n_lines = || std::fs::read_to_string(&results).map_or(0, |text| text.lines().count());
    while n_lines() < 4 {
        assert!(child.try_wait().expect("a child").is_none(), "it goes on");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let group = format!("-{}", child.id());
    let kill = Command::new("kill").args(["-INT", "--", &group]).status().expect("kill starts");
    assert!(kill.success());
    let ran = Ran::from(child.wait_with_output().expect("the program ends"));
    assert_eq!(ran.code, Some(130), "{ran:#?}");
    assert!(ran.stderr.contains("goes on where it was"), "{ran:#?}");
    let journal = std::fs::read_to_string(&results).expect("a journal");
    assert!(journal.ends_with('\n') && journal.lines().skip(3).all(|line| line.split('\t').count() == 14));
    assert!(!journal.contains("exit status"), "the run that was interrupted is no result: {journal}");
    assert!(results.with_extension("svg").exists());
}
