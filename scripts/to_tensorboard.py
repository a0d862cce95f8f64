#!/usr/bin/env python3
"""to_tensorboard.py - writes a run's log.jsonl as event files for TensorBoard

usage: scripts/to_tensorboard.py RUN [--output RUN/tensorboard]

Every step has loss/train, norm, rate and tokens_per_s, every evaluation loss/val, and HellaSwag its two accuracies. Their time is that of
the log. In a log of an older version, which has none, a second of TensorBoard's time is a step. It needs TensorBoard
(python3 -m venv .venv && .venv/bin/pip install tensorboard).
"""
import argparse
import json
import pathlib
import sys

SCALARS = {"step": {"loss": "loss/train", "norm": "norm", "lr": "rate", "tokens_per_s": "tokens_per_s"},
           "eval": {"val_loss": "loss/val"}, "hellaswag": {"acc": "hellaswag/acc", "acc_norm": "hellaswag/acc_norm"}}


def scalars(run):
    """Yields (step, time or None, {name: number}) for each record of a run that has numbers to show. to_wandb.py shows the same."""
    path = pathlib.Path(run) / "log.jsonl"
    if not path.is_file():
        sys.exit(print(f"error: {path}: there is no such file; give the folder of a run, such as runs/quickstart", file=sys.stderr) or 2)
    for number, line in enumerate(open(path), 1):
        try:
            record = json.loads(line)
        except ValueError:
            sys.exit(print(f"error: {path} line {number}: this is no JSON", file=sys.stderr) or 2)
        names = SCALARS.get(record.get("event"), {})
        found = {ours: record[key] for key, ours in names.items() if isinstance(record.get(key), (int, float))}
        if found:
            yield record["step"], record.get("time"), found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--output")
    args = parser.parse_args()
    output = pathlib.Path(args.output or pathlib.Path(args.run) / "tensorboard")
    if output.exists():
        sys.exit(print(f"error: {output} exists; name another folder with --output", file=sys.stderr) or 2)
    all_scalars = list(scalars(args.run))
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        sys.exit(print("error: there is no tensorboard: python3 -m venv .venv && .venv/bin/pip install tensorboard", file=sys.stderr) or 2)
    writer = EventFileWriter(str(output))
    has_times = all(time is not None for _, time, _ in all_scalars)
    if not has_times:
        print(f"note: {args.run}/log.jsonl has records without a time, so a second of TensorBoard's time is a step", file=sys.stderr)
    for step, time, numbers in all_scalars:
        values = [Summary.Value(tag=name, simple_value=number) for name, number in numbers.items()]
        writer.add_event(Event(step=step, wall_time=time if has_times else step, summary=Summary(value=values)))
    writer.close()
    print(f"{output}: {len(all_scalars)} records; look at them with: tensorboard --logdir {output}")


if __name__ == "__main__":
    main()
