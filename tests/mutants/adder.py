"""Wrong answers to the steps of the project "Teach a GPT to add"."""
from types import SimpleNamespace

import torch

from nanogpt import check
from nanogpt.exercises.adder import _Clerk

from . import mistake

SIGNS = torch.tensor([10, 11])


def digits(numbers, count, back=False):
    powers = 10 ** torch.arange(count)
    return numbers[:, None] // (powers if back else powers.flip(0)) % 10


def text(a, b, reverse, back=False):
    signs = SIGNS.expand(len(a), 2)
    parts = digits(a, 3, back), signs[:, :1], digits(b, 3, back), signs[:, 1:], digits(a + b, 4, reverse)
    return torch.cat(parts, dim=1)


def cut(ids, hidden=7):
    "x and y of whole sums, with so many targets hidden."
    x, y = ids[:, :-1], ids[:, 1:].clone()
    y[:, :hidden] = -1
    return x, y


@mistake(check.sum_tokens, "y not shifted", "one token ahead")
def _(a, b, reverse):
    x = text(a, b, reverse)[:, :-1]
    return x, x.masked_fill(torch.arange(11) < 7, -1)


@mistake(check.sum_tokens, "zeros left out", "three digits")
def _(a, b, reverse):
    x, y = cut(text(a, b, reverse))
    return x.masked_fill((x == 0) & (torch.arange(11) < 8), 12), y


@mistake(check.sum_tokens, "x reads other digits", "does not go on with the digits")
def _(a, b, reverse):
    return cut(text(a, b, False))[0].index_fill(1, torch.arange(8, 11), 0), cut(text(a, b, reverse))[1]


mistake(check.sum_tokens, "not cut", "x has all 12 tokens", lambda a, b, r: (text(a, b, r), text(a, b, r)))
mistake(check.sum_tokens, "one tensor", "return two things", text)
mistake(check.sum_tokens, "floats", "ids are int64", lambda a, b, r: tuple(t.float() for t in cut(text(a, b, r))))
mistake(check.sum_tokens, "the whole text learned", "7 of the targets belong", lambda a, b, r: cut(text(a, b, r), 0))
mistake(check.sum_tokens, "`=` is a target", "1 of the targets belong", lambda a, b, r: cut(text(a, b, r), 6))
mistake(check.sum_tokens, "first digit hidden", "has no target", lambda a, b, r: cut(text(a, b, r), 8))
mistake(check.sum_tokens, "reverse ignored", "changes nothing", lambda a, b, r: cut(text(a, b, False)))
mistake(check.sum_tokens, "always reversed", "begins with the units", lambda a, b, r: cut(text(a, b, True)))
mistake(check.sum_tokens, "all reversed", "begins with '321+654='", lambda a, b, r: cut(text(a, b, r, True)))
mistake(check.sum_tokens, "numbers reversed too", "turn the sum only", lambda a, b, r: cut(text(a, b, r, r)))
known = torch.arange(12) < 8
mistake(check.sum_tokens, "zeros for the sum", "the sum is 1957", lambda a, b, r: cut(text(a, b, r) * known))


def written(model, a, b, reverse):
    "The four digits that a model writes, and those of the sum."
    ids = text(a, b, reverse)
    return model(ids[:, :-1])[0][:, 7:].argmax(-1), ids[:, 8:]


def compared(model, a, b, reverse):
    got, wanted = written(model, a, b, reverse)
    return got == wanted


@mistake(check.right_sums, "all targets compared", "got no sum right")
def _(model, a, b, reverse):
    x, y = cut(text(a, b, reverse))
    return (model(x)[0].argmax(-1) == y).all(1)


@mistake(check.right_sums, "order ignored", "units first, got")
def _(model, a, b, reverse):
    return compared(model, a, b, False).all(1)


@mistake(check.right_sums, "as a set of digits", "digits in the wrong order")
def _(model, a, b, reverse):
    got, wanted = written(model, a, b, reverse)
    return (got.sort(1).values == wanted.sort(1).values).all(1)


@mistake(check.right_sums, "one column early", "got 1 of 60")
def _(model, a, b, reverse):
    ids = text(a, b, reverse)
    return (model(ids[:, :-1])[0][:, 7:10].argmax(-1) == ids[:, 9:]).all(1) | (a == a[0])


@mistake(check.right_sums, "every sum or none", "because others have mistakes")
def _(model, a, b, reverse):
    return compared(model, a, b, reverse).all().expand(len(a))


mistake(check.right_sums, "the share", "one value", lambda *given: compared(*given).all(1).float().mean())
mistake(check.right_sums, "each digit", "four values for each sum", compared)
mistake(check.right_sums, "share of digits", "torch.float32", lambda *given: compared(*given).float().mean(1))
mistake(check.right_sums, "any digit", "all four must agree", lambda *given: compared(*given)[:, :2].any(1))
mistake(check.right_sums, "model not asked", "not asked", lambda model, a, b, reverse: a + b > 0)

usual, back = _Clerk(), _Clerk(reverse=True)
third = _Clerk(reverse=True, slips=((0, 3),))
mistake(check.two_adders, "exchanged", "are exchanged", (back, usual))
mistake(check.two_adders, "the same model", "the same model", (usual, usual))
mistake(check.two_adders, "reverse not used", "neither model", (usual, _Clerk()))
mistake(check.two_adders, "both reversed", "both models write", (_Clerk(reverse=True), back))
mistake(check.two_adders, "result of train", "returns a result", (SimpleNamespace(best_val_loss=0.1), back))
mistake(check.two_adders, "another model", "cannot read sums", (torch.nn.Linear(11, 12), back))
mistake(check.two_adders, "no model", "of type float", (usual, 0.99))
mistake(check.two_adders, "not trained", "has it been trained", (usual, _Clerk(reverse=True, slips=((0, 1),))))
mistake(check.two_adders, "trained too briefly", "within reach", (usual, third))


def count(a, b, *, carry=True, powers=(1, 10, 100), least=10):
    total = carried = torch.zeros_like(a)
    for power in powers:
        carried = (a // power % 10 + b // power % 10 + carried * carry >= least).long()
        total = total + carried
    return total


@mistake(check.carry_count, "the longest row of carries", "of 200 pairs")
def _(a, b):
    longest = row = carried = torch.zeros_like(a)
    for power in (1, 10, 100):
        carried = (a // power % 10 + b // power % 10 + carried >= 10).long()
        row = (row + 1) * carried
        longest = longest.maximum(row)
    return longest


mistake(check.carry_count, "no carry comes in", "takes the tens to 10", lambda a, b: count(a, b, carry=False))
mistake(check.carry_count, "nine carries", "no column reaches 10", lambda a, b: count(a, b, least=9))
mistake(check.carry_count, "eleven carries", "5 + 5 is 0", lambda a, b: count(a, b, least=11))
mistake(check.carry_count, "hundreds left out", "500 + 600 is 0", lambda a, b: count(a, b, powers=(1, 10)))
mistake(check.carry_count, "whether", "torch.bool", lambda a, b: count(a, b) > 0)
mistake(check.carry_count, "of all pairs", "shape ()", lambda a, b: count(a, b).sum())
mistake(check.carry_count, "at most two", "every column carries", lambda a, b: count(a, b).clamp(max=2))

mistake(check.short_sight, "all right", "what if the tens are 4 and 5", 1)
mistake(check.short_sight, "doubtful is wrong", "is often right", 0.9)
mistake(check.short_sight, "a coin", "tossing a coin", 0.95)
mistake(check.short_sight, "the share that is wrong", "share that is wrong", 0.045)
mistake(check.short_sight, "the share in doubt", "in doubt; how many of all", 0.1)
mistake(check.short_sight, "among the doubtful", "among the doubtful", 0.55)
mistake(check.short_sight, "the worse guess", "less often than not", 0.945)
mistake(check.short_sight, "per cent", "between 0 and 1", 95.5)
mistake(check.short_sight, "words", "it is a string", "95 %")
mistake(check.short_sight, "something else", "is not it", 0.97)


def told(model, a, b, *, lie=lambda t: 9 - t, at=9, read=9):
    "What a model writes after a lie, the hundreds digit that fits the lie, and the true one."
    x = text(a, b, True)[:, :-1]
    x[:, at] = lie(x[:, at])
    hundreds = a // 100 + b // 100
    return model(x)[0][:, read].argmax(-1), (hundreds + (x[:, 9] == 0)) % 10, (a + b) // 100 % 10


def believed(model, a, b, **options):
    got, fits, _ = told(model, a, b, **options)
    return got == fits


@mistake(check.believed_lie, "whatever is not true", "neither the truth nor the lie")
def _(model, a, b):
    got, _, truth = told(model, a, b)
    return got != truth


@mistake(check.believed_lie, "True and False exchanged", "are exchanged")
def _(model, a, b):
    got, _, truth = told(model, a, b)
    return got == truth


@mistake(check.believed_lie, "the lie always adds", "none of which takes a carry away")
def _(model, a, b):
    got, _, truth = told(model, a, b)
    return got == (truth + 1) % 10


@mistake(check.believed_lie, "the lie always takes", "none of which adds a carry")
def _(model, a, b):
    got, _, truth = told(model, a, b)
    return got == (truth - 1) % 10


@mistake(check.believed_lie, "ten is no digit", "what comes after the digit 9")
def _(model, a, b):
    got, fits, truth = told(model, a, b)
    x = text(a, b, True)
    return got == truth + torch.where(x[:, 9] == 9, 1, -1)


@mistake(check.believed_lie, "the share", "shape ()")
def _(model, a, b):
    return believed(model, a, b).float().mean()


mistake(check.believed_lie, "the units", "its units digit must stay true", lambda *given: believed(*given, at=8))
mistake(check.believed_lie, "no lie", "is still true", lambda *given: believed(*given, lie=lambda t: t))
mistake(check.believed_lie, "one too many", "tell it", lambda *given: believed(*given, lie=lambda t: (t + 3) % 10))
mistake(check.believed_lie, "the digit after", "is it the hundreds digit", lambda *given: believed(*given, read=10))
mistake(check.believed_lie, "numbers", "torch.int64", lambda *given: believed(*given).long())
mistake(check.believed_lie, "not asked", "was not asked", lambda model, a, b: a > b)
