"""Prints the expected values of tests/train/optimizer.cpp, from torch.optim.AdamW and from a float64 transcription of Muon.

Weights start as cos(i), gradient t (from 1) is sin(0.7 i + 1.3 t), both row-major.
"""
import torch


def start(*shape):
    n = torch.Size(shape).numel()
    return torch.cos(torch.arange(n, dtype=torch.float64)).reshape(shape)


def gradient(t, *shape):
    n = torch.Size(shape).numel()
    return torch.sin(0.7 * torch.arange(n, dtype=torch.float64) + 1.3 * t).reshape(shape)


def show(name, w):
    print(name, ", ".join(f"{x:.17g}" for x in w.flatten().tolist()))


def adamw():
    w = torch.nn.Parameter(start(5))
    optimizer = torch.optim.AdamW([w], lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    for t in range(1, 5):
        w.grad = gradient(t, 5)
        optimizer.step()
    show("adamw", w.data)


def newton_schulz(x):
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def muon(rows, cols):
    w, m = start(rows, cols), torch.zeros(rows, cols, dtype=torch.float64)
    for t in range(1, 4):
        g = gradient(t, rows, cols)
        m = 0.95 * m + g
        w = w * (1 - 0.01 * 0.1) - 0.01 * 0.2 * max(rows, cols) ** 0.5 * newton_schulz(g + 0.95 * m)
    show(f"muon {rows}x{cols}", w)


adamw()
muon(2, 4)
muon(4, 2)
