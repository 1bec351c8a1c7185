//! Checkpoints of the real shapes with random, well-scaled weights, in MLX's affine layout.
//!
//! A weight is `code * scale + bias` with uniform codes; the scale makes the standard deviation `1 / sqrt(inputs)`, so that activations
//! keep their size through any number of layers. Everything follows from the seed.

mod gguf;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use half::bf16;
use serde_json::json;

pub use gguf::write_synthetic_gguf;

use crate::random::SplitMix64;

/// Why a synthetic model could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// A file could not be written.
    #[error("cannot write {path}: {error}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// Sizes that do not fit together.
    #[error("the {what} of {value} is not a multiple of the group of {group}; choose another --group")]
    Group {
        /// Which size.
        what: &'static str,
        /// Its value.
        value: usize,
        /// Values that share a scale.
        group: usize,
    },
}

/// The sizes of a Qwen3.5-MoE.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of config.json")]
pub struct Shape {
    pub hidden_size: usize,
    pub n_layers: usize,
    pub vocab_size: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub n_key_heads: usize,
    pub n_value_heads: usize,
    pub delta_dim: usize,
    pub n_experts: usize,
    pub top_k: usize,
    pub intermediate_size: usize,
}

impl Shape {
    /// Qwen3.5-35B-A3B.
    pub fn qwen35_35b() -> Shape {
        Shape {
            hidden_size: 2048,
            n_layers: 40,
            vocab_size: 248_320,
            n_heads: 16,
            n_kv_heads: 2,
            head_dim: 256,
            n_key_heads: 16,
            n_value_heads: 32,
            delta_dim: 128,
            n_experts: 256,
            top_k: 8,
            intermediate_size: 512,
        }
    }

    /// `35b`, `122b` or `397b`.
    pub fn named(name: &str) -> Option<Shape> {
        match name {
            "35b" => Some(Shape::qwen35_35b()),
            "122b" => Some(Shape::qwen35_122b()),
            "397b" => Some(Shape::qwen35_397b()),
            _ => None,
        }
    }

    /// Qwen3.5-122B-A10B.
    pub fn qwen35_122b() -> Shape {
        Shape {
            hidden_size: 3072,
            n_layers: 48,
            n_heads: 32,
            n_value_heads: 64,
            intermediate_size: 1024,
            ..Shape::qwen35_35b()
        }
    }

    /// Qwen3.5-397B-A17B.
    pub fn qwen35_397b() -> Shape {
        Shape { hidden_size: 4096, n_layers: 60, n_experts: 512, top_k: 10, ..Shape::qwen35_122b() }
    }
}

/// What to write.
#[derive(Clone, Debug)]
pub struct SyntheticOptions {
    /// Sizes.
    pub shape: Shape,
    /// Bits of every matrix but the routers, which have 8: 2, 3, 4, 5, 6 or 8.
    pub bits: usize,
    /// Values that share a scale: 32, 64 or 128.
    pub group: usize,
    /// Of all random numbers.
    pub seed: u64,
}

impl SyntheticOptions {
    /// Bytes of all weights as [`write_synthetic_gguf`] writes them.
    pub fn gguf_bytes(&self) -> u64 {
        gguf::n_bytes(&self.shape)
    }

    /// Bytes of all weights as [`write_synthetic`] writes them.
    pub fn n_bytes(&self) -> u64 {
        let bytes = |tensors: Vec<Tensor>| tensors.iter().map(|tensor| tensor.n_bytes() as u64).sum::<u64>();
        bytes(ends(self))
            + (0..self.shape.n_layers).map(|layer| bytes(layer_tensors(self, layer))).sum::<u64>()
    }
}

/// Bytes that may be written below `dir`, where the system says.
pub fn free_bytes(dir: &Path) -> Option<u64> {
    fs4::available_space(dir).ok()
}

/// Writes the model into `dir`, one file a layer; tokenizer files are the caller's. `progress` is told the bytes written.
pub fn write_synthetic(
    dir: &Path,
    options: &SyntheticOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<(), LabError> {
    let Shape { hidden_size, intermediate_size, .. } = options.shape;
    for (what, value) in [("hidden size", hidden_size), ("expert width", intermediate_size)] {
        if !value.is_multiple_of(options.group) {
            return Err(LabError::Group { what, value, group: options.group });
        }
    }
    std::fs::create_dir_all(dir).map_err(|error| LabError::Write { path: dir.to_owned(), error })?;
    let mut index = serde_json::Map::new();
    let mut n_bytes = 0;
    for file in 0..=options.shape.n_layers {
        let name = format!("model-{:05}-of-{:05}.safetensors", file + 1, options.shape.n_layers + 1);
        let tensors = match file.checked_sub(1) {
            None => ends(options),
            Some(layer) => layer_tensors(options, layer),
        };
        let path = dir.join(&name);
        let seed = options.seed.wrapping_add(file as u64);
        n_bytes += write_file(&path, &tensors, seed).map_err(|error| LabError::Write { path, error })?;
        index.extend(tensors.into_iter().map(|tensor| (tensor.name, json!(name))));
        progress(n_bytes);
    }
    write_json(dir, "model.safetensors.index.json", &json!({"metadata": {}, "weight_map": index}))?;
    write_json(dir, "config.json", &config(options))
}

/// One tensor and how its bytes are drawn.
struct Tensor {
    name: String,
    shape: Vec<usize>,
    fill: Fill,
}

enum Fill {
    /// U32 words of uniform bits.
    Codes,
    /// BF16, one value throughout.
    Constant(f32),
    /// BF16, uniform in a range.
    Uniform(f32, f32),
    /// F32, uniform in a range.
    UniformF32(f32, f32),
}

impl Tensor {
    fn new(name: String, shape: &[usize], fill: Fill) -> Tensor {
        Tensor { name, shape: shape.to_vec(), fill }
    }

    fn dtype(&self) -> &'static str {
        match self.fill {
            Fill::Codes => "U32",
            Fill::Constant(_) | Fill::Uniform(..) => "BF16",
            Fill::UniformF32(..) => "F32",
        }
    }

    fn n_values(&self) -> usize {
        self.shape.iter().product()
    }

    fn n_bytes(&self) -> usize {
        self.n_values() * if self.dtype() == "BF16" { 2 } else { 4 }
    }
}

/// The three tensors of an affine matrix `[lead.., cols]`.
fn affine(name: &str, lead: &[usize], cols: usize, bits: usize, group: usize) -> [Tensor; 3] {
    let with = |last: usize| [lead, &[last]].concat();
    // Uniform codes 0 .. 2^bits - 1 have a standard deviation of 2^bits / sqrt(12).
    let levels = (1usize << bits) as f32;
    let scale = 12f32.sqrt() / (levels * (cols as f32).sqrt());
    let bias = -scale * (levels - 1.0) / 2.0;
    [
        Tensor::new(format!("{name}.weight"), &with(cols * bits / 32), Fill::Codes),
        Tensor::new(format!("{name}.scales"), &with(cols / group), Fill::Constant(scale)),
        Tensor::new(format!("{name}.biases"), &with(cols / group), Fill::Constant(bias)),
    ]
}

fn ends(options: &SyntheticOptions) -> Vec<Tensor> {
    let Shape { hidden_size, vocab_size, .. } = options.shape;
    let matrix = |name: &str| affine(name, &[vocab_size], hidden_size, options.bits, options.group);
    let mut tensors = Vec::from(matrix("language_model.model.embed_tokens"));
    tensors.extend(matrix("language_model.lm_head"));
    tensors.push(Tensor::new("language_model.model.norm.weight".into(), &[hidden_size], Fill::Constant(1.0)));
    tensors
}

fn is_attention(layer: usize) -> bool {
    (layer + 1).is_multiple_of(4)
}

fn layer_tensors(options: &SyntheticOptions, layer: usize) -> Vec<Tensor> {
    let s = &options.shape;
    let h = s.hidden_size;
    let path = format!("language_model.model.layers.{layer}");
    let mut all = Vec::new();
    let mut matrix = |name: &str, lead: &[usize], cols: usize, bits: usize| {
        all.extend(affine(&format!("{path}.{name}"), lead, cols, bits, options.group));
    };
    let (keys, values) = (s.n_key_heads * s.delta_dim, s.n_value_heads * s.delta_dim);
    if is_attention(layer) {
        matrix("self_attn.q_proj", &[s.n_heads * 2 * s.head_dim], h, options.bits);
        matrix("self_attn.k_proj", &[s.n_kv_heads * s.head_dim], h, options.bits);
        matrix("self_attn.v_proj", &[s.n_kv_heads * s.head_dim], h, options.bits);
        matrix("self_attn.o_proj", &[h], s.n_heads * s.head_dim, options.bits);
    } else {
        matrix("linear_attn.in_proj_qkv", &[2 * keys + values], h, options.bits);
        matrix("linear_attn.in_proj_z", &[values], h, options.bits);
        matrix("linear_attn.in_proj_b", &[s.n_value_heads], h, options.bits);
        matrix("linear_attn.in_proj_a", &[s.n_value_heads], h, options.bits);
        matrix("linear_attn.out_proj", &[h], values, options.bits);
    }
    matrix("mlp.gate", &[s.n_experts], h, 8);
    matrix("mlp.shared_expert_gate", &[1], h, 8);
    let width = s.intermediate_size;
    for (part, lead) in [("shared_expert", None), ("switch_mlp", Some(s.n_experts))] {
        let lead: Vec<usize> = lead.into_iter().collect();
        for name in ["gate_proj", "up_proj"] {
            matrix(&format!("mlp.{part}.{name}"), &[&lead[..], &[width]].concat(), h, options.bits);
        }
        matrix(&format!("mlp.{part}.down_proj"), &[&lead[..], &[h]].concat(), width, options.bits);
    }
    let mut vector = |name: &str, shape: &[usize], fill: Fill| {
        all.push(Tensor::new(format!("{path}.{name}"), shape, fill));
    };
    vector("input_layernorm.weight", &[h], Fill::Constant(1.0));
    vector("post_attention_layernorm.weight", &[h], Fill::Constant(1.0));
    if is_attention(layer) {
        vector("self_attn.q_norm.weight", &[s.head_dim], Fill::Constant(1.0));
        vector("self_attn.k_norm.weight", &[s.head_dim], Fill::Constant(1.0));
    } else {
        vector("linear_attn.conv1d.weight", &[2 * keys + values, 4, 1], Fill::Uniform(-0.8, 0.8));
        vector("linear_attn.A_log", &[s.n_value_heads], Fill::UniformF32(0.0, 2.7));
        vector("linear_attn.dt_bias", &[s.n_value_heads], Fill::Uniform(-6.0, -1.0));
        vector("linear_attn.norm.weight", &[s.delta_dim], Fill::Constant(1.0));
    }
    all
}

fn config(options: &SyntheticOptions) -> serde_json::Value {
    let s = &options.shape;
    let mut quantization = json!({"group_size": options.group, "bits": options.bits, "mode": "affine"});
    for layer in 0..s.n_layers {
        for name in ["gate", "shared_expert_gate"] {
            quantization[format!("language_model.model.layers.{layer}.mlp.{name}")] =
                json!({"group_size": options.group, "bits": 8});
        }
    }
    json!({
        "architectures": ["Qwen3_5MoeForCausalLM"],
        "model_type": "qwen3_5_moe_text",
        "hidden_size": s.hidden_size,
        "num_hidden_layers": s.n_layers,
        "vocab_size": s.vocab_size,
        "num_attention_heads": s.n_heads,
        "num_key_value_heads": s.n_kv_heads,
        "head_dim": s.head_dim,
        "linear_num_key_heads": s.n_key_heads,
        "linear_num_value_heads": s.n_value_heads,
        "linear_key_head_dim": s.delta_dim,
        "linear_value_head_dim": s.delta_dim,
        "linear_conv_kernel_dim": 4,
        "num_experts": s.n_experts,
        "num_experts_per_tok": s.top_k,
        "moe_intermediate_size": s.intermediate_size,
        "shared_expert_intermediate_size": s.intermediate_size,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "attention_bias": false,
        "max_position_embeddings": 262_144,
        "tie_word_embeddings": false,
        "eos_token_id": 2,
        "layer_types": (0..s.n_layers)
            .map(|layer| if is_attention(layer) { "full_attention" } else { "linear_attention" })
            .collect::<Vec<_>>(),
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e7, "partial_rotary_factor": 0.25},
        "quantization": quantization,
    })
}

/// Writes one safetensors file and returns its length.
fn write_file(path: &Path, tensors: &[Tensor], seed: u64) -> std::io::Result<u64> {
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for tensor in tensors {
        let end = at + tensor.n_bytes();
        header.insert(
            tensor.name.clone(),
            json!({"dtype": tensor.dtype(), "shape": tensor.shape, "data_offsets": [at, end]}),
        );
        at = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    let mut random = SplitMix64(seed);
    for tensor in tensors {
        write_tensor(&mut out, tensor, &mut random)?;
    }
    out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_data()?;
    Ok((8 + header.len() + at) as u64)
}

fn write_tensor(out: &mut impl Write, tensor: &Tensor, random: &mut SplitMix64) -> std::io::Result<()> {
    let mut block = vec![0u8; 1 << 16];
    let mut left = tensor.n_bytes();
    while left > 0 {
        let n = left.min(block.len());
        match tensor.fill {
            Fill::Codes => {
                block
                    .chunks_exact_mut(8)
                    .for_each(|bytes| bytes.copy_from_slice(&random.next().to_le_bytes()));
            }
            Fill::Constant(value) => {
                let value = bf16::from_f32(value).to_le_bytes();
                block.chunks_exact_mut(2).for_each(|bytes| bytes.copy_from_slice(&value));
            }
            Fill::Uniform(low, high) => block.chunks_exact_mut(2).for_each(|bytes| {
                bytes.copy_from_slice(&bf16::from_f32(random.uniform(low, high)).to_le_bytes());
            }),
            Fill::UniformF32(low, high) => block
                .chunks_exact_mut(4)
                .for_each(|bytes| bytes.copy_from_slice(&random.uniform(low, high).to_le_bytes())),
        }
        out.write_all(&block[..n])?;
        left -= n;
    }
    Ok(())
}

fn write_json(dir: &Path, name: &str, value: &serde_json::Value) -> Result<(), LabError> {
    let path = dir.join(name);
    let text = serde_json::to_vec_pretty(value).expect("a JSON value has a text");
    std::fs::write(&path, text).map_err(|error| LabError::Write { path, error })
}
