#!/usr/bin/env python3
"""Writes what `flashmill eval` asks the demo model: python3 models/demo/make_quality.py [--check]

    quality/text.txt                         conversations in the words of the chat template, for ppl and kld
    quality/facts.jsonl                      facts of the encyclopedia and the answers, for facts
    ../../crates/lab/src/eval/drawn.jsonl    the drawn part of the built-in suite tools

The dialogues with tools are drawn with a seed and with names of functions and arguments that training never shows; facts are asked
as in training, for recall. Needs nothing but Python. --check compares instead of writing, and exits with 1 if a file differs."""

import json
import random
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "training"))
from cases import case  # noqa: E402
from chat import render  # noqa: E402
from dialogues import Maker  # noqa: E402
from encyclopedia import Encyclopedia, Teller, ask  # noqa: E402

SEED = 99
lines = lambda rows: "".join(json.dumps(row) + "\n" for row in rows)


def text(book, n=170):
    """Four conversations about the encyclopedia for each with tools, each with its end token."""
    teller, maker = Teller(SEED, book), Maker(SEED, held_out=True)
    drawn = (maker.dialogue() if i % 5 == 4 else teller.chat() for i in range(n))
    return "".join("".join(t for t, _ in render(d["tools"], d["messages"])) + "<|endoftext|>" for d in drawn)


def facts(book, n=300):
    r = random.Random(SEED)
    for entry, attribute, wordings in r.sample(list(book.facts()), n):
        question, answer = ask(entry, attribute, wordings, 0, r.randrange(len(wordings[0])))
        yield {"category": attribute, "messages": [{"role": "user", "content": question}], "answer": answer}


def tools(n=240, n_turns=40):
    """First turns of every kind, then conversations up to what a second request is answered with."""
    maker = Maker(SEED, held_out=True)
    for _ in range(n):
        yield case(maker.dialogue())
    maker, n = Maker(SEED + 1, held_out=True), 0
    while n < n_turns:
        dialogue = maker.dialogue()
        messages = dialogue["messages"]
        asked = [i for i, m in enumerate(messages) if m["role"] == "user"]
        if len(asked) < 2 or not messages[asked[1] + 1].get("tool_calls"):
            continue
        calls = [call["function"] for call in messages[asked[1] + 1]["tool_calls"]]
        yield {"category": "multi-turn", "tools": dialogue["tools"], "messages": messages[:asked[1] + 1], "calls": calls}
        n += 1


def main():
    book = Encyclopedia()
    made = {
        HERE / "quality" / "text.txt": text(book),
        HERE / "quality" / "facts.jsonl": lines(facts(book)),
        HERE.parents[1] / "crates/lab/src/eval/drawn.jsonl": lines(tools()),
    }
    bad = []
    for path, content in made.items():
        if "--check" not in sys.argv:
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        elif path.read_text() != content:
            bad.append(path.name)
    sys.exit("differs: " + ", ".join(bad) if bad else None)


if __name__ == "__main__":
    main()
