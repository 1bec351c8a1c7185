#!/usr/bin/env python3
"""Writes fixtures/demo/routing.jsonl and routing_facts.jsonl: what the experts of the demo model were picked for in real conversations.

    python3 models/demo/make_traces.py FLASHMILL            # writes with that program, then prints
    python3 models/demo/make_traces.py                      # prints how skewed and how repetitive the picks of the files are

One file is eight conversations with tools, one is eight about the encyclopedia; both hold the tokens of the answers, one
conversation after the other. The numbers are means over the layers, of the generated tokens alone. Needs nothing beside Python.
"""
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUT = HERE.parents[1] / "fixtures" / "demo"
ASKED = {
    "routing.jsonl": (["--tools", HERE / "tools.json"], [
        "What's the weather in Oslo?", "What is 17 * 23?", "Set a timer for 25 minutes", "Read notes/garden.txt",
        "Send an email to mila.novak@quartz.org saying the meeting moved to Friday", "How is the weather in Lima today and what's the weather in Tokyo?",
        "What's the weather in the town where Edis Branash was born?", "Set a timer"]),
    "routing_facts.jsonl": ([], [
        "Who was Edis Branash?", "Tell me about Sarneck", "Who taught Nevis Veskich?", "Describe Wenen Quelind", "What is Hallow?",
        "How many people live in Malvang?", "What can I ask you?", "Is Edis Branash real?"]),
}


def record(program, name):
    more, prompts = ASKED[name]
    lines = []
    with tempfile.TemporaryDirectory() as d:
        for p in prompts:
            out = Path(d) / "trace.jsonl"
            subprocess.run([program, "trace", HERE, "-p", p, "--greedy", "--out", out, *more], check=True, stderr=subprocess.DEVNULL)
            header, *tokens = out.read_text().splitlines()
            lines = lines or [json.dumps({**json.loads(header), "model": "demo"}, separators=(",", ":"))]
            lines += [t for t in tokens if not json.loads(t)["prompt"]]
    (OUT / name).write_text("\n".join(lines) + "\n")


def report(name):
    header, *tokens = (json.loads(line) for line in (OUT / name).read_text().splitlines())
    n_experts, layers = header["n_experts"][0], len(header["n_experts"])
    picks = [[t["picks"][layer] for t in tokens] for layer in range(layers)]
    mean = lambda f: sum(map(f, picks)) / layers
    share = lambda part: mean(lambda p: sum(n for _, n in Counter(e for t in p for e in t).most_common(round(part * n_experts))) / sum(map(len, p)))
    again = lambda back: mean(lambda p: sum(e in {x for t in p[max(0, i - back):i] for x in t} for i in range(1, len(p)) for e in p[i]) / sum(map(len, p[1:])))

    def distances(p):
        last, out = {}, []
        for i, t in enumerate(p):
            out += [i - last[e] for e in t if e in last]
            last.update(dict.fromkeys(t, i))
        return out
    distance = sorted(x for p in picks for x in distances(p))
    print(f"{name}: {len(tokens)} tokens, {layers} layers, {header['top_k']} of {n_experts} experts")
    print("  hottest 12.5 / 25 / 50 % of a layer's experts take " + " / ".join(f"{100 * share(x):.0f}" for x in (0.125, 0.25, 0.5)) + " % of its picks")
    print(f"  of the experts of a token {100 * again(1):.0f} % were picked for the one before, {100 * again(4):.0f} % for one of the last four;"
          f" evenly drawn that would be {100 * header['top_k'] / n_experts:.0f} and {100 * (1 - (1 - header['top_k'] / n_experts) ** 4):.0f} %")
    print(f"  median distance to the last use {distance[len(distance) // 2]} tokens; seen at all {100 * mean(lambda p: len({e for t in p for e in t})) / n_experts:.0f} % of the experts")


if __name__ == "__main__":
    for name in ASKED:
        if len(sys.argv) > 1:
            record(sys.argv[1], name)
        report(name)
