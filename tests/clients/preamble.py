"""A long preamble across a restart: python3 preamble.py BINARY MODEL

A system prompt of some 14,000 tokens is read, asked for again, and asked for again after the server was killed and started anew.
"""

import random
import signal
import sys
import tempfile
import time

from load import Server

WORDS = ["the", "river", "calls", "a", "tool", "for", "Oslo", "and", "seven", "stones"]
N_WORDS = 9300


def ask(server, question):
    """Seconds to the end of an answer of one token, tokens of the prompt, and how many of them came from a snapshot."""
    draw = random.Random(1)
    system = " ".join(draw.choice(WORDS) for _ in range(N_WORDS))
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    begun = time.monotonic()
    status, body = server.post({"model": "m", "messages": messages, "max_tokens": 1, "temperature": 0}, timeout=1800)
    seconds = time.monotonic() - begun
    if status != 200:
        sys.exit(f"status {status}: {body}")
    usage = body["usage"]
    return seconds, usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


def main(binary, model):
    errors = []
    with tempfile.TemporaryDirectory() as directory:
        start = lambda: Server(binary, "--prompt-cache", directory, "--context", "20000", ram_mb=8000, model=model)
        server = start()
        first, tokens, cached = ask(server, "Where?")
        print(f"read: {first:.2f} s, {tokens} tokens, {cached} of them from a snapshot")
        if cached or tokens < 13000:
            errors.append("the first prompt was to be long, and new")
        for kill in (None, signal.SIGKILL):
            if kill:
                server.kill()
                server = start()
            seconds, tokens, cached = ask(server, "Which of them?" if kill else "Who?")
            when = "after SIGKILL and a new start" if kill else "asked again"
            print(f"{when}: {seconds:.2f} s, {tokens} tokens, {cached} of them from a snapshot")
            if cached < tokens - 100:
                errors.append(f"{when}: the preamble was read again")
        server.stop()
    return errors


if __name__ == "__main__":
    found = main(*sys.argv[1:3])
    for error in found:
        print(error)
    sys.exit(1 if found else 0)
