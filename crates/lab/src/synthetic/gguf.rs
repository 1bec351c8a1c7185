//! The same models as one GGUF file, as llama.cpp's converter names and orders them: Q4_K, with F32 where converters keep it.
//!
//! Format: docs/gguf.md of github.com/ggml-org/ggml, version 3.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use half::f16;

use super::{LabError, Shape, SyntheticOptions, is_attention};
use crate::gguf::{ALIGNMENT, Pairs, TYPE_F32, put_string};
use crate::random::SplitMix64;

/// `ggml_type` of ggml.h.
const TYPE_Q4_K: u32 = 12;

/// Values and bytes of a block of Q4_K.
const BLOCK_VALUES: usize = 256;
const BLOCK_BYTES: usize = 144;

/// Random blocks that tensors are cut from, so that a file of 20 GB is written as fast as the disk takes it.
const POOL_BYTES: usize = (32 << 20) / BLOCK_BYTES * BLOCK_BYTES;

/// Writes the model to `path` as Q4_K; `options.bits` and `options.group` are not used. `progress` is told the bytes written.
pub fn write_synthetic_gguf(
    path: &Path,
    options: &SyntheticOptions,
    progress: &mut dyn FnMut(u64),
) -> Result<(), LabError> {
    write(path, options, progress).map_err(|error| LabError::Write { path: path.to_owned(), error })
}

/// Bytes of the tensors.
pub(super) fn n_bytes(shape: &Shape) -> u64 {
    tensors(shape).iter().map(|tensor| tensor.n_bytes().next_multiple_of(ALIGNMENT)).sum()
}

struct Tensor {
    name: String,
    /// Fastest first.
    dims: Vec<usize>,
    fill: Fill,
}

enum Fill {
    /// Q4_K.
    Blocks,
    /// F32, one value throughout.
    Constant(f32),
    /// F32, uniform in a range.
    Uniform(f32, f32),
}

impl Tensor {
    fn n_values(&self) -> usize {
        self.dims.iter().product()
    }

    fn n_bytes(&self) -> u64 {
        let bytes = match self.fill {
            Fill::Blocks => self.n_values() / BLOCK_VALUES * BLOCK_BYTES,
            Fill::Constant(_) | Fill::Uniform(..) => 4 * self.n_values(),
        };
        bytes as u64
    }
}

fn write(path: &Path, options: &SyntheticOptions, progress: &mut dyn FnMut(u64)) -> std::io::Result<()> {
    let tensors = tensors(&options.shape);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut header = header(&options.shape, tensors.len());
    let mut offset = 0;
    for tensor in &tensors {
        put_string(&mut header, &tensor.name);
        header.extend((tensor.dims.len() as u32).to_le_bytes());
        tensor.dims.iter().for_each(|&dim| header.extend((dim as u64).to_le_bytes()));
        let ty = if matches!(tensor.fill, Fill::Blocks) { TYPE_Q4_K } else { TYPE_F32 };
        header.extend(ty.to_le_bytes());
        header.extend(u64::to_le_bytes(offset));
        offset += tensor.n_bytes().next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
    out.write_all(&header)?;
    let mut random = SplitMix64(options.seed);
    let pool = pool(&mut random);
    let mut done = 0;
    for tensor in &tensors {
        write_tensor(&mut out, tensor, &pool, &mut random)?;
        let padding = tensor.n_bytes().next_multiple_of(ALIGNMENT) - tensor.n_bytes();
        out.write_all(&[0; ALIGNMENT as usize][..padding as usize])?;
        done += tensor.n_bytes();
        progress(done);
    }
    out.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_data()
}

fn write_tensor(
    out: &mut impl Write,
    tensor: &Tensor,
    pool: &[u8],
    random: &mut SplitMix64,
) -> std::io::Result<()> {
    match tensor.fill {
        Fill::Blocks => {
            let mut left = tensor.n_bytes() as usize;
            let mut at = random.below((pool.len() / BLOCK_BYTES) as u64) as usize * BLOCK_BYTES;
            while left > 0 {
                let n = left.min(pool.len() - at);
                out.write_all(&pool[at..at + n])?;
                left -= n;
                at = 0;
            }
        }
        Fill::Constant(value) => {
            for _ in 0..tensor.n_values() {
                out.write_all(&value.to_le_bytes())?;
            }
        }
        Fill::Uniform(low, high) => {
            for _ in 0..tensor.n_values() {
                out.write_all(&random.uniform(low, high).to_le_bytes())?;
            }
        }
    }
    Ok(())
}

/// Blocks whose values have a standard deviation of about 1 / 50 and a mean of about 0: all scales and offsets are 32, so that a
/// value is `32 d (code - 7.5)` with uniform codes.
fn pool(random: &mut SplitMix64) -> Vec<u8> {
    let d = 0.02 / (4.61 * 32.0);
    let mut pool = vec![0; POOL_BYTES];
    for block in pool.chunks_exact_mut(BLOCK_BYTES) {
        block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
        block[2..4].copy_from_slice(&f16::from_f32(7.5 * d).to_le_bytes());
        // The low six bits of the first four scales and offsets; the others' low four bits, whose upper two are the top bits here.
        block[4..12].fill(32 | 2 << 6);
        block[12..16].fill(0);
        block[16..].chunks_exact_mut(8).for_each(|codes| codes.copy_from_slice(&random.next().to_le_bytes()));
    }
    pool
}

fn tensors(shape: &Shape) -> Vec<Tensor> {
    let Shape { hidden_size: h, intermediate_size: width, n_experts, .. } = *shape;
    let (keys, values) = (shape.n_key_heads * shape.delta_dim, shape.n_value_heads * shape.delta_dim);
    let mut all = Vec::new();
    let mut push = |name: String, dims: &[usize], fill| all.push(Tensor { name, dims: dims.to_vec(), fill });
    push("token_embd.weight".into(), &[h, shape.vocab_size], Fill::Blocks);
    push("output.weight".into(), &[h, shape.vocab_size], Fill::Blocks);
    push("output_norm.weight".into(), &[h], Fill::Constant(1.0));
    for layer in 0..shape.n_layers {
        let mut push = |name: &str, dims: &[usize], fill| push(format!("blk.{layer}.{name}"), dims, fill);
        push("attn_norm.weight", &[h], Fill::Constant(1.0));
        push("post_attention_norm.weight", &[h], Fill::Constant(1.0));
        if is_attention(layer) {
            let heads = shape.n_heads * shape.head_dim;
            push("attn_q.weight", &[h, 2 * heads], Fill::Blocks);
            push("attn_k.weight", &[h, shape.n_kv_heads * shape.head_dim], Fill::Blocks);
            push("attn_v.weight", &[h, shape.n_kv_heads * shape.head_dim], Fill::Blocks);
            push("attn_output.weight", &[heads, h], Fill::Blocks);
            push("attn_q_norm.weight", &[shape.head_dim], Fill::Constant(1.0));
            push("attn_k_norm.weight", &[shape.head_dim], Fill::Constant(1.0));
        } else {
            push("attn_qkv.weight", &[h, 2 * keys + values], Fill::Blocks);
            push("attn_gate.weight", &[h, values], Fill::Blocks);
            push("ssm_beta.weight", &[h, shape.n_value_heads], Fill::Blocks);
            push("ssm_alpha.weight", &[h, shape.n_value_heads], Fill::Blocks);
            push("ssm_conv1d.weight", &[4, 2 * keys + values], Fill::Uniform(-0.8, 0.8));
            push("ssm_a", &[shape.n_value_heads], Fill::Uniform(-14.0, -1.0));
            push("ssm_dt.bias", &[shape.n_value_heads], Fill::Uniform(-6.0, -1.0));
            push("ssm_norm.weight", &[shape.delta_dim], Fill::Constant(1.0));
            push("ssm_out.weight", &[values, h], Fill::Blocks);
        }
        push("ffn_gate_inp.weight", &[h, n_experts], Fill::Uniform(-0.1, 0.1));
        push("ffn_gate_inp_shexp.weight", &[h], Fill::Uniform(-0.03, 0.03));
        push("ffn_gate_exps.weight", &[h, width, n_experts], Fill::Blocks);
        push("ffn_up_exps.weight", &[h, width, n_experts], Fill::Blocks);
        push("ffn_down_exps.weight", &[width, h, n_experts], Fill::Blocks);
        push("ffn_gate_shexp.weight", &[h, width], Fill::Blocks);
        push("ffn_up_shexp.weight", &[h, width], Fill::Blocks);
        push("ffn_down_shexp.weight", &[width, h], Fill::Blocks);
    }
    all
}

/// Magic, counts and metadata.
fn header(shape: &Shape, n_tensors: usize) -> Vec<u8> {
    let mut pairs = Pairs::default();
    pairs.string("general.architecture", "qwen35moe");
    pairs.string("general.name", "synthetic");
    pairs.u32("general.quantization_version", 2);
    let of = |key: &str| format!("qwen35moe.{key}");
    for (key, value) in [
        ("block_count", shape.n_layers),
        ("context_length", 262_144),
        ("embedding_length", shape.hidden_size),
        ("attention.head_count", shape.n_heads),
        ("attention.head_count_kv", shape.n_kv_heads),
        ("attention.key_length", shape.head_dim),
        ("attention.value_length", shape.head_dim),
        ("rope.dimension_count", shape.head_dim / 4),
        ("expert_count", shape.n_experts),
        ("expert_used_count", shape.top_k),
        ("expert_feed_forward_length", shape.intermediate_size),
        ("expert_shared_feed_forward_length", shape.intermediate_size),
        ("ssm.conv_kernel", 4),
        ("ssm.state_size", shape.delta_dim),
        ("ssm.group_count", shape.n_key_heads),
        ("ssm.time_step_rank", shape.n_value_heads),
        ("ssm.inner_size", shape.n_value_heads * shape.delta_dim),
        ("full_attention_interval", 4),
    ] {
        pairs.u32(&of(key), value as u32);
    }
    pairs.f32(&of("attention.layer_norm_rms_epsilon"), 1e-6);
    pairs.f32(&of("rope.freq_base"), 1e7);
    pairs.i32s(&of("rope.dimension_sections"), &[11, 11, 10, 0]);
    let vocabulary = Vocabulary::new(shape.vocab_size);
    pairs.string("tokenizer.ggml.model", "gpt2");
    pairs.string("tokenizer.ggml.pre", "qwen35");
    pairs.strings("tokenizer.ggml.tokens", &vocabulary.tokens);
    pairs.i32s("tokenizer.ggml.token_type", &vocabulary.types);
    pairs.strings("tokenizer.ggml.merges", &vocabulary.merges);
    pairs.u32("tokenizer.ggml.eos_token_id", shape.vocab_size as u32 - 1);
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    header.extend((n_tensors as u64).to_le_bytes());
    header.extend(pairs.n.to_le_bytes());
    header.extend(pairs.bytes);
    header
}

/// A byte-level vocabulary: the 256 bytes, then all pairs of bytes, then pairs and a byte, each with the merge that makes it, and
/// control tokens at the end, so that loading it takes what a real one takes.
struct Vocabulary {
    tokens: Vec<String>,
    types: Vec<i32>,
    merges: Vec<String>,
}

/// Control tokens at the end: as many as Qwen3.5 has beyond its merges.
const N_CONTROL: usize = 477;

impl Vocabulary {
    fn new(n: usize) -> Vocabulary {
        const NORMAL: i32 = 1;
        const CONTROL: i32 = 3;
        let mut tokens: Vec<String> = (0..=255u8).map(|byte| byte_char(byte).to_string()).collect();
        let mut merges = Vec::new();
        let n_merged = n.saturating_sub(256 + N_CONTROL);
        for i in 0..n_merged {
            // Pairs of bytes first: the left side is the i / 256-th token made so far.
            let (left, right) = (tokens[i / 256].clone(), tokens[i % 256].clone());
            merges.push(format!("{left} {right}"));
            tokens.push(left + &right);
        }
        let mut types = vec![NORMAL; tokens.len()];
        tokens.extend((tokens.len()..n).map(|i| format!("<|control_{i}|>")));
        types.resize(tokens.len(), CONTROL);
        Vocabulary { tokens, types, merges }
    }
}

/// GPT-2's printable stand-in for a byte.
fn byte_char(byte: u8) -> char {
    let printable = |byte: &u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    if printable(&byte) {
        return char::from(byte);
    }
    let place = (0..byte).filter(|byte| !printable(byte)).count();
    char::from_u32(256 + place as u32).expect("a letter of Latin Extended-A")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use flashmill_layout::GgmlType;

    use super::*;

    #[test]
    fn a_vocabulary_has_distinct_tokens_and_the_merges_that_make_them() {
        let vocabulary = Vocabulary::new(248_320);
        assert_eq!((vocabulary.tokens.len(), vocabulary.types.len()), (248_320, 248_320));
        assert_eq!(vocabulary.merges.len(), 247_587);
        assert_eq!(vocabulary.tokens.iter().collect::<HashSet<_>>().len(), 248_320);
        for (merge, token) in vocabulary.merges.iter().zip(&vocabulary.tokens[256..]) {
            assert_eq!(&merge.replacen(' ', "", 1), token);
        }
    }

    #[test]
    fn blocks_are_as_wide_as_intended() {
        let pool = pool(&mut SplitMix64(1));
        let mut values = vec![0.0; 64 * BLOCK_VALUES];
        GgmlType::Q4_K.decode_row(&pool[..64 * BLOCK_BYTES], &mut values);
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        let deviation = (values.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt();
        assert!(mean.abs() < 1e-3 && (deviation - 0.02).abs() < 1e-3, "{mean} {deviation}");
    }
}
