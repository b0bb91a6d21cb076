"""Wrong answers to the exercises of chapter 8."""
import copy
import math

import torch
import torch.nn.functional as F
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from nanogpt import check
from nanogpt.step import evaluating

from . import mistake

mistake(check.forgotten_clear, "cleared", "if the gradient is cleared", -0.5)
mistake(check.forgotten_clear, "wrong sign", "against the gradient", 1.5)
mistake(check.forgotten_clear, "the last gradient five times", "only the last step", -2.5)
mistake(check.forgotten_clear, "counted from 0", "gradients of 0 to 4", -1.0)
mistake(check.forgotten_clear, "something else", "write down", -0.1)


def keep(model, train, measure, rounds, *, copied=True, patience=9, highest=False):
    "Early stopping with something changed."
    lowest, worse = math.inf, 0
    for _ in range(rounds):
        train()
        loss = -measure() if highest else measure()
        worse = 0 if loss < lowest else worse + 1
        if loss < lowest:
            lowest, best = loss, model.state_dict()
            best = copy.deepcopy(best) if copied else best
        if worse == patience:
            break
    model.load_state_dict(best)
    return best


mistake(check.keep_best, "not copied", "is simply the last one", lambda *args: keep(*args, copied=False))
mistake(check.keep_best, "stopped at once", "one worse round", lambda *args: keep(*args, patience=1))
mistake(check.keep_best, "the highest", "had the highest loss", lambda *args: keep(*args, highest=True))


@mistake(check.keep_best, "stopped, not loaded", "called 3 times")
def _(model, train, measure, rounds):
    before = math.inf
    for _ in range(rounds):
        train()
        if (loss := measure()) > before:
            break
        before = loss


@mistake(check.keep_best, "returned, not loaded", "you return those of round 4")
def _(model, train, measure, rounds):
    best, weights = math.inf, None
    for _ in range(rounds):
        train()
        if (loss := measure()) < best:
            best, weights = loss, copy.deepcopy(model.state_dict())
    return weights


@mistake(check.keep_best, "averaged", "exactly the weights of round 4")
def _(model, train, measure, rounds):
    total = 0
    for _ in range(rounds):
        train()
        measure()
        total = total + model.weight.detach().clone()
    model.load_state_dict({"weight": total / rounds})


@mistake(check.keep_best, "kept only if not the first", "with the losses [1.0, 2.0, 3.0]")
def _(model, train, measure, rounds):
    train()
    lowest, best = measure(), None
    for _ in range(rounds - 1):
        train()
        if (loss := measure()) < lowest:
            lowest, best = loss, copy.deepcopy(model.state_dict())
    if best:
        model.load_state_dict(best)


mistake(check.batch_noise, "variances", "ratio of the variances", 16.2)
mistake(check.batch_noise, "the wrong way round", "the smaller batch is the noisier one", 0.25)
mistake(check.batch_noise, "variances, the wrong way round", "1/16 compares variances", 0.0625)
mistake(check.batch_noise, "no difference", "varies less", 1.02)
mistake(check.batch_noise, "length instead of noise", "how long the gradients are", torch.tensor(1.523456))
mistake(check.batch_noise, "a ratio for each parameter", "average the noise", torch.full((1000,), 4.0))
mistake(check.batch_noise, "text", "of type str", "4.0")
mistake(check.batch_noise, "too few batches", "take 200 batches", 3.3)


def along(model, batches, *, reduce=lambda losses, y: losses.sum(0) / (y >= 0).sum(0)):
    "The loss along the window, with something changed."
    x, y = (torch.cat(part) for part in zip(*batches))
    losses = F.cross_entropy(model(x, y)[0].transpose(1, 2), y, ignore_index=-1, reduction="none")
    return reduce(losses, y)


def quiet(reduce):
    "In evaluation mode and without gradients."

    def answer(model, batches):
        with evaluating(model):
            return along(model, batches, reduce=reduce)

    return answer


@mistake(check.loss_along_window, "dropout", "a second call")
def _(model, batches):
    with torch.no_grad():
        return along(model, batches)


@mistake(check.loss_along_window, "mode not put back", "no longer in training mode")
@torch.no_grad()
def _(model, batches):
    model.eval()
    return along(model, batches)


@mistake(check.loss_along_window, "always in training mode afterwards", "is in training mode afterwards")
@torch.no_grad()
def _(model, batches):
    model.eval()
    losses = along(model, batches)
    model.train()
    return losses


@mistake(check.loss_along_window, "with gradients", "can still be differentiated")
def _(model, batches):
    was_training = model.training
    losses = along(model.eval(), batches)
    model.train(was_training)
    return losses


@mistake(check.loss_along_window, "means of batches", "as much as the one of 5")
def _(model, batches):
    return sum(quiet(lambda losses, y: losses.sum(0) / (y >= 0).sum(0))(model, [one]) for one in batches) / 2


@mistake(check.loss_along_window, "only the last batch", "only the last batch")
def _(model, batches):
    return quiet(lambda losses, y: losses.sum(0) / (y >= 0).sum(0))(model, batches[-1:])


@mistake(check.loss_along_window, "returned in the loop", "only the first batch")
def _(model, batches):
    return quiet(lambda losses, y: losses.sum(0) / (y >= 0).sum(0))(model, batches[:1])


@mistake(check.loss_along_window, "-1 as token 0", "counted as token 0")
def _(model, batches):
    batches = [(x, y.clamp(min=0)) for x, y in batches]
    return quiet(lambda losses, y: losses.mean(0))(model, batches)


@mistake(check.loss_along_window, "not transposed", "RuntimeError in your line `losses = F.cross_entropy(")
def _(model, batches):
    for x, y in batches:
        losses = F.cross_entropy(model(x, y)[0], y, ignore_index=-1, reduction="none")
        return losses.mean(0)


answer = quiet(lambda losses, y: losses.sum(0))
mistake(check.loss_along_window, "sums", "divide them by the targets", answer)
answer = quiet(lambda losses, y: losses.sum(0) / (y >= 0).sum())
mistake(check.loss_along_window, "divided by all targets", "position 0 has only 7", answer)
answer = quiet(lambda losses, y: losses.sum(0) / (y > 0).sum(0))
mistake(check.loss_along_window, "token 0 not counted", "token 0 is a target too", answer)
answer = quiet(lambda losses, y: losses.sum(0) / 2)
mistake(check.loss_along_window, "count not added up", "does `count` grow", answer)
mistake(check.loss_along_window, "-1 counted", "a loss of 0", quiet(lambda losses, y: losses.mean(0)))
answer = quiet(lambda losses, y: (losses.sum() / (y >= 0).sum()).expand(6))
mistake(check.loss_along_window, "one mean", "all positions have the same loss", answer)
mistake(check.loss_along_window, "each window", "has the shape (7, 6)", quiet(lambda losses, y: losses))
mistake(check.loss_along_window, "a list", "of type list", quiet(lambda losses, y: losses.mean(0).tolist()))
answer = quiet(lambda losses, y: (losses.sum(0) / (y >= 0).sum(0)).flip(0))
mistake(check.loss_along_window, "last position first", "the loss at position 0 is", answer)


def guard(model, optimizer, x, y, *, sound=lambda gradient: gradient.isfinite().all(), which=slice(None)):
    "A step that is skipped unless some gradients are sound."
    model(x, y)[1].backward()
    stepped = all(sound(p.grad) for p in list(model.parameters())[which])
    if stepped:
        optimizer.step()
    optimizer.zero_grad()
    return bool(stepped)


answer = lambda *args: guard(*args, sound=lambda gradient: gradient.isfinite().any())
mistake(check.guarded_step, "any number instead of all", "of the parameter `slope` is NaN: now the weights", answer)
answer = lambda *args: guard(*args, which=slice(1))
mistake(check.guarded_step, "only the first parameter", "of the parameter `root` is NaN: now the weights", answer)
answer = lambda *args: guard(*args, sound=lambda gradient: not gradient.isnan().any())
mistake(check.guarded_step, "only NaN", "is infinite: now the weights", answer)
answer = lambda *args: not guard(*args)
mistake(check.guarded_step, "True and False exchanged", "the step was taken", answer)
answer = lambda *args: guard(*args) or None
mistake(check.guarded_step, "None returned", "you return None", answer)


@mistake(check.guarded_step, "only the loss", "the loss is finite, but")
def _(model, optimizer, x, y):
    loss = model(x, y)[1]
    loss.backward()
    if loss.isfinite():
        optimizer.step()
    optimizer.zero_grad()
    return bool(loss.isfinite())


@mistake(check.guarded_step, "clipped", "now the weights are [nan, nan")
def _(model, optimizer, x, y):
    model(x, y)[1].backward()
    clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return True


@mistake(check.guarded_step, "NaN made 0", "a skipped step changes nothing")
def _(model, optimizer, x, y):
    model(x, y)[1].backward()
    for p in model.parameters():
        p.grad.nan_to_num_()
    optimizer.step()
    optimizer.zero_grad()
    return bool(x.isfinite().all())


@mistake(check.guarded_step, "not cleared when skipped", "is still there")
def _(model, optimizer, x, y):
    model(x, y)[1].backward()
    if not all(p.grad.isfinite().all() for p in model.parameters()):
        return False
    optimizer.step()
    optimizer.zero_grad()
    return True


@mistake(check.guarded_step, "always skipped", "changed nothing")
def _(model, optimizer, x, y):
    optimizer.zero_grad()
    return False


@mistake(check.guarded_step, "weights put back, not the optimizer", "changed the running means")
def _(model, optimizer, x, y):
    before = copy.deepcopy(model.state_dict())
    model(x, y)[1].backward()
    optimizer.step()
    optimizer.zero_grad()
    sound = all(p.isfinite().all() for p in model.parameters())
    if not sound:
        model.load_state_dict(before)
    return sound


def split(model, optimizer, batches, limit, *, share=None, clip=clip_grad_norm_, inside=False):
    "A step from micro-batches with something changed."
    count = sum((y >= 0).sum() for _, y in batches)
    for x, y in batches:
        (model(x, y)[1] * (share or (y >= 0).sum() / count)).backward()
        if inside:
            clip(model.parameters(), limit)
    clip(model.parameters(), limit)
    optimizer.step()
    optimizer.zero_grad()


mistake(check.split_step, "equal weights", "count the same", lambda *args: split(*args, share=1 / 2))
mistake(check.split_step, "no weights", "twice the step", lambda *args: split(*args, share=1))
mistake(check.split_step, "clipped too early", "for too little", lambda *args: split(*args, inside=True))
mistake(check.split_step, "numbers cut", "single numbers", lambda *args: split(*args, clip=clip_grad_value_))
mistake(check.split_step, "not clipped", "was not yet clipped", lambda *args: split(*args[:3], math.inf))
mistake(check.split_step, "half the limit", "is 0.050", lambda *args: split(*args[:3], args[3] / 2))
mistake(check.split_step, "divided by targets", "by 93%", lambda *args: split(*args, share=1 / 30))


def weighted(model, optimizer, batches, limit, divisor):
    "Each loss counts by its targets, and all is divided by something."
    for x, y in batches:
        (model(x, y)[1] * (y >= 0).sum() / divisor).backward()
    clip_grad_norm_(model.parameters(), limit)
    optimizer.step()
    optimizer.zero_grad()


mistake(check.split_step, "weighted, not divided", "30 times as long", lambda *args: weighted(*args, 1))
mistake(check.split_step, "divided twice", "0.5 times as long", lambda *args: weighted(*args, 60))


def lengthen(parameters, limit):
    "Give a gradient the norm `limit`, whatever it was."
    gradients = [p.grad for p in parameters]
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    for gradient in gradients:
        gradient *= limit / norm


mistake(check.split_step, "always scaled", "only shortens", lambda *args: split(*args, clip=lengthen))


@mistake(check.split_step, "a step for each", "took 2 steps")
def _(model, optimizer, batches, limit):
    for batch in batches:
        split(model, optimizer, [batch], limit)


@mistake(check.split_step, "cleared in the loop", "only the last micro-batch counts")
def _(model, optimizer, batches, limit):
    count = sum((y >= 0).sum() for _, y in batches)
    for x, y in batches:
        optimizer.zero_grad()
        (model(x, y)[1] * ((y >= 0).sum() / count)).backward()
    clip_grad_norm_(model.parameters(), limit)
    optimizer.step()


@mistake(check.split_step, "cleared before the step", "was the gradient cleared before")
def _(model, optimizer, batches, limit):
    for x, y in batches:
        model(x, y)[1].backward()
    optimizer.zero_grad()
    optimizer.step()


@mistake(check.split_step, "not cleared", "the next `backward` will add")
def _(model, optimizer, batches, limit):
    optimizer.zero_grad = lambda: None
    split(model, optimizer, batches, limit)
