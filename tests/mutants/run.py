"""Wrong answers to the exercises of chapter 12."""
import numpy as np

from nanogpt import check

from . import mistake

mistake(check.logits_memory, "the weights", "far more logits", 0.248)
mistake(check.logits_memory, "one window", "a single window", 1024 * 50257 * 2 / 1e9)
mistake(check.logits_memory, "last position only", "one position of each window", 12 * 50257 * 2 / 1e9)
mistake(check.logits_memory, "the width", "768 numbers", 12 * 1024 * 768 * 2 / 1e9)
mistake(check.logits_memory, "one number each", "could come next", 12 * 1024 * 2 / 1e9)
mistake(check.logits_memory, "numbers, not bytes", "in billions", 12 * 1024 * 50257 / 1e9)
mistake(check.logits_memory, "float32", "float32", 12 * 1024 * 50257 * 4 / 1e9)
mistake(check.logits_memory, "GiB", "GiB", 12 * 1024 * 50257 * 2 / 2**30)
mistake(check.logits_memory, "MB", "in MB", 12 * 1024 * 50257 * 2 / 1e6)
mistake(check.logits_memory, "bytes", "in bytes", 12 * 1024 * 50257 * 2)
mistake(check.logits_memory, "something else", "how large is each", 3)


mistake(check.fitting_batch, "remainder dropped", "468: 12 windows", lambda w, fits: (fits, w // fits))
mistake(check.fitting_batch, "rounded up", "481: an iteration", lambda w, fits: (min(w, fits), -(-w // fits)))
mistake(check.fitting_batch, "divided with /", "is 30.0, of type float", lambda w, fits: (fits, w / fits))
mistake(check.fitting_batch, "one by one", "of which 16 fit, 1 leaves nothing out", lambda w, fits: (1, w))
mistake(check.fitting_batch, "batch alone", "fits=16, 16 was returned", lambda w, fits: fits)
mistake(check.fitting_batch, "all at once", "such a micro-batch does not fit", lambda w, fits: (w, 1))


@mistake(check.fitting_batch, "exchanged", "comes first")
def _(windows, fits):
    steps = next(n for n in range(1, windows + 1) if windows % n == 0 and windows // n <= fits)
    return steps, windows // steps


@mistake(check.fitting_batch, "powers of two", "of which 13 fit, 8 leaves nothing out")
def _(windows, fits):
    batch_size = 1
    while batch_size * 2 <= fits and windows % (batch_size * 2) == 0:
        batch_size *= 2
    return batch_size, windows // batch_size


@mistake(check.fitting_batch, "not limited by the iteration", "64 × 0: that is no window at all")
def _(windows, fits):
    batch_size = fits
    while batch_size < windows and windows % batch_size:
        batch_size -= 1
    return batch_size, windows // batch_size


def wait(losses, patience, *, more=0, equal=False, resets=True, shift=0):
    "When a run ends, with something changed."
    best, waited = float("inf"), 0
    for i, loss in enumerate(losses):
        waited += 1
        if loss < best or equal and loss == best:
            best, waited = loss, 0 if resets else waited - 1
        if waited >= patience + more:
            return i + shift
    return None


mistake(check.out_of_patience, "more than patience", "though three evaluations",
        lambda losses, patience: wait(losses, patience, more=1))
mistake(check.out_of_patience, "one less", "only two evaluations", lambda losses, n: wait(losses, n, more=-1))
mistake(check.out_of_patience, "counted from one", "the index 0", lambda losses, n: wait(losses, n, shift=1))
mistake(check.out_of_patience, "never reset", "begins again", lambda losses, n: wait(losses, n, resets=False))
mistake(check.out_of_patience, "equal is progress", "is no", lambda losses, n: wait(losses, n, equal=True))
mistake(check.out_of_patience, "no special zero", "0 means that", wait)
mistake(check.out_of_patience, "the best", "that is the best", lambda losses, n: losses.index(min(losses)))
mistake(check.out_of_patience, "whether", "is True", lambda losses, n: wait(losses, n) is not None)


@mistake(check.out_of_patience, "zero at a new best", "just when the loss is a new best")
def _(losses, patience):
    best, waited = losses[0], 0
    for i, loss in enumerate(losses[1:], 1):
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited == patience:
            return i
    return None


@mistake(check.out_of_patience, "counted from the best of all", "nobody knows yet")
def _(losses, patience):
    end = int(np.argmin(losses)) + patience
    return end if patience and end < len(losses) else None


@mistake(check.out_of_patience, "against the one before", "lower than the one before it")
def _(losses, patience):
    waited = 0
    for i in range(1, len(losses)):
        waited = waited + 1 if losses[i] >= losses[i - 1] else 0
        if waited == patience:
            return i
    return None


def line(iteration, curve):
    return np.interp(iteration, *zip(*curve))


mistake(check.reference_distance, "per token", "different units",
        lambda loss, i, curve, tokens, characters: loss - line(i, curve))
mistake(check.reference_distance, "inverse", "is lower than per token",
        lambda loss, i, curve, tokens, characters: loss * characters / tokens - line(i, curve))
mistake(check.reference_distance, "as a share", "and not a distance in nats",
        lambda loss, i, curve, tokens, characters: loss * tokens / characters / line(i, curve) - 1)
mistake(check.reference_distance, "sign", "should give a plus",
        lambda loss, i, curve, tokens, characters: line(i, curve) - loss * tokens / characters)
mistake(check.reference_distance, "absolute", "keep the sign",
        lambda loss, i, curve, tokens, characters: abs(loss * tokens / characters - line(i, curve)))
mistake(check.reference_distance, "held at the end", "what came next is unknown",
        lambda loss, i, curve, tokens, characters: loss * tokens / characters - line(i, curve))
mistake(check.reference_distance, "nothing at all", "None at iteration 100", lambda *_: None)
mistake(check.reference_distance, "held at the start", "before that, return None",
        lambda loss, i, curve, tokens, characters: (
            None if i > curve[-1][0] else loss * tokens / characters - line(i, curve)))
mistake(check.reference_distance, "the pair", "of type tuple", lambda *_: (1.2, 0.8))


@mistake(check.reference_distance, "the point before", "the point before")
def _(loss, iteration, curve, tokens, characters):
    return loss * tokens / characters - [b for i, b in curve if i <= iteration][-1]


@mistake(check.reference_distance, "only at points", "None at iteration 150")
def _(loss, iteration, curve, tokens, characters):
    return loss * tokens / characters - dict(curve)[iteration] if iteration in dict(curve) else None


mistake(check.seed_spread, "the same seed", "all five runs are the same", 0.0)
mistake(check.seed_spread, "the variance", "that is the variance", 0.0283**2)
mistake(check.seed_spread, "of the mean", "how far off is a single run", 0.0127)
mistake(check.seed_spread, "range", "from the lowest to the highest", 0.0664)
mistake(check.seed_spread, "the mean", "that is their mean", 2.7722)
mistake(check.seed_spread, "another description", "and nothing else", 0.0555)
mistake(check.seed_spread, "a list of losses", "of type list", [2.79, 2.77])


def loop(step, save, asked, max_iters, interval, *, when=lambda done: True, last=True):
    "A loop that can be stopped, with something changed."
    for done in range(1, max_iters + 1):
        step()
        stop = asked and when(done)
        if done % interval == 0 or last and (stop or done == max_iters):
            save(done)
        if stop:
            return asked[0]
    return "max_iters"


mistake(check.stoppable_loop, "asks only when saving", "went on to step 10",
        lambda *parts: loop(*parts, when=lambda done: done % 5 == 0))
mistake(check.stoppable_loop, "no save at the end", "last steps are lost", lambda *a: loop(*a, last=False))
mistake(check.stoppable_loop, "nothing returned", "None was returned", lambda *parts: [loop(*parts), None][1])
mistake(check.stoppable_loop, "one too few", "11 steps were done",
        lambda step, save, asked, max_iters, interval: loop(step, save, asked, max_iters - 1, interval))


@mistake(check.stoppable_loop, "the last name", "SIGTERM was asked first")
def _(step, save, asked, max_iters, interval):
    return asked[-1] if loop(step, save, asked, max_iters, interval) != "max_iters" else "max_iters"


@mistake(check.stoppable_loop, "saves once", "a crash in step 11")
def _(step, save, asked, max_iters, interval):
    for _ in range(max_iters):
        step()
    save(max_iters)
    return "max_iters"


@mistake(check.stoppable_loop, "no save when stopped", "the rest is lost")
def _(step, save, asked, max_iters, interval):
    for done in range(1, max_iters + 1):
        step()
        if done % interval == 0 or done == max_iters:
            save(done)
        if asked:
            return asked[0]
    return "max_iters"


@mistake(check.stoppable_loop, "counted from zero", "save(0) was called after step 1")
def _(step, save, asked, max_iters, interval):
    for i in range(max_iters):
        step()
        if i % interval == 0 or asked:
            save(i)


@mistake(check.stoppable_loop, "saves always", "saving takes time")
def _(step, save, asked, max_iters, interval):
    return loop(step, save, asked, max_iters, 1)


@mistake(check.stoppable_loop, "waits for an exception", "went on to step 12: look into `asked`")
def _(step, save, asked, max_iters, interval):
    try:
        loop(step, save, [], max_iters, interval)
    except KeyboardInterrupt:
        save(max_iters)
        return "SIGINT"
    return "max_iters"


@mistake(check.stoppable_loop, "says max_iters", "it should be what was asked")
def _(step, save, asked, max_iters, interval):
    loop(step, save, asked, max_iters, interval)
    return "max_iters"


@mistake(check.stoppable_loop, "endless", "still goes on")
def _(step, save, asked, max_iters, interval):
    while not asked:
        step()
