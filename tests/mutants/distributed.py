"""Wrong answers to the exercises of chapter 11."""
import torch

from nanogpt import check

from . import mistake

mistake(check.sharded_traffic, "one micro-batch", "each micro-batch sends its own", 1050)
mistake(check.sharded_traffic, "DDP", "one all-reduce for all", 700)
mistake(check.sharded_traffic, "one gather", "how often are the weights gathered", 2800)
mistake(check.sharded_traffic, "one scatter", "may not fit", 3150)
mistake(check.sharded_traffic, "whole tensors", "no rank sends all of the 8 pieces", 4800)
mistake(check.sharded_traffic, "all ranks", "all ranks together", 33600)
mistake(check.sharded_traffic, "cut up twice", "cut up the 400 MB twice", 525)
mistake(check.sharded_traffic, "something else", "for one micro-batch, and", 1200)


@mistake(check.broadcast_weights, "only rank 0 calls", "rank 0 waits in `all_reduce`, but rank 1")
def _(rank, value, all_reduce):
    if rank == 0:
        value = all_reduce(value)
    return value


@mistake(check.broadcast_weights, "only the others call", "rank 1 waits in `all_reduce`, but rank 0")
def _(rank, value, all_reduce):
    return value if rank == 0 else all_reduce(torch.zeros_like(value))


@mistake(check.broadcast_weights, "result not used", "still has its own tensor")
def _(rank, value, all_reduce):
    all_reduce(value if rank == 0 else torch.zeros_like(value))
    return value


@mistake(check.broadcast_weights, "divided by the ranks", "arrives divided by 3")
def _(rank, value, all_reduce):
    return all_reduce(value if rank == 0 else torch.zeros_like(value)) / 3


@mistake(check.broadcast_weights, "None from the others", "TypeError in your line `return all_reduce(")
def _(rank, value, all_reduce):
    return all_reduce(value if rank == 0 else None)


@mistake(check.broadcast_weights, "0 from the others, summed", "has the shape ()")
def _(rank, value, all_reduce):
    return all_reduce(value.sum() if rank == 0 else 0)


mistake(check.broadcast_weights, "sum of all", "gets the sum of all", lambda rank, value, total: total(value))
mistake(check.broadcast_weights, "mean of all", "gets the mean", lambda rank, value, total: total(value) / 3)
mistake(check.broadcast_weights, "times 0", "0 · NaN", lambda rank, value, total: total(value * (rank == 0)))
mistake(check.broadcast_weights, "rank 2's", "other", lambda rank, value, total: total(value * (rank == 2)))

mistake(check.order_of_sums, "compared roughly", "comes from `allclose`", 0.0)
mistake(check.order_of_sums, "how far apart", "how far two sums", 1.9e-6)
mistake(check.order_of_sums, "in per cent", "in per cent", 56.8)
mistake(check.order_of_sums, "any of the eight", "all eight devices", 0.96)
mistake(check.order_of_sums, "the equal ones", "how many are not", 0.4316)
mistake(check.order_of_sums, "other vectors", "begin with its own", 0.2)


def means_until(wants, losses, ranks, all_reduce, divide=True):
    "Means of the losses, until `wants` (called with a loss, the mean and a function that sums) is true."
    means = []
    for loss in losses:
        mean = all_reduce(loss) / (ranks if divide else 1)
        if wants(loss, mean, all_reduce):
            break
        means.append(mean)
    return means


@mistake(check.stop_together, "each stops alone", "deadlock: rank 0 waits")
def _(losses, ranks, all_reduce):
    means = []
    for loss in losses:
        if loss > 10:
            break
        means.append(all_reduce(loss) / ranks)
    return means


@mistake(check.stop_together, "the mean decides", "mean loss in step 3 is 6")
def _(*rank):
    return means_until(lambda loss, mean, total: mean > 10, *rank)


@mistake(check.stop_together, "all must want to", "one is enough")
def _(losses, ranks, all_reduce):
    return means_until(lambda loss, mean, total: total(loss > 10) == ranks, losses, ranks, all_reduce)


@mistake(check.stop_together, "no stop", "nobody stops")
def _(*rank):
    return means_until(lambda loss, mean, total: False, *rank)


@mistake(check.stop_together, "sums", "are added up")
def _(*rank):
    return means_until(lambda loss, mean, total: total(loss > 10), *rank, divide=False)


@mistake(check.stop_together, "its own losses", "rank 1 returns [6.0, 5.0, 4.0]")
def _(losses, ranks, all_reduce):
    return [loss for loss in losses if not all_reduce(loss > 10)]


@mistake(check.stop_together, "stops after the step", "includes step 3")
def _(losses, ranks, all_reduce):
    means = []
    for loss in losses:
        means.append(all_reduce(loss) / ranks)
        if all_reduce(loss > 10):
            break
    return means


@mistake(check.stop_together, "step left out", "[5.0, 4.0, 3.0] leaves out step 3")
def _(losses, ranks, all_reduce):
    kept = [loss for loss in losses if not all_reduce(loss > 10)]
    return [all_reduce(loss) / ranks for loss in kept]


@mistake(check.stop_together, "the last mean", "of type float")
def _(*rank):
    return means_until(lambda loss, mean, total: total(loss > 10), *rank)[-1]


mistake(check.ddp_loss, "mean of means", "mean of means", lambda losses, ranks, total: losses.mean())
mistake(
    check.ddp_loss, "N times too small", "3 times too small",
    lambda losses, ranks, total: losses.sum() / total(len(losses)),
)
mistake(
    check.ddp_loss, "own targets counted", "3 times too large",
    lambda losses, ranks, total: losses.sum() * ranks / len(losses),
)
mistake(check.ddp_loss, "sum", "are added up", lambda losses, ranks, total: losses.sum())
mistake(check.ddp_loss, "sum times ranks", "of their mean", lambda losses, ranks, total: ranks * losses.sum())
mistake(check.ddp_loss, "no sum", "(2,)", lambda losses, ranks, total: losses * ranks / total(len(losses)))
mistake(check.ddp_loss, "a number", "of type float", lambda losses, ranks, total: losses.mean().item())
mistake(
    check.ddp_loss, "mean times share", "a mean of nothing",
    lambda losses, ranks, total: losses.mean() * len(losses) * ranks / total(len(losses)),
)
mistake(
    check.ddp_loss, "loss of all ranks", "cut off from the model",
    lambda losses, ranks, total: total(losses.sum()) / total(len(losses)),
)


@mistake(check.ddp_loss, "nothing to do without targets", "deadlock")
def _(losses, ranks, all_reduce):
    if len(losses) == 0:
        return losses.sum()
    return losses.sum() * ranks / all_reduce(len(losses))


@mistake(check.ddp_loss, "backward called", "called `backward`")
def _(losses, ranks, all_reduce):
    loss = losses.sum() * ranks / all_reduce(len(losses))
    loss.backward()
    return loss


def clip(parts, largest, norm):
    return [part * min(1.0, largest / (norm + 1e-6)) for part in parts]


def squares(parts):
    return float(sum(part.square().sum() for part in parts))


mistake(
    check.clip_over_ranks, "own norm", "the norm of its own parts",
    lambda parts, largest, total: clip(parts, largest, squares(parts) ** 0.5),
)
mistake(
    check.clip_over_ranks, "norms added up", "it is their squares",
    lambda parts, largest, total: clip(parts, largest, total(squares(parts) ** 0.5)),
)
mistake(
    check.clip_over_ranks, "no root", "the norm is its root",
    lambda parts, largest, total: clip(parts, largest, total(squares(parts))),
)
mistake(
    check.clip_over_ranks, "mean of squares", "averaged over the ranks",
    lambda parts, largest, total: clip(parts, largest, (total(squares(parts)) / total(1)) ** 0.5),
)
mistake(
    check.clip_over_ranks, "each part by itself", "a factor of its own",
    lambda parts, largest, total: [part / part.norm() for part in parts],
)
mistake(
    check.clip_over_ranks, "numbers cut off", "single numbers",
    lambda parts, largest, total: [part.clamp(-largest, largest) for part in parts],
)
mistake(check.clip_over_ranks, "nothing scaled", "nothing was scaled", lambda parts, largest, total: parts)


@mistake(check.clip_over_ranks, "not below the limit", "below 1000, and the gradient has changed")
def _(parts, largest, all_reduce):
    norm = all_reduce(squares(parts)) ** 0.5
    return [part * largest / norm for part in parts]


@mistake(check.clip_over_ranks, "one vector", "of type Tensor")
def _(parts, largest, all_reduce):
    return torch.cat([part.flatten() for part in clip(parts, largest, all_reduce(squares(parts)) ** 0.5)])


@mistake(check.clip_over_ranks, "divided by zero", "ZeroDivisionError in your line `scale = min(")
def _(parts, largest, all_reduce):
    norm = all_reduce(squares(parts)) ** 0.5
    scale = min(1.0, largest / norm)
    return [part * scale for part in parts]


@mistake(check.clip_over_ranks, "zero times infinity", "NaN")
def _(parts, largest, all_reduce):
    norm = all_reduce(torch.tensor(squares(parts))).sqrt()
    return parts if norm > 0 and norm <= largest else [part * largest / norm for part in parts]


@mistake(check.clip_over_ranks, "nothing to do without parts", "deadlock")
def _(parts, largest, all_reduce):
    if not parts:
        return []
    return clip(parts, largest, all_reduce(squares(parts)) ** 0.5)
