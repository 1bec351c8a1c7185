"""Held-out dialogues as cases of the suite `tools`, JSON lines on standard output: python3 cases.py [N] [SEED]

A case is the conversation up to where the assistant speaks first, with the calls that are right there; none where it shall
not call. Names of functions and arguments are such as training never shows."""

import json
import sys

from dialogues import Maker


def case(dialogue):
    messages = dialogue["messages"]
    at = next(i for i, m in enumerate(messages) if m["role"] == "assistant")
    calls = [call["function"] for call in messages[at].get("tool_calls", [])]
    return {"category": dialogue["kind"], "tools": dialogue["tools"], "messages": messages[:at], "calls": calls}


def main(n=240, seed=99):
    maker = Maker(seed, held_out=True)
    for _ in range(n):
        print(json.dumps(case(maker.dialogue())))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
