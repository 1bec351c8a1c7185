"""Chat format and tokenizer of the demo model: python3 chat.py

Trains the tokenizer, writes it to ../tokenizer.json and holds the Jinja template against render()."""

import json
from pathlib import Path

MODEL = Path(__file__).resolve().parent.parent  # tokenizer.json and chat_template.jinja lie with the model
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>",
           "</tool_response>", "<tools>", "</tools>", "<think>", "</think>"]
# Splits text as the Qwen tokenizers do: contractions, words, single digits, punctuation, spaces.
SPLIT = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""


def render(tools, messages):
    """The chat template in Python: [(text, written by the assistant)]. check() holds it against the Jinja file."""
    dump = lambda v: json.dumps(v, ensure_ascii=False)
    out = []
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    if tools or system:
        listed = "".join(dump(t["function"]) + "\n" for t in tools)
        tail = ("\n" if system else "") + "<tools>\n" + listed + "</tools>" if tools else ""
        out.append((f"<|im_start|>system\n{system}{tail}<|im_end|>\n", False))
    for i, m in enumerate(messages):
        if m["role"] == "user":
            out.append((f"<|im_start|>user\n{m['content']}<|im_end|>\n", False))
        elif m["role"] == "assistant":
            calls = "\n".join(f"<tool_call>\n{dump({'name': c['function']['name'], 'arguments': c['function']['arguments']})}\n</tool_call>"
                              for c in m.get("tool_calls", []))
            text = m["content"] + ("\n" if m["content"] and calls else "") + calls
            out.append(("<|im_start|>assistant\n", False))
            out.append((text + "<|im_end|>", True))
            out.append(("\n", False))
        elif m["role"] == "tool":
            first = messages[i - 1]["role"] != "tool"
            last = i + 1 == len(messages) or messages[i + 1]["role"] != "tool"
            out.append((("<|im_start|>user\n" if first else "") + f"<tool_response>\n{m['content']}\n</tool_response>"
                        + ("<|im_end|>\n" if last else "\n"), False))
    return out


def check(n=2000):
    """Every dialogue must read the same through the Jinja template and through render()."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from dialogues import Maker
    from encyclopedia import Teller
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)  # as transformers sets it up
    env.filters["tojson"] = lambda v: json.dumps(v, ensure_ascii=False)
    template = env.from_string((MODEL / "chat_template.jinja").read_text())
    maker, teller = Maker(7), Teller(7)
    for i in range(n):
        d = (maker.dialogue, teller.chat, teller.tool)[i % 3]()
        a = template.render(messages=d["messages"], tools=d["tools"] or None)
        b = "".join(t for t, _ in render(d["tools"], d["messages"]))
        assert a == b, f"{a!r}\n{b!r}"


def train_tokenizer(vocab_size=4096, n=60_000):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from dialogues import Maker
    from encyclopedia import Teller
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    maker, teller = Maker(1), Teller(1)
    drawn = (draw() for i in range(n) for draw in ((maker.dialogue, teller.chat, teller.chat) if i % 4 else (teller.tool, teller.chat)))
    texts = ("".join(t for t, _ in render(d["tools"], d["messages"])) for d in drawn)
    tok.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tok


if __name__ == "__main__":
    check()
    tok = train_tokenizer()
    tok.save(str(MODEL / "tokenizer.json"))
    from dialogues import Maker
    from encyclopedia import Teller
    maker, teller, n = Maker(3), Teller(3), 2000
    for name, draw in (("tools", maker.dialogue), ("facts", teller.chat), ("tools and facts", teller.tool)):
        total = sum(len(tok.encode("".join(t for t, _ in render(d["tools"], d["messages"]))).ids) for d in (draw() for _ in range(n)))
        print("vocab", tok.get_vocab_size(), "tokens a dialogue,", name, total / n)
