//! Suites over a text, against transformers' logits and against passes of this test's own; and damage that they have to see.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use flashmill_engine::{BackendKind, Engine, EngineOptions, KvKind, Sequence, Wanted};
use flashmill_lab::eval::{
    Comparison, EvalError, EvalOptions, Finding, Report, Suite, Weights, divergence, eval, windows,
};
use flashmill_pack::{Bits, PackOptions, RecipeOptions};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Draft, Tensor, fixture, safetensors};

/// Plain f32 all the way: what transformers computes.
fn exact() -> EngineOptions {
    EngineOptions { backend: BackendKind::Reference, kv: KvKind::F32, ..EngineOptions::default() }
}

fn options(model: &Path, work: &Path, engine: EngineOptions, suites: Vec<Suite>) -> EvalOptions {
    EvalOptions {
        model: model.to_owned(),
        name: "a model".into(),
        engine,
        weights: Vec::new(),
        experts: Vec::new(),
        cache_aware: Vec::new(),
        suites,
        work: work.to_owned(),
        program: "a test".into(),
    }
}

fn run(options: &EvalOptions) -> Report {
    eval(options, &AtomicBool::new(false), &mut |_| ()).unwrap()
}

fn perplexity(report: &Report, arm: usize) -> (usize, f64) {
    match report.arms[arm].suites["ppl"] {
        Finding::Perplexity { n_tokens, nll, perplexity } => {
            assert!((perplexity - nll.exp()).abs() < 1e-9);
            (n_tokens, nll)
        }
        ref other => panic!("{other:?}"),
    }
}

/// `golden.json`'s prompt and `golden.safetensors`' logits, read without the library.
fn golden(name: &str) -> (Vec<u32>, Vec<Vec<f32>>) {
    let dir = fixture(name);
    let json: Value = serde_json::from_slice(&fs::read(dir.join("golden.json")).unwrap()).unwrap();
    let ids = json["prompt_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32);
    let bytes = fs::read(dir.join("golden.safetensors")).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    let at = |i: usize| header["logits"]["data_offsets"][i].as_u64().unwrap() as usize;
    let cols = header["logits"]["shape"][1].as_u64().unwrap() as usize;
    let data = &bytes[8 + len..][at(0)..at(1)];
    let values: Vec<f32> = data.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    (ids.collect(), values.chunks(cols).map(<[f32]>::to_vec).collect())
}

/// Minus the logarithm of a token's share of the softmax, in plain f64.
fn nll_of(logits: &[f32], token: u32) -> f64 {
    let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
    -(f64::from(logits[token as usize]).exp() / sum).ln()
}

#[test]
fn perplexity_is_that_of_transformers() {
    let work = tempfile::tempdir().unwrap();
    for name in ["qwen3_5_moe", "qwen3_5_moe_mlx4", "qwen3_5_moe_gguf", "qwen3_next", "qwen3_moe"] {
        let (tokens, logits) = golden(name);
        let expected: f64 = (1..tokens.len()).map(|i| nll_of(&logits[i - 1], tokens[i])).sum();
        let suites = vec![Suite::ppl(tokens.clone(), 1024, 512)];
        let (n, nll) = perplexity(&run(&options(&fixture(name), work.path(), exact(), suites)), 0);
        assert_eq!(n, tokens.len() - 1, "{name}");
        let expected = expected / n as f64;
        // The goldens are matched within 2e-4 in each logit.
        assert!((nll - expected).abs() < 2e-4, "{name}: {nll}, transformers {expected}");
    }
}

/// Each counted token again, from a pass over just what its window has before it.
#[test]
fn strides_count_each_token_once() {
    let work = tempfile::tempdir().unwrap();
    let path = fixture("qwen3_5_moe");
    let (tokens, _) = golden("qwen3_5_moe");
    let engine = EngineOptions { context: Some(64), ..exact() };
    let (_, mut model) = Engine::open_model(&path, &engine, &mut |_, _| ()).unwrap();
    let mut last = |tokens: &[u32]| {
        let mut state = model.new_state().unwrap();
        let mut batch = [Sequence { state: &mut state, tokens, wanted: Wanted::Last }];
        model.forward(&mut batch, None, None).unwrap();
        model.logits(0).to_vec()
    };
    for (context, stride) in [(16, 8), (12, 12), (20, 3)] {
        let (mut sum, mut n) = (0.0, 0);
        for window in windows(tokens.len(), context, stride) {
            for at in window.first..window.end {
                sum += nll_of(&last(&tokens[window.begin..at]), tokens[at]);
                n += 1;
            }
        }
        let suites = vec![Suite::ppl(tokens.clone(), context, stride)];
        let found = perplexity(&run(&options(&path, work.path(), exact(), suites)), 0);
        assert_eq!(found.0, n);
        assert!((found.1 - sum / n as f64).abs() < 1e-5, "{context}, {stride}: {found:?}, {sum} / {n}");
    }
}

/// A file of logits as `flashmill logits` writes it, made of passes of this test's own.
fn write_logits(path: &Path, tokens: &[u32], rows: &[Vec<f32>]) {
    let data = |bytes: Vec<[u8; 4]>| bytes.concat();
    let tensor = |name: &str, dtype: &str, cols: usize, data| Tensor {
        name: name.into(),
        dtype: dtype.into(),
        shape: vec![tokens.len(), cols],
        data,
    };
    let logits = data(rows.iter().flatten().map(|x| x.to_le_bytes()).collect());
    let ids = data(tokens.iter().map(|x| x.to_le_bytes()).collect());
    let tensors = [tensor("logits", "F32", rows[0].len(), logits), tensor("tokens", "I32", 1, ids)];
    fs::write(path, safetensors(&tensors)).unwrap();
}

fn divergence_of(report: &Report, arm: usize) -> flashmill_lab::eval::Divergence {
    match &report.arms[arm].suites["kld"] {
        Finding::Divergence(found) => found.clone(),
        other => panic!("{other:?}"),
    }
}

/// From the golden logits, and from the program's own, streamed with a cache of almost nothing.
#[test]
fn divergence_from_a_file() {
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("logits.safetensors");
    let path = fixture("qwen3_5_moe_mlx4");
    let (tokens, golden) = golden("qwen3_5_moe_mlx4");
    write_logits(&file, &tokens, &golden);
    let suite = || vec![Suite::kld_of_file(&file).unwrap()];
    let near = divergence_of(&run(&options(&path, work.path(), exact(), suite())), 0);
    assert_eq!((near.n, near.same_top), (48, 1.0));
    assert!(near.max < 1e-6, "{near:?}");

    let rows = |engine: EngineOptions| -> Vec<Vec<f32>> {
        let engine =
            EngineOptions { max_logit_rows: Some(48), max_chunk: Some(48), context: Some(48), ..engine };
        let (_, mut model) = Engine::open_model(&path, &engine, &mut |_, _| ()).unwrap();
        let mut state = model.new_state().unwrap();
        let mut batch = [Sequence { state: &mut state, tokens: &tokens, wanted: Wanted::All }];
        model.forward(&mut batch, None, None).unwrap();
        (0..48).map(|row| model.logits(row).to_vec()).collect()
    };
    let own = rows(EngineOptions::default());
    write_logits(&file, &tokens, &own);
    let streamed = EngineOptions { cache_bytes: Some(1), threads: Some(1), ..EngineOptions::default() };
    let itself = divergence_of(&run(&options(&path, work.path(), streamed, suite())), 0);
    assert_eq!((itself.mean, itself.max, itself.p999, itself.same_top), (0.0, 0.0, 0.0, 1.0));

    // Fewer experts, by hand and by an arm.
    let fewer = rows(EngineOptions { experts_per_token: Some(2), ..EngineOptions::default() });
    let expected = own.iter().zip(&fewer).map(|(p, q)| divergence(p, q)).sum::<f64>() / 48.0;
    let options =
        EvalOptions { experts: vec![2, 3], ..options(&path, work.path(), EngineOptions::default(), suite()) };
    let report = run(&options);
    assert_eq!(report.arms.len(), 2, "3 is the model's own");
    let found = divergence_of(&report, 1);
    assert!((found.mean - expected).abs() < 1e-6 && found.mean > 0.01, "{found:?}, {expected}");
    let other = EvalOptions { model: fixture("../models/demo"), experts: Vec::new(), ..options };
    let error = eval(&other, &AtomicBool::new(false), &mut |_| ()).unwrap_err();
    assert!(matches!(error, EvalError::OtherVocabulary { expected: 512, found: 4096 }), "{error}");
}

const DEMO: &str = "../models/demo";

/// The demo model's tokens of its own kind of text.
fn demo_tokens(n: usize) -> Vec<u32> {
    let path = fixture("../models/demo/quality/text.txt");
    let options = flashmill_lab::eval::TextOptions { special_tokens: true, limit: Some(n) };
    flashmill_lab::eval::read_text(&fixture(DEMO), &path, options).unwrap()
}

/// Exchanges rows `a` and `b` of a tensor, whose first axis is cut into `n` parts.
fn exchange(tensor: &mut Tensor, n: usize, a: usize, b: usize) {
    let size = tensor.data.len() / n;
    let first = tensor.data[a * size..][..size].to_vec();
    tensor.data.copy_within(b * size..(b + 1) * size, a * size);
    tensor.data[b * size..][..size].copy_from_slice(&first);
}

/// A copy of the demo model in which the parts of some tensors were exchanged.
fn damaged(names: &[&str], n: usize, a: usize, b: usize) -> TempDir {
    let mut draft = Draft::of(DEMO);
    for name in names {
        for part in ["weight", "scales", "biases"] {
            let tensor =
                draft.tensors.iter_mut().find(|tensor| tensor.name.ends_with(&format!("{name}.{part}")));
            exchange(tensor.unwrap_or_else(|| panic!("no {name}.{part}")), n, a, b);
        }
    }
    draft.write()
}

/// The demo model, its experts quantised again to 8 bits in smaller groups: a change that means nothing.
fn repacked(out: &Path) -> PathBuf {
    let recipe = RecipeOptions { experts: Some(Bits::Affine(8)), group: 32, ..RecipeOptions::default() };
    let out = out.join("repacked");
    let options = PackOptions { source: fixture(DEMO), out: out.clone(), recipe, ..PackOptions::default() };
    flashmill_pack::pack(&flashmill_pack::plan(options).unwrap(), &|_, _| ()).unwrap();
    out
}

/// Two experts of any one layer exchanged, or two heads of one query projection: both suites see it at once, far above what weights do
/// that were only rounded again; and the same weights in other files change nothing at all.
#[test]
fn planted_errors_are_seen() {
    let work = tempfile::tempdir().unwrap();
    let same = damaged(&[], 1, 0, 0);
    let rounded = repacked(work.path());
    let exchanged: Vec<TempDir> = (0..8)
        .map(|layer| {
            let names = ["gate_proj", "up_proj", "down_proj"]
                .map(|name| format!("layers.{layer}.mlp.switch_mlp.{name}"));
            damaged(&names.each_ref().map(String::as_str), 48, 3, 17)
        })
        .collect();
    let head = damaged(&["layers.3.self_attn.q_proj"], 4, 0, 1);
    let tokens = demo_tokens(1500);
    let model = fixture(DEMO);
    let kld = Suite::kld_of_model(tokens.clone(), 100, &model, &EngineOptions::default(), work.path(), true);
    let planted = exchanged.iter().chain([&head]).map(TempDir::path);
    let weights = [same.path(), &rounded].into_iter().chain(planted);
    let weights = weights.map(|dir| Weights::Variant(dir.to_owned())).collect();
    let suites = vec![Suite::ppl(tokens, 100, 100), kld.unwrap()];
    let report = run(&EvalOptions {
        weights,
        ..options(&model, &work.path().join("work"), EngineOptions::default(), suites)
    });
    assert_eq!(report.arms.len(), 12);
    let seen: Vec<[f64; 3]> = (1..report.arms.len())
        .map(|arm| {
            let found = divergence_of(&report, arm);
            let Comparison::Perplexity { change_rms_nats, changed, ratio, low, high } =
                report.arms[arm].against_first["ppl"]
            else {
                panic!("perplexities")
            };
            println!(
                "arm {arm}: kld {:.5}, same top {:.3}, ratio {ratio:.4} ({low:.4} to {high:.4}), rms {change_rms_nats:.5}, changed {changed:.4}",
                found.mean, found.same_top
            );
            [found.mean, changed, change_rms_nats]
        })
        .collect();
    assert_eq!(seen[0], [0.0; 3], "the same weights");
    let rounded = seen[1];
    for (error, found) in seen[2..].iter().enumerate() {
        let measures = ["divergence", "share of changed tokens", "change of a token"];
        for (i, (measure, least)) in measures.into_iter().zip([5.0, 3.0, 1.5]).enumerate() {
            let times = found[i] / rounded[i];
            assert!(times > least, "error {error}: the {measure} is only {times:.1} times that of rounding");
        }
    }
    assert!(!report.arms[0].suites.contains_key("kld") && report.arms[0].is_safe.is_none());
    let markdown = report.markdown();
    assert!(markdown.contains("ppl the same to the bit") && markdown.contains("ppl, tokens changed"));
}

/// Few bits are packed as `pack` does by itself: calibrated, which takes a good part of the loss away.
#[test]
fn arms_of_few_bits_are_calibrated() {
    let work = tempfile::tempdir().unwrap();
    let (model, plain) = (fixture(DEMO), work.path().join("plain"));
    let recipe = RecipeOptions { bits: Some(Bits::Affine(2)), ..RecipeOptions::default() };
    let options_of =
        PackOptions { source: model.clone(), out: plain.clone(), recipe, ..PackOptions::default() };
    flashmill_pack::pack(&flashmill_pack::plan(options_of).unwrap(), &|_, _| ()).unwrap();
    let engine = EngineOptions::default();
    let dir = work.path().join("work");
    fs::create_dir(&dir).unwrap();
    let kld = Suite::kld_of_model(demo_tokens(2000), 500, &model, &engine, &dir, true).unwrap();
    let weights = vec![Weights::Bits(2), Weights::Variant(plain)];
    let mut steps = Vec::new();
    let options = EvalOptions { weights, ..options(&model, &dir, engine, vec![kld]) };
    let report = eval(&options, &AtomicBool::new(false), &mut |at| steps.push(at.suite.to_owned())).unwrap();
    let [calibrated, plain] = [1, 2].map(|arm| divergence_of(&report, arm).mean);
    println!("{calibrated:.4} nats, {plain:.4} without calibrating");
    assert!(calibrated < 0.8 * plain, "{calibrated} {plain}");
    for step in ["calibrating, ", "packing, ", "kld"] {
        assert!(steps.iter().any(|said| said.starts_with(step)), "{step} is not in {steps:?}");
    }
    drop(options);
    let left: Vec<PathBuf> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left.len(), 1, "only the journal stays: {left:?}");
}

/// Picks are replaced by what is in the cache, and another cache is another arm.
#[test]
fn cache_aware_routing_is_an_arm() {
    let work = tempfile::tempdir().unwrap();
    let model = fixture(DEMO);
    let found = |cache_bytes| {
        let engine = EngineOptions { cache_bytes, threads: Some(1), ..EngineOptions::default() };
        let kld = Suite::kld_of_model(demo_tokens(64), 64, &model, &engine, work.path(), true).unwrap();
        let options =
            EvalOptions { cache_aware: vec![0.4], ..options(&model, work.path(), engine, vec![kld]) };
        let report = run(&options);
        let names: Vec<&str> = report.arms.iter().map(|arm| &arm.name[..]).collect();
        assert_eq!(names, ["as stored, 6 experts", "as stored, 6 experts, cache-aware 0.4"]);
        divergence_of(&report, 1).mean
    };
    let (half, all) = (found(Some(10 << 20)), found(None));
    assert!(half > 0.0 && all > 0.0 && half != all, "{half} {all}");
}

/// Stopped after some cases, it goes on where it was, and the report is the same.
#[test]
fn a_stopped_run_goes_on() {
    let work = tempfile::tempdir().unwrap();
    let (tokens, _) = golden("qwen3_5_moe");
    let path = fixture("qwen3_5_moe");
    let options = || EvalOptions {
        weights: vec![Weights::Bits(4)],
        experts: vec![2],
        ..options(&path, work.path(), EngineOptions::default(), vec![Suite::ppl(tokens.clone(), 8, 4)])
    };
    let n_cases = 4 * windows(tokens.len(), 8, 4).len();
    let mut n_stops = 0;
    let report = loop {
        let stop = AtomicBool::new(false);
        let ran = eval(&options(), &stop, &mut |progress| {
            assert_eq!(progress.total, n_cases);
            if progress.done >= 9 * (n_stops + 1) && progress.done < n_cases {
                stop.store(true, Ordering::Relaxed);
            }
        });
        match ran {
            Ok(report) => break report,
            Err(error) => assert!(error.to_string().contains("interrupted"), "{error}"),
        }
        n_stops += 1;
    };
    assert!(n_stops > 3, "it was stopped {n_stops} times");
    let fresh = tempfile::tempdir().unwrap();
    let whole = run(&EvalOptions { work: fresh.path().to_owned(), ..options() });
    assert_eq!(report, whole);
    let lines = |dir: &Path| {
        let path = fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
        fs::read_to_string(path).unwrap().lines().count()
    };
    assert_eq!(lines(work.path()), n_cases + 4, "nothing was done twice");
    assert_eq!(lines(fresh.path()), n_cases + 4);
    // What a packed arm of fewer bits costs.
    let bytes: Vec<u64> = whole.arms.iter().map(|arm| arm.facts.expert_bytes_per_token).collect();
    assert!(bytes[1] * 3 == bytes[0] * 2 && bytes[2] < bytes[0] / 3, "{bytes:?}");
}
