#!/usr/bin/env python3
"""Writes the demo model in MLX's 8-bit affine form from the BF16 checkpoint that training/train.py leaves.

    python3 models/demo/convert.py CHECKPOINT               # writes beside this file
    python3 models/demo/convert.py CHECKPOINT --out DIR     # writes elsewhere
    python3 models/demo/convert.py CHECKPOINT --check       # compares with what is here, writes nothing

The result is what `mlx_lm.convert -q --q-bits 8` makes of the same weights, tensor for tensor: groups of 64 along
the input with a BF16 scale and bias each, w = q * scale + bias; norms stored as 1 + w; the convolution as [C, 4, 1].
The same input gives the same bytes. Needs numpy.
"""
import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "fixtures"))
from numpy_reference import read_safetensors  # noqa: E402

BITS, GROUP = 8, 64
COPIED = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
WRITTEN = ("config.json", "model.safetensors", *COPIED)


def to_bf16(a):
    """float32 -> the upper half of each word, rounded to nearest even."""
    u = np.ascontiguousarray(a, np.float32).view(np.uint32).astype(np.uint64)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def quantize(w):
    """MLX's affine rule for w [..., in]: the end of the range that is further from zero is met exactly, and zero is a code.

    Returns codes packed four to a little-endian word [..., in/4], and scales and biases [..., in/64] in BF16."""
    g = w.reshape(-1, GROUP).astype(np.float32)
    top, low = g.max(1), g.min(1)
    n = np.float32((1 << BITS) - 1)
    from_low = np.abs(low) > np.abs(top)
    scale = np.maximum((top - low) / n, np.float32(1e-7))
    scale = np.where(from_low, scale, -scale)
    edge = np.where(from_low, low, top)
    steps = np.rint(edge / scale)
    some = steps != 0
    scale = np.where(some, edge / np.where(some, steps, 1), scale).astype(np.float32)
    bias = np.where(some, edge, 0).astype(np.float32)
    q = np.clip(np.rint((g - bias[:, None]) / scale[:, None]), 0, n).astype(np.uint8)
    groups = (*w.shape[:-1], w.shape[-1] // GROUP)
    packed = np.ascontiguousarray(q.reshape(w.shape)).view("<u4")
    return packed, to_bf16(scale).reshape(groups), to_bf16(bias).reshape(groups)


def convert(state):
    """Hugging Face names and float32 values -> ({name: (dtype, array)}, paths of the gates)."""
    out, gates = {}, []

    def quantized(path, w):
        out[path + ".weight"], out[path + ".scales"], out[path + ".biases"] = zip(("U32", "BF16", "BF16"), quantize(w))
        if path.endswith(("mlp.gate", "mlp.shared_expert_gate")):
            gates.append(path)

    for name, w in state.items():
        m = "language_model." + name
        if name == "lm_head.weight":
            continue  # the embedding table is the head
        if name.endswith("mlp.experts.gate_up_proj"):
            base, half = m.removesuffix("experts.gate_up_proj") + "switch_mlp.", w.shape[1] // 2
            quantized(base + "gate_proj", np.ascontiguousarray(w[:, :half]))
            quantized(base + "up_proj", np.ascontiguousarray(w[:, half:]))
        elif name.endswith("mlp.experts.down_proj"):
            quantized(m.removesuffix("experts.down_proj") + "switch_mlp.down_proj", w)
        elif name.endswith("conv1d.weight"):
            out[m] = ("BF16", to_bf16(w.transpose(0, 2, 1)))
        elif name.endswith("A_log"):
            out[m] = ("F32", w)
        elif w.ndim == 1:
            one_plus = name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight")
            out[m] = ("BF16", to_bf16(w + np.float32(1) if one_plus else w))
        else:
            quantized(m.removesuffix(".weight"), w)
    return out, sorted(gates)


def config_of(config, gates):
    """The published nested shape, which mlx-lm opens too; the checkpoint's own config is the flat one."""
    text = {k: v for k, v in config.items() if k != "architectures"}
    quantization = {"group_size": GROUP, "bits": BITS, "mode": "affine",
                    **{p: {"group_size": GROUP, "bits": BITS} for p in gates}}
    return {"architectures": ["Qwen3_5MoeForConditionalGeneration"], "model_type": "qwen3_5_moe",
            "eos_token_id": config["eos_token_id"], "tie_word_embeddings": True, "text_config": text,
            "quantization": quantization, "quantization_config": quantization}


def write_safetensors(path, tensors):
    """Wider types first, then by name, so that every tensor is aligned to its type and the order is one."""
    names = sorted(tensors, key=lambda n: (tensors[n][0] == "BF16", n))
    header, at = {"__metadata__": {"format": "mlx"}}, 0
    for n in names:
        dtype, a = tensors[n]
        header[n] = {"dtype": dtype, "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for n in names:
            f.write(np.ascontiguousarray(tensors[n][1]).tobytes())


def write(checkpoint, out):
    config = json.loads((checkpoint / "config.json").read_text())
    if config.get("model_type") != "qwen3_5_moe_text" or not config.get("tie_word_embeddings"):
        sys.exit(f"{checkpoint}/config.json: not the demo model (a qwen3_5_moe_text config with tied embeddings)")
    tensors, gates = convert(read_safetensors(checkpoint))
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config_of(config, gates), indent=2) + "\n")
    write_safetensors(out / "model.safetensors", tensors)
    for name in COPIED:
        shutil.copyfile(checkpoint / name, out / name)


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("checkpoint", type=Path)
    a.add_argument("--out", type=Path, default=HERE)
    a.add_argument("--check", action="store_true", help="compare with the files in --out and exit with 1 if any differs")
    a = a.parse_args()
    if not a.check:
        return write(a.checkpoint, a.out)
    import tempfile
    with tempfile.TemporaryDirectory() as d:
        write(a.checkpoint, Path(d))
        differs = [n for n in WRITTEN if (Path(d) / n).read_bytes() != (a.out / n).read_bytes()]
    sys.exit(f"differs from {a.out}: {', '.join(differs)}" if differs else None)


if __name__ == "__main__":
    main()
