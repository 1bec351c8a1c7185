"""Times llama.cpp on a GGUF file and prints one JSON object: prompt and decode speed, load time, peak memory.

usage: time_llama.py MODEL.gguf PROMPT_TOKENS DECODE_TOKENS THREADS [--mapped]

--mapped leaves the weights where the file is mapped, instead of repacking them into memory of their own: the only way in which a model
larger than RAM runs.
"""
import json
import random
import resource
import sys
import time

import llama_cpp

path, n_prompt, n_decode, n_threads = sys.argv[1], *map(int, sys.argv[2:5])
if "--mapped" in sys.argv:
    defaults = llama_cpp.llama_model_default_params

    def mapped():
        params = defaults()
        params.use_extra_bufts = False
        return params

    llama_cpp.llama_cpp.llama_model_default_params = mapped

begun = time.perf_counter()
model = llama_cpp.Llama(path, n_ctx=n_prompt + n_decode + 16, n_batch=512, n_ubatch=512, n_threads=n_threads,
                        n_threads_batch=n_threads, verbose=False, flash_attn=True)
loaded = time.perf_counter() - begun
rng = random.Random(1)
tokens = lambda n: [rng.randrange(model.n_vocab()) for _ in range(n)]
if "--mapped" not in sys.argv:
    # Everything is touched once, so that what is measured is warm, as flashmill's is.
    model.eval(tokens(64))
    model.reset()
begun = time.perf_counter()
model.eval(tokens(n_prompt))
prompt = time.perf_counter() - begun
begun = time.perf_counter()
for _ in range(n_decode):
    model.eval(tokens(1))
decode = time.perf_counter() - begun
print(json.dumps({
    "prefill_tok_per_s": n_prompt / prompt,
    "decode_tok_per_s": n_decode / decode,
    "load_seconds": loaded,
    "peak_rss_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
}))
