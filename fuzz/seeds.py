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

CALLS = [
    '{"name": "f", "arguments": {"n": 1, "s": "</tool_call>"}}',
    "<function=f>\n<parameter=n>\n1\n</parameter>\n<parameter=s>\n</parameter>\n</parameter>\n</function>",
]
for index, call in enumerate(CALLS):
    text = f"Hm.\n</think>\n\nLet me see.\n<tool_call>\n{call}\n</tool_call>\n</s>"
    write("tool_calls", str(index), bytes([index, 3]) + text.encode())
