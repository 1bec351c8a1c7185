//! The importance of a fixture's inputs, worked out again from the forward pass's golden-tested tensors and the stored weights.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use flashmill_checkpoint::{FfnRef, GluRef};
use flashmill_engine::{BackendKind, Checkpoint, Engine, EngineOptions, Observer, Picks, Sequence, Wanted};
use flashmill_lab::calibrate::{CalibrateError, CalibrateOptions, Calibration, calibrate};
use flashmill_pack::{Bits, Importance, PackOptions, RecipeOptions, Rule};

use crate::support::{decode, fixture};

const TEXT: &str = "The river ran north past the mill.\nNobody had counted the boats that went down it, \
                    but the miller's daughter remembered 1,024 of them.\n\nfn main() { println!(\"{}\", 6 * 7); }\n";
const WINDOW: usize = 16;

fn options(engine: EngineOptions) -> CalibrateOptions {
    CalibrateOptions { engine, window: WINDOW }
}

fn reference() -> EngineOptions {
    EngineOptions { backend: BackendKind::Reference, ..EngineOptions::default() }
}

fn run(path: &Path, engine: EngineOptions, text: &str) -> Result<Calibration, CalibrateError> {
    calibrate(path, &mut text.as_bytes(), &options(engine), &mut |_| ())
}

/// Every tensor and pick of a run, by layer and name: all rows one after the other.
#[derive(Default)]
struct Seen {
    tensors: HashMap<(Option<usize>, &'static str), Vec<f32>>,
    picks: HashMap<usize, Vec<u32>>,
}

impl Observer for Seen {
    fn tensor(&mut self, layer: Option<usize>, name: &'static str, _n_rows: usize, values: &[f32]) {
        self.tensors.entry((layer, name)).or_default().extend_from_slice(values);
    }

    fn picks(&mut self, layer: usize, picks: &Picks) {
        self.picks.entry(layer).or_default().extend_from_slice(&picks.experts);
    }
}

fn look(path: &Path, engine: EngineOptions) -> (Seen, usize) {
    let mut engine = Engine::open(path, &engine, &mut |_, _| ()).unwrap();
    let tokens = engine.tokenizer().encode(TEXT).unwrap();
    let mut seen = Seen::default();
    for window in tokens.chunks(WINDOW) {
        let mut state = engine.model_mut().new_state().unwrap();
        let mut batch = [Sequence { state: &mut state, tokens: window, wanted: Wanted::None }];
        engine.model_mut().forward(&mut batch, None, Some(&mut seen)).unwrap();
    }
    (seen, tokens.len())
}

/// Mean squares of the columns of some rows.
fn mean_squares(rows: &[&[f32]]) -> Vec<f64> {
    let mut sums = vec![0.0; rows[0].len()];
    for row in rows {
        sums.iter_mut().zip(*row).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
    }
    sums.into_iter().map(|sum| sum / rows.len() as f64).collect()
}

/// `silu(gate x) * up x` in f64.
fn units(checkpoint: &Checkpoint, glu: &GluRef, rows: &[&[f32]]) -> Vec<Vec<f32>> {
    let (gate, up) = (decode(checkpoint, &glu.gate), decode(checkpoint, &glu.up));
    let product =
        |w: &[f32], x: &[f32]| -> f64 { w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum() };
    let cols = glu.gate.shape.cols;
    let of_row = |x: &[f32]| {
        let both = gate.chunks_exact(cols).zip(up.chunks_exact(cols));
        both.map(|(gate, up)| {
            let gate = product(gate, x);
            (gate / (1.0 + (-gate).exp()) * product(up, x)) as f32
        })
        .collect()
    };
    rows.iter().map(|row| of_row(row)).collect()
}

#[track_caller]
fn assert_close(what: &str, found: Option<Vec<f32>>, rows: &[&[f32]]) {
    if rows.is_empty() {
        assert_eq!(found, None, "{what} was not used");
        return;
    }
    let found = found.unwrap_or_else(|| panic!("{what} has numbers"));
    let expected = mean_squares(rows);
    let scale = expected.iter().sum::<f64>() / expected.len() as f64;
    assert!(scale > 0.0 && found.len() == expected.len(), "{what}");
    for (found, expected) in found.iter().zip(&expected) {
        let off = (f64::from(*found) - expected).abs();
        assert!(off <= 1e-4 * expected + 1e-5 * scale, "{what}: {found} instead of {expected}");
    }
}

#[test]
fn importance_is_the_mean_square_of_every_input() {
    let path = fixture("qwen3_5_moe");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("imatrix.gguf");
    let calibration = run(&path, reference(), TEXT).unwrap();
    calibration.write(&file, "a text").unwrap();
    let importance = Importance::open(&file).unwrap();
    let (seen, n_tokens) = look(&path, reference());
    assert_eq!(calibration.n_tokens(), n_tokens as u64);
    assert_eq!(calibration.n_windows() as usize, n_tokens.div_ceil(WINDOW));

    let checkpoint = Checkpoint::open(&path).unwrap();
    let spec = checkpoint.spec();
    let (hidden, moe) = (spec.hidden_size, spec.moe.unwrap());
    let rows = |layer: Option<usize>, name: &'static str, cols: usize| -> Vec<&[f32]> {
        seen.tensors[&(layer, name)].chunks_exact(cols).collect()
    };
    let one = |name: &str, cols: usize| importance.weights(name, 0, 1, cols).unwrap();
    let mut n_unused = 0;
    for (i, layer) in checkpoint.trunk().layers.iter().enumerate() {
        let name = |name: &str| format!("blk.{i}.{name}.weight");
        let mixer_in = rows(Some(i), "attn_in", hidden);
        let (first, second) = if i == 3 { ("attn_q", "attn_v") } else { ("attn_qkv", "ssm_alpha") };
        assert_close(&name(first), one(&name(first), hidden), &mixer_in);
        assert_close(&name(second), one(&name(second), hidden), &mixer_in);
        if i == 3 {
            let cols = spec.attention.n_heads * spec.attention.head_dim;
            assert_close("o", one(&name("attn_output"), cols), &rows(Some(i), "o_proj_in", cols));
        }
        let inputs = rows(Some(i), "mlp_in", hidden);
        assert_close("shared gate", one(&name("ffn_gate_shexp"), hidden), &inputs);
        let FfnRef::Moe { shared: Some(shared), .. } = &layer.ffn else { panic!("a shared expert") };
        let hidden_units = units(&checkpoint, &shared.glu, &inputs);
        let hidden_units: Vec<&[f32]> = hidden_units.iter().map(Vec::as_slice).collect();
        let cols = shared.glu.down.shape.cols;
        assert_close("shared down", one(&name("ffn_down_shexp"), cols), &hidden_units);
        for expert in 0..moe.n_experts {
            let picked = seen.picks[&i].chunks_exact(moe.top_k).map(|row| row.contains(&(expert as u32)));
            let mine: Vec<&[f32]> =
                inputs.iter().zip(picked).filter(|(_, is)| *is).map(|(row, _)| *row).collect();
            n_unused += usize::from(mine.is_empty());
            let of = |name: &str, cols: usize| importance.weights(name, expert, moe.n_experts, cols).unwrap();
            let what = format!("expert {expert} of layer {i}");
            assert_close(&what, of(&name("ffn_gate_exps"), hidden), &mine);
            assert_close(&what, of(&name("ffn_up_exps"), hidden), &mine);
            let glu = checkpoint.bundle(i, expert).glu;
            let hidden_units = units(&checkpoint, &glu, &mine);
            let hidden_units: Vec<&[f32]> = hidden_units.iter().map(Vec::as_slice).collect();
            assert_close(&what, of(&name("ffn_down_exps"), moe.intermediate_size), &hidden_units);
        }
    }
    assert_eq!(calibration.unused_experts(), (n_unused, spec.layers.len() * moe.n_experts));
    assert_close("head", one("output.weight", hidden), &rows(None, "final_norm", hidden));
}

fn bytes_of(calibration: &Calibration) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("imatrix.gguf");
    calibration.write(&path, "a text").unwrap();
    std::fs::read(path).unwrap()
}

/// A cache of almost no experts, and other threads: the same bits.
#[test]
fn streamed_is_resident() {
    let path = fixture("qwen3_5_moe_mlx4");
    let with_text = crate::support::copy("qwen3_5_moe_mlx4");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture("qwen3_5_moe").join(name), with_text.path().join(name)).unwrap();
    }
    assert!(path.exists());
    let resident =
        run(with_text.path(), EngineOptions { threads: Some(1), ..EngineOptions::default() }, TEXT).unwrap();
    let streamed = EngineOptions { cache_bytes: Some(1), threads: Some(2), ..EngineOptions::default() };
    let streamed = run(with_text.path(), streamed, TEXT).unwrap();
    assert!(bytes_of(&resident) == bytes_of(&streamed));
}

/// By range if there is no importance.
fn pack(out: PathBuf, importance: Option<PathBuf>) -> Checkpoint {
    let rule = importance.is_none().then_some(Rule::Range);
    let recipe = RecipeOptions { bits: Some(Bits::Affine(2)), rule, ..RecipeOptions::default() };
    let source = fixture("qwen3_5_moe");
    let options = PackOptions {
        source,
        out: out.clone(),
        recipe,
        importance,
        threads: Some(2),
        ..PackOptions::default()
    };
    flashmill_pack::pack(&flashmill_pack::plan(options).unwrap(), &|_, _| ()).unwrap();
    Checkpoint::open(&out).unwrap()
}

/// Scales that are fitted to the importance lose less of what matters.
#[test]
fn the_weighted_error_is_lower() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("imatrix.gguf");
    run(&fixture("qwen3_5_moe"), reference(), TEXT).unwrap().write(&file, "a text").unwrap();
    let importance = Importance::open(&file).unwrap();
    let source = Checkpoint::open(&fixture("qwen3_5_moe")).unwrap();
    let plain = pack(dir.path().join("plain"), None);
    let fitted = pack(dir.path().join("fitted"), Some(file));
    let n_experts = source.spec().moe.unwrap().n_experts;
    for layer in 0..source.spec().layers.len() {
        let (mut before, mut after) = (0.0, 0.0);
        for expert in 0..n_experts {
            let matrices = |checkpoint: &Checkpoint| {
                let glu = checkpoint.bundle(layer, expert).glu;
                [glu.gate, glu.up, glu.down].map(|matrix| (decode(checkpoint, &matrix), matrix.shape.cols))
            };
            let (exact, plain, fitted) = (matrices(&source), matrices(&plain), matrices(&fitted));
            for (i, name) in ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"].into_iter().enumerate() {
                let name = format!("blk.{layer}.{name}.weight");
                let cols = exact[i].1;
                let Some(weights) = importance.weights(&name, expert, n_experts, cols).unwrap() else {
                    continue;
                };
                let error = |found: &[f32]| -> f64 {
                    let terms = exact[i].0.iter().zip(found).zip(weights.iter().cycle());
                    terms.map(|((a, b), w)| f64::from(*w) * f64::from(a - b).powi(2)).sum()
                };
                before += error(&plain[i].0);
                after += error(&fitted[i].0);
            }
        }
        println!("layer {layer}: {:.2} of the weighted error at 2 bits", after / before);
        assert!(after < 0.75 * before, "layer {layer}: {after} is not much below {before}");
    }
}

#[test]
fn texts_that_are_none() {
    let path = fixture("qwen3_5_moe");
    assert!(matches!(run(&path, reference(), ""), Err(CalibrateError::Empty)));
    let error = calibrate(&path, &mut &b"fine \xff"[..], &options(reference()), &mut |_| ()).err().unwrap();
    assert!(matches!(error, CalibrateError::NotUtf8 { offset: 5 }), "{error}");
}
