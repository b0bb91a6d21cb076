"""Wrong answers to the exercises of chapter 7."""
import math

import torch
from torch import nn

from nanogpt import check
from nanogpt.optim import cosine_lr, orthogonalise, param_groups

from . import mistake

mistake(check.outlier_step, "gradient descent", "is for gradient descent", 100)
mistake(check.outlier_step, "not divided", "is the new m", 10.9)
mistake(check.outlier_step, "always one rate", "of one size", 1)
mistake(check.outlier_step, "no momentum", "instead of the gradient", 4.468)
mistake(check.outlier_step, "no root", "without the root", 0.0218)
mistake(check.outlier_step, "divided by the new gradient", "earlier ones too", 0.109)
mistake(check.outlier_step, "betas exchanged", "exchanged", 0.188)
mistake(check.outlier_step, "torch's beta", "0.999", 3.287)
mistake(check.outlier_step, "no old means", "leaves out the old means", 0.447)
mistake(check.outlier_step, "rounded too much", "two decimals", 0.5)
mistake(check.outlier_step, "a list", "of type list", [0.49])
mistake(check.outlier_step, "something else", "compute the new m", 0.3)

mistake(check.update_size, "as Adam", "Adam's first step", 1)
mistake(check.update_size, "the norm", "the root of the sum", 8)
mistake(check.update_size, "no root", "about its root", 1 / 256)
mistake(check.update_size, "one singular value", "how many are there", 1 / 128)
mistake(check.update_size, "the short side", "64 × 64 entries", 1 / 8)
mistake(check.update_size, "the short side, no root", "without the root", 1 / 64)
mistake(check.update_size, "something else", "add up to", 0.02)


def rate(it, peak, warmup, end, *, first=1, start=None, length=None, held=True):
    "A schedule with something changed."
    if it < warmup:
        return peak * (it + first) / (warmup + first)
    progress = (it - (warmup if start is None else start)) / (length or end - warmup)
    progress = min(1.0, progress) if held else progress
    return peak * (1 + math.cos(math.pi * progress)) / 2


@mistake(check.rise_and_fall, "nothing returned after the end", "iteration 101 gets None")
def _(it, peak, warmup, end):
    if it <= end:
        return rate(it, peak, warmup, end)


@mistake(check.rise_and_fall, "straight down", "half a cosine has 0.860")
def _(it, peak, warmup, end):
    return rate(it, peak, warmup, end) if it < warmup else peak * max(0, (end - it) / (end - warmup))


@mistake(check.rise_and_fall, "falls twice as fast", "the rate is 0 before iteration 100")
def _(it, peak, warmup, end):
    return rate(it, peak, warmup, end, length=(end - warmup) / 2)


@mistake(check.rise_and_fall, "ends above 0", "still 0.1000 times the peak")
def _(it, peak, warmup, end):
    return cosine_lr(it, peak, warmup, end, peak / 10)


@mistake(check.rise_and_fall, "warm-up as a cosine", "is not straight")
def _(it, peak, warmup, end):
    return peak * math.sin(math.pi / 2 * (it + 1) / 11) if it < warmup else rate(it, peak, warmup, end)


@mistake(check.rise_and_fall, "the warm-up again", "2.000 times the peak")
def _(it, peak, warmup, end):
    return rate(it, peak, warmup, end) if it < warmup else 2 * rate(it, peak, warmup, end)


mistake(check.rise_and_fall, "peak too early", "from 9 to 10 by 0.000",
        lambda it, peak, w, end: peak * (it + 1) / w if it < w else rate(it, peak, w, end))
mistake(check.rise_and_fall, "peak not reached", "from 9 to 10 by 0.167",
        lambda it, peak, w, end: peak * (it + 1) / (w + 2) if it < w else rate(it, peak, w, end))
mistake(check.rise_and_fall, "begins at 0", "whole batch is wasted", lambda *a: rate(*a, first=0))
mistake(check.rise_and_fall, "cosine from 0", "0.976 times", lambda *a: rate(*a, start=0, length=a[3]))
mistake(check.rise_and_fall, "fall too long", "although 10 of those", lambda *a: rate(*a, length=a[3]))
mistake(check.rise_and_fall, "rises again", "0.117 times the peak again", lambda *a: rate(*a, held=False))
mistake(check.rise_and_fall, "peak forgotten", "but it has 1.0", lambda it, peak, *a: rate(it, 1.0, *a))
mistake(check.rise_and_fall, "iteration 1 as 0", "not rise", lambda it, *a: rate(max(it, 1), *a, first=0))

mistake(check.momentum_limit, "as without momentum", "Try 0.11", 0.1)
mistake(check.momentum_limit, "a tenth of it", "they cancel", 0.01)
mistake(check.momentum_limit, "ten times as much", "ten times the limit", 1)
mistake(check.momentum_limit, "the gentle direction", "curvature of 1", 3.8)
mistake(check.momentum_limit, "too careful", "go higher", 0.15)
mistake(check.momentum_limit, "a little too high", "by 1.5 on average: go lower", 0.2)
mistake(check.momentum_limit, "negative", "no step goes downhill", -0.1)


def groups(model, weight_decay, no_decay=("wte", "wpe"), skipped=(), frozen=False):
    "Groups by name, with something changed."
    parts = {False: [], True: []}
    for name, p in model.named_parameters():
        if (p.requires_grad or frozen) and name.split(".")[-2] not in skipped:
            parts[p.dim() > 1 and name.split(".")[-2] not in no_decay].append(p)
    free = {"params": parts[False], "weight_decay": 0.0}
    return [{"params": parts[True], "weight_decay": weight_decay}, free]


@mistake(check.embeddings_apart, "embeddings in two groups", "in the groups 2 times")
def _(model, weight_decay):
    embeddings = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    return [*param_groups(model, weight_decay), {"params": embeddings, "weight_decay": 0.0}]


@mistake(check.embeddings_apart, "embeddings in none", "`transformer.wte.weight` is in no group")
def _(model, weight_decay):
    return groups(model, weight_decay, skipped=("wte", "wpe"))


@mistake(check.embeddings_apart, "own decay forgotten", "its own default")
def _(model, weight_decay):
    first, second = groups(model, weight_decay)
    return [first, {"params": second["params"]}]


@mistake(check.embeddings_apart, "names", "holds a tuple")
def _(model, weight_decay):
    return [{"params": list(model.named_parameters()), "weight_decay": weight_decay}]


@mistake(check.embeddings_apart, "comparison with in", "put them into a set")
def _(model, weight_decay):
    embeddings = [model.transformer.wte.weight, model.transformer.wpe.weight]
    rest = [p for p in model.parameters() if p not in embeddings]
    return [{"params": rest, "weight_decay": weight_decay}, {"params": embeddings, "weight_decay": 0.0}]


mistake(check.embeddings_apart, "param_groups", "`transformer.wte.weight` has a decay of 0.1", param_groups)
mistake(check.embeddings_apart, "positions forgotten", "wpe.weight` has", lambda *a: groups(*a, ("wte",)))
mistake(check.embeddings_apart, "frozen ones too", "is frozen", lambda *a: groups(*a, frozen=True))
mistake(check.embeddings_apart, "untied output layer", "`lm_head.weight` has a decay of 0.0",
        lambda *a: groups(*a, ("wte", "wpe", "lm_head")))
mistake(check.embeddings_apart, "an optimizer", "a list of dictionaries",
        lambda model, weight_decay: torch.optim.AdamW(groups(model, weight_decay)))


def muon(w, g, state, lr, mu, weight_decay, *, scale=None, nesterov=True, l2=False, by_rate=True, old=None):
    "A step of Muon with something changed."
    old = mu if old is None else old
    g = g + weight_decay * w if l2 else g
    mean = state["mean"] = old * state.get("mean", 0.0) + (1 - old) * g
    update = orthogonalise((old * mean + (1 - old) * g if nesterov else mean)[None])[0]
    scale = math.sqrt(max(1, w.shape[0] / w.shape[1])) if scale is None else scale(*w.shape)
    kept = 1 if l2 else 1 - weight_decay * (lr if by_rate else 1)
    return kept * w - lr * scale * update


@mistake(check.muon_rule, "not orthogonalised", "was not orthogonalised")
def _(w, g, state, lr, mu, weight_decay):
    mean = state["mean"] = mu * state.get("mean", 0.0) + (1 - mu) * g
    return w - lr * (mu * mean + (1 - mu) * g)


@mistake(check.muon_rule, "mean of orthogonalised gradients", "does the mean come after it")
def _(w, g, state, lr, mu, weight_decay):
    mean = state["mean"] = mu * state.get("mean", 0.0) + (1 - mu) * orthogonalise(g[None])[0]
    return w - lr * math.sqrt(1.5) * mean


@mistake(check.muon_rule, "state not kept", "is the mean kept in `state`")
def _(w, g, state, lr, mu, weight_decay):
    return muon(w, g, {}, lr, mu, weight_decay)


@mistake(check.muon_rule, "no mean at first", "the mean begins at 0")
def _(w, g, state, lr, mu, weight_decay):
    state["mean"] = mu * state["mean"] + (1 - mu) * g
    return w - lr * orthogonalise(state["mean"][None])[0]


@mistake(check.muon_rule, "in place, nothing returned", "is None")
def _(w, g, state, lr, mu, weight_decay):
    w -= lr * orthogonalise(g[None])[0]


@mistake(check.muon_rule, "one matrix alone", "takes a stack of matrices")
def _(w, g, state, lr, mu, weight_decay):
    update = orthogonalise(g)
    return w - lr * update


mistake(check.muon_rule, "sign", "Adam's first step", lambda w, g, state, lr, mu, _: w - lr * g.sign())
mistake(check.muon_rule, "uphill", "uphill", lambda w, g, state, lr, *a: 2 * w - muon(w, g, state, lr, *a))
mistake(check.muon_rule, "no scale", "is it missing", lambda *a: muon(*a, scale=lambda *shape: 1))
mistake(check.muon_rule, "scale without root", "1.500 times", lambda *a: muon(*a, scale=lambda *shape: 1.5))
mistake(check.muon_rule, "scale upside down", "0.816 times",
        lambda *a: muon(*a, scale=lambda rows, columns: math.sqrt(columns / rows)))
mistake(check.muon_rule, "wide ones shorter", "the scale is 1",
        lambda *a: muon(*a, scale=lambda rows, columns: math.sqrt(rows / columns)))
mistake(check.muon_rule, "not Nesterov's", "not mixed in once more", lambda *a: muon(*a, nesterov=False))
mistake(check.muon_rule, "weights of the mean exchanged", "counts too much", lambda *a: muon(*a, old=0.1))
mistake(check.muon_rule, "no decay", "changes nothing", lambda w, g, s, lr, mu, _: muon(w, g, s, lr, mu, 0.0))
mistake(check.muon_rule, "decay not times the rate", "multiplied by", lambda *a: muon(*a, by_rate=False))
mistake(check.muon_rule, "L2", "L2 regularisation", lambda *a: muon(*a, l2=True))
