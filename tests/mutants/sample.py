"""Wrong answers to the exercises of chapter 9."""
import math

import torch

from nanogpt import check
from nanogpt.sample import penalise

from . import mistake

mistake(check.fair_perplexity, "the same perplexity", "half as many guesses", 8)
mistake(check.fair_perplexity, "doubled", "the bits of a token that double", 16)
mistake(check.fair_perplexity, "the wrong way round", "tokens of 1 byte", 8**0.5)
mistake(check.fair_perplexity, "bits per token", "6 is the bits", 6)
mistake(check.fair_perplexity, "bits per byte", "1.5 is the bits per byte", 1.5)
mistake(check.fair_perplexity, "nats", "B's loss in nats", 2 * math.log(8))
mistake(check.fair_perplexity, "something else", "must cost both models", 32)

mistake(check.heated_tail, "temperature 1", "at temperature 1", 0.05)
mistake(check.heated_tail, "multiplied by the temperature", "divided by the temperature", 0.0004)
mistake(check.heated_tail, "probabilities as logits", "as if it were logits", 0.998)
mistake(check.heated_tail, "the right token's share", "share of the right token", 0.42)
mistake(check.heated_tail, "per cent", "is in per cent", 58.4)
mistake(check.heated_tail, "1.5 times 5 %", "logits are scaled", 0.075)
mistake(check.heated_tail, "too few draws", "draw 10,000", 0.7)


def cut(logits, k, value=-math.inf):
    return logits.masked_fill(logits < logits.topk(k).values[..., -1:], value)


@mistake(check.top_k_cut, "zeros", "its logit is now 0")
def _(logits, k):
    return cut(logits, k, 0.0)


@mistake(check.top_k_cut, "in place", "has changed too")
def _(logits, k):
    logits[logits < logits.topk(k).values[:, -1:]] = -math.inf
    return logits


@mistake(check.top_k_cut, "all rows together", "[3, 0, 0] tokens")
def _(logits, k):
    return cut(logits.flatten(), k).view(logits.shape)


@mistake(check.top_k_cut, "the best of one row", "three rows keep")
def _(logits, k):
    return logits.masked_fill(logits < logits[0].topk(k).values[-1], -1e9)


@mistake(check.top_k_cut, "mask returned", "torch.bool")
def _(logits, k):
    return logits >= logits.topk(k).values[:, -1:]


@mistake(check.top_k_cut, "multiplied by infinity", "NaN")
def _(logits, k):
    return logits + (logits < logits.topk(k).values[:, -1:]) * -math.inf


@mistake(check.top_k_cut, "a small number", "nothing is cut off")
def _(logits, k):
    return cut(logits, k, -5.0)


mistake(check.top_k_cut, "one too many", "each row keeps 4 tokens", lambda logits, k: cut(logits, k + 1))
mistake(check.top_k_cut, "the lowest", "its lowest logits", lambda logits, k: -cut(-logits, k, math.inf))
mistake(check.top_k_cut, "softmax", "these are probabilities", lambda logits, k: cut(logits, k).softmax(-1))
mistake(check.top_k_cut, "log-softmax", "were changed", lambda logits, k: cut(logits, k).log_softmax(-1))
mistake(check.top_k_cut, "only the k best", "has the shape (3, 3)", lambda logits, k: logits.topk(k).values)


@mistake(check.top_k_cut, "the first k", "not the three best")
def _(logits, k):
    return logits.masked_fill(torch.arange(8) >= k, -math.inf)


mistake(check.dice_to_token, "greedy", "that is greedy", lambda p, u: int(p.argmax()))
mistake(check.dice_to_token, "all tokens alike", "equally often", lambda p, u: int(u * len(p)))
mistake(check.dice_to_token, "own dice", "no other random number", lambda p, u: int(torch.multinomial(p, 1)))
mistake(check.dice_to_token, "p itself", "each probability itself", lambda p, u: min(int((p <= u).sum()), 3))
mistake(check.dice_to_token, "border to the left", "a border", lambda p, u: int((p.cumsum(0) < u).sum()))
mistake(check.dice_to_token, "past the last", "token is 2", lambda p, u: int((p.cumsum(0) <= u).sum()))
mistake(check.dice_to_token, "the token before", "begin at 0", lambda p, u: int((p.cumsum(0) <= u).sum()) - 1)
mistake(check.dice_to_token, "always the first", "[80, 0, 0, 0] times", lambda p, u: 0)
mistake(check.dice_to_token, "a mask", "is not one token", lambda p, u: p.cumsum(0) > u)


def forbid(logits, ids, n, *, begun=None, at=slice(None), value=-math.inf):
    "Rule out what has followed the newest tokens, with something changed."
    begun = ids[len(ids) - n + 1 :] if begun is None else begun
    found = [ids[i] for i in range(len(begun), len(ids)) if ids[i - len(begun) : i] == begun][at]
    return logits.index_fill(0, torch.tensor(found, dtype=torch.long), value)


answer = lambda logits, ids, n: forbid(logits, ids, n, at=slice(1))
mistake(check.no_phrase_twice, "only the first", "the first time only", answer)
answer = lambda logits, ids, n: forbid(logits, ids, n, at=slice(-1, None))
mistake(check.no_phrase_twice, "only the last", "the last time only", answer)
mistake(check.no_phrase_twice, "n too long", "came 3 once", lambda z, ids, n: forbid(z, ids, n + 1))
mistake(check.no_phrase_twice, "n too short", "of 2 tokens", lambda z, ids, n: forbid(z, ids, n - 1))
answer = lambda logits, ids, n: logits.index_fill(0, torch.tensor(ids[-1:]), -math.inf)
mistake(check.no_phrase_twice, "the newest", "the newest token", answer)
answer = lambda logits, ids, n: forbid(logits, ids, n, begun=[])
mistake(check.no_phrase_twice, "all tokens", "single tokens may come again", answer)
mistake(check.no_phrase_twice, "zero", "now 0.00", lambda logits, ids, n: forbid(logits, ids, n, value=0.0))
answer = lambda logits, ids, n: forbid(logits, ids, n, begun=ids[-(n - 1) :])
mistake(check.no_phrase_twice, "the slice [-0:]", "is the whole list", answer)
answer = lambda logits, ids, n: forbid(logits, ids, n).isinf()
mistake(check.no_phrase_twice, "a mask", "torch.bool", answer)


@mistake(check.no_phrase_twice, "a penalty", "change only the logits that you rule out")
def _(logits, ids, n):
    seen = torch.zeros(1, 9, dtype=torch.bool).index_fill(1, torch.tensor(ids), True)
    return penalise(logits[None], seen, 1.5)[0]


@mistake(check.no_phrase_twice, "no overlap", "phrases may overlap")
def _(logits, ids, n):
    begun, size = ids[len(ids) - n + 1 :], len(ids) - n + 1
    ends = [ids[i] for i in range(n - 1, size) if ids[i - n + 1 : i] == begun]
    return logits.index_fill(0, torch.tensor(ends, dtype=torch.long), -math.inf)


@mistake(check.no_phrase_twice, "short texts", "IndexError in your line")
def _(logits, ids, n):
    newest = [ids[-2], ids[-1]]
    ends = [ids[i] for i in range(2, len(ids)) if ids[i - 2 : i] == newest]
    return logits.index_fill(0, torch.tensor(ends, dtype=torch.long), -math.inf)


def beam(logprobs, ids, count, width, *, worth=lambda total, value: total + value):
    "Beam search with something changed."
    texts = [(0.0, ids)]
    for _ in range(count):
        longer = [(worth(s, x), [*ids, i]) for s, ids in texts for i, x in enumerate(logprobs(ids).tolist())]
        texts = sorted(longer, reverse=True)[:width]
    return texts[0][1]


mistake(check.several_ahead, "greedy", "of probability 0.20", lambda *args: beam(*args[:3], 1))
mistake(check.several_ahead, "last token alone", "alone", lambda *args: beam(*args, worth=lambda _, x: x))
answer = lambda *args: beam(*args, worth=lambda total, x: total + math.exp(x))
mistake(check.several_ahead, "probabilities added", "add up probabilities", answer)
mistake(check.several_ahead, "everything tried", "the likeliest text", lambda *args: beam(*args[:3], 999))
answer = lambda logprobs, ids, count, width: beam(logprobs, ids, count, 2 * width - 1)
mistake(check.several_ahead, "too many kept", "you keep more", answer)
answer = lambda logprobs, ids, count, width: beam(logprobs, ids, count, min(width, 2))
mistake(check.several_ahead, "at most two kept", "leads to [0, 2, 1, 0, 2]", answer)
answer = lambda logprobs, ids, *args: beam(logprobs, ids, *args)[len(ids) :]
mistake(check.several_ahead, "no given ids", "you return 2 ids", answer)
mistake(check.several_ahead, "the pair", "a list of ids, from", lambda *args: (0.0, beam(*args)))


@mistake(check.several_ahead, "each goes on alone", "its own best token")
def _(logprobs, ids, count, width):
    values, starts = logprobs(ids).topk(width)
    texts = [(value, [*ids, i]) for value, i in zip(values.tolist(), starts.tolist())]
    for _ in range(count - 1):
        new = [(total, ids, logprobs(ids)) for total, ids in texts]
        texts = [(total + p.max().item(), [*ids, int(p.argmax())]) for total, ids, p in new]
    return max(texts)[1]


@mistake(check.several_ahead, "newest first", "does not begin with")
def _(logprobs, ids, count, width):
    return beam(logprobs, ids, count, width)[::-1]
