"""Wrong answers to the exercises of chapter 5."""
import math

import torch
import torch.nn.functional as F

from nanogpt import check

from . import mistake

mistake(check.block_weights, "attention alone", "attention alone", 4)
mistake(check.block_weights, "feed-forward layer alone", "8 C²", 8)
mistake(check.block_weights, "not widened", "did not widen", 6)
mistake(check.block_weights, "one matrix for all three", "C numbers of each", 10)
mistake(check.block_weights, "no mixing of heads", "mixes the heads", 11)
mistake(check.block_weights, "the number at one width", "as a multiple", 7_077_888)
mistake(check.block_weights, "something else", "13 is not it", 13)


def norm(x, gain, shift, dim=-1, correction=0, eps=1e-5):
    "LayerNorm with something changed."
    mean, variance = x.mean(dim, keepdim=True), x.var(dim, keepdim=True, correction=correction)
    return gain * (x - mean) / (variance + eps).sqrt() + shift


@mistake(check.norm_each_position, "no mean", "have the mean")
def _(x, gain, shift):
    return gain * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() + shift


@mistake(check.norm_each_position, "no root", "not by its root")
def _(x, gain, shift):
    return gain * (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5) + shift


@mistake(check.norm_each_position, "epsilon outside", "added to the root")
def _(x, gain, shift):
    return gain * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True, correction=0) + 1e-5) + shift


@mistake(check.norm_each_position, "no keepdim", "RuntimeError in your line `return gain * (x - x.mean(-1))`")
def _(x, gain, shift):
    return gain * (x - x.mean(-1))


@mistake(check.norm_each_position, "not divided", "the standard deviation")
def _(x, gain, shift):
    return gain * (x - x.mean(-1, keepdim=True)) + shift


@mistake(check.norm_each_position, "deviations not squared", "NaN or infinity")
def _(x, gain, shift):
    difference = x - x.mean(-1, keepdim=True)
    return gain * difference / difference.mean(-1, keepdim=True).sqrt() + shift


wrong_dimension = {"everything": (0, 1, 2), "one text": (1, 2), "positions": 1}
words = {"everything": "on its own", "one text": "read the future", "positions": "numbers of one vector"}
for name, dim in wrong_dimension.items():
    answer = lambda x, gain, shift, dim=dim: norm(x, gain, shift, dim)
    mistake(check.norm_each_position, f"over {name}", words[name], answer)
mistake(check.norm_each_position, "C - 1", "7/8", lambda x, g, b: norm(x, g, b, correction=1))
mistake(check.norm_each_position, "no epsilon", "divided by 0", lambda x, g, b: norm(x, g, b, eps=0))
mistake(check.norm_each_position, "large epsilon", "is epsilon right", lambda x, g, b: norm(x, g, b, eps=1e-3))
mistake(check.norm_each_position, "shift first", "it comes after", lambda x, g, b: g * (norm(x, 1, 0) + b))
mistake(check.norm_each_position, "no gain, no shift", "have no effect", lambda x, g, b: norm(x, 1, 0))
mistake(check.norm_each_position, "no shift", "then add", lambda x, g, b: norm(x, g, 0))


def loss(logits, ids, **options):
    "The loss of positions that are shifted already."
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten(), ignore_index=-1, **options)


def right(logits, ids, **options):
    return loss(logits[:, :-1], ids[:, 1:], **options)


mistake(check.next_token_loss, "not shifted", "a model that copies", loss)
mistake(check.next_token_loss, "wrong way", "wrong way", lambda logits, ids: loss(logits[:, 1:], ids[:, :-1]))
mistake(check.next_token_loss, "sum", "is the sum", lambda *args: right(*args, reduction="sum"))
mistake(check.next_token_loss, "softmax twice", "twice", lambda x, ids: right(x.softmax(-1), ids))
mistake(check.next_token_loss, "in bits", "in bits", lambda *args: right(*args) / math.log(2))
mistake(check.next_token_loss, "sign", "the sign is wrong", lambda *args: -right(*args))
mistake(check.next_token_loss, "perplexity", "is the perplexity", lambda *args: right(*args).exp())
mistake(check.next_token_loss, "each place", "(10,)", lambda *args: right(*args, reduction="none"))
mistake(check.next_token_loss, "padding as 0", "as token 0", lambda x, ids: right(x, ids.clamp(min=0)))
mistake(check.next_token_loss, "logits too", "of type tuple", lambda x, ids: (x, right(x, ids)))


@mistake(check.next_token_loss, "not flattened", "the *second* dimension")
def _(logits, ids):
    return F.cross_entropy(logits[:, :-1], ids[:, 1:], ignore_index=-1)


@mistake(check.next_token_loss, "flattened first", "flatten last")
def _(logits, ids):
    return F.cross_entropy(logits.flatten(0, 1)[:-1], ids.flatten()[1:], ignore_index=-1)


@mistake(check.next_token_loss, "no softmax", "the logits themselves")
def _(logits, ids):
    picked = logits[:, :-1].gather(-1, ids[:, 1:, None].clamp(min=0))[..., 0]
    return -picked[ids[:, 1:] >= 0].mean()


@mistake(check.next_token_loss, "padding not skipped", "IndexError in your line")
def _(logits, ids):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@mistake(check.next_token_loss, "divided by places", "ten places")
def _(logits, ids):
    return right(logits, ids, reduction="sum") / ids[:, 1:].numel()


@mistake(check.next_token_loss, "mean of texts", "each text has the same weight")
def _(logits, ids):
    return sum(right(logits[i : i + 1], ids[i : i + 1]) for i in range(len(ids))) / len(ids)


@mistake(check.next_token_loss, "one padded place counted", "with padding, the loss is")
def _(logits, ids):
    costs = right(logits, ids, reduction="none")
    return costs.sum() / min((costs > 0).sum() + 1, 10)


@mistake(check.block_wiring, "stream normalized", "the one that came in is lost")
def _(x, ln_1, attn, ln_2, mlp):
    x = ln_1(x)
    x = x + attn(x)
    x = ln_2(x)
    return x + mlp(x)


@mistake(check.block_wiring, "only the first norm mended", "`ln_2` still normalizes")
def _(x, ln_1, attn, ln_2, mlp):
    x = x + attn(ln_1(x))
    x = ln_2(x)
    return x + mlp(x)


@mistake(check.block_wiring, "only the second norm mended", "`ln_1` still normalizes")
def _(x, ln_1, attn, ln_2, mlp):
    x = ln_1(x)
    x = x + attn(x)
    return x + mlp(ln_2(x))


@mistake(check.block_wiring, "post-norm", "that is post-norm")
def _(x, ln_1, attn, ln_2, mlp):
    x = ln_1(x + attn(x))
    return ln_2(x + mlp(x))


@mistake(check.block_wiring, "no first addition", "the output should be the input")
def _(x, ln_1, attn, ln_2, mlp):
    x = attn(ln_1(x))
    return x + mlp(ln_2(x))


@mistake(check.block_wiring, "attention not in the stream", "it is not in the stream")
def _(x, ln_1, attn, ln_2, mlp):
    return x + mlp(ln_2(x + attn(ln_1(x))))


@mistake(check.block_wiring, "side by side", "before attention")
def _(x, ln_1, attn, ln_2, mlp):
    return x + attn(ln_1(x)) + mlp(ln_2(x))


@mistake(check.block_wiring, "one norm", "`ln_1` is used twice")
def _(x, ln_1, attn, ln_2, mlp):
    x = x + attn(ln_1(x))
    return x + mlp(ln_1(x))


@mistake(check.block_wiring, "no norms", "a normalized copy")
def _(x, ln_1, attn, ln_2, mlp):
    x = x + attn(x)
    return x + mlp(x)


@mistake(check.block_wiring, "other order", "what attention gathers")
def _(x, ln_1, attn, ln_2, mlp):
    x = x + mlp(ln_2(x))
    return x + attn(ln_1(x))


@mistake(check.block_wiring, "added twice", "compare it with `PlainBlock`")
def _(x, ln_1, attn, ln_2, mlp):
    x = x + attn(ln_1(x))
    return x + 2 * mlp(ln_2(x))


mistake(check.block_wiring, "replaced", "replaces", lambda x, l1, attn, l2, mlp: mlp(l2(attn(l1(x)))))
mistake(check.block_wiring, "two results", "tuple", lambda x, l1, attn, l2, mlp: (attn(x), mlp(x)))


def greedy(model, ids, n, read=lambda ids: ids[:, -8:], place=-1):
    "Greedy decoding with something changed."
    for _ in range(n):
        ids = torch.cat([ids, model(read(ids))[:, place].argmax(-1, keepdim=True)], dim=1)
    return ids


@mistake(check.long_text, "text cropped", "not the text itself")
def _(model, ids, n, block_size):
    for _ in range(n):
        ids = ids[:, -block_size:]
        ids = torch.cat([ids, model(ids)[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids[:, -block_size:]


@mistake(check.long_text, "not cropped", "longer than block_size 8; crop it")
def _(model, ids, n, block_size):
    for _ in range(n):
        logits = model(ids)
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids


@mistake(check.long_text, "rows cropped", "its second dimension is what must be cropped")
def _(model, ids, n, block_size):
    for _ in range(n):
        logits = model(ids[-block_size:])
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids


@mistake(check.long_text, "one token for all rows", "that of row 0")
def _(model, ids, n, block_size):
    for _ in range(n):
        new = model(ids[:, -block_size:])[0, -1].argmax()
        ids = torch.cat([ids, new.expand(len(ids), 1)], dim=1)
    return ids


@mistake(check.long_text, "row 1 wrong", "in row 1, the first new token is")
def _(model, ids, n, block_size):
    text = greedy(model, ids, n)
    text[1, 5] = (text[1, 5] + 1) % 11
    return text


@mistake(check.long_text, "drawn", "greedy decoding never does")
def _(model, ids, n, block_size):
    for _ in range(n):
        p = model(ids[:, -block_size:])[:, -1].softmax(-1)
        ids = torch.cat([ids, torch.multinomial(p, 1)], dim=1)
    return ids


@mistake(check.long_text, "own tokens not read", "a later one is not")
def _(model, ids, n, block_size):
    return torch.cat([ids, greedy(model, ids, 1)[:, -1:].expand(-1, n)], dim=1)


@mistake(check.long_text, "begins again when full", "token 9 is not")
def _(model, ids, n, block_size):
    return greedy(model, ids, n, lambda ids: ids[:, (ids.shape[1] - 1) // 8 * 8 :])


@mistake(check.long_text, "no dimension kept", "RuntimeError in your line")
def _(model, ids, n, block_size):
    return torch.cat([ids, model(ids)[:, -1].argmax(-1)], dim=1)


mistake(check.long_text, "first block", "each time", lambda m, x, n, T: greedy(m, x, n, lambda x: x[:, :T]))
mistake(check.long_text, "new tokens alone", "only the three", lambda m, ids, n, T: greedy(m, ids, n)[:, -n:])
mistake(check.long_text, "first position", "at position 0", lambda m, ids, n, T: greedy(m, ids, n, place=0))
mistake(check.long_text, "newest token", "alone", lambda m, ids, n, T: greedy(m, ids, n, lambda x: x[:, -1:]))
mistake(check.long_text, "seven", "seven", lambda m, ids, n, T: greedy(m, ids, n, lambda x: x[:, 1 - T :]))
mistake(check.long_text, "one too many", "shape (2, 9)", lambda m, ids, n, T: greedy(m, ids, n + 1))
mistake(check.long_text, "new ones first", "does not begin", lambda m, ids, n, T: greedy(m, ids, n).flip(1))
mistake(check.long_text, "least probable", "most probable", lambda m, x, n, T: greedy(lambda x: -m(x), x, n))

mistake(check.orders_told_apart, "one layer", "1 is what one layer gives", 1)
mistake(check.orders_told_apart, "as in the chapter", "one of the five tokens occurred twice", 60)
mistake(check.orders_told_apart, "each logit", "a vector of six", 718)
mistake(check.orders_told_apart, "all positions", "445", 445)
mistake(check.orders_told_apart, "rounded", "Keep more decimals", 111)
mistake(check.orders_told_apart, "the outputs", "of shape (120, 16)", torch.zeros(120, 16))
mistake(check.block_weights, "as text", "it is a string", "12")
mistake(check.orders_told_apart, "something else", "count the different rows", 24)
