"""Writes test/golden/muon.safetensors: the weights of a small model after each of six updates by torch.optim.Muon (hidden
matrices; q, k and v apart) and torch.optim.AdamW (all other weights), in float64, stored as fp32. test_muon.cpp makes the
same first weights and gradients and compares after every update. Run with PyTorch 2.15: python3 test/make_golden_muon.py
"""
import math

import numpy as np
import torch
from safetensors.numpy import save_file

C, F, LAYERS, CONTEXT, VOCAB = 12, 20, 2, 7, 64
STEPS, PEAK, FINAL, MUON_PEAK, WARMUP = 6, 1e-2, 1e-3, 0.02, 2
DECAY, BETAS, EPS, CLIP, MOMENTUM = 0.1, (0.9, 0.95), 1e-8, 1.0, 0.95


def values(shape, row, step):
    """Numbers in [-0.5, 0.5) that fp32 holds exactly, from the index of an element, its weight's row and the step."""
    with np.errstate(over="ignore"):
        z = np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(row * 1000000 + step * 100000000)
        z = z * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
        z = z ^ (z >> np.uint64(29))
    return (z >> np.uint64(40)).astype(np.float64).reshape(shape) / 2**24 - 0.5


def table():
    """(name, shape, whether it is a hidden matrix), as in gpt/params.h."""
    yield "wte.weight", (VOCAB, C), False
    yield "wpe.weight", (CONTEXT, C), False
    for layer in range(LAYERS):
        for leaf, shape in [("ln1.weight", (C,)), ("ln1.bias", (C,)), ("qkv.weight", (3 * C, C)), ("qkv.bias", (3 * C,)),
                            ("proj.weight", (C, C)), ("proj.bias", (C,)), ("ln2.weight", (C,)), ("ln2.bias", (C,)),
                            ("up.weight", (F, C)), ("up.bias", (F,)), ("down.weight", (C, F)), ("down.bias", (C,))]:
            matrix = leaf in ("qkv.weight", "proj.weight", "up.weight", "down.weight")
            yield f"h.{layer}.{leaf}", shape, matrix
    yield "lnf.weight", (C,), False
    yield "lnf.bias", (C,), False


def rate(step):
    if step < WARMUP:
        return PEAK * (step + 1) / WARMUP
    p = (step + 1 - WARMUP) / (STEPS - WARMUP)
    return FINAL + 0.5 * (1 + math.cos(math.pi * p)) * (PEAK - FINAL)


def parts(name, array):
    """q, k and v are three matrices."""
    return np.split(array, 3) if name.endswith("qkv.weight") else [array]


rows = list(table())
weights = {name: [torch.nn.Parameter(torch.tensor(p)) for p in parts(name, values(shape, r, 0))]
           for r, (name, shape, _) in enumerate(rows)}
of = lambda want: [p for name, _, matrix in rows if want(name, matrix) for p in weights[name]]
is_table = lambda name: name in ("wte.weight", "wpe.weight")
muon = torch.optim.Muon(of(lambda name, matrix: matrix), lr=MUON_PEAK, weight_decay=DECAY, momentum=MOMENTUM, nesterov=True)
adamw = torch.optim.AdamW([{"params": of(lambda name, matrix: is_table(name)), "weight_decay": DECAY},
                           {"params": of(lambda name, matrix: not matrix and not is_table(name)), "weight_decay": 0.0}],
                          lr=PEAK, betas=BETAS, eps=EPS)

# torch.optim.Muon iterates in torch.bfloat16. Under another name for that dtype it iterates in float64.
torch.bfloat16 = torch.float64
stored = {}
for step in range(STEPS):
    gradients = {name: values(shape, r, step + 1) for r, (name, shape, _) in enumerate(rows)}
    norm = math.sqrt(sum((g**2).sum() for g in gradients.values()))
    for name, g in gradients.items():
        for p, part in zip(weights[name], parts(name, g)):
            p.grad = torch.tensor(part * min(1, CLIP / norm))
    for group in adamw.param_groups:
        group["lr"] = rate(step)
    for group in muon.param_groups:
        group["lr"] = MUON_PEAK * rate(step) / PEAK
    muon.step()
    adamw.step()
    for name, _, _ in rows:
        stored[f"{step}.{name}"] = np.concatenate([p.detach().numpy() for p in weights[name]]).astype(np.float32)
save_file(stored, "test/golden/muon.safetensors", metadata={"torch": torch.__version__})
print(f"{len(stored)} tensors, torch {torch.__version__}")
