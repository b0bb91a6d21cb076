"""What only a GPU can show, in one command, from the repository's root:

    python scripts/gpu_report.py nanoGPT     # a clone of nanoGPT; writes benchmarks/results/gpu-CARD.json
    python scripts/gpu_report.py --dry-run   # with tiny models, on a CPU too, to see that the steps work

It times a training step of GPT-2 beside nanoGPT's, runs tests/gpu, and trains both to the end on nanoGPT's recipe for
Tiny Shakespeare (ours alone in a dry run).
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from nanogpt.bench import machine, report
from nanogpt.files import write_json
from nanogpt.inputs import load_data
from nanogpt.profiling import bench_step, output_of
from nanogpt.recipe import get_preset
from nanogpt.speedrun import copy_nanogpt
from nanogpt.train import train

ROOT = Path(__file__).parents[1]


def run_tests() -> dict[str, int]:
    "How many tests of tests/gpu passed, failed and were skipped."
    command = [sys.executable, "-m", "pytest", "-q", str(ROOT / "tests" / "gpu")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    print(done.stdout[-3000:])
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", done.stdout)}
    return counts | {"exit_status": done.returncode}


def train_ours(folder: Path, dry_run: bool) -> dict:
    config = replace(get_preset("shakespeare-char"), data_dir=str(folder / "data"), out_dir=str(folder / "out"))
    if dry_run:
        tiny = replace(config.model, block_size=8, n_layer=1, n_head=2, n_embd=16)
        config = replace(
            config, model=tiny, corpus="tales", batch_size=2, max_iters=20, eval_interval=10, eval_windows=4
        )
    load_data(config)
    started = time.perf_counter()
    result = train(config)
    best = min(result.metrics, key=lambda row: row["val_loss"])
    return {"seconds": time.perf_counter() - started, "training_seconds": result.metrics[-1]["seconds"], "best": best}


def train_theirs(nanogpt_dir: str, folder: Path) -> dict:
    copy_nanogpt(nanogpt_dir, folder)
    command, started = [sys.executable, "train.py", "config/train_shakespeare_char.py"], time.perf_counter()
    printed = output_of(command, "nanoGPT's train.py", cwd=folder)
    seconds, losses = time.perf_counter() - started, re.findall(r"val loss ([\d.]+)", printed)
    return {"seconds": seconds, "best_val_loss": min(map(float, losses))}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nanogpt_dir", nargs="?", default="", help="a clone of https://github.com/karpathy/nanoGPT")
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        sys.exit("gpu_report.py: torch sees no GPU here; try the steps with --dry-run")
    card = "dry-run" if args.dry_run else re.sub(r"\W+", "-", torch.cuda.get_device_name()).lower()
    target = Path(tempfile.gettempdir()) if args.dry_run else ROOT / "benchmarks" / "results"
    target, figures = target / f"gpu-{card}.json", {"machine": machine()}

    def keep(name: str, value: Any):
        figures[name] = value
        write_json(target, figures)

    steps = bench_step(args.nanogpt_dir, 1 if args.dry_run else 5, ((1, 2, 16, 8, 2),) if args.dry_run else ())
    print("\n\n".join(map(report, steps)))
    keep("benchmarks", [asdict(step) for step in steps])
    keep("tests", run_tests())
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        keep("shakespeare-char", train_ours(Path(folder), args.dry_run))
        if args.nanogpt_dir and not args.dry_run:
            keep("nanoGPT's shakespeare-char", train_theirs(args.nanogpt_dir, Path(folder, "nanogpt")))
    print(f"written to {target}")
    return figures["tests"]["exit_status"]


if __name__ == "__main__":
    sys.exit(main())
