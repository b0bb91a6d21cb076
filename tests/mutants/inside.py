"""Wrong answers to the exercises of chapter 16."""
from contextlib import suppress
from itertools import combinations

import torch

from nanogpt import check

from . import mistake

mistake(check.patched_part, "from zero", "measures from 0", 1 / 6)
mistake(check.patched_part, "per cent", "is in per cent", 50)
mistake(check.patched_part, "the way alone", "how far it has moved", 5)
mistake(check.patched_part, "the value alone", "compares the value itself", 0.1)
mistake(check.patched_part, "all of it", "now that of the other tale, 6", 1)
mistake(check.patched_part, "something else", "0 is at −4", 0.25)

mistake(check.selectivity, "points", "is in points", 7)
mistake(check.selectivity, "above chance", "the distance from chance", 0.82)
mistake(check.selectivity, "the control above chance", "the control is above chance", 0.75)
mistake(check.selectivity, "the accuracy", "is the accuracy", 0.92)
mistake(check.selectivity, "wrong sign", "the sign is wrong", -0.07)
mistake(check.selectivity, "a ratio", "1.08 is a ratio", 1.08)
mistake(check.selectivity, "something else", "compare the real task", 0.5)


def hooked(module, change):
    return module.register_forward_hook(lambda module, inputs, output: change(output))


@mistake(check.hook_for_a_moment, "removed only if all is well", "after a run that failed")
def _(module, change, run):
    hook = hooked(module, change)
    result = run()
    hook.remove()
    return result


@mistake(check.hook_for_a_moment, "never removed", "the hook was not removed")
def _(module, change, run):
    hooked(module, change)
    return run()


@mistake(check.hook_for_a_moment, "returns nothing from the hook", "does the hook return something")
def _(module, change, run):
    def look(module, inputs, output):
        change(output)

    hook = module.register_forward_hook(look)
    try:
        return run()
    finally:
        hook.remove()


@mistake(check.hook_for_a_moment, "all hooks removed", "remove only your own")
def _(module, change, run):
    hooked(module, change)
    try:
        return run()
    finally:
        module._forward_hooks.clear()


@mistake(check.hook_for_a_moment, "no hook", "the result of run() is changed")
def _(module, change, run):
    return change(run())


@mistake(check.hook_for_a_moment, "swallows the error", "was swallowed")
def _(module, change, run):
    hook = hooked(module, change)
    result = None
    with suppress(KeyError):
        result = run()
    hook.remove()
    return result


@mistake(check.hook_for_a_moment, "no result", "it returned None")
def _(module, change, run):
    hook = hooked(module, change)
    try:
        run()
    finally:
        hook.remove()


def shares(z, W, d):
    return torch.einsum("c,chd,hd->h", d, W.unflatten(1, z.shape), z)


mistake(check.shares_of_heads, "one number", "has the shape ()", lambda z, W, d: shares(z, W, d).sum())
mistake(check.shares_of_heads, "sum for each", "keep them apart", lambda z, W, d: shares(z, W, d).sum().expand(len(z)))
mistake(check.shares_of_heads, "wrong order", "in the wrong order", lambda z, W, d: shares(z, W, d).flip(0))
mistake(check.shares_of_heads, "size alone", "together the heads add", lambda z, W, d: shares(z, W, d).abs())


@mistake(check.shares_of_heads, "made to sum to one", "divided by their sum")
def _(z, W, d):
    return shares(z, W, d) / shares(z, W, d).sum()


@mistake(check.shares_of_heads, "interleaved", "every second column")
def _(z, W, d):
    return torch.einsum("c,cdh,hd->h", d, W.unflatten(1, z.T.shape), z)


def at(pattern, offset):
    n = len(pattern) // 2
    t = torch.arange(n, 2 * n)
    return pattern[t, t - n + offset]


mistake(check.repeated_score, "the copy itself", "copy of its own token", lambda p: at(p, 0).mean())
mistake(check.repeated_score, "before the copy", "*before* the copy", lambda p: at(p, -1).mean())
mistake(check.repeated_score, "previous token", "previous-token head", lambda p: at(p, len(p) // 2 - 1).mean())
mistake(check.repeated_score, "transposed", "the other way round", lambda p: at(p.T, 1).mean())
mistake(check.repeated_score, "one place too many", "you also take position n − 1",
        lambda p: p.diagonal(1 - len(p) // 2).mean())
mistake(check.repeated_score, "the sum", "take the mean over", lambda p: at(p, 1).sum())
mistake(check.repeated_score, "both copies", "nothing to repeat", lambda p: at(p, 1).sum() / len(p))
mistake(check.repeated_score, "hits counted", "half of its weight", lambda p: (at(p, 1) > 0.4).float().mean())
mistake(check.repeated_score, "not a number", "should be a number", lambda p: at(p, 1))


@mistake(check.smallest_set, "single heads only", "try larger sets")
def _(heads, lost, least):
    return next(({head} for head in heads if lost([head]) >= least), None)


@mistake(check.smallest_set, "greedy", "if you begin with the head")
def _(heads, lost, least):
    off = []
    while lost(off) < least and len(off) < len(heads):
        off.append(max(set(heads) - set(off), key=lambda head: (lost([*off, head]), head)))
    return set(off) if lost(off) >= least else None


@mistake(check.smallest_set, "the best single one", "loses most when it is alone")
def _(heads, lost, least):
    return {max(heads, key=lambda head: lost([head]))}


def sets(heads, first=1, last=0):
    return (set(off) for n in range(first, len(heads) + 1 - last) for off in combinations(heads, n))


@mistake(check.smallest_set, "most is lost", "with which most is lost")
def _(heads, lost, least):
    off = max(sets(heads), key=lost)
    return off if lost(off) >= least else None


@mistake(check.smallest_set, "more than least", "exactly `least` is enough")
def _(heads, lost, least):
    return next((off for off in sets(heads) if lost(off) > least), None)


@mistake(check.smallest_set, "never all", "no two heads are enough")
def _(heads, lost, least):
    return next((off for off in sets(heads, last=1) if lost(off) >= least), None)


def left_out(heads, lost, least):
    off = set(heads)
    for head in heads:
        if lost(off - {head}) >= least:
            off -= {head}
    return off if lost(off) >= least else None


mistake(check.smallest_set, "left out one by one", "0.0 alone is enough", left_out)
mistake(check.smallest_set, "left out from the end", "0.3 alone is enough", lambda heads, *a: left_out(heads[::-1], *a))
mistake(check.smallest_set, "a number", "of type int", lambda heads, lost, least: 1)


@mistake(check.smallest_set, "from the largest", "that is all heads")
def _(heads, lost, least):
    for n in range(len(heads), 0, -1):
        for off in combinations(heads, n):
            if lost(off) >= least:
                return set(off)


@mistake(check.smallest_set, "all where nothing is enough", "should return None")
def _(heads, lost, least):
    for n in range(1, len(heads) + 1):
        for off in combinations(heads, n):
            if lost(off) >= least:
                return set(off)
    return set(heads)
