"""Wrong answers to the exercises of chapter 4."""
import math

import torch

from nanogpt import check
from nanogpt.attention import attention, causal_mask

from . import mistake

mistake(check.equal_scores, "no mask", "without a mask", 1 / 8)
mistake(check.equal_scores, "itself not counted", "also sees itself", 1 / 3)
mistake(check.equal_scores, "the whole row", "sum to one", 1)
mistake(check.equal_scores, "past and future exchanged", "in the past", 0)
mistake(check.equal_scores, "something else", "count the positions", 0.3)


def attend(q, k, v, *, divisor=5**0.5, dim=-1, diagonal=0, hidden=float("-inf")):
    "Causal attention with something changed."
    mask = torch.ones(6, 6, dtype=torch.bool).tril(diagonal)
    return (q @ k.mT / divisor).masked_fill(~mask, hidden).softmax(dim) @ v


@mistake(check.causal_attention, "mask after softmax", "the mask comes before the softmax")
def _(q, k, v):
    return (q @ k.mT / math.sqrt(5)).softmax(-1).tril() @ v


@mistake(check.causal_attention, "one text of the batch", "has the shape (6, 5)")
def _(q, k, v):
    return attention(q[0], k[0], v[0])[0]


@mistake(check.causal_attention, "no transpose", "RuntimeError in your line `scores = q @ k`")
def _(q, k, v):
    scores = q @ k
    return scores.softmax(-1) @ v


mistake(check.causal_attention, "no mask", "lets the future through", lambda q, k, v: attend(q, k, v, diagonal=6))
mistake(check.causal_attention, "does not see itself", "Does token 0", lambda q, k, v: attend(q, k, v, diagonal=-1))
mistake(check.causal_attention, "softmax over queries", "not each row", lambda q, k, v: attend(q, k, v, dim=-2))
mistake(check.causal_attention, "not scaled", "divided by anything", lambda q, k, v: attend(q, k, v, divisor=1))
mistake(check.causal_attention, "divided by D", "not by its root", lambda q, k, v: attend(q, k, v, divisor=5))
mistake(check.causal_attention, "divided by √T", "divided by √T", lambda q, k, v: attend(q, k, v, divisor=6**0.5))
mistake(check.causal_attention, "hidden scores are 0", "still gets weight", lambda q, k, v: attend(q, k, v, hidden=0))
mistake(check.causal_attention, "q and k swapped", "are swapped", lambda q, k, v: attend(k, q, v))
mistake(check.causal_attention, "keys averaged", "the values that they should", lambda q, k, v: attend(q, k, k))
mistake(check.causal_attention, "weights returned", "shape (2, 6, 6)", lambda q, k, v: attention(q, k, v)[1])
mistake(check.causal_attention, "both returned", "of type tuple", attention)

mistake(check.split_heads, "view alone", "counts straight through", lambda x, H: x.view(len(x), H, x.shape[1], -1))
mistake(check.split_heads, "no transpose", "shape (2, 4, 3, 2)", lambda x, H: x.unflatten(-1, (H, -1)))
mistake(check.split_heads, "every third", "every third", lambda x, H: x.unflatten(-1, (-1, H)).permute(0, 3, 1, 2))
mistake(check.split_heads, "H and D exchanged", "(2, 2, 4, 3)", lambda x, H: x.unflatten(-1, (-1, H)).transpose(1, 2))
mistake(check.split_heads, "last first", "begins with", lambda x, H: x.unflatten(-1, (H, -1)).transpose(1, 2).flip(1))

mistake(check.window_mask, "one too many", "counts too", lambda T, window: causal_mask(T, T, window=window + 1))
mistake(check.window_mask, "one too few", "three are allowed", lambda T, window: causal_mask(T, T, window=window - 1))
mistake(check.window_mask, "swapped", "are swapped", lambda T, window: ~causal_mask(T, T, window=window))
mistake(check.window_mask, "not bool", "torch.float32", lambda T, window: causal_mask(T, T, window=window).float())
mistake(check.window_mask, "no window", "[1, 2, 3, 4, 5, 6]", lambda T, window: causal_mask(T, T))


@mistake(check.window_mask, "not causal", "sees a later position")
def _(T, window):
    return torch.arange(T)[:, None] - torch.arange(T) < window


mistake(check.score_spread, "the variance", "its root", 256)
mistake(check.score_spread, "already divided", "divided by √D already", 1.0)
mistake(check.score_spread, "the mean", "how far do they spread", 0.02)
mistake(check.score_spread, "mean of the products", "a score is their sum", 0.0627)
mistake(check.score_spread, "keys are the queries", "draw both", 22.7)
mistake(check.score_spread, "the chapter's width", "64 numbers", 8.006)
mistake(check.score_spread, "too few samples", "take more", 13.5)
mistake(check.score_spread, "uniform numbers", "more draws will not help", 3.5)
mistake(check.score_spread, "all scores", "give one number", torch.ones(1000))


@mistake(check.cached_step, "does not see itself", "does not see itself")
def _(q, k, v, keys, values):
    return attention(q, keys, values, causal=False)[0], torch.cat([keys, k], 1), torch.cat([values, v], 1)


@mistake(check.cached_step, "new one first", "it should come last")
def _(q, k, v, keys, values):
    keys, values = torch.cat([k, keys], 1), torch.cat([v, values], 1)
    return attention(q, keys, values)[0], keys, values


@mistake(check.cached_step, "cache not extended", "only four are returned")
def _(q, k, v, keys, values):
    return attention(q, torch.cat([keys, k], 1), torch.cat([values, v], 1))[0], keys, values




@mistake(check.cached_step, "itself alone", "sees only itself")
def _(q, k, v, keys, values):
    return attention(q, k, v)[0], torch.cat([keys, k], 1), torch.cat([values, v], 1)


mistake(check.cached_step, "output alone", "return three things", lambda q, k, v, keys, values: q)
