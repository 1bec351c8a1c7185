"""model.py must agree with transformers' Qwen3_5MoeForCausalLM on the same weights: python3 test_model.py"""
import tempfile
from pathlib import Path
import torch
from model import Config, Model
from train import save

torch.manual_seed(0)
m = Model(Config())
for n, p in m.named_parameters():
    if p.dim() >= 2 and "conv" not in n: p.data *= 3
    if "norm" in n: p.data += 0.1 * torch.randn_like(p)
with tempfile.TemporaryDirectory() as d:
    save(m, Path(d))
    from transformers import AutoModelForCausalLM
    ref = AutoModelForCausalLM.from_pretrained(d, dtype=torch.float32).eval()
    m.load_state_dict({k: v for k, v in ref.state_dict().items() if k != "lm_head.weight"})
    ids = torch.randint(0, 4096, (2, 370))  # six chunks of the delta rule, the last one not whole
    with torch.no_grad():
        a, b = m(ids)[0], ref(ids).logits
    print("relative difference", ((a - b).norm() / b.norm()).item(), "std", b.std().item())
    assert (a - b).norm() / b.norm() < 1e-4
