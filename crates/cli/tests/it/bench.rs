//! `flashmill bench`.

use crate::support::{run, text};

#[test]
fn a_bench_of_the_demo_model_fills_every_field() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let chart = dir.path().join("c.svg");
    let args =
        ["bench", "demo", "--contexts", "0,100", "--prompt-tokens", "40", "-n", "6", "--cold", "--json"];
    let ran = run(args.iter().chain(&["--ram", "60M", "--chart", text(&chart)]));
    let report = ran.json();
    for field in ["decode_tok_per_s", "prefill_tok_per_s", "bytes_per_token", "peak_rss_bytes"] {
        assert!(report[field].as_f64().is_some_and(|value| value > 0.0), "{field}: {report:#}");
    }
    assert_eq!((&report["experts_per_token"], &report["model_experts_per_token"]), (&6.into(), &6.into()));
    assert!(report["hit_rate"].as_f64().is_some_and(|rate| (0.0..1.0).contains(&rate)), "{report:#}");
    let rows = report["rows"].as_array().expect("rows");
    let contexts: Vec<_> = rows.iter().map(|row| (row["context"].as_u64(), row["cold"].as_bool())).collect();
    assert_eq!(contexts, [(Some(0), Some(true)), (Some(0), Some(false)), (Some(100), Some(false))]);
    for row in rows {
        let number = |name: &str| row[name].as_f64().unwrap_or_else(|| panic!("no {name}: {row:#}"));
        assert_eq!(number("disk_gb_per_s") > 0.0, number("bytes_per_token") > 0.0, "{row:#}");
        assert!((0.0..=1.0).contains(&number("disk_idle_share")), "{row:#}");
        assert!(row["prompt_parts"].as_array().is_some_and(|parts| parts.len() == 8), "{row:#}");
    }
    let svg = std::fs::read_to_string(&chart).expect("a chart");
    assert_eq!((svg.matches("<rect").count(), svg.trim_end().ends_with("</svg>")), (6, true));
}

#[test]
fn a_shape_is_written_measured_and_removed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for format in ["mlx", "gguf", "packed"] {
        let line = format!(
            "bench 35b --layers 1 --format {format} --contexts 0 --prompt-tokens 3 -n 2 --routing uniform"
        );
        let ran = run(line.split(' ').chain(["--dir", text(dir.path())]));
        let table = ran.success();
        for word in [
            "synthetic: 1 layers of 256 experts",
            "8 of 8 a token: the model's own",
            "drawn, skew 0",
            "measured / predicted",
        ] {
            assert!(table.contains(word), "{table}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0, "nothing is left");
    }
}

#[test]
fn what_cannot_be_measured_is_an_error() {
    run(["bench", "demo", "--routing", "zipf"]).fails_with(&["--routing zipf", "SKEW:REUSE"]);
    run(["bench", "35b", "--bits", "7"]).fails_with(&["--bits 7"]);
    run(["bench", "397b", "--layers", "60000"]).fails_with(&["free", "--layers"]);
}
