"""Reward against its price: the experiment of chapter 15 for several KL weights, beside what needs no reward.

    python scripts/reward.py            # three seeds; writes benchmarks/results/reward.json

It runs the chapter's own cells, each time with another seed.
"""
import argparse
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

from nanogpt.bench import machine
from nanogpt.files import write_json

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--kl", type=float, nargs="+", default=[0, 0.02, 0.05, 0.2, 1])
parser.add_argument("--sharp", type=float, default=0.7, help="the temperature from which tuning begins")
args = parser.parse_args()
root = Path(__file__).parents[1]
notebook = json.loads((root / "nbs" / "15_reward.ipynb").read_text(encoding="utf-8"))
sources = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
sources = [source for source in sources if not source.startswith("#| echo")]


def cell(text: str) -> str:
    "The one cell of the chapter that has this text."
    (found,) = [source for source in sources if text in source]
    return found


training = cell("SEED, STEPS = 0, 400")
preparation = sources[: sources.index(cell('note_down("base", base)')) + 1]
preparation += [cell("def sharpen").split("\nfor")[0], cell("def by_token"), cell("def finetune_on_accepted").split("\nnote")[0]]
points: dict[str, list] = {}
for seed in range(args.seeds):
    space: dict = {"__name__": "chapter"}
    for source in preparation:
        exec(source.replace("SEED, STEPS = 0", f"SEED, STEPS = {seed}"), space)
    base, tune = space["base"], space["tune"]
    sharp = space["sharpen"](base, args.sharp)
    runs = {f"temperature {t}": lambda t=t: space["sharpen"](base, t) for t in (0.8, 0.7, 0.6)}
    runs |= {
        f"first wrong token, KL {kl:g}": lambda kl=kl: tune(space["by_token"], kl, first=sharp)[0] for kl in args.kl
    }
    runs["GRPO, KL 0.05"] = lambda: tune(space["by_outcome"](space["consistent"]), 0.05)[0]
    runs["finetuned on accepted tales"] = lambda: space["finetune_on_accepted"](2 * space["ROUNDS"])

    def train_longer():
        exec(training.replace("SEED, STEPS = 0, 400", f"SEED, STEPS = {seed}, 900"), space)
        return space["base"]

    runs["900 steps of pretraining"] = train_longer
    points.setdefault("base", []).append(space["results"]["base"] + (0.0,))
    for name, run in runs.items():
        began = time.process_time()
        model = run()
        spent = time.process_time() - began
        space["note_down"](name, model)
        points.setdefault(name, []).append(space["results"][name] + (spent,))
    columns = ("consistent", "distinct", "excess", "cpu_seconds")
    table = {name: dict(zip(columns, zip(*rows))) for name, rows in points.items()}
    command = "python " + " ".join(["scripts/reward.py", *sys.argv[1:]])
    figures = {"nanogpt": version("nanogpt"), "command": command, "machine": machine(), "seeds": seed + 1}
    write_json(root / "benchmarks" / "results" / "reward.json", figures | {"points": table})
