"""A long preamble, asked about before and after the server is killed: python3 preamble.py PROGRAM MODEL CACHE_DIRECTORY [WORDS]

Prints for each request the tokens of the prompt, those that came from a snapshot, and the time to the first token. The second
server must take the preamble from the disk, or this fails. Needs nothing but Python."""

import json
import signal
import subprocess
import sys
import time
import urllib.request


def serve(program, model, cache):
    command = [program, "serve", model, "--port", "0", "--context", "24576", "--prompt-cache", cache]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        if "is served at " in line:
            return server, line.split("is served at ")[1].split(",")[0]
    raise SystemExit(f"the server has ended: {server.wait()}")


def ask(address, preamble, question):
    """Seconds to the first token, and the usage."""
    body = {
        "messages": [{"role": "system", "content": preamble}, {"role": "user", "content": question}],
        "max_tokens": 4,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "logprobs": True,
    }
    request = urllib.request.Request(
        address + "/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    begun, first, usage = time.monotonic(), None, None
    with urllib.request.urlopen(request, timeout=1200) as answer:
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            if first is None and any(choice.get("logprobs") for choice in event["choices"]):
                first = time.monotonic() - begun
    return first, usage


def main(program, model, cache, words="5000"):
    names = ["river", "lamp", "stone", "cloud", "seven", "letter", "north", "window", "copper", "gate"]
    preamble = "Rules. " + " ".join(names[(i * i + i // 7) % 10] for i in range(int(words)))
    cached = []
    for life in ["first life", "after kill -9 and a new start"]:
        server, address = serve(program, model, cache)
        for question in ["Who are you?", "What is the time?"]:
            first, usage = ask(address, preamble, question)
            cached.append(usage["prompt_tokens_details"]["cached_tokens"])
            print(f"{life}: {usage['prompt_tokens']} tokens, {cached[-1]} from a snapshot, first token after {first:.2f} s", flush=True)
        time.sleep(5)  # the snapshot is written between passes
        server.send_signal(signal.SIGKILL)
        server.wait()
    if not (cached[0] == 0 and min(cached[1:]) > usage["prompt_tokens"] - 100):
        raise SystemExit(f"the preamble was read again: {cached}")


if __name__ == "__main__":
    main(*sys.argv[1:])
