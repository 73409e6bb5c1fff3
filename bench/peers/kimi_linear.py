#!/usr/bin/env python3
"""transformers' kimi_linear (eager, float32) on the checkpoint that bench.model wrote: the same logits, then its speed.

    kimi_linear.py FOLDER

Packages: torch 2.x (CPU), transformers 5.x with kimi_linear, safetensors.
"""
import os
import statistics
import sys
import time

import torch
from safetensors.torch import load_file
from transformers import KimiLinearForCausalLM

DECODED, RUNS = 64, 5


def measure(name, count, f):
    f()
    speeds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        f()
        speeds.append(count / (time.perf_counter() - start))
    print(f"{name} {statistics.median(speeds):.1f} {min(speeds):.1f} {max(speeds):.1f}")


@torch.no_grad()
def main(folder):
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model, info = KimiLinearForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[what], f"{what}: {info[what]}"
    model.eval()
    expected = load_file(os.path.join(folder, "braid.safetensors"))
    ids, logits = expected["input_ids"].long(), expected["logits"]
    ours = model(ids[:, :logits.shape[1]], use_cache=False).logits
    errors = (ours - logits).norm(dim=-1).flatten() / logits.norm(dim=-1).flatten()
    apart = int((errors > 1e-4).sum())  # with experts: two that score alike to the last bits are chosen differently
    allowed = len(errors) // 20 if "sparse" in model.config.mlp_layer_types else 0
    assert apart <= allowed, f"logits of {apart} of {len(errors)} tokens differ, by up to {errors.max():.1e} of their norm"
    print(f"agreement {errors.median():.1e} ({apart} of {len(errors)} tokens with another expert)")

    measure("prefill", ids.shape[1], lambda: model(ids, use_cache=True, logits_to_keep=1))
    out = model(ids[:, :512], use_cache=True, logits_to_keep=1)

    def decode():
        nonlocal out
        for _ in range(DECODED):
            out = model(out.logits[:, -1:].argmax(-1), past_key_values=out.past_key_values, use_cache=True)

    measure("decode", DECODED, decode)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
