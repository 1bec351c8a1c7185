#!/usr/bin/env python3
"""flashmill beside llama.cpp on one machine and one GGUF file: medians of alternating runs, and their ratio.

usage: compare.py [--model FILE.gguf] [--shape 35b] [--layers N] [--memory 8G] [--ram 21500M] [--prompts 512,2048] [--decode 64] [--rounds 3]

Without --model a synthetic file of the shape (Q4_K) is written, used and removed. --memory runs both in a control group of that size, page
cache included (needs root; cgroup v1). --ram is flashmill's own ceiling, 80 % of what is free if not given. llama.cpp is llama-cpp-python
from PyPI, built natively into a virtual environment beside this script, once. Needs cargo, Python 3.10, a C++ compiler.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PIN = "llama-cpp-python==0.3.36"
GROUP = Path("/sys/fs/cgroup/memory/flashmill-peers")


def size(text):
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(float(text[:-1]) * units[text[-1]]) if text[-1] in units else int(text)


def build_flashmill(target):
    env = dict(os.environ, CARGO_TARGET_DIR=str(target))
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", "--package", "flashmill"], cwd=ROOT, env=env, check=True)
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", "--package", "flashmill-lab", "--example", "synthesize"],
                   cwd=ROOT, env=env, check=True)
    return target / "release"


def llama_python(venv):
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    version = subprocess.run([str(python), "-c", "import llama_cpp; print(llama_cpp.__version__)"], capture_output=True, text=True)
    if version.stdout.strip() != PIN.split("==")[1]:
        env = dict(os.environ, CMAKE_ARGS="-DGGML_NATIVE=ON")
        print(f"building {PIN}, which takes some minutes", file=sys.stderr)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", PIN], env=env, check=True)
    return str(python)


def run(command, memory):
    """The last line of the command's output as JSON; it runs in the control group if there is a limit of memory."""
    if memory:
        command = ["sh", "-c", f'echo $$ >{GROUP}/cgroup.procs; exec "$@"', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"error": f"exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"}
    return json.loads(done.stdout[done.stdout.index("{"):])


def make_group(memory):
    if memory:
        GROUP.mkdir(exist_ok=True)
        (GROUP / "memory.limit_in_bytes").write_text(str(memory))


def measure(options, model, release, python, prompt):
    """Alternating runs of one length of prompt."""
    flashmill = [str(release / "flashmill"), "bench", str(model), "--json", "--contexts", "0", "--prompt-tokens", str(prompt),
                 "--decode-tokens", str(options.decode), "--threads", str(options.threads)]
    flashmill += ["--ram", options.ram] if options.ram else []
    llama = [python, str(HERE / "time_llama.py"), str(model), str(prompt), str(options.decode if not options.memory else min(options.decode, 8)),
             str(options.threads)] + (["--mapped"] if options.memory else [])
    runs = {"flashmill": [], "llama.cpp": []}
    for round in range(options.rounds):
        for name, command in [("flashmill", flashmill), ("llama.cpp", llama)]:
            result = run(command, options.memory)
            runs[name].append(result)
            shown = {key: result[key] for key in ("error", "prefill_tok_per_s", "decode_tok_per_s") if key in result}
            print(f"prompt {prompt}, round {round + 1}, {name}: {shown}", file=sys.stderr)
    return runs


def median(runs, key):
    values = [run[key] for run in runs if key in run]
    return statistics.median(values) if values else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--shape", default="35b")
    parser.add_argument("--layers", default="")
    parser.add_argument("--memory", type=size, default=0)
    parser.add_argument("--ram", help="the budget that flashmill is given")
    parser.add_argument("--prompts", type=lambda text: [int(n) for n in text.split(",")], default=[512, 2048])
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="where the synthetic file is written")
    parser.add_argument("--release", type=Path, help="a directory with flashmill and examples/synthesize, instead of building them")
    parser.add_argument("--venv", type=Path, default=HERE / "venv", help="a virtual environment with llama-cpp-python, or for it")
    options = parser.parse_args()

    release = options.release or build_flashmill(Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")))
    python = llama_python(options.venv)
    make_group(options.memory)
    written = None if options.model else options.dir / "flashmill-peers.gguf"
    model = options.model or written
    try:
        if written:
            subprocess.run([str(release / "examples" / "synthesize"), str(written), "-", options.shape, *filter(None, [options.layers])],
                           stdout=subprocess.DEVNULL, check=True)
        print(f"{PIN}, {model.stat().st_size / 1e9:.1f} GB, {options.threads} threads, memory {options.memory or 'all'}, median of {options.rounds}")
        print(f"{'':<16}{'flashmill':>12}{'llama.cpp':>12}{'ratio':>8}   tok/s")
        for prompt in options.prompts:
            runs = measure(options, model, release, python, prompt)
            for what, key in [(f"prompt {prompt}", "prefill_tok_per_s"), ("decode", "decode_tok_per_s")]:
                ours, theirs = median(runs["flashmill"], key), median(runs["llama.cpp"], key)
                shown = [f"{value:.2f}" if value else "failed" for value in (ours, theirs)]
                ratio = f"{ours / theirs:.2f}" if ours and theirs else "-"
                print(f"{what:<16}{shown[0]:>12}{shown[1]:>12}{ratio:>8}", flush=True)
            for run in runs["flashmill"]:
                if "peaks" in run:
                    row = run["rows"][0]
                    gb = row["active_bytes_per_token"] * row["decode_tok_per_s"] / 1e9
                    print(f"  flashmill: {gb:.1f} of {run['peaks']['memory_gb_per_s']:.1f} GB/s of memory, "
                          f"disk {run['peaks']['disk_gb_per_s'] or 0:.2f} GB/s, hits {100 * run['hit_rate']:.0f} %, "
                          f"peak {run['peak_rss_bytes'] / 1e9:.2f} GB", flush=True)
    finally:
        if written:
            written.unlink(missing_ok=True)
        if options.memory:
            GROUP.rmdir()


if __name__ == "__main__":
    main()
