"""Writes tests/data/moe.safetensors: mixtures of experts with outputs and gradients in float64, by PyTorch's autograd.

The routing is checked against transformers' KimiLinearMoE on the way. Names are CASE/NAME, CASE/grad.NAME, CASE/{x,y,dy,dx,counts}.
Run from the repository's root: python tests/reference/moe.py
"""
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import KimiLinearConfig
from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearMoE

torch.manual_seed(2)
torch.set_default_dtype(torch.float64)


def swiglu(x, gate, up, down):
    return (F.silu(x @ gate.T) * (x @ up.T)) @ down.T


def choose(scores, bias, groups, groups_per_token, k):
    biased = (scores + bias).detach().clone()
    by_group = biased.view(len(biased), groups, -1)
    best = by_group.topk(2).values.sum(-1).topk(groups_per_token).indices
    mask = torch.zeros(len(biased), groups, dtype=torch.bool).scatter_(1, best, True)
    return by_group.masked_fill(~mask[:, :, None], float("-inf")).flatten(1).topk(k).indices


def moe(x, p, c):
    scores = (x @ p["gate.weight"].T).sigmoid()
    chosen = choose(scores, p["gate.e_score_correction_bias"], c["groups"], c["groups_per_token"], c["k"])
    weights = scores.gather(1, chosen)
    if c["renormalize"]:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    weights = weights * c["scale"]
    y = []
    for t in range(len(x)):
        row = swiglu(x[t : t + 1], *(p[f"shared_experts.{n}_proj.weight"] for n in ("gate", "up", "down")))
        for w, e in zip(weights[t], chosen[t].tolist()):
            row = row + w * swiglu(x[t : t + 1], *(p[f"experts.{e}.{n}.weight"] for n in ("w1", "w3", "w2")))
        y.append(row)
    return torch.cat(y), chosen


def published(x, p, c):
    """transformers' own module on the same parameters; its router computes in float32."""
    config = KimiLinearConfig(
        hidden_size=c["hidden"], moe_intermediate_size=c["width"], num_experts=c["experts"], num_experts_per_token=c["k"],
        num_expert_group=c["groups"], topk_group=c["groups_per_token"], num_shared_experts=c["shared"],
        moe_renormalize=c["renormalize"], routed_scaling_factor=c["scale"])
    config.num_local_experts, config.num_experts_per_tok = c["experts"], c["k"]
    config.n_group, config.topk_group, config.n_shared_experts = c["groups"], c["groups_per_token"], c["shared"]
    config.norm_topk_prob, config._experts_implementation = c["renormalize"], "eager"
    module = KimiLinearMoE(config).double()
    state = {"gate.weight": p["gate.weight"], "gate.e_score_correction_bias": p["gate.e_score_correction_bias"]}
    experts = range(c["experts"])
    state["experts.gate_up_proj"] = torch.stack([torch.cat([p[f"experts.{e}.w1.weight"], p[f"experts.{e}.w3.weight"]]) for e in experts])
    state["experts.down_proj"] = torch.stack([p[f"experts.{e}.w2.weight"] for e in experts])
    state |= {k: v for k, v in p.items() if k.startswith("shared")}
    module.load_state_dict(state)
    return module(x[None])[0]


def case(name, tokens, c, out):
    h, w, e = c["hidden"], c["width"], c["experts"]
    p = {"gate.weight": torch.randn(e, h), "gate.e_score_correction_bias": torch.randn(e) * 0.7 - 0.5}
    for i in range(e):
        p |= {f"experts.{i}.w1.weight": torch.randn(w, h), f"experts.{i}.w2.weight": torch.randn(h, w),
              f"experts.{i}.w3.weight": torch.randn(w, h)}
    s = c["shared"] * w
    p |= {"shared_experts.gate_proj.weight": torch.randn(s, h), "shared_experts.up_proj.weight": torch.randn(s, h),
          "shared_experts.down_proj.weight": torch.randn(h, s)}
    p = {k: v.requires_grad_(k != "gate.e_score_correction_bias") for k, v in p.items()}
    x, dy = torch.randn(tokens, h, requires_grad=True), torch.randn(tokens, h)
    y, chosen = moe(x, p, c)
    y.backward(dy)
    with torch.no_grad():
        error = ((published(x, p, c) - y).norm() / y.norm()).item()
    assert error < 1e-6, error
    counts = torch.bincount(chosen.flatten(), minlength=e).double()
    print(f"{name}: transformers differs by {error:.1e}; tokens per expert {counts.int().tolist()}")
    out |= {f"{name}/{k}": v.detach() for k, v in (p | {"x": x, "y": y, "dy": dy, "dx": x.grad, "counts": counts}).items()}
    out |= {f"{name}/grad.{k}": torch.zeros_like(v) if v.grad is None else v.grad for k, v in p.items() if v.requires_grad}


if __name__ == "__main__":
    tensors = {}
    case("grouped", 11, dict(hidden=7, width=5, experts=12, k=5, groups=4, groups_per_token=2, shared=2, scale=1.7, renormalize=True), tensors)
    case("plain", 6, dict(hidden=3, width=2, experts=5, k=2, groups=1, groups_per_token=1, shared=1, scale=2.446, renormalize=False), tensors)
    save_file({k: v.contiguous() for k, v in tensors.items()}, "tests/data/moe.safetensors")
