# make_golden_dpo.py - writes test/golden/dpo.json and dpo.safetensors: DPO as Rafailov et al. (2023) state it, in PyTorch, float64
#
#   python3 test/make_golden_dpo.py        needs torch, transformers and safetensors (2.15, 5.23 wrote the files)
#
# The model is test/golden/gpt2. Each answer is run alone. dpo.json has the documents, chosen and rejected in turns, in which a
# negative id is one that counts; and for five steps of AdamW on all pairs the loss, mean margin, accuracy and gradient norm.
import copy
import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent / "golden"
BETA, RATE, DECAY, CLIP, STEPS = 0.3, 5e-3, 0.1, 1.0, 5


def log_prob(model, document):
    ids = torch.tensor([[abs(i) for i in document]])
    log_probs = torch.log_softmax(model(ids[:, :-1]).logits[0], -1)
    return sum(log_probs[t, -document[t + 1]] for t in range(len(document) - 1) if document[t + 1] < 0)


def main():
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(7)
    draw = lambda n: torch.randint(1, 61, (n,), generator=generator).tolist()
    pairs = []
    for prompt, chosen, rejected in (3, 4, 2), (1, 1, 5), (4, 6, 7), (2, 3, 3), (5, 1, 1), (2, 8, 2), (3, 2, 9), (1, 4, 4):
        front = draw(prompt)
        pairs.append([front + [-i for i in draw(n)] for n in (chosen, rejected)])
    model = AutoModelForCausalLM.from_pretrained(HERE / "gpt2", dtype=torch.float64, attn_implementation="eager").eval()
    reference = copy.deepcopy(model)
    params = list(model.parameters())
    groups = [{"params": [p for p in params if p.dim() >= 2], "weight_decay": DECAY},
              {"params": [p for p in params if p.dim() < 2], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8, foreach=False)
    with torch.no_grad():
        known = [[log_prob(reference, d) for d in pair] for pair in pairs]
    steps, grads = [], None
    for step in range(STEPS):
        adamw.zero_grad()
        margins = torch.stack([BETA * ((log_prob(model, c) - rc) - (log_prob(model, r) - rr)) for (c, r), (rc, rr) in zip(pairs, known)])
        loss = -torch.nn.functional.logsigmoid(margins).mean()
        loss.backward()
        if step == 1:  # at the first step all margins are 0
            grads = {"grad." + n: p.grad.float().contiguous() for n, p in model.named_parameters()}
        norm = torch.nn.utils.clip_grad_norm_(params, CLIP)
        steps.append({"loss": loss.item(), "margin": margins.mean().item(), "accuracy": (margins > 0).double().mean().item(), "norm": norm.item()})
        adamw.step()
    save_file(grads, HERE / "dpo.safetensors", {"format": "pt"})
    golden = {"beta": BETA, "learning_rate": RATE, "weight_decay": DECAY, "clip": CLIP, "documents": [d for pair in pairs for d in pair],
              "reference": [p.item() for pair in known for p in pair], "steps": steps}
    (HERE / "dpo.json").write_text(json.dumps(golden) + "\n")
    (HERE / "dpo.safetensors").chmod(0o644)
    print(json.dumps(steps, indent=1))


main()
