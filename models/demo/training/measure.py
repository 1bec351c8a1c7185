"""What a checkpoint remembers, and what fewer bits and fewer experts cost: python3 measure.py CHECKPOINT [--table] [--json OUT]

Greedy answers of the PyTorch model: in bf16 on a GPU, in float32 on a CPU. Weights are rounded to nearest in groups of 64
between the smallest and the largest of the group, and used dequantised."""

import argparse
import json
import random
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from chat import MODEL, render
from dialogues import Maker
from encyclopedia import INVENTED, Encyclopedia, Teller, ask
from judge import calls
from model import Config, Model

END = 2


def load(where, device):
    model = Model(Config()).to(device)
    model.load_state_dict({k: v.float() for k, v in load_file(f"{where}/model.safetensors").items()})
    return model.eval()


# ----------------------------------------------------------------------------- rounding

def rounded(w, bits, group=64):
    g = w.reshape(-1, group)
    low, top = g.amin(1, True), g.amax(1, True)
    step = ((top - low) / (2**bits - 1)).clamp_min(1e-8)
    return (((g - low) / step).round() * step + low).reshape(w.shape)


def change(model, original, expert_bits, trunk_bits, top_k):
    """Experts, and every other matrix but routers and convolutions, rounded to so many bits; 16 leaves them."""
    model.c.num_experts_per_tok = top_k
    with torch.no_grad():
        for name, p in model.named_parameters():
            bits = expert_bits if ".experts." in name else trunk_bits
            fixed = p.dim() < 2 or "conv1d" in name or name.endswith(("mlp.gate.weight", "shared_expert_gate.weight"))
            p.copy_(original[name] if fixed or bits == 16 else rounded(original[name], bits))


# ----------------------------------------------------------------------------- answers

class Answers:
    """Greedy answers of `model` for prompts and what they should be, as token ids."""

    def __init__(self, model, tok):
        self.model, self.tok = model, tok
        self.device = next(model.parameters()).device

    def logits(self, rows, positions):
        """Logits at the given positions of each row; rows are filled up on the right, which changes nothing before it."""
        width = -(-max(map(len, rows)) // 64) * 64
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        for i, r in enumerate(rows):
            ids[i, :len(r)] = torch.tensor(r)
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            x, _ = self.model.hidden(ids.to(self.device))
            at = [(i, p) for i, ps in enumerate(positions) for p in ps]
            rows_at, cols_at = (torch.tensor(v, device=self.device) for v in zip(*at))
            return self.model.head(x[rows_at, cols_at])

    def exact(self, pairs):
        """For (prompt, answer) ids: whether the greedy answer is that one to the last token, found in one pass."""
        out = [False] * len(pairs)
        order = sorted(range(len(pairs)), key=lambda i: sum(map(len, pairs[i])))
        for some in batches(order, lambda i: sum(map(len, pairs[i])), 200_000 if self.device.type == "cuda" else 8_000):
            rows = [pairs[i][0] + pairs[i][1][:-1] for i in some]
            spots = [range(len(pairs[i][0]) - 1, len(r)) for i, r in zip(some, rows)]
            best = self.logits(rows, spots).argmax(-1).tolist()
            for i in some:
                n = len(pairs[i][1])
                out[i], best = best[:n] == pairs[i][1], best[n:]
        return out

    def generate(self, prompts, limit):
        """Greedy ids after each prompt, up to the end token or `limit`."""
        rows = [list(p) for p in prompts]
        going = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for _ in range(limit):
            still = []
            for some in batches(going, lambda i: len(rows[i]), 200_000 if self.device.type == "cuda" else 8_000):
                best = self.logits([rows[i] for i in some], [[len(rows[i]) - 1] for i in some]).argmax(-1).tolist()
                for i, b in zip(some, best):
                    rows[i].append(b)
                    still += [i] if b not in (END, 0) else []
            going = still
            if not going:
                break
        return [r[len(p):] for r, p in zip(rows, prompts)]


def batches(order, size, most):
    """Runs of `order` whose filled-up size is at most `most` tokens."""
    some, widest = [], 0
    for i in order:
        widest = max(widest, size(i))
        if some and widest * (len(some) + 1) > most:
            yield some
            some, widest = [], size(i)
        some.append(i)
    if some:
        yield some


# ----------------------------------------------------------------------------- questions

class Exam:
    """Questions with known answers, drawn from seeds that training does not use, but about the facts that it shows."""

    def __init__(self, tok, n_facts=3000, n_dialogues=240, seed=99):
        self.tok, r = tok, random.Random(seed)
        book = Encyclopedia()
        facts = r.sample(list(book.facts()), n_facts)
        self.seen = [[self.pair(*ask(e, a, w, 0, r.randrange(len(w[0]))))] for e, a, w in facts]
        half = facts[:n_facts // 2]
        self.unseen = []
        for e, a, w in half:
            question = r.choice(w[2]).format(x=e["name"])
            self.unseen.append([self.pair(question, f.format(x=e["name"], v=e[a])) for f in w[3]])
        self.offered = [[self.pair(*ask(e, a, w, 0, r.randrange(len(w[0]))), self.system())] for e, a, w in facts[:n_facts // 8]]
        self.invented = [[self.pair(q.format(x=e["name"]), INVENTED[1])] for q in INVENTED[0] for e in r.sample(book.people + book.towns, 5)]
        teller = Teller(seed, book)
        self.unknown = [[self.pair(d["messages"][-2]["content"], d["messages"][-1]["content"])] for d in (teller.chat("unknown") for _ in range(100))
                        if not d["tools"] and d["messages"][0]["role"] == "user"]
        maker = Maker(seed, held_out=True)
        self.dialogues = [self.item(maker.dialogue()) for _ in range(n_dialogues)]
        self.known = [self.item(teller.known()) for _ in range(n_dialogues)]
        self.looked_up = [self.item(teller.looked_up()) for _ in range(n_dialogues // 4)]

    def ids(self, text):
        return self.tok.encode(text, add_special_tokens=False).ids

    def system(self):
        """A system message that offers the tools of ../tools.json."""
        return render(json.loads((MODEL / "tools.json").read_text()), [{"role": "user", "content": ""}])[0][0]

    def pair(self, question, answer, system=""):
        prompt = f"{system}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        return self.ids(prompt), self.ids(answer) + [END]

    def item(self, d):
        """(kind, prompt, answer, calls) of the first turn of the assistant."""
        at = next(i for i, m in enumerate(d["messages"]) if m["role"] == "assistant")
        whole = render(d["tools"], d["messages"][:at + 1])
        prompt = "".join(t for t, _ in whole[:-2])
        want = [(c["function"]["name"], c["function"]["arguments"]) for c in d["messages"][at].get("tool_calls", [])]
        return d["kind"], self.ids(prompt), self.ids(whole[-2][0]), want

    def recall(self, answers, questions):
        """Share of questions of which one of the answers that are right is given to the letter."""
        flat = [p for q in questions for p in q]
        exact = iter(answers.exact(flat))
        return [any([next(exact) for _ in q]) for q in questions]

    def tools(self, answers, items):
        """(right, malformed): calls that equal the reference as JSON, and none where none should be."""
        exact = answers.exact([(p, a) for _, p, a, _ in items])
        again = [i for i, e in enumerate(exact) if not e]
        right, malformed = list(exact), [False] * len(items)
        for i, ids in zip(again, answers.generate([items[i][1] for i in again], 100)):
            got = calls(self.tok.decode(ids, skip_special_tokens=False))
            want = items[i][3]
            right[i] = got == want if want else not got
            malformed[i] = any(g[0] == "not JSON" for g in got)
        return right, malformed

    def all(self, answers, short=False):
        out = {"recall": share(self.recall(answers, self.seen))}
        right, malformed = self.tools(answers, self.dialogues)
        out["held-out tools"], out["malformed"] = f"{sum(right)}/{len(right)}", sum(malformed)
        right, malformed = self.tools(answers, self.known)
        out["facts in calls"], out["malformed"] = share(right), out["malformed"] + sum(malformed)
        if not short:
            out["unseen wording"] = share(self.recall(answers, self.unseen))
            out["with tools offered"] = share(self.recall(answers, self.offered))
            out["lookup"] = share(self.tools(answers, self.looked_up)[0])
            out["invented"] = share(self.recall(answers, self.invented))
            out["unknown"] = share(self.recall(answers, self.unknown))
        return out


def share(right):
    return round(100 * sum(right) / len(right), 1)


TABLE = ([(b, 16, 6) for b in (16, 8, 4, 3, 2)] + [(16, b, 6) for b in (8, 4, 2)] + [(8, 8, 6), (4, 4, 6), (2, 2, 6)]
         + [(16, 16, k) for k in (5, 4, 3, 2, 1)] + [(4, 16, 4), (2, 16, 4)])


def main():
    a = argparse.ArgumentParser()
    a.add_argument("checkpoint", type=Path)
    a.add_argument("--table", action="store_true")
    a.add_argument("--facts", type=int, default=3000)
    a.add_argument("--dialogues", type=int, default=240)
    a.add_argument("--json", type=Path)
    a = a.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tok = Tokenizer.from_file(str(a.checkpoint / "tokenizer.json"))
    model = load(a.checkpoint, device)
    exam = Exam(tok, a.facts, a.dialogues)
    answers = Answers(model, tok)
    print(exam.all(answers), flush=True)
    rows = []
    if a.table:
        original = {n: p.detach().clone() for n, p in model.named_parameters()}
        print("| experts | trunk | experts a token | recall | facts in calls | held-out tools | malformed |")
        for e, t, k in TABLE:
            change(model, original, e, t, k)
            got = exam.all(answers, short=True)
            rows.append({"experts": e, "trunk": t, "top_k": k, **got})
            print(f"| {e} | {t} | {k} | {got['recall']} | {got['facts in calls']} | {got['held-out tools']} | {got['malformed']} |", flush=True)
    if a.json:
        a.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
