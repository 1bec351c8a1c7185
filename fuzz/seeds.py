"""Writes the fuzz targets' first inputs into fuzz/corpus, from the fixtures: python3 fuzz/seeds.py"""

import json
import struct
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "fuzz" / "corpus"
QUANTISED = [f"qwen3_5_moe_{form}" for form in ["mlx4", "mlx2", "fp8", "gptq4", "awq4"]]
FIXTURES = ["qwen3_5_moe", *QUANTISED, "qwen3_next", "qwen3_moe"]


def write(target, name, data):
    path = CORPUS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def compact(value):
    return json.dumps(value, separators=(",", ":")).encode()


for fixture in FIXTURES:
    folder = ROOT / "fixtures" / fixture
    config = (folder / "config.json").read_bytes()
    write("config", fixture, config)
    if fixture in QUANTISED:
        write("quantization", fixture, compact(json.loads(config)["quantization_config"]))
    merged, end = {}, 0
    for path in sorted(folder.glob("model*.safetensors")):
        file = path.read_bytes()
        (header_len,) = struct.unpack("<Q", file[:8])
        write("safetensors_header", f"{fixture}-{path.stem}", struct.pack("<Q", len(file)) + file[: 8 + header_len])
        header = json.loads(file[8 : 8 + header_len])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = end, end + entry["data_offsets"][1] - entry["data_offsets"][0]
            merged[name] = entry | {"data_offsets": [begin, end]}
    write("describe", fixture, compact(json.loads(config)) + b"\0" + compact(merged))

small = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
write("safetensors_header", "small", bytes(8) + struct.pack("<Q", len(small)) + small + bytes(8))
write("index", "small", compact({"metadata": {"total_size": 8}, "weight_map": {"a": "model.safetensors"}}))

for fixture in ["qwen3_5_moe_gguf", "qwen3_5_moe_kquant"]:
    # The headers are shorter than this; what follows is not read.
    file = (ROOT / "fixtures" / fixture / "model.gguf").read_bytes()
    write("gguf_header", fixture, file[: 32 << 10])
    write("gguf_text", fixture, file[: 32 << 10])

tokenizer = (ROOT / "fixtures" / "qwen3_5_moe" / "tokenizer.json").read_bytes()
write("tokenizer_json", "qwen3_5_moe", compact(json.loads(tokenizer)))

# A packed model by the words of docs/FORMAT.md: one layer of qwen3_moe, two experts, three encodings.
def packed():
    parts = {
        "BF16": lambda r, c: [("weight", "BF16", [r, c], 2)],
        "affine:4:32:F16": lambda r, c: [("weight", "U32", [r, c // 8], 4), ("scales", "F16", [r, c // 32], 2), ("biases", "F16", [r, c // 32], 2)],
        "ggml:Q8_0": lambda r, c: [("weight", "U8", [r, c // 32 * 34], 1)],
    }
    items = [("embed", "ggml:Q8_0", (50, 32)), ("layers.0.input_norm", None, 32)]
    items += [(f"layers.0.attention.{n}", "affine:4:32:F16", (32, 32)) for n in "qkvo"]
    items += [("layers.0.attention.q_norm", None, 16), ("layers.0.attention.k_norm", None, 16)]
    items += [("layers.0.post_norm", None, 32), ("layers.0.router", "BF16", (2, 32)), ("final_norm", None, 32), ("head", "BF16", (50, 32))]
    trunk, header, at = [], {}, 0
    for name, encoding, shape in items:
        tensors = [("", "F32", [shape], 4)] if encoding is None else parts[encoding](*shape)
        trunk.append({"name": name, "encoding": encoding or "F32", "checksums": ["0123456789abcdef"] * len(tensors)})
        for suffix, dtype, dims, size in tensors:
            end = at + size * dims[0] * (dims[1] if len(dims) > 1 else 1)
            header[f"{name}.{suffix}" if suffix else name] = {"dtype": dtype, "shape": dims, "data_offsets": [at, end]}
            at = end
    # Gate and up: 64 rows of 32 values as Q8_0, down: 32 rows of 64 in BF16.
    stride = -(-(2 * 64 * 34 + 32 * 64 * 2) // 4096) * 4096
    experts = compact({"layers.0.experts": {"dtype": "U8", "shape": [2, stride], "data_offsets": [0, 2 * stride]}})
    model = {
        "model_type": "qwen3_moe", "hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 50, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False, "eos_token_id": [3],
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "mlp_only_layers": [], "decoder_sparse_step": 1,
        "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 0, "norm_topk_prob": True,
    }
    recipe = {"written_by": "", "source": "", "source_convention": "", "experts": "", "trunk": ""}
    manifest = {
        "format": "flashmill", "version": 1, "recipe": recipe, "model": model, "value_heads": "grouped", "trunk": trunk,
        "experts": [{"layer": 0, "encodings": ["ggml:Q8_0", "ggml:Q8_0", "BF16"], "checksums": ["00000000000000ff"] * 2}],
    }
    return b"\0".join([compact(manifest), compact(header), experts + b" " * ((-8 - len(experts)) % 4096)])


write("packed_manifest", "small", packed())

CALLS = [
    '{"name": "f", "arguments": {"n": 1, "s": "</tool_call>"}}',
    "<function=f>\n<parameter=n>\n1\n</parameter>\n<parameter=s>\n</parameter>\n</parameter>\n</function>",
]
for index, call in enumerate(CALLS):
    text = f"Hm.\n</think>\n\nLet me see.\n<tool_call>\n{call}\n</tool_call>\n</s>"
    write("tool_calls", str(index), bytes([index, 3]) + text.encode())

USER = {"role": "user", "content": "What is the weather in Oslo?"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SETTINGS = {"model": "m", "stream": True, "temperature": 0.5, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "seed": 1, "stop": ["a"], "n": 2, "logit_bias": {"5": 1}}
CHAT_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": compact({"city": "Oslo"}).decode()}}
REQUESTS = {
    "chat_request": SETTINGS | {
        "messages": [{"role": "system", "content": "s"}, USER, {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL]},
                     {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "cold"}]}],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}], "tool_choice": "auto", "logprobs": True,
        "top_logprobs": 2, "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}, "stream_options": {"include_usage": True},
        "chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low", "max_completion_tokens": 5,
    },
    "completion_request": SETTINGS | {"prompt": ["a", [1, 2]], "max_tokens": 5, "logprobs": 2, "echo": False, "guided_choice": ["a", "b"]},
    "response_request": SETTINGS | {
        "instructions": "i", "input": [USER, {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "t"}]},
                                       {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}, {"type": "function_call_output", "call_id": "c", "output": "o"}],
        "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}], "tool_choice": {"type": "function", "name": "f"}, "store": False,
        "text": {"format": {"type": "text"}}, "reasoning": {"effort": "low"}, "include": ["message.output_text.logprobs"], "max_output_tokens": 5,
    },
    "message_request": SETTINGS | {
        "max_tokens": 5, "system": [{"type": "text", "text": "s"}],
        "messages": [USER, {"role": "assistant", "content": [{"type": "thinking", "thinking": "t", "signature": "x"}, {"type": "tool_use", "id": "c", "name": "f", "input": {"city": "Oslo"}}]},
                     {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "cold"}]}, {"type": "text", "text": "x"}]}],
        "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}], "tool_choice": {"type": "any"}, "thinking": {"type": "enabled", "budget_tokens": 1024},
        "stop_sequences": ["a"],
    },
}
for target, request in REQUESTS.items():
    write(target, "full", compact(request))
