"""Wrong answers to the steps of the project "Read the same tales again"."""
import math
import random

import numpy as np
import torch
import torch.nn.functional as F

from nanogpt import check
from nanogpt.exercises.repeated_data import encode_tales
from nanogpt.tales import TALES, measure, parse

from . import mistake


def cut(texts, batch_size):
    return [texts[i : i + batch_size] for i in range(0, len(texts), batch_size)]


@mistake(check.epochs_of_tales, "one epoch", "end after one epoch")
def _(texts, batch_size, seed):
    yield from cut(random.Random(seed).sample(texts, len(texts)), batch_size)


@mistake(check.epochs_of_tales, "a few epochs", "12 of 18")
def _(texts, batch_size, seed):
    for _ in range(2):
        yield from cut(random.Random(seed).sample(texts, len(texts)), batch_size)


@mistake(check.epochs_of_tales, "a list", "of type list")
def _(texts, batch_size, seed):
    return cut(texts, batch_size) * 3


@mistake(check.epochs_of_tales, "texts one by one", "a batch is of type str")
def _(texts, batch_size, seed):
    while True:
        yield from random.Random(seed).sample(texts, len(texts))


@mistake(check.epochs_of_tales, "everything at once", "a batch has 24 texts")
def _(texts, batch_size, seed):
    while True:
        yield random.Random(seed).sample(texts, len(texts))


@mistake(check.epochs_of_tales, "numbers", "none of the given texts")
def _(texts, batch_size, seed):
    while True:
        yield from cut(list(range(len(texts))), batch_size)


@mistake(check.epochs_of_tales, "with replacement", "different texts of 24")
def _(texts, batch_size, seed):
    rng = random.Random(seed)
    while True:
        yield rng.choices(texts, k=batch_size)


@mistake(check.epochs_of_tales, "not mixed", "in which they were given")
def _(texts, batch_size, seed):
    while True:
        yield from cut(texts, batch_size)


@mistake(check.epochs_of_tales, "a new generator in each epoch", "two epochs have the same order")
def _(texts, batch_size, seed):
    while True:
        yield from cut(random.Random(seed).sample(texts, len(texts)), batch_size)


@mistake(check.epochs_of_tales, "batches mixed", "not the batches")
def _(texts, batch_size, seed):
    rng = random.Random(seed)
    while True:
        batches = cut(texts, batch_size)
        rng.shuffle(batches)
        yield from batches


@mistake(check.epochs_of_tales, "the caller's list", "mix a copy")
def _(texts, batch_size, seed):
    rng = random.Random(seed)
    while True:
        rng.shuffle(texts)
        yield from cut(texts, batch_size)


@mistake(check.epochs_of_tales, "no seed", "the same seed gave other batches")
def _(texts, batch_size, seed):
    while True:
        yield from cut(random.sample(texts, len(texts)), batch_size)


@mistake(check.epochs_of_tales, "always the same seed", "what is `seed` for")
def _(texts, batch_size, seed):
    rng = random.Random(5)
    while True:
        yield from cut(rng.sample(texts, len(texts)), batch_size)


def nats(model, texts):
    x, y = encode_tales(texts)
    with torch.no_grad():
        logits = model(x)[0]
    return F.cross_entropy(logits.transpose(1, 2), y, ignore_index=-1, reduction="none"), y


def own(texts):
    return torch.tensor([parse(text).nats for text in texts])


def wrong(name, words, answer):
    "From losses (N, T), targets (N, T) and the tales' own nats (N,) to an answer."
    mistake(check.excess_nats, name, words, lambda model, texts: answer(*nats(model, texts), own(texts)))


wrong("the mean of all", "is one number", lambda losses, y, floor: (losses.sum(1) - floor).mean())
wrong("a list", "of type list", lambda losses, y, floor: (losses.sum(1) - floor).tolist())
wrong("words", "it should be (12,)", lambda losses, y, floor: losses)
wrong("no floor", "subtract the floor", lambda losses, y, floor: losses.sum(1))
wrong("the other way round", "the sign is wrong", lambda losses, y, floor: floor - losses.sum(1))
wrong("bits", "right in bits", lambda losses, y, floor: (losses.sum(1) - floor) / math.log(2))
wrong("the average floor", "is the average of all", lambda losses, y, floor: losses.sum(1) - measure(TALES).entropy)
wrong("mean over words", "is it a mean", lambda losses, y, floor: losses.sum(1) / (y >= 0).sum(1) - floor / 60)
wrong("mean of the batch", "you found", lambda losses, y, floor: losses.sum(1).mean() - floor)


@mistake(check.excess_nats, "gradients", "carries gradients")
def _(model, texts):
    x, y = encode_tales(texts)
    losses = F.cross_entropy(model(x)[0].transpose(1, 2), y, ignore_index=-1, reduction="none")
    return losses.sum(1) - own(texts)


@mistake(check.excess_nats, "padding counts", "after their end counts")
@torch.no_grad()
def _(model, texts):
    x, y = encode_tales(texts)
    losses = F.cross_entropy(model(x)[0].transpose(1, 2), y.clamp(min=0), reduction="none")
    return losses.sum(1) - own(texts)


@mistake(check.excess_nats, "the word that was read", "with the word that follows")
@torch.no_grad()
def _(model, texts):
    x, y = encode_tales(texts)
    read = x.masked_fill(y < 0, -1)
    return F.cross_entropy(model(x)[0].transpose(1, 2), read, ignore_index=-1, reduction="none").sum(1) - own(texts)


@mistake(check.excess_nats, "the same loss for every word", "475.8 nats and not")
@torch.no_grad()
def _(model, texts):
    losses, y = nats(model, texts)
    return losses.sum() / (y >= 0).sum() * (y >= 0).sum(1) - own(texts)


GOOD = torch.tensor([[17.4, 16.8], [17.3, 15.3], [17.5, 12.6], [22.0, 3.0], [55.0, -18.0], [131.0, -38.0]])
once = torch.tensor([17.4, 38.0, 88.0, 175.0, 260.0, 295.0])


def table(name, words, answer):
    mistake(check.repeated_runs, name, words, answer)


table("a list", "of type list", GOOD.tolist())
table("one column", "it should be (6, 2)", GOOD[:, 0])
table("whole numbers", "not whole numbers", GOOD.long())
table("diverged", "no numbers", GOOD.log())
table("not trained", "trained at all", GOOD + 320)
table("per word", "whole tales", GOOD / 60)
table("columns exchanged", "exchange the columns", GOOD.flip(1))
table("not new", "has it read them", torch.stack([GOOD[:, 1], GOOD[:, 1] - 1], dim=1))
table("other tales", "on known ones", GOOD + torch.tensor([0.0, 20.0]))
table("always all tales", "1024 // 32", GOOD[:1].expand(6, 2))
table("each tale once", "128 steps", torch.stack([once, once - 2], dim=1))
table("higher rates", "is all else equal", GOOD * torch.tensor([1.0, 1.0, 2.0, 2.0, 2.0, 2.0])[:, None])


def formula(name, words, answer):
    mistake(check.effective_data, name, words, answer)


formula("a number", "of type float", lambda u, k, r: 100.0)
formula("epochs for repetitions", "how many repetitions", lambda u, k, r: u + u * r * (1 - torch.exp(-k / r)))
formula("no first term", "the first reading counts", lambda u, k, r: u * r * (1 - torch.exp(-(k - 1) / r)))
formula("no R* before", "an enormous R*", lambda u, k, r: u + u * (1 - torch.exp(-(k - 1) / r)))
formula("a wrong sign", "the sign in the exponent", lambda u, k, r: u + u * r * (torch.exp((k - 1) / r) - 1))
formula("all as good as new", "are worth at most 400", lambda u, k, r: u * k)
formula("a hyperbola", "yours: 250.0", lambda u, k, r: u + u * r * (k - 1) / (k - 1 + r))
formula("powers of two", "yours: 616", lambda u, k, r: u + u * r * (1 - 2 ** (-(k - 1) / r)))


def looked_up(excess, amounts, curve):
    return np.exp(np.interp(excess.log(), curve.flip(0).log(), amounts.flip(0).log()))


@mistake(check.fresh_worth, "a falling curve", "does what you search in rise")
def _(excess, amounts, curve):
    return torch.from_numpy(np.interp(excess.log(), curve.log(), amounts.log())).exp()


@mistake(check.fresh_worth, "not in logarithms", "not of logarithms")
def _(excess, amounts, curve):
    return torch.from_numpy(np.interp(excess, curve.flip(0), amounts.flip(0)))


@mistake(check.fresh_worth, "logarithms of one", "you say 100.8 tales")
def _(excess, amounts, curve):
    return torch.from_numpy(np.interp(excess, curve.flip(0), amounts.flip(0).log())).exp()


@mistake(check.fresh_worth, "the nearest point", "go in between")
def _(excess, amounts, curve):
    return amounts[(excess[:, None].log() - curve.log()).abs().argmin(1)]


@mistake(check.fresh_worth, "one line for all", "new tales lead to")
def _(excess, amounts, curve):
    x, y = curve.log(), amounts.log()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    return (y.mean() + slope * (excess.log() - x.mean())).exp()


@mistake(check.fresh_worth, "the end of the line goes on", "no more than 640")
def _(excess, amounts, curve):
    got = torch.from_numpy(looked_up(excess, amounts, curve))
    return torch.where(excess < curve[-1], amounts[-1] * curve[-1] / excess, got)


@mistake(check.fresh_worth, "the beginning of the line goes on", "the nearest end of the curve is 10")
def _(excess, amounts, curve):
    got = torch.from_numpy(looked_up(excess, amounts, curve))
    return torch.where(excess > curve[0], amounts[0] * curve[0] / excess, got)


mistake(check.fresh_worth, "the excess", "the result is an excess", lambda excess, amounts, curve: excess)
mistake(check.fresh_worth, "an array", "of type ndarray", looked_up)


def tried(unique, epochs, worth, distance):
    r = torch.logspace(-1, 3, 2001)[:, None]
    return r[distance(unique * (1 + r * (1 - torch.exp(-(epochs - 1) / r))), worth).sum(1).argmin()].item()


def fitted(name, words, answer):
    mistake(check.r_star, name, words, answer)


def squares(wanted, worth):
    return (wanted / worth).log().square()


fitted("epochs for repetitions", "one less than epochs", lambda u, k, w: tried(u, k + 1, w, squares))
fitted("not in logarithms", "large sets best", lambda u, k, w: tried(u, k, w, lambda a, b: (a - b).square()))
fitted("the last point", "the point of 64 epochs alone", lambda u, k, w: tried(u[-1:], k[-1:], w[-1:], squares))
fitted("no squares", "the point of 16 epochs alone", lambda u, k, w: tried(u, k, w, lambda a, b: (a / b).log().abs()))
fitted("a few values", "R* = 2, but you found 5", lambda u, k, w: min((5, 15, 50), key=lambda r: abs(
    tried(u, k, w, squares) - r)))
fitted("the paper's", "but you found 15.39", lambda u, k, w: 15.39)
fitted("the place", "R* = 15, but you found 1", lambda u, k, w: round(250 * math.log10(tried(u, k, w, squares)) + 1000))
fitted("a formula", "of type Tensor", lambda u, k, w: w / u - 1)
