//! Golden fixtures, and running a model over them.

use std::path::PathBuf;

use flashmill_checkpoint::Checkpoint;
use flashmill_kernels::{Backend, Cpu, CpuOptions, Level, Picks, Reference};
use flashmill_model::{Model, ModelOptions, Observer, Sequence, State, Wanted};
use flashmill_store::StoreOptions;
use safetensors::SafeTensors;

pub(crate) fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../../fixtures", name].iter().collect()
}

/// The outputs of transformers for one fixture.
pub(crate) struct Golden {
    bytes: Vec<u8>,
    json: serde_json::Value,
}

impl Golden {
    pub(crate) fn open(name: &str) -> Golden {
        let bytes =
            std::fs::read(path(name).join("golden.safetensors")).expect("the fixture has golden tensors");
        let json = std::fs::read(path(name).join("golden.json")).expect("the fixture has golden tokens");
        Golden { bytes, json: serde_json::from_slice(&json).expect("golden.json is JSON") }
    }

    pub(crate) fn ids(&self, key: &str) -> Vec<u32> {
        let list = self.json[key].as_array().unwrap_or_else(|| panic!("golden.json has no list {key}"));
        list.iter().map(|id| id.as_u64().expect("a token id") as u32).collect()
    }

    pub(crate) fn number(&self, key: &str) -> Option<f64> {
        self.json[key].as_f64()
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        SafeTensors::deserialize(&self.bytes).expect("safetensors").tensor(key).is_ok()
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        SafeTensors::deserialize(&self.bytes)
            .expect("safetensors")
            .names()
            .iter()
            .map(|n| n.to_string())
            .collect()
    }

    /// A tensor of 4-byte values as raw words, with its shape.
    fn words(&self, key: &str) -> (Vec<usize>, Vec<[u8; 4]>) {
        let tensors = SafeTensors::deserialize(&self.bytes).expect("safetensors");
        let view = tensors.tensor(key).unwrap_or_else(|_| panic!("no golden tensor {key}"));
        let words = view.data().chunks_exact(4).map(|b| b.try_into().expect("4 bytes")).collect();
        (view.shape().to_vec(), words)
    }

    pub(crate) fn shape(&self, key: &str) -> Vec<usize> {
        self.words(key).0
    }

    pub(crate) fn f32(&self, key: &str) -> Vec<f32> {
        self.words(key).1.into_iter().map(f32::from_le_bytes).collect()
    }

    pub(crate) fn i32(&self, key: &str) -> Vec<i32> {
        self.words(key).1.into_iter().map(i32::from_le_bytes).collect()
    }
}

pub(crate) fn reference() -> Box<dyn Backend> {
    Box::new(Reference::new())
}

pub(crate) fn cpu(threads: usize, level: Option<Level>) -> Box<dyn Backend> {
    Box::new(Cpu::new(CpuOptions { threads, level }).expect("threads can be started"))
}

/// Slots for everything in every fixture.
pub(crate) const ALL: u64 = 64 << 20;

pub(crate) fn options() -> ModelOptions {
    ModelOptions {
        max_rows: 256,
        max_logit_rows: 256,
        context: 512,
        n_states: 4,
        n_sequences: 3,
        store: StoreOptions { slot_bytes: ALL, ..StoreOptions::default() },
        ..ModelOptions::default()
    }
}

pub(crate) fn load(name: &str, backend: Box<dyn Backend>, options: ModelOptions) -> Model {
    let checkpoint = Checkpoint::open(&path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    Model::load(&checkpoint, backend, options, &mut |_, _| ())
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Reads `tokens` and returns the logits of all rows, row after row.
pub(crate) fn read_all(
    model: &mut Model,
    state: &mut State,
    tokens: &[u32],
    observer: Option<&mut dyn Observer>,
) -> Vec<f32> {
    let mut batch = [Sequence { state, tokens, wanted: Wanted::All }];
    model.forward(&mut batch, None, observer).expect("the pass succeeds");
    (0..tokens.len()).flat_map(|row| model.logits(row).to_vec()).collect()
}

/// Greedy continuation: the logits of each step and the tokens, starting from the logits after the prompt.
pub(crate) fn greedy(
    model: &mut Model,
    state: &mut State,
    mut logits: Vec<f32>,
    n: usize,
) -> (Vec<f32>, Vec<u32>) {
    let (mut rows, mut tokens) = (Vec::new(), Vec::new());
    for step in 0..n {
        let token = argmax(&logits);
        tokens.push(token);
        rows.extend_from_slice(&logits);
        if step + 1 < n {
            logits = read_all(model, state, &[token], None);
        }
    }
    (rows, tokens)
}

pub(crate) fn argmax(logits: &[f32]) -> u32 {
    let best = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
    (0..logits.len()).fold(0, best) as u32
}

/// Remembers everything that an observed pass shows.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) tensors: Vec<(Option<usize>, &'static str, usize, Vec<f32>)>,
    pub(crate) picks: Vec<(usize, Picks)>,
}

impl Recorder {
    pub(crate) fn tensor(&self, layer: Option<usize>, name: &str) -> &[f32] {
        let found = self.tensors.iter().find(|(l, n, ..)| *l == layer && *n == name);
        &found.unwrap_or_else(|| panic!("nothing called {name} was seen in layer {layer:?}")).3
    }
}

impl Observer for Recorder {
    fn tensor(&mut self, layer: Option<usize>, name: &'static str, n_rows: usize, values: &[f32]) {
        self.tensors.push((layer, name, n_rows, values.to_vec()));
    }

    fn picks(&mut self, layer: usize, picks: &Picks) {
        self.picks.push((layer, picks.clone()));
    }
}
