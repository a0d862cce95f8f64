#!/usr/bin/env python3
"""Trains each family a few steps with train_gpt and opens the checkpoints with transformers. No weight may be missing
or unexpected, and the logits, the greedy text, the tokens of a text and the scores of --eval must be the same.

    python3 -m venv v && v/bin/pip install torch transformers numpy && make && v/bin/python test/check_transformers.py

It also goes the other way round: a folder that save_pretrained() wrote is opened as it is. `make check-transformers`
runs this script with the python3 of $PYTHON. The exit code is 1 when anything differs.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy
import torch
import transformers

BUILD = pathlib.Path(os.environ.get("GPT_BUILD", "build")).resolve()
CONTEXT, STEPS, GREEDY = 48, 6, 40
TEXT = "It is a truth universally acknowledged, that 1813 wasn't a leap year; naïve or not.\n\n  So it goes!\n"


def configs():
    """(name, what it shows, config) for each case. No two sizes of a model are the same."""
    gpt2_like = dict(vocab_size=515, n_positions=64, n_embd=48, n_layer=3, n_head=3, bos_token_id=0, eos_token_id=0)
    neox_like = dict(vocab_size=515, max_position_embeddings=64, hidden_size=48, intermediate_size=112,
                     num_hidden_layers=3, num_attention_heads=3, bos_token_id=0, eos_token_id=0)
    T = transformers
    yield "gpt2", "tied head", T.GPT2Config(**gpt2_like)
    yield "gpt2-two-tables", "called tied, with another head stored", T.GPT2Config(
        **gpt2_like, tie_word_embeddings=False)
    yield "gpt2-odd", "odd sizes", T.GPT2Config(**{**gpt2_like, "n_embd": 51, "n_inner": 75, "n_positions": 49})
    yield "gpt2-by-layer", "scores divided by the layer, not by √D", T.GPT2Config(
        **gpt2_like, scale_attn_by_inverse_layer_idx=True, scale_attn_weights=False)
    yield "gpt3", "GPT-3's shape in small", T.GPT2Config(**{**gpt2_like, "n_positions": 128, "n_head": 6})
    yield "gpt-neo", "a window of 7", T.GPTNeoConfig(
        vocab_size=515, max_position_embeddings=64, hidden_size=48, num_layers=3, num_heads=3, window_size=7,
        attention_types=[[["global", "local", "local"], 1]], bos_token_id=0, eos_token_id=0)
    yield "gpt-j", "rotary neighbours, head bias", T.GPTJConfig(**gpt2_like, rotary_dim=10)
    yield "gpt-neox", "parallel, untied", T.GPTNeoXConfig(**neox_like)
    yield "gpt-neox-tied", "parallel, tied, all coordinates rotate, tanh", T.GPTNeoXConfig(
        **neox_like, tie_word_embeddings=True, rotary_pct=1.0, hidden_act="gelu_fast")
    yield "gpt-neox-sequential", "sequential, no attention biases, another base", T.GPTNeoXConfig(
        **neox_like, use_parallel_residual=False, attention_bias=False, rotary_emb_base=500)


def ran(*words):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(str(w) for w in words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def opened(folder):
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    for what, names in report.items():
        assert not names, f"{folder}: {what}: {names}"
    return model.eval()


def compare(name, folder, ids):
    """Returns the largest difference of logits as a share of the largest logit. Greedy text must be the same ids."""
    model = opened(folder)
    text = ",".join(map(str, ids))
    ours = numpy.array(json.loads(ran(BUILD / "infer_gpt", "--model", folder, "--dtype", "fp32", "--ids", text,
                                      "--logits"))["logits"])
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0].double().numpy()
        greedy = model.generate(torch.tensor([ids[:4]]), max_new_tokens=GREEDY, min_new_tokens=GREEDY, do_sample=False,
                                eos_token_id=None, pad_token_id=0)[0, 4:].tolist()
    off = abs(ours - theirs).max() / abs(theirs).max()
    assert ours.shape == theirs.shape and off <= 1e-5, f"{name}: logits differ by {off:.1e} of the largest"
    said = ran(BUILD / "infer_gpt", "--model", folder, "--dtype", "fp32", "--ids", ",".join(map(str, ids[:4])), "--tokens",
               GREEDY, "--temperature", 0)
    assert [int(w) for w in said.split()] == greedy, f"{name}: greedy text differs:\n{said}\n{greedy}"
    return off


def rates(folder):
    """The rates of dropout that transformers reads from a folder, by their names."""
    config = transformers.AutoConfig.from_pretrained(folder)
    return {name: getattr(config, name) for name in ("attn_pdrop", "embd_pdrop", "resid_pdrop", "attention_dropout",
                                                     "embed_dropout", "resid_dropout", "hidden_dropout") if hasattr(config, name)}


def write_pair(folder, tokenizer):
    """Writes a tokenizer as vocab.json and merges.txt, as the hub's GPT-Neo and older GPT-2 folders have it."""
    model = json.loads(tokenizer.read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(merge + "\n" for merge in model["merges"]))


def check_chat(work, tokenizer):
    """Tunes a model on a conversation with the tokens of chatml. transformers reads its template, tokens and ends from the folder."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Was 1813 a leap year?\n"},
                {"role": "assistant", "content": " It wasn't."}, {"role": "user", "content": ""}, {"role": "assistant", "content": ""}]
    (work / "chat.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    train = [BUILD / "train_gpt", "--batch", 1, "--context", 160, "--steps", 1, "--eval-every", 0]
    ran(*train, "--model", work / "gpt2-config", "--tokenizer", tokenizer, "--train-data", work / "tokens.bin", "--out", work / "chat-base")
    ran(BUILD / "tokenize", "--tokenizer", tokenizer, "--input", work / "chat.jsonl", "--chat-template", "chatml", "--add-tokens",
        work / "chat", "--output", work / "chat/chat")
    ran(*train, "--model", work / "chat-base", "--tokenizer", work / "chat", "--add-tokens", "--train-data",
        work / "chat/chat_train_*.bin", "--out", work / "chat-tuned")
    theirs = transformers.AutoTokenizer.from_pretrained(work / "chat-tuned/checkpoints/latest")
    ids = theirs.apply_chat_template(messages, return_dict=False)
    header = numpy.fromfile(work / "chat/chat_train_000000.bin", "<i4", 8)
    ours = numpy.fromfile(work / "chat/chat_train_000000.bin", "<i4", header[4], offset=1024).tolist()
    assert ours[1:] == ids, f"chat: the template gives other ids:\n{ids}\n{ours[1:]}"
    ends = opened(work / "chat-tuned/checkpoints/latest").generation_config.eos_token_id
    assert ends[0] == theirs.convert_tokens_to_ids("<|im_end|>"), f"chat: a text ends with {ends}"
    # A template whose loop has another variable.
    config = json.loads((work / "chat/tokenizer_config.json").read_text())
    config["chat_template"] = config["chat_template"].replace("for message in", "for m in").replace("message[", "m[")
    (work / "chat/tokenizer_config.json").write_text(json.dumps(config))
    ran(BUILD / "tokenize", "--tokenizer", work / "chat", "--input", work / "chat.jsonl", "--chat-template", "model", "--output",
        work / "chat/renamed")
    theirs = transformers.AutoTokenizer.from_pretrained(work / "chat").apply_chat_template(messages, return_dict=False)
    assert "m[" in config["chat_template"] and theirs == ids, f"chat: the template with another variable gives other ids:\n{theirs}"
    renamed = numpy.fromfile(work / "chat/renamed_train_000000.bin", "<i4", header[4], offset=1024).tolist()
    assert renamed == ours, f"chat: a template with another variable gives other ids:\n{renamed}\n{ours}"
    print("chat                 --add-tokens: the ids of apply_chat_template, and the end of an answer")


def likelihood(model, ids, given):
    """The log-likelihood of ids[given:], and whether each of them is the likeliest. The model sees the newest ids that it has positions for."""
    newest = ids[-(model.config.n_positions + 1):]
    with torch.no_grad():
        rows = model(torch.tensor([newest[:-1]])).logits[0].double().log_softmax(-1)[-(len(ids) - given):]
    wanted = torch.tensor(ids[given:])
    return rows[range(len(wanted)), wanted].sum().item(), bool((rows.argmax(-1) == wanted).all())


def check_evaluations(work):
    """Scores passages like LAMBADA's and questions like HellaSwag's on a model that learned half of the answers. Of the passages some
    are longer than the model's context. The texts are split as lm-evaluation-harness does (its _encode_pair)."""
    rng = numpy.random.default_rng(2)
    who, where = ["keeper", "miller", "widow", "smith"], ["mill", "harbour", "forest"]
    what = ["lantern", "raven", "letter", "storm", "stranger"]

    def sentence():
        a, b = rng.integers(4), rng.integers(3)
        likely = [what[(a + k) % 5] for k in range(4)]  # the first two follow equally often
        return f"The {who[a]} of the {where[b]} saw the", likely

    def passage(sentences):
        return " ".join(f"{begin} {likely[rng.integers(2)]}." for begin, likely in (sentence() for _ in range(sentences)))

    (work / "passages.txt").write_text(passage(4000))
    tokenizer = work / "passages.json"
    ran(BUILD / "tokenize", "--train-bpe", 320, "--input", work / "passages.txt", "--output", tokenizer)
    ran(BUILD / "tokenize", "--tokenizer", tokenizer, "--input", work / "passages.txt", "--output", work / "passages")
    ran(BUILD / "train_gpt", "--model", work / "gpt2-config", "--tokenizer", tokenizer, "--train-data", work / "passages_train_*.bin",
        "--batch", 8, "--context", CONTEXT, "--steps", 300, "--dtype", "fp32", "--learning-rate", 3e-3, "--eval-every", 0,
        "--out", work / "passages-run")
    folder = work / "passages-run/checkpoints/latest"
    model, theirs = opened(folder), transformers.AutoTokenizer.from_pretrained(folder)
    texts = [passage(sentences)[:-1] for sentences in (1, 2, 3, 12) for _ in range(12)]
    questions = [{"ctx": begin, "endings": [f"{word}." for word in likely], "label": 0} for begin, likely in (sentence() for _ in range(24))]
    for name, lines in ("lambada", [{"text": text} for text in texts]), ("hellaswag", questions):
        (work / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ours = json.loads(ran(BUILD / "infer_gpt", "--model", folder, "--dtype", "fp32", "--json", "--eval", "lambada", work / "lambada.jsonl",
                          "--eval", "hellaswag", work / "hellaswag.jsonl"))

    def pair(context, ending):
        return theirs(context + ending)["input_ids"], len(theirs(context)["input_ids"])

    assert any(len(theirs(text)["input_ids"]) > model.config.n_positions + 1 for text in texts)
    scores = [likelihood(model, *pair(text[:text.rindex(" ")], text[text.rindex(" "):])) for text in texts]
    acc, perplexity = numpy.mean([greedy for _, greedy in scores]), numpy.exp(-numpy.mean([log for log, _ in scores]))
    assert ours[0]["acc"] == acc, f"lambada: acc is {ours[0]['acc']}, and {acc} by transformers"
    assert 0.1 < acc < 0.9, f"lambada: acc {acc} shows little"
    assert abs(ours[0]["perplexity"] / perplexity - 1) < 1e-5, f"lambada: perplexity is {ours[0]['perplexity']}, and {perplexity}"
    right = right_norm = 0
    for q in questions:
        logs = [likelihood(model, *pair(q["ctx"], " " + ending))[0] for ending in q["endings"]]
        right += numpy.argmax(logs) == q["label"]
        right_norm += numpy.argmax([log / len(ending) for log, ending in zip(logs, q["endings"])]) == q["label"]
    want = {"questions": len(questions), "acc": right / len(questions), "acc_norm": right_norm / len(questions)}
    assert {key: ours[1][key] for key in want} == want, f"hellaswag: {ours[1]}, and {want} by transformers"
    print(f"--eval               lambada: acc {acc:.3f} and perplexity {perplexity:.4f}, hellaswag: acc {want['acc']:.3f} and acc_norm "
          f"{want['acc_norm']:.3f}, the same")


def main():
    torch.set_num_threads(1)
    torch.manual_seed(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    work = pathlib.Path(tempfile.mkdtemp())
    rng = numpy.random.default_rng(1)
    data = numpy.cumsum(rng.integers(1, 4, 6000) ** 3) % 515  # each id is one of three that may follow the one before
    data.astype("<u2").tofile(work / "tokens.bin")
    ids = data[:CONTEXT].tolist()
    (work / "text.txt").write_text(TEXT * 8)
    tokenizer = work / "tokenizer.json"
    ran(BUILD / "tokenize", "--train-bpe", 300, "--input", work / "text.txt", "--output", tokenizer)
    ran(BUILD / "tokenize", "--tokenizer", tokenizer, "--input", work / "text.txt", "--eot", "none", "--output", work / "text")
    tokens = numpy.fromfile(work / "text_train_000000.bin", "<u2")[512:].tolist()  # behind the header
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    try:
        for name, what, config in configs():
            hub, empty = work / f"{name}-hub", work / f"{name}-config"
            transformers.AutoModelForCausalLM.from_config(config).save_pretrained(hub, max_shard_size="100KB")
            config.save_pretrained(empty)
            if name == "gpt2-two-tables":
                facts = json.loads((hub / "config.json").read_text())
                (hub / "config.json").write_text(json.dumps({**facts, "tie_word_embeddings": True}))
            inward = compare(name, hub, ids)
            if name == "gpt-neo":
                write_pair(hub, tokenizer)
            worst = {}
            # The runs start from random weights of ours or from the hub's folder. The last stores 16 bits per weight.
            for start, dtype, stored in (empty, "fp32", "fp32"), (hub, "fp32", "fp32"), (hub, "bf16", "fp16"):
                run = work / f"{name}-{start.name}-{dtype}-{stored}"
                own = (start / "vocab.json").exists()
                ran(BUILD / "train_gpt", "--model", start, "--train-data", work / "tokens.bin", "--batch", 2, "--context",
                    CONTEXT, "--steps", STEPS, "--dtype", dtype, "--save-dtype", stored, "--learning-rate", 3e-3, "--out",
                    run, *([] if own else ["--tokenizer", tokenizer]), *(["--dropout", 0.25] if start == empty else []))
                read = rates(run / "checkpoints/latest")  # a run with --dropout writes its own, another those that it found
                wanted = {name: 0.25 if start == empty else rate for name, rate in rates(start).items()}
                assert read == wanted and len(read) >= 2, f"{run.name}: the rates of dropout are {read}, not {wanted}"
                theirs = transformers.AutoTokenizer.from_pretrained(run / "checkpoints/latest")(TEXT * 8)["input_ids"]
                assert theirs == tokens, f"{run.name}: the tokenizer gives other ids:\n{theirs}\n{tokens}"
                if own:
                    theirs = transformers.AutoTokenizer.from_pretrained(start)(TEXT * 8)["input_ids"]
                    assert theirs == tokens, f"{start.name}: the pair of files gives other ids:\n{theirs}\n{tokens}"
                (run / "checkpoints/latest/tokenizer.json").unlink()  # infer_gpt then prints ids
                worst[run.name] = compare(run.name, run / "checkpoints/latest", ids)
            print(f"{name:20s} {what:46s} hub folder {inward:.0e} · checkpoints {max(worst.values()):.0e} of the largest "
                  f"logit · {GREEDY} greedy tokens the same")
        check_chat(work, tokenizer)
        check_evaluations(work)
    except AssertionError as e:
        sys.exit(f"FAILED {e}")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
