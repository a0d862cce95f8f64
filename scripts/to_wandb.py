#!/usr/bin/env python3
"""to_wandb.py - sends a run's log.jsonl to Weights & Biases

usage: scripts/to_wandb.py RUN [--project gpt.cu] [--offline]

It shows the same numbers as to_tensorboard.py, at the time at which they are sent. With --offline they go to a folder wandb/, from which
`wandb sync` sends them later. It needs wandb (python3 -m venv .venv && .venv/bin/pip install wandb).
"""
import argparse
import json
import pathlib
import sys

from to_tensorboard import scalars

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("run", metavar="RUN")
parser.add_argument("--project", default="gpt.cu")
parser.add_argument("--offline", action="store_true")
args = parser.parse_args()
merged = {}
for step, time, numbers in scalars(args.run):
    merged.setdefault(step, {}).update(numbers)
try:
    import wandb
except ImportError:
    sys.exit(print("error: there is no wandb: python3 -m venv .venv && .venv/bin/pip install wandb", file=sys.stderr) or 2)
settings = pathlib.Path(args.run) / "run.json"
config = json.loads(settings.read_text())["options"] if settings.is_file() else {}
with wandb.init(project=args.project, name=pathlib.Path(args.run).name, config=config, mode="offline" if args.offline else "online") as run:
    for step in sorted(merged):
        run.log(merged[step], step=step)
print(f"{args.run}: {len(merged)} steps are in the project {args.project}" + (", to be sent by wandb sync" if args.offline else ""))
