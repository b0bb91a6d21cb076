"""Wrong answers to the exercises of chapter 14."""
import torch

from nanogpt import check

from . import mistake

mistake(check.adapter_size, "the weight", "the weight is frozen", 2304 * 768)
mistake(check.adapter_size, "only A", "is A alone", 4 * 768)
mistake(check.adapter_size, "only B", "is B alone", 4 * 2304)
mistake(check.adapter_size, "alpha counted", "twice too many", 8 * (768 + 2304))
mistake(check.adapter_size, "bytes", "counts bytes", 16 * (768 + 2304))
mistake(check.adapter_size, "between the factors", "A begins at the input", 16)


@mistake(check.answers_only, "mask not shifted", "the first token of each answer is lost")
def _(ids, counts):
    return ids[:-1], ids[1:].masked_fill(~counts[:-1], -1)


@mistake(check.answers_only, "inverted mask", "the wrong way round")
def _(ids, counts):
    return ids[:-1], ids[1:].masked_fill(counts[1:], -1)


@mistake(check.answers_only, "no mask", "every token counts")
def _(ids, counts):
    return ids[:-1], ids[1:]


@mistake(check.answers_only, "targets not shifted", "would learn to repeat")
def _(ids, counts):
    return ids[:-1], ids[:-1].masked_fill(~counts[:-1], -1)


@mistake(check.answers_only, "the question is not read", "those of the question too")
def _(ids, counts):
    return ids[:-1].masked_fill(~counts[:-1], 0), ids[1:].masked_fill(~counts[1:], -1)


@mistake(check.answers_only, "without the end", "never learn to stop")
def _(ids, counts):
    return ids[:-1], ids[1:].masked_fill(~counts[1:] | (ids[1:] == 9), -1)


@mistake(check.answers_only, "zero for nothing", "0 is an id")
def _(ids, counts):
    return ids[:-1], ids[1:] * counts[1:]


@mistake(check.answers_only, "in place", "have changed")
def _(ids, counts):
    ids[~counts] = -1
    return ids[:-1], ids[1:]


mistake(check.answers_only, "only the targets", "two tensors", lambda ids, counts: ids[1:])


def layer(first, last, factor, weight=1):
    def make(W, rank, alpha):
        A, B = first * torch.randn(rank, W.shape[1]), last * torch.randn(W.shape[0], rank)
        return A, B, lambda x, A, B: weight * (x @ W.T) + factor(rank, alpha) * (x @ A.T @ B.T)

    return make


mistake(check.low_rank_layer, "both random", "Which factor begins at zero", layer(1, 1, lambda r, alpha: alpha / r))
mistake(check.low_rank_layer, "both zero", "neither of them", layer(0, 0, lambda r, alpha: alpha / r))
mistake(check.low_rank_layer, "no scale", "is not scaled", layer(1, 0, lambda r, alpha: 1))
mistake(check.low_rank_layer, "alpha alone", "by alpha alone", layer(1, 0, lambda r, alpha: alpha))
mistake(check.low_rank_layer, "upside down", "rank / alpha; the", layer(1, 0, lambda r, alpha: r / alpha))
mistake(check.low_rank_layer, "no adapter", "is not used", layer(1, 0, lambda r, alpha: 0))


@mistake(check.low_rank_layer, "A and B turned", "A has the shape (7, 3)")
def _(W, rank, alpha):
    return torch.randn(W.shape[1], rank), torch.zeros(rank, W.shape[0]), lambda x, A, B: x @ W.T + x @ A @ B


def merged(dtype):
    generator = torch.Generator().manual_seed(0)
    W = (torch.randn(512, 512, generator=generator) * 0.05).bfloat16().to(dtype)
    product = (torch.randn(512, 512, generator=generator) * 0.01).bfloat16().to(dtype)
    return (W + product - product != W).float().mean().item()


mistake(check.merge_in_16_bits, "those that came back", "that did not", 1 - merged(torch.bfloat16))
mistake(check.merge_in_16_bits, "a percentage", "may be a percentage", 100 * merged(torch.bfloat16))
mistake(check.merge_in_16_bits, "as text", "it is a string", "17%")
mistake(check.merge_in_16_bits, "in a list", "of type list", [merged(torch.bfloat16)])
mistake(check.merge_in_16_bits, "not a number", "the answer is not a number", float("nan"))
mistake(check.merge_in_16_bits, "in float32", "use it throughout", merged(torch.float32))
mistake(check.merge_in_16_bits, "a guess", "compare with W", merged(torch.bfloat16) / 2)


def factors(change, rank, left, right):
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    return s[:rank, None] ** right * v[:rank], u[:, :rank] * s[:rank] ** left


mistake(check.adapter_from_change, "no singular values", "length 1", lambda change, rank: factors(change, rank, 0, 0))
mistake(check.adapter_from_change, "in both", "their squares", lambda change, rank: factors(change, rank, 1, 1))
mistake(
    check.adapter_from_change, "changed places", "have changed places",
    lambda change, rank: factors(change, rank, 1, 0)[::-1],
)  # fmt: skip


@mistake(check.adapter_from_change, "the weakest", "weakest directions")
def _(change, rank):
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    return v[-rank:], u[:, -rank:] * s[-rank:]


@mistake(check.adapter_from_change, "columns of v", "are the rows of v")
def _(change, rank):
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    return v[:, :rank].T, u[:, :rank] * s[:rank]


@mistake(check.adapter_from_change, "the first rows", "is possible")
def _(change, rank):
    return change[:rank], torch.eye(len(change))[:, :rank]


def choose(score, best=max):
    return lambda logprobs, question, answers: best(
        range(len(answers)), key=lambda i: score(logprobs(question + answers[i]), len(question), answers[i])
    )


def rows(table, n, answer):
    return table[n - 1 : -1][range(len(answer)), answer]


mistake(check.likeliest_answer, "means", "by means over tokens", choose(lambda *parts: rows(*parts).mean().item()))
mistake(check.likeliest_answer, "first token", "by the first token", choose(lambda *parts: rows(*parts)[0].item()))
mistake(
    check.likeliest_answer, "one row late", "the row before it that",
    choose(lambda table, n, answer: table[n:][range(len(answer)), answer].sum().item()),
)  # fmt: skip
mistake(
    check.likeliest_answer, "the unlikeliest", "unlikeliest",
    choose(lambda *parts: rows(*parts).sum().item(), min),
)  # fmt: skip
mistake(check.likeliest_answer, "two tokens", "of 26 choices", choose(lambda *parts: rows(*parts)[:2].sum().item()))
mistake(check.likeliest_answer, "product", "a product is a sum", choose(lambda *parts: rows(*parts).prod().item()))
mistake(check.likeliest_answer, "always the first", "of three answers of one token, 0", lambda *_: 0)
mistake(
    check.likeliest_answer, "one row for all", "in the row after the question",
    choose(lambda table, n, answer: table[n - 1, answer].sum().item()),
)  # fmt: skip


@mistake(check.likeliest_answer, "without the question", "without the question")
def _(logprobs, question, answers):
    scores = [logprobs(answer)[range(len(answer) - 1), answer[1:]].sum().item() for answer in answers]
    return scores.index(max(scores))


mistake(check.likeliest_answer, "the answer", "return an index", lambda logprobs, question, answers: answers[0])
