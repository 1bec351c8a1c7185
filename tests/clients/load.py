"""Many clients at once, clients that break off, and servers that are killed: python3 load.py BINARY [SECONDS [KILLS]]

Only the standard library: sockets that can be cut at any byte.
"""

import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CLIENTS = 32
RAM_MB = 200
QUESTIONS = [
    "What's the weather in Oslo?",
    "Calculate 12 + 30 * 2",
    "Hello!",
    "What can you do?",
    "Set a timer for ten minutes and tell me the weather in Lima.",
]


class Server:
    """`flashmill serve` on a free port."""

    def __init__(self, binary, *flags, ram_mb=RAM_MB, model="demo"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [binary, "serve", model, "--port", str(self.port), "--ram", f"{ram_mb}M", *flags]
        self.log = tempfile.NamedTemporaryFile(suffix=".log")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 60
        while True:
            try:
                if self.get("/health")[0] == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the server does not start: {Path(self.log.name).read_text()}")
            time.sleep(0.02)

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def post(self, body, timeout=300):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def memory(self, field):
        """Bytes: VmRSS now, VmHWM at most."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(rf"^{field}:\s+(\d+) kB", text, re.M)[1])

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self):
        self.process.kill()
        self.process.wait()


class Tally:
    def __init__(self):
        self.lock = threading.Lock()
        self.whole = self.broken_off = self.tokens = 0
        self.errors = []

    def add(self, **counts):
        with self.lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    def error(self, text):
        with self.lock:
            self.errors.append(text)


def stream(server, body, events, break_off):
    """Reads events, `break_off` of them if that is a number; the last one and how many there were."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
        if break_off == 0:
            return None, 0  # gone before the answer begins
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {response.read()[:200]}")
        last, n = None, 0
        for line in response:
            if not line.startswith(b"data: "):
                continue
            last = line[6:].strip().decode()
            events(last)
            n += 1
            if n == break_off:
                return last, n
        return last, n
    finally:
        connection.close()


def client(server, seed, deadline, tally, tools):
    draw = random.Random(seed)
    while time.monotonic() < deadline:
        body = {
            "model": "demo",
            "messages": [{"role": "user", "content": draw.choice(QUESTIONS)}],
            "stream": True,
            "max_tokens": draw.choice([20, 60, 150]),
            "seed": draw.randrange(1 << 30),
            "temperature": draw.choice([0, 1]),
        }
        if draw.random() < 0.5:
            body["tools"] = tools
        break_off = draw.choice([0, 1, 2, 5, 20]) if draw.random() < 1 / 3 else None
        reasons = []

        def event(text):
            if text != "[DONE]":
                chunk = json.loads(text)
                if "error" in chunk:
                    raise RuntimeError(text)
                reasons.extend(c["finish_reason"] for c in chunk["choices"] if c.get("finish_reason"))

        try:
            last, n = stream(server, body, event, break_off)
        except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
            tally.error(f"client {seed}: {error!r}")
            continue
        if break_off is not None:
            tally.add(broken_off=1)
        elif last != "[DONE]" or len(reasons) != 1:
            tally.error(f"client {seed}: {n} events, the last {last}, finish reasons {reasons}")
        else:
            tally.add(whole=1, tokens=n)


def metric(server, name):
    found = re.search(rf"^{name}(?:{{[^}}]*}})? (\S+)$", server.get("/metrics")[1], re.M)
    return float(found[1]) if found else None


def load(binary, seconds):
    tools = json.loads((ROOT / "models/demo/tools.json").read_text())
    server = Server(binary, "--no-prompt-cache")
    tally, begun = Tally(), time.monotonic()
    deadline = begun + seconds
    threads = [
        threading.Thread(target=client, args=(server, seed, deadline, tally, tools)) for seed in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 4)
    early = server.memory("VmRSS")
    for thread in threads:
        thread.join()
    late, peak = server.memory("VmRSS"), server.memory("VmHWM")
    print(
        f"{CLIENTS} clients, {time.monotonic() - begun:.0f} s: {tally.whole} whole answers, {tally.broken_off} broken off, "
        f"{len(tally.errors)} errors, {tally.tokens / seconds:.0f} events a second"
    )
    print(f"memory {early / 1e6:.1f} MB after a quarter, {late / 1e6:.1f} MB at the end, {peak / 1e6:.1f} MB at most of {RAM_MB}")
    # What was broken off leaves nothing behind.
    for _ in range(100):
        status, health = server.get("/health")
        if metric(server, "flashmill_requests_running") == 0:
            break
        time.sleep(0.1)
    else:
        tally.errors.append("requests still run after their clients have gone")
    time.sleep(1)
    print(f"{server.descriptors()} open files at the end")
    if server.descriptors() > 40:
        tally.errors.append("connections stay open")
    if late > early + 8e6:
        tally.errors.append("memory grows")
    # The budget counts 2^20 bytes to the megabyte.
    if peak > RAM_MB * (1 << 20):
        tally.errors.append("memory is above the budget")
    if tally.whole < CLIENTS:
        tally.errors.append("too few answers for a test")
    if (code := server.stop()) != 0:
        tally.errors.append(f"exit code {code} after SIGTERM")
    return tally.errors


def conversation(n, question):
    """A system prompt of some thousand tokens that depends on n, and a question."""
    draw = random.Random(n)
    words = ["the", "river", "calls", "a", "tool", "for", "Oslo", "and", "seven", "stones"]
    system = " ".join(draw.choice(words) for _ in range(1500))
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    return {"model": "demo", "messages": messages, "max_tokens": 8, "temperature": 0}


def kills(binary, n_kills):
    """Servers that share a directory of snapshots are killed while they write; what they leave is whole or not used."""
    errors, directory = [], tempfile.mkdtemp()
    draw = random.Random(1)
    fresh = Server(binary, "--no-prompt-cache", ram_mb=400)
    expected = {n: fresh.post(conversation(n, "Where?"))[1]["choices"][0]["message"] for n in range(n_kills)}
    fresh.stop()
    n_found = n_cut = 0
    for n in range(n_kills):
        server = Server(binary, "--prompt-cache", directory, ram_mb=400)
        # The snapshot is written right after the preamble is read.
        threading.Thread(target=lambda: quietly(server, conversation(n, "Here?")), daemon=True).start()
        files = lambda: set(Path(directory).glob("*/*"))
        before, deadline = files(), time.monotonic() + 60
        while files() == before and time.monotonic() < deadline:
            pass
        time.sleep(draw.random() * 0.004)
        server.kill()
        n_cut += any(".part-" in path.name for path in files() - before)
    server = Server(binary, "--prompt-cache", directory, ram_mb=400)
    for n in range(n_kills):
        status, body = server.post(conversation(n, "Where?"))
        if status != 200 or body["choices"][0]["message"] != expected[n]:
            errors.append(f"conversation {n}: {status} {body}, expected {expected[n]}")
        n_found += body["usage"]["prompt_tokens_details"]["cached_tokens"] > 1000
    damaged = metric(server, "flashmill_prefix_errors_total")
    server.stop()
    shutil.rmtree(directory)
    print(f"{n_kills} kills: {n_cut} left a part of a file, {n_found} snapshots were found, damaged ones {damaged}")
    if n_found + n_cut < n_kills / 2:
        errors.append("the kills came too early for a test")
    return errors


def quietly(server, body):
    try:
        server.post(body)
    except (OSError, ValueError, http.client.HTTPException):
        pass


if __name__ == "__main__":
    found = load(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 120)
    found += kills(sys.argv[1], int(sys.argv[3]) if len(sys.argv) > 3 else 20)
    for error in found[:20]:
        print(error)
    sys.exit(1 if found else 0)
