//! GGUF files made from pieces, without the library's reader.

use std::path::PathBuf;

use flashmill_checkpoint::gguf::{Array, Header, TensorType, Value, read_header};
use flashmill_checkpoint::{Checkpoint, DeltaNetSpec, Family, GluRef, MatrixRef, MixerRef, VectorRef};

use crate::support::{decode, fixture, values};

/// The numbers of value types.
pub(crate) const U32: u32 = 4;
pub(crate) const F32: u32 = 6;
pub(crate) const BOOL: u32 = 7;
pub(crate) const STRING: u32 = 8;
pub(crate) const ARRAY: u32 = 9;
pub(crate) const U64: u32 = 10;

/// A file that can be changed and written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
    /// Key, type, bytes.
    pub(crate) pairs: Vec<(String, u32, Vec<u8>)>,
    pub(crate) tensors: Vec<Tensor>,
    /// `None`: 32, without saying so.
    pub(crate) alignment: Option<u32>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// Fastest first.
    pub(crate) dims: Vec<u64>,
    pub(crate) code: u32,
    pub(crate) data: Vec<u8>,
}

/// Length and bytes.
pub(crate) fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// An array's type, length and bytes.
pub(crate) fn array(kind: u32, items: &[Vec<u8>]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &(items.len() as u64).to_le_bytes(), &items.concat()].concat()
}

impl Draft {
    /// A fixture's metadata and tensors.
    pub(crate) fn of(name: &str) -> Draft {
        let (header, bytes) = open(name);
        let mut draft = Draft::default();
        for (key, value) in header.metadata.iter() {
            let (kind, bytes) = value_bytes(value);
            draft.pairs.push((key.to_owned(), kind, bytes));
        }
        for tensor in &header.tensors {
            let TensorType::Weights(ty) = tensor.ty else { panic!("{} is no weight", tensor.name) };
            draft.tensors.push(Tensor {
                name: tensor.name.clone(),
                dims: tensor.dims().to_vec(),
                code: ty.code(),
                data: bytes[tensor.offset as usize..][..tensor.len as usize].to_vec(),
            });
        }
        draft
    }

    /// The same with every tensor in F32.
    pub(crate) fn in_f32(mut self) -> Draft {
        for tensor in &mut self.tensors {
            let floats = tensor.floats();
            (tensor.code, tensor.data) = (0, bytes_of(&floats));
        }
        self
    }

    pub(crate) fn set(&mut self, key: &str, kind: u32, bytes: Vec<u8>) {
        self.pairs.retain(|(name, ..)| name != key);
        self.pairs.push((key.to_owned(), kind, bytes));
    }

    pub(crate) fn set_u32(&mut self, key: &str, number: u32) {
        self.set(key, U32, number.to_le_bytes().to_vec());
    }

    pub(crate) fn remove_key(&mut self, key: &str) {
        let len = self.pairs.len();
        self.pairs.retain(|(name, ..)| name != key);
        assert_eq!(self.pairs.len() + 1, len, "{key}");
    }

    pub(crate) fn tensor_mut(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    pub(crate) fn remove(&mut self, name: &str) -> Tensor {
        let at = self.tensors.iter().position(|tensor| tensor.name == name);
        self.tensors.remove(at.unwrap_or_else(|| panic!("no {name}")))
    }

    pub(crate) fn push(&mut self, name: &str, dims: &[usize], floats: &[f32]) {
        assert_eq!(dims.iter().product::<usize>(), floats.len(), "{name}");
        let dims = dims.iter().map(|&dim| dim as u64).collect();
        self.tensors.push(Tensor { name: name.to_owned(), dims, code: 0, data: bytes_of(floats) });
    }

    /// The file, version 3.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let alignment = u64::from(self.alignment.unwrap_or(32));
        let mut pairs = self.pairs.clone();
        if let Some(alignment) = self.alignment {
            pairs.push(("general.alignment".to_owned(), U32, alignment.to_le_bytes().to_vec()));
        }
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((pairs.len() as u64).to_le_bytes());
        for (key, kind, value) in &pairs {
            bytes.extend(string(key));
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            bytes.extend(string(&tensor.name));
            bytes.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
            bytes.extend(tensor.code.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            offset = (offset + tensor.data.len() as u64).next_multiple_of(alignment);
        }
        for tensor in &self.tensors {
            bytes.resize(bytes.len().next_multiple_of(alignment as usize), 0);
            bytes.extend(&tensor.data);
        }
        bytes
    }

    /// A file of its own in a fresh directory.
    pub(crate) fn write(&self) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        std::fs::write(&path, self.bytes()).unwrap();
        (dir, path)
    }

    /// What the library makes of it.
    pub(crate) fn describe(&self) -> Result<Checkpoint, String> {
        let (_dir, path) = self.write();
        Checkpoint::open(&path).map_err(|error| {
            let message = error.to_string();
            assert_eq!(message.lines().count(), 1, "{message}");
            assert!(message.contains("model.gguf"), "{message}");
            message
        })
    }
}

impl Tensor {
    /// Its values, through layout's decoders.
    pub(crate) fn floats(&self) -> Vec<f32> {
        let ty = flashmill_layout::GgmlType::from_code(self.code).expect("a type of weights");
        let mut floats = vec![0.0; self.dims.iter().product::<u64>() as usize];
        ty.decode_row(&self.data, &mut floats);
        floats
    }
}

/// A fixture's header and bytes.
pub(crate) fn open(name: &str) -> (Header, Vec<u8>) {
    let path = fixture(name).join("model.gguf");
    let bytes = std::fs::read(&path).unwrap();
    let header = read_header(&path, bytes.as_slice(), bytes.len() as u64).unwrap();
    (header, bytes)
}

/// A checkpoint of another format as a GGUF file in F32, as llama.cpp's converter would lay it out: value heads tiled in
/// `qwen35moe`, norms and decay ready for use.
pub(crate) fn convert(checkpoint: &Checkpoint) -> Draft {
    let (spec, trunk) = (checkpoint.spec(), checkpoint.trunk());
    let arch = match spec.family {
        Family::Qwen3Next => "qwen3next",
        Family::Qwen3Moe => "qwen3moe",
        Family::Qwen35Moe => "qwen35moe",
    };
    let mut draft = Draft::default();
    draft.set("general.architecture", STRING, string(arch));
    let mut number = |key: &str, number: usize| draft.set_u32(&format!("{arch}.{key}"), number as u32);
    number("block_count", spec.layers.len());
    number("embedding_length", spec.hidden_size);
    number("context_length", spec.max_positions);
    number("attention.head_count", spec.attention.n_heads);
    number("attention.head_count_kv", spec.attention.n_kv_heads);
    number("attention.key_length", spec.attention.head_dim);
    number("attention.value_length", spec.attention.head_dim);
    number("rope.dimension_count", spec.attention.rotary_dim);
    let moe = spec.moe.as_ref().unwrap();
    number("expert_count", moe.n_experts);
    number("expert_used_count", moe.top_k);
    number("expert_feed_forward_length", moe.intermediate_size);
    if let Some(size) = moe.shared_intermediate_size {
        number("expert_shared_feed_forward_length", size);
    }
    if let Some(delta) = &spec.delta_net {
        number("ssm.group_count", delta.n_key_heads);
        number("ssm.time_step_rank", delta.n_value_heads);
        number("ssm.state_size", delta.key_dim);
        number("ssm.inner_size", delta.values());
        number("ssm.conv_kernel", delta.conv_kernel);
    }
    let mut float = |key: &str, number: f32| {
        draft.set(&format!("{arch}.{key}"), F32, number.to_le_bytes().to_vec());
    };
    float("attention.layer_norm_rms_epsilon", spec.rms_norm_eps);
    float("rope.freq_base", spec.attention.rope_theta as f32);

    let matrix = |draft: &mut Draft, name: &str, matrix: &MatrixRef| {
        draft.push(name, &[matrix.shape.cols, matrix.shape.rows], &decode(checkpoint, matrix));
    };
    let vector = |draft: &mut Draft, name: &str, dims: &[usize], vector: &VectorRef| {
        draft.push(name, dims, &values(checkpoint, vector));
    };
    matrix(&mut draft, "token_embd.weight", &trunk.embed);
    vector(&mut draft, "output_norm.weight", &[spec.hidden_size], &trunk.final_norm);
    if let Some(head) = &trunk.head {
        matrix(&mut draft, "output.weight", head);
    }
    for (i, layer) in trunk.layers.iter().enumerate() {
        let name = |name: &str| format!("blk.{i}.{name}");
        let hidden = [spec.hidden_size];
        vector(&mut draft, &name("attn_norm.weight"), &hidden, &layer.input_norm);
        let post = if spec.family == Family::Qwen3Moe { "ffn_norm" } else { "post_attention_norm" };
        vector(&mut draft, &name(&format!("{post}.weight")), &hidden, &layer.post_norm);
        match &layer.mixer {
            MixerRef::Attention(a) => {
                for (n, m) in [("q", &a.q), ("k", &a.k), ("v", &a.v), ("output", &a.o)] {
                    matrix(&mut draft, &name(&format!("attn_{n}.weight")), m);
                }
                for (n, v) in [("q", &a.q_norm), ("k", &a.k_norm)] {
                    vector(
                        &mut draft,
                        &name(&format!("attn_{n}_norm.weight")),
                        &[spec.attention.head_dim],
                        v,
                    );
                }
            }
            MixerRef::DeltaNet(d) => {
                let sizes = spec.delta_net.as_ref().unwrap();
                let (hidden, n_heads) = (spec.hidden_size, sizes.n_value_heads);
                let is_tiled = spec.family == Family::Qwen35Moe;
                let to = if is_tiled { tiled(sizes) } else { (0..n_heads).collect() };
                // Queries and keys stay where they are.
                let keys = 2 * sizes.n_key_heads * sizes.key_dim;
                let values_of = |all: Vec<f32>, each: usize| {
                    let (qk, v) = all.split_at(keys * each);
                    [qk, &move_heads(v, &to)].concat()
                };
                let qkv = values_of(decode(checkpoint, &d.qkv), hidden);
                draft.push(&name("attn_qkv.weight"), &[hidden, sizes.conv_channels()], &qkv);
                let conv = values_of(values(checkpoint, &d.conv), sizes.conv_kernel);
                draft.push(&name("ssm_conv1d.weight"), &[sizes.conv_kernel, sizes.conv_channels()], &conv);
                let z = move_heads(&decode(checkpoint, &d.z), &to);
                draft.push(&name("attn_gate.weight"), &[hidden, sizes.values()], &z);
                let rows = decode(checkpoint, &d.out);
                let out: Vec<f32> =
                    rows.chunks(sizes.values()).flat_map(|row| move_heads(row, &to)).collect();
                draft.push(&name("ssm_out.weight"), &[sizes.values(), hidden], &out);
                let [b, a] = [&d.b, &d.a].map(|m| move_heads(&decode(checkpoint, m), &to));
                if is_tiled {
                    draft.push(&name("ssm_beta.weight"), &[hidden, n_heads], &b);
                    draft.push(&name("ssm_alpha.weight"), &[hidden, n_heads], &a);
                } else {
                    let ba = interleave_ba(&b, &a, sizes);
                    draft.push(&name("ssm_ba.weight"), &[hidden, 2 * n_heads], &ba);
                }
                for (n, v) in [("ssm_a", &d.decay), ("ssm_dt.bias", &d.dt_bias)] {
                    draft.push(&name(n), &[n_heads], &move_heads(&values(checkpoint, v), &to));
                }
                vector(&mut draft, &name("ssm_norm.weight"), &[sizes.value_dim], &d.norm);
            }
        }
        let flashmill_checkpoint::FfnRef::Moe { router, shared } = &layer.ffn else { panic!("layer {i}") };
        matrix(&mut draft, &name("ffn_gate_inp.weight"), router);
        if let Some(shared) = shared {
            for (n, m) in glu(&shared.glu) {
                matrix(&mut draft, &name(&format!("ffn_{n}_shexp.weight")), m);
            }
            matrix(&mut draft, &name("ffn_gate_inp_shexp.weight"), &shared.gate_logit);
        }
        let experts: Vec<GluRef> = (0..moe.n_experts).map(|e| checkpoint.bundle(i, e).glu).collect();
        for (which, n) in ["gate", "up", "down"].into_iter().enumerate() {
            let stack: Vec<f32> =
                experts.iter().flat_map(|expert| decode(checkpoint, glu(expert)[which].1)).collect();
            let shape = glu(&experts[0])[which].1.shape;
            draft.push(
                &name(&format!("ffn_{n}_exps.weight")),
                &[shape.cols, shape.rows, moe.n_experts],
                &stack,
            );
        }
    }
    draft
}

pub(crate) fn glu(glu: &GluRef) -> [(&'static str, &MatrixRef); 3] {
    [("gate", &glu.gate), ("up", &glu.up), ("down", &glu.down)]
}

/// The tiled place of each grouped value head.
pub(crate) fn tiled(sizes: &DeltaNetSpec) -> Vec<usize> {
    let each = sizes.n_value_heads / sizes.n_key_heads;
    (0..sizes.n_value_heads).map(|head| head % each * sizes.n_key_heads + head / each).collect()
}

/// Rows of `size` values each, head `h` moved to place `to[h]`.
pub(crate) fn move_heads(values: &[f32], to: &[usize]) -> Vec<f32> {
    let size = values.len() / to.len();
    let mut moved = vec![0.0; values.len()];
    for (head, &place) in to.iter().enumerate() {
        moved[place * size..][..size].copy_from_slice(&values[head * size..][..size]);
    }
    moved
}

/// For each key head the b rows of its value heads, then their a rows.
fn interleave_ba(b: &[f32], a: &[f32], sizes: &DeltaNetSpec) -> Vec<f32> {
    let each = b.len() / sizes.n_key_heads;
    b.chunks(each).zip(a.chunks(each)).flat_map(|(b, a)| [b, a].concat()).collect()
}

fn bytes_of(floats: &[f32]) -> Vec<u8> {
    floats.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A value's type and bytes.
fn value_bytes(value: &Value) -> (u32, Vec<u8>) {
    match value {
        Value::Unsigned(number) => match u32::try_from(*number) {
            Ok(number) => (U32, number.to_le_bytes().to_vec()),
            Err(_) => (U64, number.to_le_bytes().to_vec()),
        },
        Value::Negative(number) => (11, number.to_le_bytes().to_vec()),
        Value::Float(number) => (F32, (*number as f32).to_le_bytes().to_vec()),
        Value::Bool(flag) => (BOOL, vec![u8::from(*flag)]),
        Value::String(text) => (STRING, string(text)),
        Value::Array(Array::Strings(strings)) => {
            (ARRAY, array(STRING, &strings.iter().map(string).collect::<Vec<_>>()))
        }
        Value::Array(Array::Numbers { kind, bytes }) => {
            let head =
                [(*kind as u32).to_le_bytes().to_vec(), (value_len(value)).to_le_bytes().to_vec()].concat();
            (ARRAY, [head, bytes.clone()].concat())
        }
        Value::Array(Array::Arrays { .. }) => panic!("fixtures have no arrays of arrays"),
    }
}

fn value_len(value: &Value) -> u64 {
    value.as_array().expect("an array").len()
}
