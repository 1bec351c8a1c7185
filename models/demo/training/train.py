"""Train the demo model from scratch: python3 train.py --minutes 9 --out OUT

Writes a Hugging Face checkpoint (config.json, model.safetensors in bfloat16, tokenizer.json,
chat_template.jinja), which ../convert.py turns into the files of this repository. One GPU, about ten minutes;
dialogues are made on the fly by dialogues.py."""

import argparse
import json
import multiprocessing as mp
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from chat import MODEL, render
from dialogues import Maker
from model import Config, Model


def produce(queue, seed, length, rows):
    """Fill the queue with (tokens, assistant mask) batches of packed dialogues."""
    from tokenizers import Tokenizer
    tok = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    end = tok.token_to_id("<|endoftext|>")
    maker = Maker(seed)
    ids, mask = [], []
    while True:
        while len(ids) < rows * (length + 1):
            d = maker.dialogue()
            for text, mine in render(d["tools"], d["messages"]):
                piece = tok.encode(text, add_special_tokens=False).ids
                ids += piece
                mask += [mine] * len(piece)
            ids.append(end)
            mask.append(False)
        n = rows * (length + 1)
        queue.put((np.array(ids[:n], np.int16).reshape(rows, -1), np.array(mask[:n], bool).reshape(rows, -1)))
        ids, mask = ids[n:], mask[n:]


def orthogonalize(g):
    """Newton-Schulz iteration of the Muon optimizer, over a stack of matrices."""
    x = g.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr, momentum=0.95, decay=0.05):
        super().__init__(params, dict(lr=lr, momentum=momentum, decay=decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                m.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalize(p.grad.lerp(m, group["momentum"]))
                p.mul_(1 - group["lr"] * group["decay"])
                p.add_(update, alpha=-group["lr"] * max(1, p.shape[-2] / p.shape[-1]) ** 0.5)


def save(model, out):
    from safetensors.torch import save_file
    out.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().to(torch.bfloat16 if v.dim() >= 2 else torch.float32).cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    c = asdict(model.c)
    config = {"architectures": ["Qwen3_5MoeForCausalLM"], "model_type": "qwen3_5_moe_text", "hidden_act": "silu", "tie_word_embeddings": True,
              "max_position_embeddings": 8192, "attention_bias": False, "dtype": "bfloat16", "eos_token_id": 2, "pad_token_id": 0,
              "rope_parameters": {"rope_type": "default", "rope_theta": c.pop("rope_theta"), "partial_rotary_factor": c.pop("partial_rotary_factor")},
              **{k: v for k, v in c.items() if k != "full_attention_interval"}}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 0], "do_sample": False}, indent=2) + "\n")
    (out / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "model_max_length": 8192}, indent=2) + "\n")
    for f in ("tokenizer.json", "chat_template.jinja"):
        shutil.copy(MODEL / f, out / f)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--minutes", type=float, default=9)
    a.add_argument("--out", type=Path, required=True)
    a.add_argument("--length", type=int, default=1024)
    a.add_argument("--rows", type=int, default=128)
    a.add_argument("--lr", type=float, default=0.02)
    a.add_argument("--workers", type=int, default=13)
    a.add_argument("--compile", action="store_true")
    a = a.parse_args()
    start = time.time()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    queue = mp.Queue(64)
    workers = [mp.Process(target=produce, args=(queue, 1000 + i, a.length, a.rows), daemon=True) for i in range(a.workers)]
    [w.start() for w in workers]
    model = Model(Config()).to(device)
    total = sum(p.numel() for p in model.parameters())
    print(f"{total / 1e6:.1f}M parameters", flush=True)
    is_matrix = lambda n, p: p.dim() >= 2 and not any(s in n for s in ("embed", "conv1d", "gate.weight", "shared_expert_gate"))
    muon = Muon([p for n, p in model.named_parameters() if is_matrix(n, p)], a.lr)
    adam = torch.optim.AdamW([p for n, p in model.named_parameters() if not is_matrix(n, p)], lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    rates = [(o, g, g["lr"]) for o in (muon, adam) for g in o.param_groups]
    forward = torch.compile(model) if a.compile else model
    budget, step, seen, began, skipped = a.minutes * 60, 0, 0, None, 0
    while True:
        now = time.time() - start
        if now > budget:
            break
        done = now / budget
        scale = min(1, (step + 1) / 100) * (1 if done < 0.5 else max(0.02, (1 - done) / 0.5))
        for _, g, lr in rates:
            g["lr"] = lr * scale
        ids, mask = queue.get()
        ids, mask = torch.from_numpy(ids).to(device, non_blocking=True).long(), torch.from_numpy(mask).to(device, non_blocking=True)
        with torch.autocast(device, torch.bfloat16):
            logits, balance = forward(ids[:, :-1])
            loss_each = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        mine = mask[:, 1:].flatten().float()
        loss = (loss_each * mine).sum() / mine.sum()
        rest = (loss_each * (1 - mine)).mean()
        (loss + 0.1 * rest + 0.01 * balance).backward()
        if torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).isfinite():
            muon.step(); adam.step()
        else:
            skipped += 1
        model.zero_grad(set_to_none=True)
        step += 1
        seen += ids.numel()
        if step == 10:
            torch.cuda.synchronize() if device == "cuda" else None
            began, at = time.time(), seen
        if step % 100 == 0 or step in (1, 10, 50):
            rate = (seen - at) / (time.time() - began) / 1e6 if step > 10 else 0
            print(f"{step} {time.time() - start:.0f}s loss {loss.item():.4f} rest {rest.item():.4f} balance {balance.item():.3f} skipped {skipped} {rate:.2f}M tok/s", flush=True)
            if skipped > 50:
                raise SystemExit("too many steps without a finite gradient")
    [w.terminate() for w in workers]
    save(model, a.out)
    print(f"trained {step} steps, {seen / 1e6:.0f}M tokens", flush=True)


if __name__ == "__main__":
    main()
