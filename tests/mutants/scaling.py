"""Wrong answers to the exercises of chapter 17."""
import math

import numpy as np

from nanogpt import check
from nanogpt.scaling import Law

from . import mistake

LAW = Law(1.69, 406.4, 0.34, 410.7, 0.28)


def right_split(law, compute):
    n = (law.alpha * law.A / (law.beta * law.B) * (compute / 6) ** law.beta) ** (1 / (law.alpha + law.beta))
    return n, compute / (6 * n)


def right_tokens(law, params, loss):
    left = loss - law.E - law.A / params**law.alpha
    return (law.B / left) ** (1 / law.beta) if left > 0 else math.inf


N, D = right_split(LAW, 6e23)
MORE = right_tokens(LAW, N / 3, LAW(N, D)) / D

mistake(check.hundredfold, "all to the text", "leave the model as small", 100)
mistake(check.hundredfold, "half and half", "multiplied, not added", 50)
mistake(check.hundredfold, "all to the model", "both terms of the loss", 1)
mistake(check.hundredfold, "a logarithm", "that is ln 100", math.log(100))
mistake(check.hundredfold, "something else", "applied to both", 20)

mistake(check.parts_at_best, "equal parts", "would only be equal", 1)
mistake(check.parts_at_best, "upside down", "upside down", 0.34 / 0.28)
mistake(check.parts_at_best, "the constants", "shift the best split", 406.4 / 410.7)
mistake(check.parts_at_best, "the growth", "exponent with which N grows", 0.28 / 0.62)
mistake(check.parts_at_best, "one decimal", "two decimals", 0.8)
mistake(check.parts_at_best, "something else", "along ln N", 0.5)

mistake(check.best_split, "only N", "two positive numbers", lambda law, compute: right_split(law, compute)[0])
mistake(check.best_split, "without the six", "the factor 6 is missing", lambda law, c: right_split(law, 6 * c))
mistake(check.best_split, "half the compute", "but the compute was", lambda law, c: right_split(law, c / 2))


mistake(check.best_split, "exchanged", "are exchanged", lambda law, c: right_split(law, c)[::-1])
mistake(check.best_split, "the same number", "N = D", lambda law, c: ((c / 6) ** 0.5, (c / 6) ** 0.5))


@mistake(check.best_split, "terms equal", "their *slopes* must be equal")
def _(law, compute):
    n = (law.A / law.B * (compute / 6) ** law.beta) ** (1 / (law.alpha + law.beta))
    return n, compute / (6 * n)


@mistake(check.best_split, "a quarter more", "slightly smaller")
def _(law, compute):
    n = 1.25 * right_split(law, compute)[0]
    return n, compute / (6 * n)


@mistake(check.best_split, "twenty tokens per parameter", "rule of thumb")
def _(law, compute):
    n = (compute / 120) ** 0.5
    return n, 20 * n


@mistake(check.best_split, "without the constants", "a factor in front is missing")
def _(law, compute):
    n = (compute / 6) ** (law.beta / (law.alpha + law.beta))
    return n, compute / (6 * n)


def slope(x, y):
    return -np.polyfit(np.log(x), np.log(y), 1)[0]


mistake(check.distance_exponent, "the floor taken from the logarithm", "does not change its slope",
        lambda d, y, floor: -np.polyfit(np.log(d), np.log(y) - floor, 1)[0])
mistake(check.distance_exponent, "the sign", "mind the sign", lambda d, y, e: -slope(d, y - e))
mistake(check.distance_exponent, "both numbers", "one number is needed", lambda d, y, e: np.polyfit(np.log(d), y, 1))


@mistake(check.distance_exponent, "two logarithms", "on both axes")
def _(tokens, losses, floor):
    return -np.polyfit(np.log(tokens), np.log10(losses - floor), 1)[0]


@mistake(check.distance_exponent, "no logarithm of tokens", "was put in")
def _(tokens, losses, floor):
    return -np.polyfit(tokens, np.log(losses - floor), 1)[0]


@mistake(check.tokens_needed, "with the floor", "must go first")
def _(law, params, loss):
    return (law.B / (loss - law.A / params**law.alpha)) ** (1 / law.beta)


@mistake(check.tokens_needed, "one over", "one over the tokens")
def _(law, params, loss):
    return ((loss - law.E - law.A / params**law.alpha) / law.B) ** (1 / law.beta)


@mistake(check.tokens_needed, "complex", "is complex")
def _(law, params, loss):
    return (law.B / (loss - law.E - law.A / params**law.alpha)) ** (1 / law.beta)


@mistake(check.tokens_needed, "zero", "never reaches")
def _(law, params, loss):
    return right_tokens(law, params, loss) if right_tokens(law, params, loss) < math.inf else 0


@mistake(check.tokens_needed, "nothing left", "no finite D is enough")
def _(law, params, loss):
    left = loss - law.E - law.A / params**law.alpha
    return math.inf if left < 0 else (law.B / left) ** (1 / law.beta)


mistake(check.tokens_needed, "the size forgotten", "but it needs", lambda law, n, loss: (law.B / (loss - law.E)) ** 4)
mistake(check.tokens_needed, "a text", "a number is needed", lambda law, n, loss: "many")

mistake(check.price_of_small, "nothing", "costs nothing", 1)
mistake(check.price_of_small, "tokens", "how many times the tokens", MORE)
mistake(check.price_of_small, "three", "how much smaller", 3)
mistake(check.price_of_small, "upside down", "more compute, not less", 3 / MORE)
mistake(check.price_of_small, "how much more", "how much *more*", MORE / 3 - 1)
mistake(check.price_of_small, "the compute", "the compute itself", 2 * N * D * MORE)
mistake(check.price_of_small, "the tokens", "those are the tokens", D * MORE)
mistake(check.price_of_small, "something else", "of both models", 2)
