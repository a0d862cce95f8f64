"""Times causal attention in PyTorch on a GPU, forward and backward, at the sizes of `bench_ops --compare-attention`.

usage: bench_attention.py --tokens N

Each of PyTorch's two fast implementations (SDPA by cuDNN and by FlashAttention) gets q, k and v as one tensor (B, T, 3, H, D) in
bf16, as a GPT has them, with B T = N tokens and H D = 768. It prints a line for each size and pass in the form of bench_ops: the
median microseconds, and the rate by the FLOPs of the lower triangle. One that refuses a size is named, with what it said.
"""
import argparse
import statistics

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention


def microseconds(call):
    times = []
    for i in range(25):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        if i >= 5:
            times.append(1e3 * begin.elapsed_time(end))
    return statistics.median(times)


parser = argparse.ArgumentParser()
parser.add_argument("--tokens", type=int, default=32768)
tokens = parser.parse_args().tokens
print(f"PyTorch {torch.__version__} on {torch.cuda.get_device_name()}, cuDNN {torch.backends.cudnn.version()}")
for D in 64, 128:
    for T in 1024, 2048, 4096:
        B, H = tokens // T, 768 // D
        if B < 1:
            continue
        qkv = torch.randn(B, T, 3, H, D, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        q, k, v = (x.transpose(1, 2) for x in qkv.unbind(2))
        gradient = torch.randn(B, T, H, D, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
        flops = 2 * B * H * D * T * (T + 1)  # of the two products of the forward pass
        for name, backend in ("cuDNN", SDPBackend.CUDNN_ATTENTION), ("FlashAttention", SDPBackend.FLASH_ATTENTION):
            try:
                with sdpa_kernel(backend):
                    out = scaled_dot_product_attention(q, k, v, is_causal=True)
                    forward = microseconds(lambda: scaled_dot_product_attention(q, k, v, is_causal=True))
                    backward = microseconds(lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True))
            except RuntimeError as error:
                print(f"{name} refuses D {D} T {T}: {str(error).splitlines()[0]}")
                continue
            for what, us, work in ("forward", forward, flops), ("backward", backward, 2.5 * flops):
                print(f"attention {what} D {D} T {T}, {name}  bf16 {us:.0f} us {work / us / 1e3:.1f} GFLOP/s")
