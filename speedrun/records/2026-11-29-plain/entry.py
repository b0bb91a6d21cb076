"""Muon, rotary positions and a rate that falls to zero, in two layers; no tables of n-grams."""
import torch

from nanogpt import GPT, GPTConfig
from nanogpt.data import Sampler, TokenDataset
from nanogpt.optim import muon, wsd_lr
from nanogpt.step import train_step

CONTEXT, ITERATIONS = 64, 540
SHAPE = GPTConfig(
    CONTEXT, 65, n_layer=2, n_head=4, n_embd=128, n_inner=128, bias=False, positions="rotary",
    rope_theta=1000.0, mlp="relu2", tied=False, embd_std=0.3,
)  # fmt: skip


def train(ids, seed):
    model = GPT(SHAPE, torch.Generator().manual_seed(seed))
    optimizer = muon(model, learning_rate=0.02, muon_lr=0.025, betas=(0.8, 0.95), weight_decay=0.0)
    peaks = [group["lr"] for group in optimizer.param_groups]
    batches = Sampler(TokenDataset(ids), 12, CONTEXT, seed)
    for it in range(ITERATIONS):
        for group, peak in zip(optimizer.param_groups, peaks):
            group["lr"] = wsd_lr(it, peak, 0, ITERATIONS, 0.0, decay_fraction=0.8)
        train_step(model, optimizer, [next(batches)])
    return lambda idx: model(idx)[0]
