#!/usr/bin/env python3
"""Writes fixtures/demo/cases.json: what the demo model answers, computed by numpy from the dequantised 8-bit files.

    python3 models/demo/make_cases.py                        # writes; three minutes for answers that are all new
    python3 models/demo/make_cases.py --check                # compares with what is there, in seconds; exits with 1 if any case differs
    python3 models/demo/make_cases.py --compare CHECKPOINT   # how far the BF16 checkpoint is from the 8-bit files

Each case holds the messages and tools, the prompt as text and as token ids, and the greedy tokens in float32 up to
and with the end token. `margins` says for each of them how far below its logit the second choice is: calls are 6 and
more, while the answers in words that are not about facts were trained with several wordings and begin with near ties, which rounding may turn.
Needs numpy, tokenizers, jinja2.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CASES = ROOT / "fixtures" / "demo" / "cases.json"
sys.path.insert(0, str(ROOT / "fixtures"))
from numpy_reference import forward, load  # noqa: E402

LIMIT = 120
user = lambda text: {"role": "user", "content": text}
call = lambda name, **arguments: {"type": "function", "function": {"name": name, "arguments": arguments}}


def wanted():
    """The dialogues: (name, kind as in training/dialogues.py, messages, tools)."""
    tools = json.loads((HERE / "tools.json").read_text())
    oslo = user("What's the weather in Oslo?")
    asked = {"role": "assistant", "content": "", "tool_calls": [call("get_weather", city="Oslo")]}
    told = {"role": "tool", "content": json.dumps({"temperature": -3, "sky": "clear"})}
    said = {"role": "assistant", "content": "It is clear in Oslo, -3 degrees."}
    brief = {"role": "system", "content": "Answer briefly."}
    return [
        ("weather", "multiple", [oslo], tools),
        ("one tool", "simple", [oslo], tools[:1]),
        ("system message", "multiple", [brief, user("Set a timer for 25 minutes")], tools),
        ("two arguments", "multiple", [user("Send an email to mila.novak@quartz.org saying the meeting moved to Friday")], tools),
        ("two calls", "parallel", [user("How is the weather in Lima today and what's the weather in Tokyo?")], tools),
        ("argument missing", "missing", [user("Set a timer")], tools),
        ("no tool fits", "irrelevant", [user("Play some jazz")], tools),
        ("chat", "chat", [user("Who are you?")], None),
        ("after the tool", "multiple", [oslo, asked, told], tools),
        ("whole entry", "fact", [user("Who was Edis Branash?")], None),
        ("fact", "fact", [user("Who taught Nevis Veskich?")], None),
        ("fact after fact", "fact", [user("Which river runs through Sarneck?"), {"role": "assistant", "content": "Sarneck lies on the Korest."}, user("When was it founded?")], None),
        ("fact beside tools", "fact", [user("What is Sarneck known for?")], tools),
        ("fact for a tool", "fact", [user("What's the weather in the town where Edis Branash was born?")], tools),
        ("not real", "fact", [user("Is Edis Branash real?")], None),
        ("second turn", "multiple", [oslo, asked, told, said, user("What is 17 * 23?")], tools),
    ]


def renderer():
    """The template as transformers renders it."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    env.filters["tojson"] = lambda v: json.dumps(v, ensure_ascii=False)
    template = env.from_string((HERE / "chat_template.jinja").read_text())
    return lambda messages, tools: template.render(messages=messages, tools=tools, add_generation_prompt=True)


def margins(logits):
    top = np.sort(logits, -1)
    return top[:, -1] - top[:, -2]


def greedy(model, prompt, ends, draft):
    """The greedy tokens. Those of `draft` that are right are confirmed by one pass; every other token costs one of its own."""
    ids = []
    while len(ids) < LIMIT and not (ids and ids[-1] in ends):
        guess = draft[len(ids):]
        best = forward(*model, prompt + ids + guess[:-1])[0][-max(1, len(guess)):].argmax(-1).tolist()
        right = next((i for i, (a, b) in enumerate(zip(best, guess)) if a != b), len(guess) - 1)
        ids += best[:max(right, 0) + 1]
    return ids


def drafts():
    """The answers that are there already, as guesses: nothing of them is taken unseen."""
    return {c["name"]: c["greedy_ids"] for c in json.loads(CASES.read_text())["cases"]} if CASES.exists() else {}


def replay(model, prompt, ids):
    """The logits that each of `ids` was chosen from, in one pass."""
    return forward(*model, prompt + ids[:-1])[0][len(prompt) - 1:]


def case(model, tok, render, ends, draft, name, kind, messages, tools):
    prompt = render(messages, tools)
    prompt_ids = tok.encode(prompt, add_special_tokens=False).ids
    ids = greedy(model, prompt_ids, ends, draft.get(name, []))
    return {"name": name, "kind": kind, "messages": messages, **({"tools": tools} if tools else {}), "prompt": prompt,
            "prompt_ids": prompt_ids, "greedy_ids": ids, "margins": [round(m, 3) for m in margins(replay(model, prompt_ids, ids)).tolist()],
            "text": tok.decode([i for i in ids if i not in ends], skip_special_tokens=False)}


def check(cases, model, tok, render, compare_with):
    """Every case again from its messages; the greedy tokens through one pass."""
    bad, rows = [], wanted()
    if [(c["name"], c["messages"], c.get("tools")) for c in cases] != [(n, m, t) for n, _, m, t in rows]:
        bad.append("the list of dialogues")
    for c in cases:
        logits = replay(model, c["prompt_ids"], c["greedy_ids"])
        prompt = render(c["messages"], c.get("tools"))
        ids = tok.encode(prompt, add_special_tokens=False).ids
        if prompt != c["prompt"] or ids != c["prompt_ids"] or logits.argmax(-1).tolist() != c["greedy_ids"]:
            bad.append(c["name"])
        line = f"{c['name']:18s} prompt {len(ids):4d}  answer {len(logits):3d}  margin {margins(logits).min():6.2f}"
        if compare_with:
            theirs = replay(compare_with, c["prompt_ids"], c["greedy_ids"])
            same = (theirs.argmax(-1) == logits.argmax(-1)).sum()
            line += f"  BF16: {same}/{len(logits)} tokens, logits differ by {np.abs(theirs - logits).mean():.3f} mean {np.abs(theirs - logits).max():.3f} most (spread {theirs.std():.2f})"
        print(line + f"  {c['text']!r}")
    return bad


def main():
    a = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    a.add_argument("--check", action="store_true")
    a.add_argument("--compare", type=Path, metavar="CHECKPOINT")
    a = a.parse_args()
    from tokenizers import Tokenizer
    tok, render = Tokenizer.from_file(str(HERE / "tokenizer.json")), renderer()
    model = load(str(HERE))
    ends = json.loads((HERE / "generation_config.json").read_text())["eos_token_id"]
    if not (a.check or a.compare):
        cases = [case(model, tok, render, ends, drafts(), *row) for row in wanted()]
        CASES.parent.mkdir(parents=True, exist_ok=True)
        CASES.write_text(json.dumps({"end_token_ids": ends, "cases": cases}, indent=1) + "\n")
    cases = json.loads(CASES.read_text())["cases"]
    bad = check(cases, model, tok, render, load(str(a.compare)) if a.compare else None)
    sys.exit("differs: " + ", ".join(bad) if bad else None)


if __name__ == "__main__":
    main()
