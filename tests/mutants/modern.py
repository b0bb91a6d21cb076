"""Wrong answers to the exercises of chapter 6."""
import math

import torch

from nanogpt import check
from nanogpt.data import document_ids
from nanogpt.rotary import rotary_angles, rotate

from . import mistake

mistake(check.cache_per_token, "heads of queries", "they share", 524_288)
mistake(check.cache_per_token, "queries cached too", "old queries", 393_216)
mistake(check.cache_per_token, "float32", "4 bytes", 262_144)
mistake(check.cache_per_token, "keys alone", "bytes of the keys alone", 65_536)
mistake(check.cache_per_token, "one layer", "one layer", 4_096)
mistake(check.cache_per_token, "in KiB", "how many bytes", 128)
mistake(check.cache_per_token, "something else", "write down the factors", 1_000)


def by_index(heads):
    return lambda k, n_head: k[:, heads] if n_head == 6 else k.repeat_interleave(n_head // k.shape[1], 1)


mistake(check.shared_heads, "repeat", "take turns", lambda k, H: k.repeat(1, H // k.shape[1], 1, 1))
mistake(check.shared_heads, "tokens repeated", "(2, 3, 8, 2);", lambda k, H: k.repeat_interleave(2, dim=2))
mistake(check.shared_heads, "H copies of each", "(2, 18, 4, 2)", lambda k, H: k.repeat_interleave(H, dim=1))
mistake(check.shared_heads, "first head for all", "never used", lambda k, H: k[:, :1].expand(-1, H, -1, -1))
mistake(check.shared_heads, "other order", "the order is wrong", by_index([2, 2, 1, 1, 0, 0]))
mistake(check.shared_heads, "always two", "and 4 heads", lambda k, H: k.repeat_interleave(2, dim=1))
mistake(check.shared_heads, "called", "the function itself", torch.zeros(2, 6, 4, 2))


@mistake(check.shared_heads, "tokens repeated, then viewed", "are tokens copied instead")
def _(k, n_head):
    B, _, T, D = k.shape
    return k.repeat_interleave(n_head // k.shape[1], dim=2).reshape(B, n_head, T, D).flip(2)


mistake(check.sharpest_weight, "no limit", "without a limit", 1.0)
mistake(check.sharpest_weight, "not negative", "can be negative", 1 / (1 + 1023 * math.exp(-4)))
mistake(check.sharpest_weight, "length 1", "not the length", 1 / (1 + 1023 * math.exp(-2)))
mistake(check.sharpest_weight, "the score", "the largest score", 4)
mistake(check.sharpest_weight, "equal weights", "equal scores", 1 / 1024)
mistake(check.sharpest_weight, "per cent", "in per cent", 74.4)
mistake(check.sharpest_weight, "something else", "how high and how low", 0.5)

mistake(check.rows_needed, "one row each", "still free", 10_000)
mistake(check.rows_needed, "found it taken", "the earlier ones then share it too", 46_600)
mistake(check.rows_needed, "shared rows", "about n-grams", 18_800)
mistake(check.rows_needed, "a tenth of the n-grams", "more rows", 1_000)
mistake(check.rows_needed, "no collision at all", "fewer rows", 500_000_000)
mistake(check.rows_needed, "the share", "less than one row", 0.1)
mistake(check.rows_needed, "a list", "of type list", [95_000])


def places(ids, document_token, first=0):
    "By loops, on purpose."
    result = torch.zeros_like(ids)
    for b, row in enumerate(ids.tolist()):
        place = first - 1
        for t, token in enumerate(row):
            place = first if token == document_token else place + 1
            result[b, t] = place
    return result


@mistake(check.places_in_text, "end-of-text ends a text", "position 3 of row 0 has place 2")
def _(ids, document_token):
    before = torch.cat([torch.full_like(ids[:, :1], document_token), ids[:, :-1]], 1)
    return places(before, document_token)


@mistake(check.places_in_text, "goes on to the next row", "should be 0 and 1, not [1, 2]")
def _(ids, document_token):
    return places(ids.view(1, -1), document_token).view_as(ids)


@mistake(check.places_in_text, "minus the last beginning", "position 7 of row 0 has place -3")
def _(ids, document_token):
    T = torch.arange(ids.shape[1])
    return torch.stack([T - (T * (row == document_token)).cumsum(0) for row in ids])


@mistake(check.places_in_text, "nothing before the first beginning", "not [-2, -1]")
def _(ids, document_token):
    right, inside = places(ids, document_token), document_ids(ids, document_token) == 0
    return torch.where(inside, right - inside.sum(1, keepdim=True), right)


mistake(check.places_in_text, "number of the text", "which text a position is in", document_ids)
mistake(check.places_in_text, "no new beginning", "text to text", lambda *a: torch.arange(8).expand(2, 8))
mistake(check.places_in_text, "from 1", "count from 0", lambda ids, token: places(ids, token, 1))
mistake(check.places_in_text, "token fixed", "another one fixed", lambda ids, token: places(ids, 0))
mistake(check.places_in_text, "one row", "shape (8,)", lambda ids, token: places(ids, token)[0])
mistake(check.places_in_text, "lists", "of type list", lambda ids, token: places(ids, token).tolist())


def step(q, k, keys, *, shift=0, turn_q=True, turn_k=True, divisor=8**0.5):
    "A turned step with something changed."
    angles = rotary_angles(torch.tensor([len(keys) + shift]), 8)
    keys = torch.cat([keys, rotate(k, *angles) if turn_k else k])
    return (rotate(q, *angles) if turn_q else q) @ keys.T / divisor, keys


@mistake(check.turned_step, "all keys turned again", "the stored keys have changed")
def _(q, k, keys):
    keys = torch.cat([keys, k])
    keys = rotate(keys, *rotary_angles(torch.arange(len(keys)), 8))
    return step(q, k, keys[:-1])


@mistake(check.turned_step, "always position 0", "the angles of position 0")
def _(q, k, keys):
    return step(q, k, keys, shift=-len(keys))


@mistake(check.turned_step, "own key missing", "there are five scores")
def _(q, k, keys):
    scores, more = step(q, k, keys)
    return scores[:, :-1], more


@mistake(check.turned_step, "new one first", "should come last")
def _(q, k, keys):
    scores, more = step(q, k, keys)
    return scores.roll(1, 1), more.roll(1, 0)


@mistake(check.turned_step, "position fixed", "position fixed in your code")
def _(q, k, keys):
    return step(q, k, keys, shift=5 - len(keys))


@mistake(check.turned_step, "query one place off", "as if it were at [4]")
def _(q, k, keys):
    keys = step(q, k, keys)[1]
    return rotate(q, *rotary_angles(torch.tensor([len(keys) - 2]), 8)) @ keys.T / 8**0.5, keys


@mistake(check.turned_step, "compared with the key before its turn", "is this key turned?")
def _(q, k, keys):
    q = rotate(q, *rotary_angles(torch.tensor([len(keys)]), 8))
    return q @ torch.cat([keys, k]).T / 8**0.5, step(q, k, keys)[1]


@mistake(check.turned_step, "an integer for a position", "AttributeError in your line `angles =")
def _(q, k, keys):
    angles = rotary_angles(len(keys), 8)
    return angles, keys


mistake(check.turned_step, "counted from 1", "as if at position 6", lambda *a: step(*a, shift=1))
mistake(check.turned_step, "query not turned", "the query is not", lambda *a: step(*a, turn_q=False))
mistake(check.turned_step, "not divided", "not divided", lambda *a: step(*a, divisor=1))
mistake(check.turned_step, "scores alone", "return two things", lambda *a: step(*a)[0])
