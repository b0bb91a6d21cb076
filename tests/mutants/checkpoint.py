"""Wrong answers to the exercises of chapter 10."""
import copy
import os
import struct
import tempfile
import zlib
from pathlib import Path

import torch

from nanogpt import check
from nanogpt.checkpoint import model_from_checkpoint, set_rng_state
from nanogpt.optim import adamw

from . import mistake

mistake(check.lost_iterations, "the unfinished file counts", "complete, but is it", 290)
mistake(check.lost_iterations, "the rest of the write", "not writing", 10)
mistake(check.lost_iterations, "everything lost", "from scratch", 1790)
mistake(check.lost_iterations, "where it goes on", "how many it repeats", 1000)
mistake(check.lost_iterations, "one interval", "a write takes time too", 500)
mistake(check.lost_iterations, "two saves back", "newer checkpoint", 1290)
mistake(check.lost_iterations, "a word", "it is a string", "many")

mistake(check.saved_row, "the row's own numbers", "look at the file", 8000)
mistake(check.saved_row, "a copy saved", "file of a *copy*", 9577)
mistake(check.saved_row, "in MB", "4.001577 seems", 4.001577)
mistake(check.saved_row, "computed", "the whole table alone", 4_000_000)
mistake(check.saved_row, "float64", "float64", 8_001_577)
mistake(check.saved_row, "another table", "does the table have 500 rows", 2_001_577)


def keep(model, losses, copied, better=lambda loss, lowest: loss < lowest):
    "The best weights, with something changed."
    best, lowest = None, float("inf")
    for loss in losses:
        if better(loss, lowest):
            best, lowest = copied(model.state_dict()), loss
    return best


mistake(check.best_state_dict, "not copied", "the state dict holds", lambda m, x: keep(m, x, lambda own: own))
mistake(check.best_state_dict, "shallow copy", "the dictionary is new", lambda m, x: keep(m, x, dict))
mistake(
    check.best_state_dict, "never better", "returned None",
    lambda model, losses: keep(model, losses, copy.deepcopy, lambda loss, lowest: loss > lowest),
)
mistake(
    check.best_state_dict, "loss not noted", "of step 5, whose loss is 1.5",
    lambda model, losses: keep(model, losses, copy.deepcopy, lambda loss, lowest: True),
)
mistake(
    check.best_state_dict, "first kept", "of step 1, whose loss is 3.0",
    lambda model, losses: keep(model, losses, copy.deepcopy, lambda loss, lowest: lowest > 9),
)


@mistake(check.best_state_dict, "stops when it gets worse", "after step 4")
def _(model, losses):
    best, lowest = None, float("inf")
    for loss in losses:
        if loss > lowest:
            break
        best, lowest = copy.deepcopy(model.state_dict()), loss
    return best


@mistake(check.best_state_dict, "copied before the step", "measured one step later")
def _(model, losses):
    best, lowest, before = None, float("inf"), copy.deepcopy(model.state_dict())
    for loss in losses:
        if loss < lowest:
            best, lowest = before, loss
        before = copy.deepcopy(model.state_dict())
    return best


@mistake(check.best_state_dict, "loss returned too", "type tuple")
def _(model, losses):
    return keep(model, losses, copy.deepcopy), 1.0


@mistake(check.replace_file, "straight into the file", "ckpt.pt was empty")
def _(path, write):
    with open(path, "wb") as file:
        write(file)


@mistake(check.replace_file, "rename in finally", "rename must not happen")
def _(path, write):
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
    finally:
        os.replace(temporary, path)


@mistake(check.replace_file, "no rename", "is the temporary file renamed")
def _(path, write):
    with open(path.with_name(path.name + ".tmp"), "wb") as file:
        write(file)


@mistake(check.replace_file, "another folder", "maybe on another disk")
def _(path, write):
    temporary = Path(tempfile.gettempdir()) / f"{os.getpid()}.tmp"
    with open(temporary, "wb") as file:
        write(file)
    os.replace(temporary, path)


@mistake(check.replace_file, "old one removed first", "ckpt.pt was gone")
def _(path, write):
    path.unlink(missing_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        write(file)
    os.rename(temporary, path)


def save(path, write, *, swallow=False, wait=lambda file: None, late=False, clean=True):
    "A careful save, with something changed."
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            wait(file)
    except OSError:
        if clean:
            temporary.unlink()
        if swallow:
            return
        raise
    os.replace(temporary, path)
    if late:
        with open(path, "rb+") as file:
            os.fsync(file.fileno())


mistake(check.replace_file, "error swallowed", "no error reached", lambda p, w: save(p, w, swallow=True))
mistake(check.replace_file, "temporary file left", "who removes it", lambda p, w: save(p, w, clean=False))
mistake(check.replace_file, "no fsync", "nothing waits", save)
mistake(check.replace_file, "fsync too late", "only after the rename", lambda p, w: save(p, w, late=True))
mistake(
    check.replace_file, "no flush", "Python's buffer",
    lambda path, write: save(path, write, wait=lambda file: os.fsync(file.fileno())),
)
mistake(check.replace_file, "nothing written", "was not called", lambda path, write: None)


def resume(checkpoint, forgotten=""):
    "An exact resume, but for one part."
    model = model_from_checkpoint(checkpoint).train()
    optimizer, sampler = adamw(model, 0.01), torch.Generator().manual_seed(2)
    if forgotten != "optimizer":
        optimizer.load_state_dict(checkpoint["optimizer"])
    if forgotten != "sampler":
        sampler.set_state(checkpoint["sampler"])
    if forgotten != "dropout":
        set_rng_state(checkpoint["rng"][0])
    return model, optimizer, sampler, checkpoint["iter_num"]


mistake(check.exact_resume, "optimizer forgotten", "has no moments", lambda saved: resume(saved, "optimizer"))
mistake(check.exact_resume, "sampler seeded again", "does not read", lambda saved: resume(saved, "sampler"))
mistake(check.exact_resume, "random states forgotten", "drops other", lambda saved: resume(saved, "dropout"))
mistake(check.exact_resume, "one iteration too many", "is 4", lambda saved: (*resume(saved)[:3], 4))
mistake(check.exact_resume, "model alone", "return four things", lambda saved: resume(saved)[0])


@mistake(check.exact_resume, "eval mode", "in eval mode")
def _(checkpoint):
    model, *rest = resume(checkpoint)
    return model.eval(), *rest


@mistake(check.exact_resume, "states first", "drew its first weights")
def _(checkpoint):
    set_rng_state(checkpoint["rng"][0])
    return resume(checkpoint, "dropout")


@mistake(check.exact_resume, "optimizer of another model", "steps change another model")
def _(checkpoint):
    model, *rest = resume(checkpoint)
    return copy.deepcopy(model), *rest


@mistake(check.exact_resume, "weights forgotten", "checkpoint's weights")
def _(checkpoint):
    model, *rest = resume(checkpoint)
    torch.nn.init.ones_(model.lm_head.weight)
    return model, *rest


@mistake(check.exact_resume, "moments of one parameter lost", "`exp_avg` of transformer.wte.weight")
def _(checkpoint):
    model, optimizer, *rest = resume(checkpoint)
    optimizer.state[model.lm_head.weight]["exp_avg"].zero_()
    return model, optimizer, *rest


@mistake(check.exact_resume, "another decay", "weight_decay=0.0")
def _(checkpoint):
    model, optimizer, *rest = resume(checkpoint)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    return model, optimizer, *rest


@mistake(check.exact_resume, "gradients left", "already has gradients")
def _(checkpoint):
    model, *rest = resume(checkpoint)
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    return model, *rest


@mistake(check.exact_resume, "parts in eval mode", "transformer is in eval mode")
def _(checkpoint):
    model, *rest = resume(checkpoint)
    model.eval().training = True
    return model, *rest


@mistake(check.exact_resume, "another dropout", "or another dropout")
def _(checkpoint):
    model, *rest = resume(checkpoint)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.5
    return model, *rest


def crc(data):
    return zlib.crc32(data).to_bytes(4)


def seal(data):
    return data + crc(data)


def open_seal(sealed):
    if crc(sealed[:-4]) != sealed[-4:]:
        raise ValueError("damaged")
    return sealed[:-4]


def without_error(sealed):
    return sealed[:-4] if crc(sealed[:-4]) == sealed[-4:] else None


def asserted(sealed):
    assert crc(sealed[:-4]) == sealed[-4:]
    return sealed[:-4]


def whole(sealed):
    open_seal(sealed)
    return sealed


def sum_of(data):
    return data + (sum(data) % 2**32).to_bytes(4)


def open_sum(sealed):
    if sum_of(sealed[:-4]) != sealed:
        raise ValueError("damaged")
    return sealed[:-4]


def numbers(sealed):
    if zlib.crc32(sealed[:-4]) != int.from_bytes(sealed[-4:]):
        raise ValueError("damaged")
    return sealed[:-4]


def unpacked(sealed):
    (number,) = struct.unpack(">I", sealed[-4:])
    if zlib.crc32(sealed[:-4]) != number:
        raise ValueError("damaged")
    return sealed[:-4]


def one_byte(data):
    return data + bytes([zlib.crc32(data) % 256])


def open_one_byte(sealed):
    if one_byte(sealed[:-1]) != sealed:
        raise ValueError("damaged")
    return sealed[:-1]


mistake(check.sealed_bytes, "an empty file", "as after a power failure", (seal, numbers))
mistake(check.sealed_bytes, "None for damage", "returned None", (seal, without_error))
mistake(check.sealed_bytes, "assert", "raised AssertionError", (seal, asserted))
mistake(check.sealed_bytes, "never compared", "of 44 sealed bytes) was flipped", (seal, lambda sealed: sealed[:-4]))
mistake(check.sealed_bytes, "checksum not cut off", "returned 4", (seal, whole))
mistake(check.sealed_bytes, "a sum", "their sum", (sum_of, open_sum))
mistake(check.sealed_bytes, "another error", "unpack requires", (seal, unpacked))
mistake(check.sealed_bytes, "nothing added", "bytes unchanged", (lambda data: data, lambda data: data))
mistake(check.sealed_bytes, "a pair", "type tuple", (lambda data: (data, crc(data)), open_seal))
mistake(check.sealed_bytes, "one byte of it", "only 256 values", (one_byte, open_one_byte))
mistake(check.sealed_bytes, "not a checksum", "nothing was changed", (lambda data: data + b"seal", open_seal))
