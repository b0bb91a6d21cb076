"""The speedrun's referee: the whole split counts, each character once, and luck does not win."""

import importlib.util
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nanogpt.recipe import get_preset

folder = Path(__file__).parent.parent / "speedrun"
spec = importlib.util.spec_from_file_location("referee", folder / "referee.py")
assert spec and spec.loader
referee = importlib.util.module_from_spec(spec)
spec.loader.exec_module(referee)


def test_loss_is_the_mean_over_all_characters_but_the_first():
    ids = torch.randint(65, (1001,), generator=torch.Generator().manual_seed(0))
    table = torch.randn(65, 65, generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.cross_entropy(table[ids[:-1]].double(), ids[1:])
    for context in (7, 64, 1000):
        assert abs(referee.loss_of(lambda idx: table[idx], ids, context) - expected.item()) < 1e-9


def test_verdict_is_a_one_sided_t_test():
    losses = [1.80, 1.81, 1.82, 1.83, 1.84]  # t is (line - mean) / (deviation / sqrt(5))
    critical = 1.82 + 3.747 * math.sqrt(2.5e-4) / math.sqrt(5)  # the 99 % quantile for 4 degrees of freedom
    assert referee.verdict(losses, critical + 1e-6).startswith("below")
    assert referee.verdict(losses, critical - 1e-6).startswith("not surely below")


def test_every_record_is_an_entry():
    records = sorted((folder / "records").iterdir())
    assert records
    for record in records:
        entry = referee.read_entry(record)
        assert entry.CONTEXT > 0 and callable(entry.train)
        assert record.name in (folder / "README.md").read_text(encoding="utf-8")


def test_a_folder_without_an_entry_is_named(tmp_path):
    done = subprocess.run([sys.executable, folder / "referee.py", tmp_path], capture_output=True, encoding="utf-8")
    assert done.returncode == 1 and "has no entry.py" in done.stderr


@pytest.mark.parametrize("name, preset", [("ngrams", "speedrun-cpu"), ("plain", "speedrun-cpu-plain")])
def test_presets_are_the_records(name, preset):
    entry, config = referee.read_entry(folder / "records" / f"2026-11-29-{name}"), get_preset(preset)
    assert replace(config.model, vocab_size=65) == entry.SHAPE and config.max_iters == entry.ITERATIONS


@pytest.mark.parametrize("record", sorted((folder / "records").iterdir()), ids=lambda path: path.name)
def test_an_entry_learns_from_what_it_gets(record, monkeypatch):
    entry = referee.read_entry(record)
    monkeypatch.setattr(entry, "ITERATIONS", 3)
    predict = entry.train(torch.arange(5000) % 65, 0)
    with torch.no_grad():
        assert predict(torch.zeros(2, entry.CONTEXT, dtype=torch.int64)).shape == (2, entry.CONTEXT, 65)
