#!/usr/bin/env python3
"""Checkpoints between braid and transformers, both ways.

    checkpoint.py make DIRECTORY        writes a small random checkpoint and what transformers computes with it (tests/data/checkpoint)
    checkpoint.py roundtrip PROGRAM     runs the test program io.golden_checkpoints, which loads checkpoints and saves them again,
                                        loads what it saved in transformers, and compares the logits with braid's own

Packages: torch 2.x (CPU), transformers 5.x with kimi_linear, safetensors.
"""
import json
import os
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file
from transformers import KimiLinearConfig, KimiLinearForCausalLM


def load(directory):
    model, info = KimiLinearForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[what], f"{directory}: {what}: {info[what]}"
    return model.eval()


def small_model():
    config = KimiLinearConfig(
        vocab_size=96, hidden_size=24, intermediate_size=40, num_hidden_layers=5, num_attention_heads=2, num_key_value_heads=2,
        kv_lora_rank=12, q_lora_rank=None, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8, moe_intermediate_size=12,
        num_local_experts=6, num_experts_per_tok=2, n_shared_experts=1, n_group=1, topk_group=1, routed_scaling_factor=1.5,
        linear_head_dim=8, linear_num_heads=3, linear_conv_kernel_dim=4, tie_word_embeddings=True, max_position_embeddings=512,
        layer_types=["linear_attention", "full_attention", "linear_attention", "linear_attention", "full_attention"],
        mlp_layer_types=["dense"] + ["sparse"] * 4, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(7)
    model = KimiLinearForCausalLM._from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_(1 + 0.2 * torch.randn_like(p))
            elif not name.endswith(("A_log", "dt_bias")):
                p.copy_(torch.randn_like(p) * (1.5 / p.shape[-1] ** 0.5))
        for name, b in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                b.copy_(0.1 * torch.randn_like(b))
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)  # transformers' kimi_linear does not tie by itself
    return model


def make(directory):
    model = small_model()
    model.save_pretrained(directory, max_shard_size="40KB")
    model = load(directory)  # what was saved is what is computed with
    ids = torch.randint(3, model.config.vocab_size, (2, 37), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out = model(ids, labels=ids, output_hidden_states=True, use_cache=False)
        generated = model.generate(ids[:, :20], max_new_tokens=24, do_sample=False, eos_token_id=None)
    tensors = {"input_ids": ids, "logits": out.logits, "loss": out.loss.double().reshape(1), "generated": generated}
    tensors |= {f"hidden.{i}": h.contiguous() for i, h in enumerate(out.hidden_states)}
    save_file(tensors, os.path.join(directory, "expected.safetensors"))
    print(f"{directory}: {sum(p.numel() for p in model.parameters())} parameters, loss {out.loss:.4f}")


def roundtrip(program):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([program], env=os.environ | {"BRAID_SAVE_CHECKPOINTS": folder}, check=True)
        saved = sorted(os.listdir(folder))
        assert saved, "the program saved nothing"
        for name in saved:
            directory = os.path.join(folder, name)
            with open(os.path.join(directory, "config.json")) as file:
                stored = json.load(file)["dtype"]
            files = len([f for f in os.listdir(directory) if f.startswith("model")])
            expected = load_file(os.path.join(directory, "braid.safetensors"))
            with torch.no_grad():
                logits = load(directory)(expected["input_ids"], use_cache=False).logits
            error = ((logits - expected["logits"]).norm() / expected["logits"].norm()).item()
            print(f"{name}: {stored}, {files} files, logits differ by {error:.2e} of their norm")
            assert error < 1e-4, name
        print(f"{len(saved)} checkpoints written by braid load in transformers and give the same logits")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("make", "roundtrip"):
        sys.exit(__doc__)
    {"make": make, "roundtrip": roundtrip}[sys.argv[1]](sys.argv[2])
