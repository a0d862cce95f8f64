#!/usr/bin/env python3
"""Makes test/golden/NAME/: tiny random models and what PyTorch and transformers compute with them.

    python3 -m venv v && v/bin/pip install torch transformers numpy && v/bin/python test/make_golden.py

Each folder holds
    config.json, model.safetensors   a model as save_pretrained() writes it, with weights in float32
    golden.safetensors               ids (B,T+1) int32, logits (B,T,V), grad.NAME for every weight NAME of the model,
                                     and train_ids (20,B,T+1) int32; computed in float64 and stored as float32
    golden.json                      the loss of `ids`; bf16_error, which is the root mean square of the differences of
                                     the logits, and of each gradient, when PyTorch computes in bfloat16; and a run of
                                     20 AdamW steps on
                                     train_ids: its settings, and for each step the learning rate, the loss before the
                                     update and the gradient norm, in float64 and in float32

Position t of a row of ids predicts position t + 1, so the tokens are ids[:, :T] and the targets are ids[:, 1:].
`make test` does not run this script. Its outputs are committed, and golden.json names the versions that made them.
Even in the float64 run, transformers computes the rotary sines and cosines in float32, and also the scores of GPT-Neo
and GPT-J.
"""
import copy
import json
import math
import pathlib

import torch
import transformers
from safetensors.torch import save_file
from transformers import (GPT2Config, GPT2LMHeadModel, GPTJConfig, GPTJForCausalLM, GPTNeoConfig, GPTNeoForCausalLM,
                          GPTNeoXConfig, GPTNeoXForCausalLM)

STEPS, WARMUP, PEAK, FINAL = 20, 5, 1e-2, 1e-3
ADAMW = dict(betas=(0.9, 0.95), eps=1e-8)
DECAY, CLIP = 0.1, 1.0


def learning_rate(step):
    """The rate of update `step` (0..19). It rises to PEAK over WARMUP updates; a cosine ends at FINAL."""
    if step < WARMUP:
        return PEAK * (step + 1) / WARMUP
    progress = (step + 1 - WARMUP) / (STEPS - WARMUP)
    return FINAL + (PEAK - FINAL) * 0.5 * (1 + math.cos(math.pi * progress))


def loss_of(model, ids):
    logits = model(ids[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten().long()), logits


def logits_and_gradients(model, ids):
    loss, logits = loss_of(model, ids)
    loss.backward()
    arrays = {"logits": logits.detach()}
    arrays.update({"grad." + n: p.grad for n, p in model.named_parameters()})
    return loss.item(), arrays


def train(model, batches):
    """The losses and gradient norms of the run. Matrices and embeddings decay, biases and norms do not."""
    params = list(model.parameters())
    groups = [{"params": [p for p in params if p.dim() >= 2], "weight_decay": DECAY},
              {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=0.0, foreach=False, **ADAMW)
    losses, norms = [], []
    for step in range(STEPS):
        for group in adamw.param_groups:
            group["lr"] = learning_rate(step)
        adamw.zero_grad()
        loss, _ = loss_of(model, batches[step])
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(params, CLIP).item())
        losses.append(loss.item())
        adamw.step()
    return losses, norms


def make(name, model, batch, seed):
    folder = pathlib.Path(__file__).parent / "golden" / name
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # larger values than at initialisation, for biases and norms too, so that every term matters
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * (0.15 if p.dim() >= 2 else 0.05))
    model.eval()
    model.save_pretrained(folder)

    T, V = model.config.max_position_embeddings, model.config.vocab_size
    ids = torch.randint(0, V, (batch, T + 1), generator=generator, dtype=torch.int32)
    # The model can learn that each id follows from the one before, with one exception in eight.
    batches = torch.randint(0, V, (STEPS, batch, T + 1), generator=generator, dtype=torch.int32)
    surprise = torch.rand(batches.shape, generator=generator) < 0.125
    for t in range(1, T + 1):
        follows = (batches[:, :, t - 1] * 7 + 3) % V
        batches[:, :, t] = torch.where(surprise[:, :, t], batches[:, :, t], follows)

    loss, exact = logits_and_gradients(copy.deepcopy(model).double(), ids)
    _, rounded = logits_and_gradients(copy.deepcopy(model).bfloat16(), ids)
    arrays = {"ids": ids, "train_ids": batches, **{n: a.float() for n, a in exact.items()}}
    save_file({n: a.contiguous() for n, a in arrays.items()}, folder / "golden.safetensors", {"format": "pt"})

    losses64, norms64 = train(copy.deepcopy(model).double(), batches)
    losses32, norms32 = train(copy.deepcopy(model), batches)
    golden = {
        "made_by": f"test/make_golden.py with torch {torch.__version__}, transformers {transformers.__version__}",
        "loss": loss,
        "bf16_error": {n: float(f"{(rounded[n].double() - a).square().mean().sqrt().item():.4g}") for n, a in exact.items()},
        "adamw": {"beta1": ADAMW["betas"][0], "beta2": ADAMW["betas"][1], "eps": ADAMW["eps"], "weight_decay": DECAY,
                  "decays": "tensors of two dimensions", "clip": CLIP},
        "schedule": {"kind": "cosine", "steps": STEPS, "warmup_steps": WARMUP, "learning_rate": PEAK,
                     "final_learning_rate": FINAL},
        "learning_rates": [learning_rate(s) for s in range(STEPS)],
        "losses_float64": losses64, "norms_float64": norms64,
        "losses_float32": losses32, "norms_float32": norms32,
    }
    (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    (folder / "generation_config.json").unlink()
    for file in folder.iterdir():
        file.chmod(0o644)
    worst = max(abs(a - b) / abs(b) for a, b in zip(losses32, losses64))
    print(f"{name}: loss {loss:.6f}; 20 steps {losses64[0]:.4f} -> {losses64[-1]:.4f}, "
          f"norms {min(norms64):.2f}..{max(norms64):.2f}; float32 within {worst:.1e} of float64")


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    no_dropout = dict(attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)
    torch.manual_seed(1)
    make("gpt2", GPT2LMHeadModel(GPT2Config(
        vocab_size=61, n_positions=24, n_embd=32, n_head=4, n_layer=2, bos_token_id=0, eos_token_id=0, **no_dropout)),
        batch=3, seed=11)
    # The number of heads, their size, the context, the feed-forward width and the vocabulary are all odd.
    torch.manual_seed(4)
    make("gpt2_odd", GPT2LMHeadModel(GPT2Config(
        vocab_size=83, n_positions=19, n_embd=33, n_head=3, n_layer=2, n_inner=57, bos_token_id=0, eos_token_id=0,
        **no_dropout)), batch=3, seed=14)
    # Local attention sees 5 of 21 positions.
    torch.manual_seed(5)
    make("gpt_neo", GPTNeoForCausalLM(GPTNeoConfig(
        vocab_size=61, max_position_embeddings=21, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48,
        attention_types=[[["global", "local"], 1]], window_size=5, bos_token_id=0, eos_token_id=0,
        resid_dropout=0.0, embed_dropout=0.0, attention_dropout=0.0)), batch=2, seed=15)
    # 6 of 8 coordinates of a head rotate.
    torch.manual_seed(6)
    make("gptj", GPTJForCausalLM(GPTJConfig(
        vocab_size=67, n_positions=20, n_embd=40, n_head=5, n_layer=2, n_inner=56, rotary_dim=6, bos_token_id=0,
        eos_token_id=0, **no_dropout)), batch=2, seed=16)

    def neox(**changes):
        settings = dict(vocab_size=67, max_position_embeddings=20, hidden_size=40, intermediate_size=56,
                        num_attention_heads=5, num_hidden_layers=2, hidden_act="gelu", rotary_pct=0.25,
                        use_parallel_residual=True, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
                        attention_dropout=0.0, hidden_dropout=0.0)
        settings.update(changes)
        return GPTNeoXForCausalLM(GPTNeoXConfig(**settings))

    torch.manual_seed(2)
    make("gpt_neox", neox(), batch=2, seed=12)
    # The residual is sequential, the head is tied, half of each head of 8 rotates with another base, and GELU has its
    # tanh form.
    torch.manual_seed(3)
    make("gpt_neox_sequential", neox(use_parallel_residual=False, tie_word_embeddings=True, rotary_pct=0.5,
                                     rotary_emb_base=500, hidden_act="gelu_fast"), batch=2, seed=13)
    torch.manual_seed(7)
    make("gpt_neox_tied", neox(tie_word_embeddings=True, attention_bias=False, rotary_pct=1.0, hidden_act="gelu_new"),
         batch=2, seed=17)
    torch.manual_seed(8)
    make("gpt_neox_sequential_untied", neox(use_parallel_residual=False), batch=2, seed=18)


if __name__ == "__main__":
    main()
