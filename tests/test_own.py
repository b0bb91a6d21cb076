"""A model, data and an optimizer of one's own, and text of one's own."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, replace
from torch import nn

from nanogpt.checkpoint import load_checkpoint
from nanogpt.data import TokenDataset
from nanogpt.hub import load
from nanogpt.optim import Muon, muon
from nanogpt.recipe import own_recipe
from nanogpt.sample import generate
from nanogpt.train import train

IDS = (
    np.random.default_rng(0).integers(11, size=4000) // 2 * 2 % 11
)  # half of the ids occur, so there is something to learn


class Bigram(nn.Module):
    "Scores for the next id from the last one alone."

    def __init__(self, vocab_size: int = 11):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)

    def forward(self, idx, targets=None):
        logits = self.table(idx)
        return logits, None if targets is None else F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=-1
        )


@pytest.fixture
def own(tmp_path):
    return replace(TINY, dropout=0.0, out_dir=str(tmp_path / "out"), learning_rate=0.1, min_lr=0.01)


@pytest.fixture
def data():
    return TokenDataset(IDS[:3000]), TokenDataset(IDS[3000:])


def test_a_model_and_an_optimizer_of_ones_own(own, data):
    torch.manual_seed(0)
    model = Bigram()
    seen = []
    result = train(
        own,
        model=model,
        data=data,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        on_step=seen.append,
        progress=False,
    )
    assert result.model is model and result.tokenizer is None and len(seen) == own.max_iters
    assert result.metrics[-1]["val_loss"] < result.metrics[0]["val_loss"] - 0.1
    rate = result.metrics[-1]["lr"]
    assert 0.05 <= rate < 0.5, "the schedule scales the optimizer's own rate"
    assert generate(model, torch.zeros(1, 1, dtype=torch.int64), 5, block_size=8).shape == (1, 6)
    assert {path.name for path in Path(own.out_dir).iterdir()} == {
        ".nanogpt-run",
        "ckpt.pt",
        "ckpt-1.pt",
        "best.pt",
        "metrics.jsonl",
        "config.json",
    }
    with pytest.raises(ValueError, match="read_checkpoint"):
        load(own.out_dir)


def test_it_goes_on_to_the_bit(own, data, tmp_path):
    def run(config, **changes):
        torch.manual_seed(0)
        return train(
            replace(config, **changes),
            model=Bigram(),
            data=data,
            optimizer=lambda m: torch.optim.Adam(m.parameters(), lr=0.1),
            progress=False,
        )

    straight = run(own, out_dir=str(tmp_path / "straight"))
    run(own, max_iters=10, lr_decay_iters=20)
    resumed = run(own, resume="auto", lr_decay_iters=20)
    assert torch.equal(straight.model.table.weight, resumed.model.table.weight)
    assert [row["val_loss"] for row in straight.metrics] == [row["val_loss"] for row in resumed.metrics]


def test_muon_takes_the_matrices_of_a_model_of_ones_own(own, data):
    with pytest.raises(ValueError, match="nn.Linear layers in an nn.ModuleList, and there are none"):
        train(replace(own, optimizer="muon"), model=Bigram(), data=data, progress=False)
    model = Bigram()
    model.blocks = nn.ModuleList([nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), nn.Embedding(5, 6)])
    model.blocks.append(model.blocks[0])  # a layer that is used twice
    muon_group, decayed, others = muon(model, 1e-3, 0.1).param_groups
    assert muon_group["params"] == [model.blocks[0][0].weight] and muon_group["lr"] == 0.1
    assert [p.shape for p in decayed["params"]] == [(11, 11), (5, 6)] and [p.dim() for p in others["params"]] == [1] * 3
    with pytest.raises(ValueError, match=r"Muon is for matrices, not for shape \(4,\)"):
        Muon([nn.Parameter(torch.zeros(4))])


def test_batches_of_ones_own(own):
    def batches():
        rng = np.random.default_rng(0)
        while True:
            starts = rng.integers(2900, size=4)
            rows = torch.from_numpy(np.stack([IDS[s : s + 33] for s in starts]))
            yield rows[:, :-1], rows[:, 1:]

    rows = torch.from_numpy(IDS[3000:3330].reshape(10, 33))
    result = train(own, model=Bigram(), data=(batches(), [(rows[:, :-1], rows[:, 1:])]), progress=False)
    assert result.metrics[-1]["val_loss"] < result.metrics[0]["val_loss"]
    with pytest.raises(ValueError, match="pass model="):
        train(replace(own, overwrite=True), data=(batches(), []), progress=False)


def test_our_model_on_an_array(own, data):
    result = train(
        own,
        data=tuple(TokenDataset(split.read(np.zeros(1, np.int64), len(split))[0], vocab_size=11) for split in data),
        progress=False,
    )
    assert result.model.config.vocab_size == 11
    model, tokenizer = load(own.out_dir, device="cpu")
    assert tokenizer is None and model.config.vocab_size == 11
    assert load_checkpoint(Path(own.out_dir) / "best.pt")["config"]["model"]["vocab_size"] == 11


def test_too_little_text_is_said(tmp_path, monkeypatch):
    """Three short documents: few windows where they are aligned, a validation split of a few tokens, an empty
    vocabulary.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for i in range(3):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"Text number {i} is short. " * 30, encoding="utf-8")
    config = replace(TINY, corpus="texts", aligned=True, max_iters=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(config, progress=False)
    said = " ".join(str(warning.message) for warning in caught)
    assert "only 3 windows to learn from" in said and "aligned=False" in said and "validation split has only" in said
    with pytest.raises(ValueError, match="holds 900 characters, too few to learn from"):
        own_recipe("texts", 900)


def test_a_loss_that_only_rises_is_said(own):
    "A learning rate that spoils the weights: the best evaluation stays the first."
    ids = np.arange(2000) % 11
    data = (
        TokenDataset(ids[:1000], vocab_size=11),
        TokenDataset(np.random.default_rng(1).integers(11, size=1000), vocab_size=11),
    )
    config = replace(own, max_iters=30, eval_interval=5, learning_rate=1e-2, min_lr=1e-3)
    why = "has not fallen since iteration .*: best.pt has its weights"
    with pytest.warns(UserWarning, match=why):
        train(config, data=data, progress=False)
