"""Reward against its price: the tuning of chapter 15 for several KL weights and seeds, beside what needs no reward.

    python scripts/reward.py            # three seeds; writes benchmarks/results/reward.json

It runs the chapter's own cells. The base is the same for all seeds.
"""
import argparse
import json
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

from nanogpt.bench import machine
from nanogpt.files import write_json

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--kl", type=float, nargs="+", default=[0, 0.02, 0.05, 0.2, 1])
args = parser.parse_args()
root = Path(__file__).parents[1]
notebook = json.loads((root / "nbs" / "15_reward.ipynb").read_text(encoding="utf-8"))
sources = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
sources = [source for source in sources if not source.startswith("#| echo")]


def cell(text: str) -> str:
    "The one cell of the chapter that has this text."
    (found,) = [source for source in sources if text in source]
    return found


def until_run(text: str) -> str:
    "The part of a cell that defines a function, without the part that runs it."
    return cell(text).split("\n\nfor temperature")[0].split("\n\nnote_down")[0]


space: dict = {"__name__": "chapter"}
for source in sources[: sources.index(cell('note_down("base", base)'))]:
    exec(source, space)
for text in ("def note_down", "def sharpen", "def by_token", "def finetune_on_accepted"):
    exec(until_run(text), space)
base, sharpen, points = space["base"], space["sharpen"], {}


def note_down(name: str, run):
    began = time.process_time()
    model = run()
    spent = time.process_time() - began
    space["note_down"](name, model)
    row = zip(("consistent", "distinct", "excess", "cpu_seconds"), (*space["results"][name], spent))
    for column, value in row:
        points.setdefault(name, {}).setdefault(column, []).append(value)


def tuned(credit, kl: float):
    return space["tune"](credit, kl)[0]


def train_longer():
    exec(cell("SEED, STEPS = 0, 400").replace("SEED, STEPS = 0, 400", "SEED, STEPS = 0, 600"), space)
    return space["base"]


for temperature in (1, 0.9, 0.8, 0.7, 0.6):
    note_down(f"temperature {temperature}", partial(sharpen, base, temperature))
for seed in range(args.seeds):
    space["SEED"] = seed
    for kl in args.kl:
        note_down(f"first wrong token, KL {kl:g}", partial(tuned, space["by_token"], kl))
    note_down("GRPO, KL 0.05", partial(tuned, space["by_outcome"](space["consistent"]), 0.05))
    note_down("finetuned on accepted tales", partial(space["finetune_on_accepted"], 2 * space["ROUNDS"]))
note_down("600 steps of pretraining", train_longer)  # last: it replaces the base
command = "python " + " ".join(["scripts/reward.py", *sys.argv[1:]])
figures = {"nanogpt": version("nanogpt"), "command": command, "machine": machine(), "points": points}
write_json(root / "benchmarks" / "results" / "reward.json", figures)
