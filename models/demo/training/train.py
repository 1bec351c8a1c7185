"""Train the demo model from scratch: python3 train.py --compile --out OUT

Writes a Hugging Face checkpoint (config.json, model.safetensors in bfloat16, tokenizer.json, chat_template.jinja),
which ../convert.py turns into the files of this repository. One GPU; data.py draws the dialogues on the CPU meanwhile.
The batches are the same for the same seed and workers; sums on a GPU are not, so another run gives another model of the same kind."""

import argparse
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import torch

from chat import MODEL
from data import Batches
from model import Config, Model


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
    """Muon over stacks: matrices of one shape are updated together. The rate is a tensor, so that a CUDA graph can read it."""

    def __init__(self, params, lr, momentum=0.95, decay=0.05, update=orthogonalize):
        shapes = {}
        for p in params:
            shapes.setdefault(p.shape, []).append(p)
        super().__init__([{"params": same} for same in shapes.values()], dict(lr=lr, momentum=momentum, decay=decay))
        self.update = update

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            params = group["params"]
            grads = torch.stack([p.grad for p in params])
            state = self.state[params[0]]
            if not state:
                state["m"] = torch.zeros_like(grads)
            state["m"].lerp_(grads, 1 - group["momentum"])
            update = self.update(grads.lerp_(state["m"], group["momentum"]))
            scale = max(1, grads.shape[-2] / grads.shape[-1]) ** 0.5
            torch._foreach_mul_(params, 1 - group["lr"] * group["decay"])
            torch._foreach_sub_(params, list(update * (group["lr"] * scale)))


STEPS, FLAT, WARM = 16_936, 0.49126, 20  # the published checkpoint's steps and the part of them at the full rate; steps before the speed is taken


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


def is_matrix(name, p):
    """Whether Muon takes it; embeddings, convolutions, gates and vectors go to AdamW."""
    return p.dim() >= 2 and not any(s in name for s in ("embed", "conv1d", "gate.weight", "shared_expert_gate"))


def arguments():
    a = argparse.ArgumentParser()
    a.add_argument("--out", type=Path, required=True)
    a.add_argument("--steps", type=int, default=STEPS)
    a.add_argument("--minutes", type=float, help="stop the schedule at what fits into this time instead of --steps")
    a.add_argument("--length", type=int, default=1024)
    a.add_argument("--rows", type=int, default=64)
    a.add_argument("--lr", type=float, default=0.02)
    a.add_argument("--adam-lr", type=float, default=3e-3)
    a.add_argument("--flat", type=float, default=FLAT, help="part of the steps at the full rate, before it falls")
    a.add_argument("--seed", type=int, default=0)
    a.add_argument("--workers", type=int, default=14)
    a.add_argument("--compile", action="store_true")
    return a.parse_args()


class Trainer:
    """One step of training: `step()` reads `ids`, `weights` and the rates, and leaves `loss` and `answer`."""

    def __init__(self, a, device):
        self.model = Model(Config()).to(device)
        self.device, self.params = device, list(self.model.parameters())
        self.ids = torch.zeros(a.rows, a.length + 1, dtype=torch.long, device=device)
        self.weights = torch.zeros(a.rows, a.length + 1, device=device)
        rate = lambda lr: torch.tensor(lr, device=device)
        named = list(self.model.named_parameters())
        compiled = (lambda f: torch.compile(f, dynamic=False)) if a.compile else (lambda f: f)
        self.muon = Muon([p for n, p in named if is_matrix(n, p)], rate(a.lr), update=compiled(orthogonalize))
        self.adam = torch.optim.AdamW([p for n, p in named if not is_matrix(n, p)], lr=rate(a.adam_lr), betas=(0.9, 0.95), weight_decay=0.0,
                                      capturable=device == "cuda")
        self.rates = [(g["lr"], lr) for o, lr in ((self.muon, a.lr), (self.adam, a.adam_lr)) for g in o.param_groups]
        self.loss_of = compiled(self.model.loss)
        if a.compile:
            for layer in self.model.model.layers:
                layer.compile(dynamic=False)
        self.skipped = torch.zeros((), device=device)
        self.graph = None

    def step(self):
        for p in self.params:
            p.grad = None
        with torch.autocast(self.device, torch.bfloat16):
            x, balance = self.model.hidden(self.ids[:, :-1])
            loss, answer = self.loss_of(x, self.ids[:, 1:], self.weights[:, 1:])
        (loss + 0.01 * balance).backward()
        self.loss, self.answer, self.balance = loss.detach(), answer.detach(), balance.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.skipped += ~norm.isfinite()
        for p in self.params:
            p.grad.nan_to_num_(0, 0, 0)
        self.muon.step()
        self.adam.step()

    def capture(self):
        """Puts the whole step into a CUDA graph, which spares the launches of some thousand small kernels."""
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            self.step()
        self.graph = graph

    def run(self, batch, scale):
        ids, weights = batch
        self.ids.copy_(torch.from_numpy(ids))
        self.weights.copy_(torch.from_numpy(weights))
        for rate, lr in self.rates:
            rate.fill_(lr * scale)
        self.graph.replay() if self.graph else self.step()


def main():
    a = arguments()
    start = time.time()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(a.seed)
    torch.set_float32_matmul_precision("high")
    if device == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream())  # the default stream cannot be captured
    batches = Batches(1000 + a.seed, a.length, a.rows, a.workers)
    trainer = Trainer(a, device)
    print(f"{sum(p.numel() for p in trainer.params) / 1e6:.1f}M parameters on {torch.cuda.get_device_name() if device == 'cuda' else 'a CPU'}", flush=True)
    steps, step = a.steps, 0
    while step < steps:
        if step == 10 and device == "cuda" and a.compile:
            trainer.capture()
            print(f"captured after {time.time() - start:.0f}s", flush=True)
        if step == WARM:
            began = time.time()
        if a.minutes and step == WARM + 40:
            each = (time.time() - began) / 40
            steps = step + int((start + 60 * a.minutes - time.time()) / each)
            print(f"{steps} steps fit into {a.minutes} minutes", flush=True)
        done = step / steps
        trainer.run(batches.next(), min(1, (step + 1) / 100) * (1 if done < a.flat else max(0.02, (1 - done) / (1 - a.flat))))
        step += 1
        if step % 200 == 0 or step in (1, 10, 50):
            report = f"loss {trainer.loss.item():.4f} answers {trainer.answer.item():.4f} balance {trainer.balance.item():.3f} skipped {trainer.skipped.item():.0f}"
            rate = (step - WARM) * a.rows * a.length / (time.time() - began) / 1e6 if step > WARM else 0
            print(f"{step} {time.time() - start:.0f}s {report} {rate:.2f}M tok/s", flush=True)
            if trainer.skipped > 50:
                raise SystemExit("too many steps without a finite gradient")
    batches.close()
    save(trainer.model, a.out)
    print(f"trained {step} steps, {step * a.rows * a.length / 1e6:.0f}M tokens, {time.time() - start:.0f}s", flush=True)


if __name__ == "__main__":
    main()
