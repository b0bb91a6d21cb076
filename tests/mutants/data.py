"""Wrong answers to the exercises of chapter 3."""
import math

import torch

from nanogpt import check
from nanogpt.prepare import split_of

from . import mistake

mistake(check.windows_in_row, "last input without a target", "an input without a target", 93)
mistake(check.windows_in_row, "the last start", "counted from 0", 91)
mistake(check.windows_in_row, "side by side", "these may overlap", 100 // 8)
mistake(check.windows_in_row, "every position", "runs out of ids", 100)
mistake(check.windows_in_row, "every target", "more than one target", 99)
mistake(check.windows_in_row, "a list of positions", "of type list", [0, 91])


def cut(ids, starts, T, shift=0):
    return torch.tensor([ids[start + shift : start + T + shift] for start in starts])


@mistake(check.window_targets, "rolled in each window", "its own first input")
def _(ids, starts, T):
    x = cut(ids, starts, T)
    return x, x.roll(-1, dims=1)


@mistake(check.window_targets, "rolled over all windows", "first input of another window")
def _(ids, starts, T):
    x = cut(ids, starts, T)
    return x, x.roll(-1)


@mistake(check.window_targets, "last target left empty", "target 7 of the window at 4 is -1")
def _(ids, starts, T):
    x = cut(ids, starts, T)
    return x, torch.cat([x[:, 1:], torch.full((len(starts), 1), -1)], dim=1)


@mistake(check.window_targets, "window one too short", "x has the shape (2, 7)")
def _(ids, starts, T):
    windows = cut(ids, starts, T)
    return windows[:, :-1], windows[:, 1:]


@mistake(check.window_targets, "starts as one index", "TypeError in your line `return ids[starts], ")
def _(ids, starts, T):
    return ids[starts], ids[starts + 1]


mistake(check.window_targets, "not shifted", "copy", lambda *args: (cut(*args), cut(*args)))
mistake(check.window_targets, "wrong way", "the past", lambda *args: (cut(*args), cut(*args, -1)))
mistake(check.window_targets, "two further", "target 0 of", lambda *args: (cut(*args), cut(*args, 2)))
mistake(check.window_targets, "targets alone", "two things", lambda *args: cut(*args, 1))
mistake(check.window_targets, "lists", "x is of type list", lambda ids, starts, T: (ids, ids[1:]))

mistake(check.never_a_target, "one epoch's worth", "here you draw three", math.exp(-1))
mistake(check.never_a_target, "a third of it", "hit fewer new tokens", math.exp(-1) / 3)
mistake(check.never_a_target, "the others", "at least once", 1 - math.exp(-3))
mistake(check.never_a_target, "in epochs", "in epochs, almost none", 0.0)
mistake(check.never_a_target, "in per cent", "a percentage", 100 * math.exp(-3))
mistake(check.never_a_target, "two epochs' worth", "12,288 windows", math.exp(-2))

mistake(check.same_split, "as in the chapter", "in capitals", lambda text: split_of(text, 0.1))
mistake(check.same_split, "letters alone", "white space around", lambda text: split_of(text.lower(), 0.1))
mistake(check.same_split, "the ends too", "two spaces", lambda text: split_of(text.lower().strip(), 0.1))
mistake(check.same_split, "random", "ask again", lambda text: "train" if torch.rand(()) > 0.1 else "val")
mistake(check.same_split, "a bool", "False", lambda text: split_of(text.lower(), 0.1) == "val")
mistake(check.same_split, "exchanged", "have you exchanged", lambda text: split_of(text, 0.9))
mistake(check.same_split, "by length", "about a tenth", lambda text: split_of(str(len(text)), 0.1))


@mistake(check.same_split, "spaces alone", "line breaks")
def _(text):
    return split_of(text.lower().strip().replace("  ", " "), 0.1)


@mistake(check.windows_of_process, "same for all", "process 1 of 4 gets window 0")
def _(step, size, rank, team):
    return range(step * size * team, (step * team + 1) * size)


@mistake(check.windows_of_process, "next process one further", "gets window 1, and process 0")
def _(step, size, rank, team):
    return range(step * size * team + rank, step * size * team + rank + size)


@mistake(check.windows_of_process, "rounds of one process", "drawn before this round began")
def _(step, size, rank, team):
    return range((step + rank) * size, (step + rank + 1) * size)


@mistake(check.windows_of_process, "counted from 1", "windows [0] are left out")
def _(step, size, rank, team):
    return [(step * team + rank) * size + i + 1 for i in range(size)]


@mistake(check.windows_of_process, "size of the first team", "process 1 of 2 gets window 2")
def _(step, size, rank, team):
    return range(8 * step + 2 * rank, 8 * step + 2 * rank + size)


mistake(check.windows_of_process, "the first one", "a list or a range", lambda step, *args: step)
mistake(check.windows_of_process, "all of them", "should get 2", lambda step, size, rank, team: [*range(8)])


def costs_of(batches, cost):
    return [cost[x, y][y >= 0] for x, y in batches]


def joined(batches):
    return [torch.cat(parts) for parts in zip(*batches)]


@mistake(check.split_loss, "mean of means, -1 counted", "index -1 is the last column")
def _(batches, cost):
    return torch.stack([cost[x, y].mean() for x, y in batches]).mean()


@mistake(check.split_loss, "-1 as id 0", "as if its target were id 0")
def _(batches, cost):
    x, y = joined(batches)
    return cost[x, y.clamp(min=0)].mean()


@mistake(check.split_loss, "mean of batches", "each batch has the same weight")
def _(batches, cost):
    return sum(part.mean() for part in costs_of(batches, cost)) / len(batches)


@mistake(check.split_loss, "mean of windows", "each window has the same weight")
def _(batches, cost):
    x, y = joined(batches)
    return torch.stack([one.mean() for one in costs_of(zip(x, y), cost)]).mean()


@mistake(check.split_loss, "divided by places", "divided by 40 places")
def _(batches, cost):
    return sum(part.sum() for part in costs_of(batches, cost)) / sum(y.numel() for _, y in batches)


@mistake(check.split_loss, "exchanged", "its columns for targets")
def _(batches, cost):
    return torch.cat(costs_of(batches, cost.T)).mean()


@mistake(check.split_loss, "last window left out", "with one empty place")
def _(batches, cost):
    x, y = joined(batches)
    full = (y >= 0).all(1)
    return cost[x[full], y[full]].mean()


@mistake(check.split_loss, "only the last place", "it is wrong for 3 windows of 7")
def _(batches, cost):
    x, y = (part.flatten() for part in joined(batches))
    return (cost[x, y][:-1].sum() + cost[x, y][-1] * (y[-1] >= 0)) / (len(y) - 1 + (y[-1] >= 0).int())


mistake(check.split_loss, "sum", "is the sum", lambda batches, cost: torch.cat(costs_of(batches, cost)).sum())
mistake(check.split_loss, "list of means", "type list", costs_of)
mistake(check.split_loss, "each target", "has the shape (32,)", lambda *args: torch.cat(costs_of(*args)))
