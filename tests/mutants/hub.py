"""Wrong answers to the exercises of chapter 13."""
import copy
import json

import torch

from nanogpt import check

from . import mistake

mistake(check.first_value_row, "as many keys as queries", "counts 32 heads of keys", 2 * 32 * 128)
mistake(check.first_value_row, "three equal parts", "the keys come next", 6144 * 2 // 3)
mistake(check.first_value_row, "where they end", "where the values end", 6144)
mistake(check.first_value_row, "heads", "40 counts heads", 40)
mistake(check.first_value_row, "counted from one", "one off", 5121)
mistake(check.first_value_row, "only keys counted", "1024 is not it", 8 * 128)

TURNED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


@mistake(check.gpt2_weights, "by shape", "attn.c_proj.weight is square")
def _(theirs, shapes):
    return {name: w if w.shape == shapes[name] else w.T for name, w in theirs.items()}


@mistake(check.gpt2_weights, "every matrix", "transformer.wte.weight has the shape (16, 37)")
def _(theirs, shapes):
    return {name: w.T if w.ndim == 2 else w for name, w in theirs.items()}


@mistake(check.gpt2_weights, "every square matrix", "wpe.weight was transposed")
def _(theirs, shapes):
    def turn(name, w):
        return w.ndim == 2 and (w.shape != shapes[name] or w.shape[0] == w.shape[1])

    return {name: w.T if turn(name, w) else w for name, w in theirs.items()}


@mistake(check.gpt2_weights, "only the matrices", "20 weights are lost")
def _(theirs, shapes):
    return {name: w.T for name, w in theirs.items() if name.endswith(TURNED)}


@mistake(check.gpt2_weights, "reshaped", "was reshaped")
def _(theirs, shapes):
    return {name: w.reshape(shapes[name]) for name, w in theirs.items()}


mistake(check.gpt2_weights, "nothing transposed", "has the shape (16, 48)", lambda theirs, shapes: theirs)
mistake(check.gpt2_weights, "a list", "of type list", lambda theirs, shapes: [*theirs.values()])


mistake(check.gelu_gap, "at zero", "not only at x = 0", 0.0)
mistake(check.gelu_gap, "mean", "not the mean", 1.6e-4)
mistake(check.gelu_gap, "minimum", "a distance is not", -0.000199)
mistake(check.gelu_gap, "bfloat16", "what bfloat16 rounds off", torch.tensor(0.015625, dtype=torch.bfloat16))
mistake(check.gelu_gap, "float16", "what float16 rounds off", 0.001953125)
mistake(check.gelu_gap, "sigmoid", "a third form", 0.0203)
mistake(check.gelu_gap, "relu", "distance from ReLU", 0.17)
mistake(check.gelu_gap, "where", "how far apart are they there", -2.7)
mistake(check.gelu_gap, "relative", "take the distance itself", 0.857)


@mistake(check.strict_load, "what is there", "it stays random")
@torch.no_grad()
def _(model, tensors):
    for name, weight in model.state_dict().items():
        if name in tensors:
            weight.copy_(tensors[name])


@mistake(check.strict_load, "unexpected ignored", "is this the file of another model")
@torch.no_grad()
def _(model, tensors):
    for name, weight in model.state_dict().items():
        weight.copy_(tensors[name])


@mistake(check.strict_load, "shape ignored", "`copy_` repeats such a row")
@torch.no_grad()
def _(model, tensors):
    if wrong := model.state_dict().keys() ^ tensors.keys():
        raise ValueError(f"missing or unexpected: {wrong}")
    for name, weight in model.state_dict().items():
        weight.copy_(tensors[name])


@mistake(check.strict_load, "strict", "the model has some of its weights")
def _(model, tensors):
    model.load_state_dict(tensors)


@mistake(check.strict_load, "another type", "a RuntimeError was raised")
def _(model, tensors):
    copy.deepcopy(model).load_state_dict(tensors)
    model.load_state_dict(tensors)


@mistake(check.strict_load, "no names", "does not name it")
def _(model, tensors):
    if model.state_dict().keys() != tensors.keys():
        raise ValueError("the weights do not fit")
    model.load_state_dict(tensors)


@mistake(check.strict_load, "first problem only", "does not name both")
@torch.no_grad()
def _(model, tensors):
    state = model.state_dict()
    for name in [*state, *tensors]:
        if name not in state or name not in tensors or state[name].shape != tensors[name].shape:
            raise ValueError(f"{name} does not fit")
    model.load_state_dict(tensors)


@mistake(check.strict_load, "a dict changed", "`weight` has not arrived in the model")
def _(model, tensors):
    state = model.state_dict()
    for name in state:
        state[name] = tensors[name]


def read(content, name, *, start=8, offsets=True, shaped=True, widened=True, half=torch.bfloat16):
    "A tensor of a file, with something changed."
    length = int.from_bytes(content[:8], "little")
    entry = json.loads(content[8 : 8 + length])[name]
    first, last = entry["data_offsets"]
    first, last = (first, last) if offsets else (0, last - first)
    begin = start + length if start is not None else 0
    part = bytearray(content[begin + first : begin + last])
    tensor = torch.frombuffer(part, dtype=torch.float32 if entry["dtype"] == "F32" else half)
    tensor = tensor.float() if widened else tensor
    return tensor.view(entry["shape"]) if shaped else tensor


mistake(check.tensor_from_bytes, "from the start", "first byte of the file", lambda *a: read(*a, start=None))
mistake(check.tensor_from_bytes, "8 bytes forgotten", "the 8 bytes before the header", lambda *a: read(*a, start=0))
mistake(check.tensor_from_bytes, "no offset", "the file's first tensor", lambda *a: read(*a, offsets=False))
mistake(check.tensor_from_bytes, "no shape", "has the shape (6,)", lambda *a: read(*a, shaped=False))
mistake(check.tensor_from_bytes, "float16", "was read as float16", lambda *a: read(*a, half=torch.float16))
mistake(check.tensor_from_bytes, "int16", "as whole numbers", lambda *a: read(*a, half=torch.int16))
mistake(check.tensor_from_bytes, "not widened", "is returned as", lambda *a: read(*a, widened=False))
mistake(check.tensor_from_bytes, "float32 alone", "RuntimeError in", lambda *a: read(*a, half=torch.float32))
mistake(check.tensor_from_bytes, "a list", "of type list", lambda *a: read(*a).tolist())
mistake(check.tensor_from_bytes, "an array", "of type ndarray", lambda *a: read(*a).numpy())


mistake(check.halves_from_neighbours, "the way back", "that is the other way",
        lambda w, H: w.view(H, 2, -1, w.shape[1]).transpose(1, 2).reshape(w.shape))
mistake(check.halves_from_neighbours, "heads not cut", "those from 8 on are of head 1",
        lambda w, H: w.view(-1, 2, w.shape[1]).transpose(0, 1).reshape(w.shape))
mistake(check.halves_from_neighbours, "nothing moved", "no row has moved",
        lambda w, H: w.view(H, -1, w.shape[1]).flatten(0, 1))
mistake(check.halves_from_neighbours, "a permutation for one head", "has the shape (8, 3)",
        lambda w, H: w[[*range(0, 8, 2), *range(1, 8, 2)]])
mistake(check.halves_from_neighbours, "columns", "IndexError in your line",
        lambda w, H: w[:, [*range(0, 8, 2), *range(1, 8, 2)]])
mistake(check.halves_from_neighbours, "fixed to eight rows", "n_head=1 and 12 rows",
        lambda w, H: w.view(-1, 4, 2, w.shape[1]).transpose(1, 2).reshape(w.shape) if len(w) % 8 == 0 else w)
mistake(check.halves_from_neighbours, "odd first", "the second row of each pair comes first",
        lambda w, H: w.view(H, -1, 2, w.shape[1]).flip(2).transpose(1, 2).reshape(w.shape))
mistake(check.halves_from_neighbours, "view without transpose", "which is not a row of the file",
        lambda w, H: w.T.contiguous().view(H, -1, 2, w.shape[1]).transpose(1, 2).reshape(w.shape))
mistake(check.halves_from_neighbours, "even rows twice", "is there more than once",
        lambda w, H: w[[*range(0, 16, 2)] * 2])
mistake(check.halves_from_neighbours, "first head only", "head 0 is right",
        lambda w, H: torch.cat([w[0:8:2], w[1:8:2], w[8:]]))
