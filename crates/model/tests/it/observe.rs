//! What an observer is shown beyond the golden traces.

use flashmill_kernels::Picks;
use flashmill_model::Observer;
use safetensors::SafeTensors;

use crate::fixture::{Golden, Recorder, load, options, path, read_all, reference};

/// A recorder that asks for guesses.
#[derive(Default)]
struct Guesses {
    seen: Recorder,
    guesses: Vec<(usize, Picks)>,
}

const N_GUESSES: usize = 6;

impl Observer for Guesses {
    fn tensor(&mut self, layer: Option<usize>, name: &'static str, n_rows: usize, values: &[f32]) {
        Observer::tensor(&mut self.seen, layer, name, n_rows, values);
    }

    fn picks(&mut self, layer: usize, picks: &Picks) {
        Observer::picks(&mut self.seen, layer, picks);
    }

    fn n_guesses(&self) -> usize {
        N_GUESSES
    }

    fn guess(&mut self, layer: usize, guess: &Picks) {
        self.guesses.push((layer, guess.clone()));
    }
}

/// A BF16 tensor of the fixture.
fn stored(name: &str) -> Vec<f32> {
    let dir = path("qwen3_5_moe");
    let files = std::fs::read_dir(dir).expect("the fixture").map(|entry| entry.expect("an entry").path());
    for file in files.filter(|file| file.extension().is_some_and(|e| e == "safetensors")) {
        let bytes = std::fs::read(&file).expect("a file");
        let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
        if let Ok(view) = tensors.tensor(name) {
            let value = |b: &[u8]| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
            return view.data().chunks_exact(2).map(value).collect();
        }
    }
    panic!("the fixture has no {name}");
}

/// A guess for layer i + 1 is its router's order on its own norm of what layer i's router saw before the norm.
#[test]
fn a_guess_is_the_next_router_on_the_present_hidden_state() {
    let mut model = load("qwen3_5_moe", reference(), options());
    let tokens = Golden::open("qwen3_5_moe").ids("prompt_ids");
    let mut state = model.new_state().expect("a state");
    let mut observer = Guesses::default();
    read_all(&mut model, &mut state, &tokens, Some(&mut observer));
    let (hidden, n_layers) = (model.spec().hidden_size, model.spec().layers.len());
    let eps = model.spec().rms_norm_eps;
    let layers: Vec<usize> = observer.guesses.iter().map(|(layer, _)| *layer).collect();
    assert_eq!(layers, (1..n_layers).collect::<Vec<_>>());
    for (layer, guess) in &observer.guesses {
        let prefix = format!("model.language_model.layers.{layer}");
        let norm = stored(&format!("{prefix}.post_attention_layernorm.weight"));
        let router = stored(&format!("{prefix}.mlp.gate.weight"));
        let out = observer.seen.tensor(Some(layer - 1), "out");
        let mlp = observer.seen.tensor(Some(layer - 1), "mlp_out");
        for (row, (out, mlp)) in out.chunks_exact(hidden).zip(mlp.chunks_exact(hidden)).enumerate() {
            let x: Vec<f64> = out.iter().zip(mlp).map(|(out, mlp)| f64::from(out - mlp)).collect();
            let mean = x.iter().map(|x| x * x).sum::<f64>() / hidden as f64;
            let normed = |i: usize| x[i] / (mean + f64::from(eps)).sqrt() * (1.0 + f64::from(norm[i]));
            let logit = |w: &[f32]| (0..hidden).map(|i| normed(i) * f64::from(w[i])).sum::<f64>();
            let logits: Vec<f64> = router.chunks_exact(hidden).map(logit).collect();
            let guessed = &guess.experts[row * N_GUESSES..][..N_GUESSES];
            // Best first, and none better that was left out; the subtraction above costs some bits.
            for (i, &expert) in guessed.iter().enumerate() {
                let better =
                    (0..logits.len()).filter(|&other| logits[other] > logits[expert as usize] + 1e-3);
                assert!(better.count() <= i, "layer {layer}, row {row}: {guessed:?} of {logits:?}");
            }
        }
    }
}

#[test]
fn picks_have_as_many_rows_as_the_pass() {
    let mut model = load("qwen3_5_moe", reference(), options());
    let mut state = model.new_state().expect("a state");
    for n_rows in [5, 1] {
        let mut seen = Recorder::default();
        read_all(&mut model, &mut state, &[7; 5][..n_rows], Some(&mut seen));
        assert_eq!(seen.picks.len(), model.spec().layers.len());
        for (_, picks) in &seen.picks {
            assert_eq!((picks.experts.len(), picks.weights.len()), (n_rows * 3, n_rows * 3));
        }
    }
}
