"""Fifty steps beside nanoGPT: our losses against those that its own code gave, kept with their recipe in
data/nanogpt_losses.json.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nanogpt.config import GPTConfig
from nanogpt.model import GPT
from nanogpt.optim import adamw, cosine_lr

FIGURES = json.loads((Path(__file__).parent / "data" / "nanogpt_losses.json").read_text(encoding="utf-8"))
TRAINING = FIGURES["training"]


def follow_recipe(
    case: dict,  # one of FIGURES["cases"]
) -> tuple[GPT, Tensor]:  # a model, and windows (steps, micro-batches, batch, block_size + 1)
    "The weights and the windows that nanoGPT was given. Raises ValueError when numpy draws other "
    "numbers than it did then."
    rng = np.random.default_rng(FIGURES["seed"])
    model = GPT(GPTConfig(**FIGURES["model"], bias=case["bias"], mlp="gelu_exact"))
    vocab_size, block_size = model.config.vocab_size, model.config.block_size
    followers = rng.integers(vocab_size, size=(vocab_size, 4))
    choices = rng.integers(4, size=FIGURES["tokens"])
    ids = np.zeros(FIGURES["tokens"], dtype=np.int64)
    for i in range(1, len(ids)):
        ids[i] = followers[ids[i - 1], choices[i]]
    starts = rng.integers(
        len(ids) - block_size, size=(FIGURES["steps"], case["gradient_accumulation_steps"], TRAINING["batch_size"])
    )
    digest = hashlib.sha256(ids.tobytes() + starts.tobytes())
    state = model.state_dict()
    for name in sorted(set(state) - {"lm_head.weight"}):
        weight = rng.normal(0.0, FIGURES["weight_std"], tuple(state[name].shape))
        if name.split(".")[-2].startswith("ln_") and name.endswith("weight"):
            weight = 1 + weight
        weight = weight.astype(np.float32)
        digest.update(weight.tobytes())
        state[name].copy_(torch.from_numpy(weight))
    if digest.hexdigest() != case["sha256"]:
        raise ValueError(
            f"numpy {np.__version__} draws other inputs than those of {FIGURES['made_with']}; store "
            f"the figures anew by their recipe"
        )
    return model, torch.from_numpy(ids[starts[..., None] + np.arange(block_size + 1)])


def train(
    model: GPT,
    optimizer: torch.optim.Optimizer,
    windows: Tensor,  # (steps, micro-batches, batch, block_size + 1)
) -> list[float]:  # mean loss of each step
    rates = [TRAINING[name] for name in ("learning_rate", "warmup_iters", "lr_decay_iters", "min_lr")]
    losses = []
    for it, step in enumerate(windows):
        for group in optimizer.param_groups:
            group["lr"] = cosine_lr(it, *rates)
        total = 0.0
        for batch in step:
            loss = model(batch[:, :-1], batch[:, 1:])[1]
            (loss / len(step)).backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), TRAINING["grad_clip"])
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total / len(step))
    return losses


def optimizer_for(model: GPT) -> torch.optim.AdamW:
    return adamw(model, TRAINING["learning_rate"], (TRAINING["beta1"], TRAINING["beta2"]), TRAINING["weight_decay"])


def largest_difference(losses: list[float], case: dict) -> float:
    assert len(losses) == len(case["losses"]) == 50
    return np.abs(np.subtract(losses, case["losses"])).max()


@pytest.mark.parametrize("case", FIGURES["cases"].values(), ids=FIGURES["cases"])
def test_losses_equal_nanogpts_over_fifty_steps(case):
    model, windows = follow_recipe(case)
    losses = train(model, optimizer_for(model), windows)
    assert largest_difference(losses, case) <= 1e-4, (
        "measured: 5e-7, the rounding of float32; float64 differs as much"
    )
    assert losses[-1] < losses[0] - 0.5, "it learns, or there is little to compare"


def test_another_recipe_for_weight_decay_is_noticed():
    "Decay on biases and norms too: measured 1.6e-3, sixteen times what is allowed."
    case = FIGURES["cases"]["bias"]
    model, windows = follow_recipe(case)
    optimizer = optimizer_for(model)
    for group in optimizer.param_groups:
        group["weight_decay"] = TRAINING["weight_decay"]
    assert largest_difference(train(model, optimizer, windows), case) > 1e-3


def test_other_inputs_are_named(monkeypatch):
    monkeypatch.setitem(FIGURES, "seed", FIGURES["seed"] + 1)
    with pytest.raises(
        ValueError, match="numpy .* draws other inputs than those of torch .*; store the figures anew"
    ):
        follow_recipe(FIGURES["cases"]["bias"])
