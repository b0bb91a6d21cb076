"""Wrong answers to the steps of the project on broken runs."""

import torch

from nanogpt import check
from nanogpt.tutor import EXERCISES

from . import mistake

PARTED, EASY, LOW = "stay close together", "so easy", "below the floor"
RATE, NORM, FROZEN, TABLE, FOREIGN = "row by row", "grad_norm", "still changes", "digit by digit", "about 3.0"
USUAL = {
    "copied targets": EASY, "hoarded gradients": NORM, "huge rate": RATE, "leaked future": LOW, "same windows": PARTED,
    "skipped steps": FROZEN, "wrong table": TABLE, "foreign targets": FOREIGN,
}  # fmt: skip
RIGHT = [
    "same windows", "huge rate", "skipped steps", "copied targets", "hoarded gradients", "leaked future", "wrong table",
]  # fmt: skip
ALSO = {
    (1, "copied targets"): "on every text", (1, "leaked future"): "look at val_loss",
    (2, "foreign targets"): "far above that", (2, "hoarded gradients"): "then it falls",
    (4, "leaked future"): "takes time", (5, "foreign targets"): "that first", (6, "copied targets"): "take longer",
}  # fmt: skip
for number, right in enumerate(RIGHT, 1):
    for name, words in USUAL.items():
        if name != right:
            mistake(EXERCISES[f"diagnosis_{number}"], name, ALSO.get((number, name), words), name)
    mistake(EXERCISES[f"diagnosis_{number}"], "a fault of one's own", "is not a name in FAULTS", "the data are bad")
mistake(check.diagnosis_1, "a number", "1 is not a name", 1)
mistake(check.diagnosis_1, "a list", "is not a name", ["same windows"])


def windows(ids, batch_size, T, generator, *, high=0, low=0):
    "Random windows of T + 1 ids, (B, T + 1)."
    starts = torch.randint(low, len(ids) - T + high, (batch_size,), generator=generator)
    return ids[starts[:, None] + torch.arange(T + 1)]


@mistake(check.mended_batch, "copied", "may copy the input")
def _(ids, batch_size, T, generator):
    x = windows(ids, batch_size, T, generator)[:, :-1]
    return x, x


@mistake(check.mended_batch, "shifted to the left", "the token before its input")
def _(ids, batch_size, T, generator):
    both = windows(ids, batch_size, T, generator)
    return both[:, 1:], both[:, :-1]


@mistake(check.mended_batch, "rolled", "the last input has a target")
def _(ids, batch_size, T, generator):
    x = windows(ids, batch_size, T, generator)[:, :-1]
    return x, x.roll(-1, dims=1)


@mistake(check.mended_batch, "shifted by two", "for the inputs")
def _(ids, batch_size, T, generator):
    x = windows(ids, batch_size, T, generator, high=-1)[:, :-1]
    return x, torch.cat([x[:, 2:], x[:, -1:] + 0, x[:, -1:] + 1], 1)


@mistake(check.mended_batch, "one window", "six times the same window")
def _(ids, batch_size, T, generator):
    both = windows(ids, 1, T, generator).expand(batch_size, -1)
    return both[:, :-1], both[:, 1:]


@mistake(check.mended_batch, "a seed of its own", "a second call gave the same windows")
def _(ids, batch_size, T, generator):
    both = windows(ids, batch_size, T, torch.Generator().manual_seed(0))
    return both[:, :-1], both[:, 1:]


@mistake(check.mended_batch, "no generator", "the same seed gave other windows")
def _(ids, batch_size, T, generator):
    both = windows(ids, batch_size, T, None)
    return both[:, :-1], both[:, 1:]


@mistake(check.mended_batch, "one place too few at the end", "is never a target")
def _(ids, batch_size, T, generator):
    both = windows(ids, batch_size, T, generator, high=-1)
    return both[:, :-1], both[:, 1:]


@mistake(check.mended_batch, "one place too few at the beginning", "the first one is never read")
def _(ids, batch_size, T, generator):
    both = windows(ids, batch_size, T, generator, low=1)
    return both[:, :-1], both[:, 1:]


@mistake(check.mended_batch, "every fourth place", "text too")
def _(ids, batch_size, T, generator):
    starts = torch.randint(0, len(ids) - T, (batch_size,), generator=generator) // 4 * 4
    starts = torch.where(torch.rand(batch_size, generator=generator) < 0.1, len(ids) - T - 1, starts)
    return ids[starts[:, None] + torch.arange(T)], ids[starts[:, None] + torch.arange(T) + 1]


@mistake(check.mended_batch, "one place too many", "IndexError in your line")
def _(ids, batch_size, T, generator):
    for _ in range(50):
        starts = torch.randint(0, len(ids) - T + 1, (batch_size,), generator=generator)
        x, y = ids[starts[:, None] + torch.arange(T)], ids[starts[:, None] + torch.arange(T) + 1]
    return x, y


@mistake(check.mended_batch, "tokens drawn one by one", "but a row of x is")
def _(ids, batch_size, T, generator):
    x = ids[torch.randint(0, len(ids) - 1, (batch_size, T), generator=generator)]
    return x, x + 1


mistake(check.mended_batch, "one tensor", "return two things", windows)
mistake(check.mended_batch, "T + 1 inputs", "(6, 9); it should be (6, 8)", lambda *given: (windows(*given),) * 2)


def replaced(text, wrong, right):
    for a, b in zip(wrong, right):
        text = text.replace(a, b)
    return text


mistake(check.mended_text, "one replacement after the other", "replaced once more", replaced)
mistake(check.mended_text, "the tables exchanged", "a second time", lambda t, w, r: t.translate(str.maketrans(r, w)))
mistake(check.mended_text, "unchanged", "nothing has changed", lambda text, wrong, right: text)
mistake(check.mended_text, "ids", "of type list", lambda text, wrong, right: [wrong.index(c) for c in text])
mistake(check.mended_text, "spaces left out", "exactly one", lambda t, w, r: t.replace(" ", ""))
mistake(check.mended_text, "a shift of the alphabet", "make sense", lambda t, w, r: "".join(chr(ord(c) - 1) for c in t))
mistake(
    check.mended_text, "punctuation kept", "punctuation has ids too",
    lambda t, w, r: "".join(r[w.index(c)] if c.isalpha() else c for c in t),
)  # fmt: skip


def alarmed(rows, floor, peak, *, loss="val_loss", gap=0.5, growth=3, norm=-1, rate=1.0, frozen=2):
    "The five signs, with something changed."
    signs, last = set(), rows[-1]
    norms = [row["grad_norm"] for row in rows if row["grad_norm"] is not None]
    if any((row[loss] or 1) < floor for row in rows):
        signs.add("floor")
    if last["val_loss"] > (last["train_loss"] or 9) + gap:
        signs.add("gap")
    if any(row["lr"] > peak * rate for row in rows):
        signs.add("rate")
    if norms and norms[norm] > growth * norms[0]:
        signs.add("norm")
    if len(rows) > 1 and rows[-1]["val_loss"] == rows[-frozen]["val_loss"]:
        signs.add("frozen")
    return signs


def varied(**change):
    return lambda rows, floor, peak: alarmed(rows, floor, peak, **change)


@mistake(check.alarms, "None in the first row", "TypeError in your line")
def _(rows, floor, peak):
    return {"gap"} if rows[-1]["val_loss"] > rows[-1]["train_loss"] + 0.5 else set()


@mistake(check.alarms, "no row before the last", "IndexError in your line")
def _(rows, floor, peak):
    return {"frozen"} if rows[-1]["val_loss"] == rows[-2]["val_loss"] else set()


@mistake(check.alarms, "only one sign", "of names")
def _(rows, floor, peak):
    return next(iter(alarmed(rows, floor, peak)), "")


@mistake(check.alarms, "signs of one's own", "none of the five signs")
def _(rows, floor, peak):
    return {"overfitting"}


@mistake(check.alarms, "the first sign only", "rate did not ring for a gap and a rate")
def _(rows, floor, peak):
    return sorted(alarmed(rows, floor, peak))[:1]


mistake(check.alarms, "training loss and floor", "floor did not ring for a val_loss of 0.12", varied(loss="train_loss"))
mistake(check.alarms, "any gap", "a false alarm: gap rang for a healthy run", varied(gap=0.05))
mistake(check.alarms, "a rate that is too low", "a false alarm: rate rang for a healthy run", varied(rate=0.9))
mistake(check.alarms, "norm compared with itself", "norm did not ring", varied(norm=0))
mistake(check.alarms, "any norm", "a false alarm: norm rang for a healthy run", varied(growth=0.1))
mistake(check.alarms, "compared with itself", "a false alarm: frozen rang", varied(frozen=1))
mistake(check.alarms, "returns None", "None was returned", lambda rows, floor, peak: None)
