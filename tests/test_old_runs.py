"""Runs of earlier versions go on: data/old_run was written before the model's shape became a part of its own, at
iteration 10 of 20.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import replace

from nanogpt.checkpoint import load_checkpoint
from nanogpt.hub import load
from nanogpt.recipe import config_from_dict
from nanogpt.train import train

OLD = Path(__file__).parent / "data" / "old_run"


@pytest.fixture
def old(tmp_path):
    "The description of the old run, in a folder of its own."
    shutil.copytree(OLD, tmp_path / "old")
    values = json.loads((OLD / "run" / "config.json").read_text(encoding="utf-8"))
    assert "n_layer" in values and "model" not in values, "flat, as it was then"
    return config_from_dict(
        values | {"data_dir": str(tmp_path / "old" / "data"), "out_dir": str(tmp_path / "old" / "run")}
    )


@pytest.mark.filterwarnings("ignore:the validation split has only")
def test_an_old_run_goes_on_as_it_would_have(old, tmp_path):
    "Bit for bit on the machine that wrote it; elsewhere float32 rounds otherwise: 1e-5."
    result = train(replace(old, resume="auto"), progress=False)
    recorded = [json.loads(line) for line in (OLD / "end.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["iter"] for row in result.metrics] == [0, 5, 10, 15, 20]
    for ours, theirs in zip(result.metrics, recorded, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {"seconds", "tokens_per_s"}:
            assert ours[name] == pytest.approx(theirs[name], abs=1e-5), name


def test_an_old_checkpoint_loads(old):
    model, tokenizer = load(old.out_dir, device="cpu")
    weights = load_checkpoint(OLD / "run" / "ckpt.pt")["model"]
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert tokenizer.decode(tokenizer.encode("Once")) == "Once"
