#!/usr/bin/env python3
"""Records what flash-linear-attention launches for the cases of fla_bench.py, so that fla_replay.cu can time it where there is no PyTorch.

    fla_capture.py <directory> [given, prefill, decode or substrings of `what|heads|gate`...]

Needs torch, triton and fla-core, no GPU. FLA's public functions run on CPU tensors that are allocated but never touched, with a Triton driver
that says it is an H100: kernels are compiled as there, and every launch is written down instead of done. The directory gets the cubins and
`manifest`, a text of lines of words:

    case <op> <what> <heads> <gate> <l2norm> <sigmoid of beta> <lower bound> <sets> <lengths...>   (`~` in names stands for a space)
    buffer <id> <bytes> <fill> <name>    fill: normal:<scale> or uniform:<lo>:<hi> with :bf16 or :f32, zero, hex:<contents>, poison; set:... is
                                         one buffer for each of the sets; name: of the argument or result, `-` if it has none
    memset <buffer> <offset> <bytes>     to zero
    launch <kernel>                      of which the alternatives follow: one, or what the autotuner would choose from
    alt <cubin> <mangled name> <threads> <dynamic shared bytes> <grid x> <y> <z> <configuration> <arguments...>
                                         argument: @<buffer>+<offset>, or the bytes of a scalar in hexadecimal, in memory order
    end
"""
import hashlib
import os
import struct
import sys
from pathlib import Path

os.environ.setdefault("TRITON_DISABLE_LINE_INFO", "1")  # smaller cubins, same code

import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.compiler.errors import CompileTimeAssertionFailure
from triton.runtime import autotuner
from triton.runtime.errors import OutOfResources, PTXASError

D = 128
SMALL = 1 << 16  # integer tensors up to this size are indices: computed here, contents recorded
FORMATS = {"i1": "b", "i8": "b", "i16": "h", "i32": "i", "i64": "q", "u1": "B", "u8": "B", "u16": "H", "u32": "I", "u64": "Q",
           "fp16": "e", "fp32": "f", "f32": "f", "fp64": "d"}


class Record:
    """The lines of one case, and what they need to know of its tensors."""

    def __init__(self, spread):
        """spread: which inputs each set has its own of, a name or `all`."""
        self.spread, self.buffers, self.lines, self.alternatives, self.alive = spread, {}, [], None, []

    def buffer(self, tensor, fill=None, name=None):
        """The id of a tensor's storage; all are kept alive, so that no two share an address."""
        storage = tensor.untyped_storage()
        new = dict(id=len(self.buffers), bytes=storage.nbytes(), fill="poison", name="-", tensor=tensor)
        entry = self.buffers.setdefault(storage.data_ptr(), new)
        if fill:
            entry["fill"] = fill
        if name:
            entry["name"] = name
        return entry["id"]

    def pointer(self, tensor):
        return f"@{self.buffer(tensor)}+{tensor.data_ptr() - tensor.untyped_storage().data_ptr()}"

    def zero(self, tensor):
        self.lines.append(f"memset {self.buffer(tensor)} {tensor.storage_offset() * tensor.element_size()} {tensor.numel() * tensor.element_size()}")

    def launch(self, name, alternatives):
        merged = {}  # configurations that compile to the same code are one
        for config, alternative in alternatives:
            merged.setdefault(tuple(alternative), []).append(config)
        self.lines.append(f"launch {name}")
        self.lines += [" ".join(("alt", *map(str, a[:7]), "/".join(configs), *a[7:])) for a, configs in merged.items()]

    def text(self):
        for entry in self.buffers.values():
            tensor = entry["tensor"]
            if not tensor.is_floating_point() and tensor.numel() <= SMALL:
                entry["fill"] = "hex:" + bytes(tensor.untyped_storage()).hex()
        head = [f"buffer {e['id']} {e['bytes']} {e['fill']} {e['name']}" for e in self.buffers.values()]
        return head + self.lines + ["end"]


class Tensors(TorchDispatchMode):
    """Lets nothing touch device-sized memory: fills with zero are recorded, anything else that computes is refused."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func._schema.name.split("::")[1]
        tensors = [a for a in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
        small = lambda t: isinstance(t, (int, bool)) or isinstance(t, torch.Tensor) and not t.is_floating_point() and t.numel() <= SMALL
        if name in ("zeros", "zeros_like", "new_zeros"):
            empty = getattr(torch.ops.aten, name.replace("zeros", "empty"))
            out = (empty.memory_format if name == "zeros" else empty.default)(*args, **kwargs)
            if small(out):
                out.zero_()
            else:
                record.zero(out)
        elif name == "zero_" and args[0].is_contiguous() and not small(args[0]):
            record.zero(out := args[0])
        elif name.startswith(("empty", "new_empty")) or func.is_view:
            out = func(*args, **kwargs)
        else:  # indices, which are the same for all calls, and which FLA keeps
            out = func(*args, **kwargs) if all(map(small, tensors)) else None
            if not small(out):
                raise NotImplementedError(f"aten::{name} of {[(list(t.shape), t.dtype) for t in tensors]} between kernels is not recorded")
        record.alive.append(out)
        return out


class Launcher:
    """Takes the place of Triton's launcher: packs the arguments as it does, and writes the launch down."""

    def __init__(self, src, metadata):
        assert metadata.num_ctas == 1 and not metadata.launch_cooperative_grid and not metadata.launch_pdl, "unsupported launch attributes"
        assert not metadata.global_scratch_size and not metadata.profile_scratch_size, "scratch memory"
        self.name, self.metadata, self.signature = src.fn.__name__, metadata, list(src.signature.values())

    def __call__(self, x, y, z, stream, cubin, packed, launch_metadata, enter, leave, *args):
        words = []
        assert len(args) == len(self.signature)
        for kind, value in zip(self.signature, args):
            if kind == "constexpr":  # this is also what None and what is specialized to 1 became
                continue
            if kind.startswith("*"):
                words.append(record.pointer(value))
            elif kind == "bf16":
                words.append(struct.pack("<f", value)[2:].hex())
            else:
                words.append(struct.pack("<" + FORMATS[kind], value).hex())
        words += ["00" * 8] * 2  # global and profile scratch
        m = self.metadata
        alternative = [cubin, m.name, m.num_warps * m.warp_size, m.shared, x, y, z, *words]
        if record.alternatives is None:
            record.launch(self.name, [("-", alternative)])
        else:
            record.alternatives.append(alternative)


class Driver:
    """An H100 as far as Triton and FLA ask."""

    def __init__(self, directory):
        self.directory, self.utils, self.launcher_cls, self.cubins = directory, self, Launcher, set()

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_device_properties(self, device):
        return dict(max_shared_mem=232448, max_num_regs=65536, multiprocessor_count=132, warpSize=32, sm_clock_rate=1980000, mem_clock_rate=2619000,
                    mem_bus_width=5120)

    def load_binary(self, name, cubin, shared, device):
        file = hashlib.sha256(cubin).hexdigest()[:16] + ".cubin"
        if file not in self.cubins:
            (self.directory / file).write_bytes(cubin)
            self.cubins.add(file)
        return None, file, 0, 0, 1024


def compile_all(fn, args, kwargs, configs, workers=2):
    """Fills Triton's cache on disk from several processes; who fails here fails again, and is seen, in the caller."""
    children = []
    for i in range(min(workers, len(configs))):
        child = os.fork()
        if child:
            children.append(child)
            continue
        for config in configs[i::workers]:
            try:
                fn.run(*args, **dict(kwargs, warmup=True, **config.all_kwargs()))
            except Exception:
                pass
        os._exit(0)
    for child in children:
        os.waitpid(child, 0)


def run_autotuned(self, *args, **kwargs):
    """Autotuner.run: every configuration that it would have timed becomes an alternative of one launch."""
    assert not self.reset_to_zero and not self.restore_value and not self.user_defined_pre_hook, "the autotuner prepares arguments"
    self.nargs = dict(zip(self.arg_names, args))
    configs = self.prune_configs(kwargs) if len(self.configs) > 1 else self.configs
    key = (id(self), str([v for v in (*args, *kwargs.items()) if not isinstance(v, torch.Tensor)]))
    if key not in compiled:
        compile_all(self.fn, args, kwargs, configs)
        compiled.add(key)
    found, grid = [], kwargs["grid"]
    for config in configs:
        record.alternatives = []
        try:
            self.fn.run(*args, **{**kwargs, **config.all_kwargs(), "grid": grid})
            label = ",".join(f"{k}={v}" for k, v in config.kwargs.items())
            found.append((f"{label}{',' if label else ''}w{config.num_warps},s{config.num_stages}", record.alternatives[0]))
        except (OutOfResources, CompileTimeAssertionFailure, PTXASError) as error:  # the autotuner passes over these as well
            print(f"# {self.base_fn.__name__} {config}: {type(error).__name__}", flush=True)
        finally:
            record.alternatives = None
    record.launch(self.base_fn.__name__, found)
    self.nargs = None


def tensor(name, fill, *shape, dtype=torch.bfloat16):
    out = torch.empty(*shape, dtype=dtype)
    if fill != "zero":
        fill = ("set:" if record.spread in ("all", name) else "") + fill + (":bf16" if dtype == torch.bfloat16 else ":f32")
    record.buffer(out, fill, name)
    return out


def inputs(tokens, heads, sequences, batch=1):
    """As fla_bench.py's: the raw inputs of KDA."""
    args = {name: tensor(name, "normal:1", batch, tokens, heads, D) for name in ("q", "k", "v", "g")}
    return dict(**args, beta=tensor("beta", "normal:1", batch, tokens, heads), A_log=tensor("A_log", "zero", heads, dtype=torch.float32),
                dt_bias=tensor("dt_bias", "zero", heads * D, dtype=torch.float32),
                initial_state=tensor("initial_state", "normal:1", sequences, heads, D, D, dtype=torch.float32), output_final_state=True,
                use_qk_l2norm_in_kernel=True, use_gate_in_kernel=True, use_beta_sigmoid_in_kernel=True)


def prefill(lengths, heads, gate):
    args = inputs(sum(lengths), heads, len(lengths))
    if len(lengths) > 1:
        args["cu_seqlens"] = torch.tensor([sum(lengths[:i]) for i in range(len(lengths) + 1)])
    return ops.kda.chunk_kda(**args, **(dict(safe_gate=True, lower_bound=-5.0) if gate == "bounded" else {}))


def decode(n):
    return ops.kda.fused_recurrent_kda(**inputs(1, 32, n, n), lower_bound=-5.0)


def given(op, tokens, heads):
    q, k, v = (tensor(name, f"normal:{scale}", 1, tokens, heads, D) for name, scale in (("q", D ** -0.5), ("k", D ** -0.5), ("v", 1)))
    g, s = tensor("g", "uniform:-1:0", 1, tokens, heads, D), tensor("initial_state", "normal:1", 1, heads, D, D, dtype=torch.float32)
    if op == "dplr":
        a, b = (tensor(name, "normal:0.06", 1, tokens, heads, D) for name in "ab")
        return ops.generalized_delta_rule.chunk_dplr_delta_rule(q, k, v, a, b, g, initial_state=s, output_final_state=True)
    beta = tensor("beta", "uniform:0:1", 1, tokens, heads)
    return ops.kda.chunk_kda(q, k, v, g, beta, initial_state=s, output_final_state=True, use_qk_l2norm_in_kernel=True)


def cases():
    """(section, op, what, heads, gate, sets, lengths, what to call), the most wanted first. The inputs of the sets together exceed the L2 cache."""
    few = lambda tokens, heads: 4 if tokens * heads < 65536 else 1
    for tokens in (2048, 8192, 16384, 65536):
        for op in ("dplr", "kda"):
            yield "given", op, f"{tokens} {op.upper()}", 16, "given", few(tokens, 16), [tokens], lambda op=op, t=tokens: given(op, t, 16)
    ragged = [1300, 547, 2048, 963, 271, 3063]
    shapes = [([8192], 96), ([8192], 64), ([8192], 32), ([8192], 16), ([65536], 32), ([2048], 12), ([131072], 4), (ragged, 64), (ragged, 96),
              ([1024] * 8, 64), ([1024] * 8, 96), ([4096] * 8, 32), ([4096], 32), ([32768], 32), ([2048] * 8, 16)]
    for lengths, heads in shapes:
        what = "+".join(map(str, lengths)) if lengths == ragged else f"8 x {lengths[0]}" if len(lengths) == 8 else str(lengths[0])
        for gate in ("bounded", "softplus") if lengths == [8192] and heads in (32, 96) else ("bounded",):
            yield "prefill", "kda", what, heads, gate, few(sum(lengths), heads), lengths, lambda x=lengths, h=heads, g=gate: prefill(x, h, g)
    for n in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        sets = max(2, min(64, (1 << 29) // (n * 32 * D * D * 4)))
        yield "decode", "kda", f"N = {n}", 32, "bounded", sets, [1] * n, lambda n=n: decode(n)


if __name__ == "__main__":
    out, wanted, compiled = Path(sys.argv[1]), sys.argv[2:], set()
    out.mkdir(parents=True, exist_ok=True)
    triton.runtime.driver.set_active(driver := Driver(out))
    autotuner.Autotuner.run = run_autotuned
    torch.cuda.get_device_capability = lambda *_: (9, 0)
    torch.cuda.get_device_name = lambda *_: "NVIDIA H100 80GB HBM3"
    torch.cuda.device_count = lambda: 1
    from fla import ops
    import fla.ops.generalized_delta_rule
    import fla.ops.kda
    import fla.utils
    assert fla.utils.IS_NVIDIA_HOPPER and fla.utils.check_shared_mem("hopper"), "FLA does not believe in the H100"

    with open(out / "manifest", "w") as manifest, torch.no_grad():
        for section, op, what, heads, gate, sets, lengths, call in cases():
            key = f"{what}|{heads}|{gate}"
            if wanted and not any(w == section or w in key for w in wanted):
                continue
            record = Record("initial_state" if section == "decode" else "all" if sets > 1 else "")
            with Tensors():
                o, state = call()
            record.buffer(o, name="o"), record.buffer(state, name="final_state")
            options = [int(op == "kda"), int(gate != "given"), -5 if gate == "bounded" else 0, sets]  # L2 norm, sigmoid of beta, lower bound
            print("case", op, what.replace(" ", "~"), heads, gate, *options, *lengths, file=manifest)
            print("\n".join(record.text()), file=manifest, flush=True)
            total = sum(e["bytes"] * (sets if e["fill"].startswith("set:") else 1) for e in record.buffers.values())
            print(f"{key}: {len(record.lines)} lines, {total / 1e9:.1f} GB, {len(driver.cubins)} cubins", flush=True)
