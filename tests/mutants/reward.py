"""Wrong answers to the exercises of chapter 15."""
import math

import torch

from nanogpt import check
from nanogpt.reward import group_advantages

from . import mistake

mistake(check.silent_groups, "per cent", "is in per cent", 41.12)
mistake(check.silent_groups, "all right", "in which all are right", 0.4096)
mistake(check.silent_groups, "all wrong", "in which all are wrong", 0.0016)
mistake(check.silent_groups, "the rest", "do teach something", 0.5888)
mistake(check.silent_groups, "one sample", "share of good samples", 0.8)
mistake(check.silent_groups, "none", "four equal rewards", 0)
mistake(check.silent_groups, "something else", "equal to their mean", 0.5)

mistake(check.ideal_tax, "wrong sign", "the size is right", math.log(2))
mistake(check.ideal_tax, "bits", "is in bits", -1)
mistake(check.ideal_tax, "no change", "as probable as before", 0.0)
mistake(check.ideal_tax, "a probability", "change of a probability", -0.5)
mistake(check.ideal_tax, "a factor", "the logarithm of that", -2)
mistake(check.ideal_tax, "something else", "by which factor", -0.2)


def raw(ratio, advantage, clip):
    return ratio * advantage


def cut(ratio, advantage, clip):
    return ratio.clamp(1 - clip, 1 + clip) * advantage


mistake(check.clipped_gain, "not clipped", "nothing is clipped", raw)
mistake(check.clipped_gain, "only clipped", "forbids to come back", cut)
mistake(check.clipped_gain, "the larger", "the larger of the two", lambda *a: torch.maximum(raw(*a), cut(*a)))
mistake(check.clipped_gain, "only above", "still pushed down", lambda r, a, c: r.clamp(max=1 + c) * a)
mistake(check.clipped_gain, "the ratio alone", "ratio · advantage", lambda r, a, c: r.clamp(1 - c, 1 + c))
mistake(check.clipped_gain, "one number", "has the shape ()", lambda *a: torch.minimum(raw(*a), cut(*a)).mean())


@mistake(check.drawn_mask, "all of it", "count as drawn")
def _(new, stop):
    return torch.ones_like(new, dtype=torch.bool)


@mistake(check.drawn_mask, "one too many", "copy of the stop token")
def _(new, stop):
    return (new == stop).cumsum(1) <= 2


@mistake(check.drawn_mask, "not bool", "should be bool")
def _(new, stop):
    return ((new == stop).cumsum(1) <= 1).long()


@mistake(check.drawn_mask, "zero built in", "is 0 in the code")
def _(new, stop):
    return (new == 0).cumsum(1) - (new == 0).long() == 0


mistake(check.drawn_mask, "without the stop token", "must learn when to stop", lambda new, stop: new != stop)
mistake(check.drawn_mask, "after it", "before the first stop", lambda new, stop: (new == stop).cumsum(1) > 0)


def x(p, q):
    return (q - p).exp()


mistake(check.k3_estimate, "k1", "that is k1", lambda p, q: p - q)
mistake(check.k3_estimate, "k2", "that is k2", lambda p, q: (q - p) ** 2 / 2)
mistake(check.k3_estimate, "without 1", "it is 1 for equal models", lambda p, q: x(p, q) - (q - p))
mistake(check.k3_estimate, "reference alone", "not in it", lambda p, q: q.exp() - 1 - q)
mistake(check.k3_estimate, "upside down", "is upside down", lambda p, q: x(q, p) - 1 - (p - q))
mistake(check.k3_estimate, "sign of the logarithm", "sign of the logarithm", lambda p, q: x(p, q) - 1 + (q - p))
mistake(check.k3_estimate, "the mean", "has the shape ()", lambda p, q: (x(p, q) - 1 - (q - p)).mean())
mistake(check.k3_estimate, "doubled", "its mean over", lambda p, q: 2 * (x(p, q) - 1 - (q - p)))


def others(rewards, group):
    grouped = rewards.view(-1, group)
    return ((grouped.sum(1, keepdim=True) - grouped) / (group - 1)).flatten()


mistake(check.leave_one_out, "whole group", "own reward included", group_advantages)
mistake(check.leave_one_out, "all samples", "over all samples", lambda r, g: (len(r) * r - r.sum()) / (len(r) - 1))
mistake(check.leave_one_out, "no baseline", "no baseline is subtracted", lambda r, g: r)
mistake(check.leave_one_out, "the baseline", "the baseline itself", others)
mistake(check.leave_one_out, "wrong sign", "the sign is wrong", lambda r, g: others(r, g) - r)
mistake(check.leave_one_out, "divided by 4", "divided by 4", lambda r, g: r - others(r, g) * (g - 1) / g)
mistake(check.leave_one_out, "not flat", "has the shape (2, 4)", lambda r, g: (r - others(r, g)).view(-1, g))


@mistake(check.leave_one_out, "every second one", "side by side")
def _(rewards, group):
    return rewards - (rewards.view(group, -1).sum(0).repeat(group) - rewards) / (group - 1)
