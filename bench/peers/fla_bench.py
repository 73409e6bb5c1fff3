#!/usr/bin/env python3
"""Times flash-linear-attention on the shapes of cuda_linear_attention.cu: one line `fla|what|heads|gate|microseconds` each.

Needs torch, triton and fla-core. Medians of 30 calls between CUDA events (prefill) or of graph replays (decoding), inputs in device memory.
"""
import argparse

import torch
from fla.ops.generalized_delta_rule import chunk_dplr_delta_rule
from fla.ops.kda import chunk_kda, fused_recurrent_kda

D = 128
RAGGED = [1300, 547, 2048, 963, 271, 3063]
# name, lengths, heads
CASES = [("8192", [8192], 96), ("8192", [8192], 64), ("1300+547+2048+963+271+3063", RAGGED, 64), ("8 x 1024", [1024] * 8, 64),
         ("8192", [8192], 32), ("8 x 4096", [4096] * 8, 32), ("65536", [65536], 32), ("8192", [8192], 16), ("2048", [2048], 12),
         ("131072", [131072], 4)]


def median_us(f, repeats=30):
    for _ in range(3):
        f()
    times = []
    for _ in range(repeats):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        f()
        b.record()
        b.synchronize()
        times.append(a.elapsed_time(b) * 1e3)
    return sorted(times)[len(times) // 2]


def graph_us(f, sets, repeats=30):
    """f(i) for i in range(sets), captured and replayed."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for i in range(min(sets, 3)):
            f(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(sets):
            f(i)
    return median_us(graph.replay, repeats) / sets


def inputs(tokens, heads, sequences):
    n = lambda *s: torch.randn(*s, device="cuda", dtype=torch.bfloat16)
    q, k, v, g = (n(1, tokens, heads, D) for _ in range(4))
    return dict(q=q, k=k, v=v, g=g, beta=n(1, tokens, heads), A_log=torch.zeros(heads, device="cuda"), dt_bias=torch.zeros(heads * D, device="cuda"),
                initial_state=torch.randn(sequences, heads, D, D, device="cuda"), output_final_state=True, use_qk_l2norm_in_kernel=True,
                use_gate_in_kernel=True, use_beta_sigmoid_in_kernel=True)


def report(what, heads, gate, us):
    print(f"fla|{what}|{heads}|{gate}|{us:.2f}", flush=True)


def prefill():
    for name, lengths, heads in CASES:
        args = inputs(sum(lengths), heads, len(lengths))
        if len(lengths) > 1:
            args["cu_seqlens"] = torch.tensor([sum(lengths[:i]) for i in range(len(lengths) + 1)], device="cuda")
        report(name, heads, "bounded", median_us(lambda: chunk_kda(**args, safe_gate=True, lower_bound=-5.0)))
        if name == "8192" and heads in (32, 96):
            report(name, heads, "softplus", median_us(lambda: chunk_kda(**args)))


def decode():
    for n in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        sets = max(2, min(64, (1 << 29) // (n * 32 * D * D * 4)))
        args = inputs(1, 32, n)
        make = lambda *s: torch.randn(*s, device="cuda", dtype=torch.bfloat16)
        for key in ("q", "k", "v", "g"):
            args[key] = make(n, 1, 32, D)
        args["beta"] = make(n, 1, 32)
        states = [torch.randn(n, 32, D, D, device="cuda") for _ in range(sets)]
        args.pop("initial_state")
        report(f"N = {n}", 32, "bounded", graph_us(lambda i: fused_recurrent_kda(**args, initial_state=states[i], lower_bound=-5.0), sets))


def dplr():
    for tokens in (2048, 8192, 16384, 65536):
        n = lambda scale=1.0: scale * torch.randn(1, tokens, 16, D, device="cuda", dtype=torch.bfloat16)
        q, k, v, a, b = n(D ** -0.5), n(D ** -0.5), n(), n(0.06), n(0.06)
        g = -torch.rand(1, tokens, 16, D, device="cuda", dtype=torch.bfloat16)
        s = torch.randn(1, 16, D, D, device="cuda")
        report(f"{tokens} DPLR", 16, "given", median_us(lambda: chunk_dplr_delta_rule(q, k, v, a, b, g, initial_state=s, output_final_state=True)))
        beta = torch.rand(1, tokens, 16, device="cuda", dtype=torch.bfloat16)
        report(f"{tokens} KDA", 16, "given", median_us(lambda: chunk_kda(q, k, v, g, beta, initial_state=s, output_final_state=True,
                                                                     use_qk_l2norm_in_kernel=True)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", default=["prefill", "decode", "dplr"])
    with torch.no_grad():
        for section in parser.parse_args().sections:
            try:
                {"prefill": prefill, "decode": decode, "dplr": dplr}[section]()
            except Exception as error:  # a peer that fails leaves its column empty
                print(f"# fla {section}: {type(error).__name__}: {error}", flush=True)
