#!/usr/bin/env python3
"""picture.py - draws the picture of the README: a run's terminal output, its loss curve, and twenty lines that it wrote

usage: scripts/picture.py [--run FOLDER] [--output docs/quickstart.svg]

Without --run it trains the quick-start model first (three to ten minutes on two cores), in a temporary folder; `make quickstart`
must have prepared the text. With --run the folder must hold log.jsonl, checkpoints/, and the terminal output as terminal.txt.
The script needs python3 and the built programs. The SVG holds text, so it stays sharp and can be searched.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile
import textwrap
from html import escape

ROOT = pathlib.Path(__file__).resolve().parent.parent
WIDTH, MARGIN = 1000, 16
CHAR, LINE = 7.23, 16  # the advance of a 12-pixel monospace character, and the distance between lines
INK, PAPER, FAINT, TRAIN, VAL = "#c9d1d9", "#0d1117", "#8b949e", "#58a6ff", "#f0883e"
PROMPT = "It was a fine morning, and Elizabeth"


def train(folder):
    """Trains the quick-start model into folder and keeps what it prints."""
    command = ["./train_gpt", "--out", str(folder), "--log-every", "200"]
    with open(folder.with_suffix(".txt"), "w") as terminal:
        subprocess.run(command, cwd=ROOT, stdout=terminal, check=True)
    (folder / "terminal.txt").write_text(folder.with_suffix(".txt").read_text().replace(str(folder), "runs/quickstart"))


def sample(folder):
    """Returns twenty lines that the newest checkpoint writes, wrapped like a printed page."""
    command = ["./infer_gpt", "--model", str(folder / "checkpoints/latest"), "--prompt", PROMPT, "--tokens", "500",
               "--temperature", "0.7"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = []
    for paragraph in text.replace("_", "").split("\n\n"):
        lines += textwrap.wrap(" ".join(paragraph.split()), 64) + [""]
    return lines[:20]


def text(x, y, line, color=INK):
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{color}" xml:space="preserve">{escape(line)}</text>'


def terminal_lines(folder):
    columns = int((WIDTH - 2 * MARGIN) / CHAR) - 2
    lines = ["$ ./train_gpt"]
    for line in (folder / "terminal.txt").read_text().rstrip().splitlines():
        if not line.startswith(" saved"):
            lines.append(line if len(line) <= columns else line[: columns - 1] + "…")
    return lines


def curve(folder, left, top, width, height):
    """Returns the SVG of the smoothed training loss and of the validation losses."""
    records = [json.loads(line) for line in open(folder / "log.jsonl")]
    steps = [(r["step"], r["loss"]) for r in records if r["event"] == "step"]
    evals = [(r["step"], r["val_loss"]) for r in records if r["event"] == "eval"]
    smooth, mean = [], steps[0][1]
    for step, loss in steps:
        mean += (loss - mean) * max(0.03, 1 / (step + 1))
        smooth.append((step, mean))
    low, high, last = 3.5, 8.5, steps[-1][0]
    x = lambda step: left + 40 + (width - 60) * step / last
    y = lambda loss: top + height - 30 - (height - 50) * (min(loss, high) - low) / (high - low)
    parts = []
    for loss in range(4, 9):
        parts.append(f'<line x1="{x(0):.1f}" y1="{y(loss):.1f}" x2="{x(last):.1f}" y2="{y(loss):.1f}" stroke="#30363d"/>')
        parts.append(text(left + 12, y(loss) + 4, str(loss), FAINT))
    for step in range(0, last + 1, 500):
        parts.append(text(x(step) - len(str(step)) * CHAR / 2, top + height - 10, str(step), FAINT))
    path = lambda points: " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in points)
    parts.append(f'<polyline points="{path(smooth[::4] + smooth[-1:])}" fill="none" stroke="{TRAIN}" stroke-width="1.5"/>')
    parts.append(f'<polyline points="{path(evals)}" fill="none" stroke="{VAL}" stroke-width="1.5"/>')
    parts += [f'<circle cx="{x(s):.1f}" cy="{y(v):.1f}" r="2.5" fill="{VAL}"/>' for s, v in evals]
    parts.append(text(left + width - 220, top + 30, f"training loss   {smooth[-1][1]:.3f}", TRAIN))
    parts.append(text(left + width - 220, top + 48, f"validation loss {evals[-1][1]:.3f}", VAL))
    return parts


def draw(folder, output):
    lines, prose = terminal_lines(folder), sample(folder)
    split = MARGIN + 18 + LINE * len(lines) + 14
    height = split + 20 * LINE + 40
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
             'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, DejaVu Sans Mono, monospace" font-size="12">',
             f'<rect width="{WIDTH}" height="{height}" rx="8" fill="{PAPER}"/>']
    parts += [text(MARGIN, MARGIN + 12 + LINE * i, line) for i, line in enumerate(lines)]
    parts.append(f'<line x1="{MARGIN}" y1="{split}" x2="{WIDTH - MARGIN}" y2="{split}" stroke="#30363d"/>')
    parts += curve(folder, MARGIN, split + 6, 460, 20 * LINE + 26)
    parts += [text(MARGIN + 484, split + 32 + LINE * i, line) for i, line in enumerate(prose)]
    output.write_text("\n".join(parts) + "\n</svg>\n")
    print(f"{output}: {len(lines)} lines of terminal output, {len(prose)} of text")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--run", type=pathlib.Path)
parser.add_argument("--output", type=pathlib.Path, default=ROOT / "docs/quickstart.svg")
args = parser.parse_args()
if args.run:
    draw(args.run.resolve(), args.output)  # infer_gpt runs in another folder
else:
    with tempfile.TemporaryDirectory() as work:
        folder = pathlib.Path(work) / "quickstart"
        train(folder)
        draw(folder, args.output)
