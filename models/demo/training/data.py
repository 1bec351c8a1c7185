"""Batches for training: whole dialogues packed into rows, the same for the same seed and number of workers."""

import multiprocessing as mp
import os
import random

import numpy as np

from chat import MODEL, render
from dialogues import Maker
from encyclopedia import Encyclopedia, Teller

# Kinds of dialogue and how often each is drawn; their tokens are about 22, 6 and 72 of a hundred.
KINDS, OFTEN = ("tools", "tools and facts", "facts"), (7, 2.5, 90.5)
END, START, CLOSE = 0, 1, 2  # <|endoftext|>, <|im_start|>, <|im_end|>


def documents(seed, book, tok):
    """Token ids of one dialogue after the other, each with its end token."""
    r, maker, teller = random.Random(seed), Maker(seed + 1), Teller(seed + 2, book)
    draw = {"tools": maker.dialogue, "tools and facts": teller.tool, "facts": teller.chat}
    while True:
        many = [draw[k]() for k in r.choices(KINDS, OFTEN, k=256)]
        texts = ["".join(t for t, _ in render(d["tools"], d["messages"])) + "<|endoftext|>" for d in many]
        yield from (e.ids for e in tok.encode_batch_fast(texts, add_special_tokens=False))


def rows(docs, length):
    """Rows of `length` ids. What does not fit in the rest of a row waits for the next one; the rest is end tokens."""
    waiting = []
    while True:
        row, late = [], []
        while len(row) < length and len(late) < 4:
            doc = waiting.pop(0) if waiting else next(docs)
            if len(doc) > length:
                continue
            if len(row) + len(doc) > length:
                late.append(doc)
            else:
                row += doc
        waiting = late + waiting
        yield row + [END] * (length - len(row))


def weights_of(ids, assistant):
    """1 where the assistant writes, 0.1 elsewhere, 0 where a row is filled up, for ids [rows, length]."""
    starts = ids == START
    at = np.arange(ids.shape[1])[None]
    begin = np.maximum.accumulate(np.where(starts, at, -9), 1)
    role = np.take_along_axis(ids, np.clip(begin + 1, 0, ids.shape[1] - 1), 1)
    closed = np.maximum.accumulate(np.where(ids == CLOSE, at, -9), 1)
    before = np.concatenate([np.full((len(ids), 1), -9), closed[:, :-1]], 1)
    mine = (role == assistant) & (at >= begin + 3) & (before < begin) & (begin >= 0)
    filling = (ids == END) & (np.concatenate([np.zeros((len(ids), 1), ids.dtype) + START, ids[:, :-1]], 1) == END)
    return np.where(mine, 1, np.where(filling, 0, 0.1)).astype(np.float32)


def produce(queue, seed, length, n_rows, book):
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer
    tok = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    assistant = tok.encode("assistant", add_special_tokens=False).ids[0]
    packed = rows(documents(seed, book, tok), length + 1)
    while True:
        ids = np.array([next(packed) for _ in range(n_rows)], np.int16)
        queue.put((ids, weights_of(ids, assistant)))


class Batches:
    """Batches (ids [rows, length + 1], weights of the same shape) from workers taken in turn."""

    def __init__(self, seed, length, n_rows, n_workers, book=None):
        book = book or Encyclopedia()
        context = mp.get_context("fork")
        self.queues = [context.Queue(6) for _ in range(n_workers)]
        self.workers = [context.Process(target=produce, args=(q, seed + 10 * i, length, n_rows, book), daemon=True) for i, q in enumerate(self.queues)]
        self.turn = 0
        for w in self.workers:
            w.start()

    def next(self):
        batch = self.queues[self.turn % len(self.queues)].get()
        self.turn += 1
        return batch

    def close(self):
        for w in self.workers:
            w.terminate()
