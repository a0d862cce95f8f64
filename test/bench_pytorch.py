"""Times a GPT-2 training step in PyTorch, for `make bench ARGS=peers`, which runs it beside train_gpt.

usage: bench_pytorch.py --batch B --context T --dtype bf16|fp32 --steps N --threads N

The model is transformers' GPT-2 124M with random weights, without dropout, with PyTorch's own attention (SDPA). The step is what
train_gpt does: forward, loss, backward, gradient norm clipped to 1, fused AdamW. bf16 means autocast over fp32 weights. Prints
the median milliseconds of the steps after the second.
"""
import argparse
import statistics
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel

parser = argparse.ArgumentParser()
parser.add_argument("--batch", type=int, required=True)
parser.add_argument("--context", type=int, required=True)
parser.add_argument("--dtype", choices=["bf16", "fp32"], required=True)
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

torch.manual_seed(1337)
torch.set_num_threads(args.threads)
config = GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False, attn_implementation="sdpa")
model = GPT2LMHeadModel(config).train()
optimizer = torch.optim.AdamW(model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
ids = torch.randint(0, config.vocab_size, (args.batch, args.context + 1))
inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

milliseconds = []
for _ in range(args.steps):
    start = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.dtype == "bf16"):
        logits = model(inputs).logits
        loss = torch.nn.functional.cross_entropy(logits.view(-1, config.vocab_size).float(), targets.view(-1))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    loss.item()
    milliseconds.append(1e3 * (time.perf_counter() - start))
print(f"{statistics.median(milliseconds[2:]):.1f} PyTorch {torch.__version__}")
