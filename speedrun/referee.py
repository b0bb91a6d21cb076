"""Train an entry of the speedrun with several seeds, in turns with another entry, and accept it or say why not.

    python speedrun/referee.py speedrun/records/2026-11-29-ngrams speedrun/records/2026-11-29-plain

An entry is a folder with an entry.py, which defines

    CONTEXT: int                   # characters that the model reads at one time
    def train(ids, seed): ...      # int64 (N,), the training split -> a function from int64 (B, T) to logits (B, T, V)
"""
import argparse
import importlib.util
import math
import shlex
import statistics
import sys
from functools import partial
from pathlib import Path

from nanogpt.bench import in_turns, machine, seconds_of  # before torch, whose threads then let go of cores
from nanogpt.corpus import shakespeare
from nanogpt.data import TokenDataset, all_batches
from nanogpt.files import write_json
from nanogpt.tokenizer import CharTokenizer

import torch  # isort: skip
import torch.nn.functional as F  # isort: skip

LINES = {"cpu": 1.8857, "t4": 1.4697}  # nats per character: the best of nanoGPT's documented runs
ONE_PERCENT = {5: 3.747, 6: 3.365, 7: 3.143, 8: 2.998, 9: 2.896, 10: 2.821}  # Student's t


def read_entry(folder: Path):
    "The module entry.py of a folder."
    path = folder / "entry.py"
    spec = importlib.util.spec_from_file_location(folder.name, path)
    if not path.exists() or spec is None or spec.loader is None:
        raise SystemExit(f"{folder} has no entry.py; name the folder of an entry, such as speedrun/records/...")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def loss_of(predict, ids: torch.Tensor, context: int) -> float:
    "Nats per character over a whole split, in windows that do not overlap."
    total = sum(
        F.cross_entropy(predict(x).cpu().flatten(0, 1).double(), y.flatten(), ignore_index=-1, reduction="sum").item()
        for x, y in all_batches(TokenDataset(ids), 64, context)
    )
    return total / (len(ids) - 1)


def one_run(entry, train_ids: torch.Tensor, val_ids: torch.Tensor, seeds) -> tuple[float, float]:
    "Seconds of training and the loss, for the next of the seeds."
    trained, seed = [], next(seeds)

    def work():
        trained.append(entry.train(train_ids, seed))
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    seconds = seconds_of(work)
    return seconds, loss_of(trained[0], val_ids, entry.CONTEXT)


def verdict(losses: list[float], line: float) -> str:
    "Whether the mean is below the line with p < 0.01: a one-sided t-test."
    n = len(losses)
    margin = ONE_PERCENT[n] * statistics.stdev(losses) / math.sqrt(n)
    mean = statistics.mean(losses)
    below = "below the line" if mean + margin < line else "not surely below the line"
    return f"{below}: mean loss {mean:.4f} over {n} seeds, at least {margin:.4f} below {line} needed"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="an entry, and the record to run beside it")
    parser.add_argument("--seeds", type=int, default=5, choices=ONE_PERCENT, help="runs of each entry")
    parser.add_argument("--track", default="cpu", choices=LINES)
    args = parser.parse_args()
    entries = {folder.name: read_entry(folder) for folder in args.folders}
    try:
        text = next(iter(shakespeare().documents()))
    except OSError as error:
        raise SystemExit(str(error)) from None
    ids = torch.tensor(CharTokenizer.from_text(text).encode(text))
    cut = int(0.9 * len(ids))
    contenders = {
        name: partial(one_run, entry, ids[:cut], ids[cut:], iter(range(args.seeds)))
        for name, entry in entries.items()
    }
    results = in_turns(contenders, args.seeds)
    log = {"command": shlex.join(["python", *sys.argv]), "machine": machine(), "entries": {}}
    for name, runs in results.items():
        seconds, losses = map(list, zip(*runs))
        ruling = verdict(losses, LINES[args.track])
        print(f"{name}: {statistics.median(seconds):.2f} s of training (median); {ruling}")
        log["entries"][name] = {"seconds": seconds, "losses": losses, "verdict": ruling}
    write_json(args.folders[0] / "log.json", log)
