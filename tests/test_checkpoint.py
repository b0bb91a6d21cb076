"""Checkpoints are whole or absent, hold data only, and belong to one tokenizer."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from conftest import Intruder, replace

from nanogpt.checkpoint import (
    CheckpointWriter,
    check_tokenizer,
    copy_to_cpu,
    find_checkpoints,
    load_checkpoint,
    model_from_checkpoint,
    remove_checkpoint,
    save_checkpoint,
    tokenizer_from_checkpoint,
)
from nanogpt.config import GPTConfig
from nanogpt.files import atomic_write
from nanogpt.hub import load_model, save_pretrained, tokenizer_of
from nanogpt.model import GPT
from nanogpt.recipe import TrainConfig
from nanogpt.start import checkpoint_of, start_run
from nanogpt.tokenizer import ByteTokenizer, CharTokenizer
from nanogpt.train import train


@pytest.fixture
def checkpoint(tiny) -> dict:
    return checkpoint_of(start_run(tiny))


def test_round_trip_gives_identical_tensors(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "c.pt", checkpoint)
    loaded = load_checkpoint(tmp_path / "c.pt")
    assert loaded.keys() == checkpoint.keys()
    assert {"model", "optimizer", "model_args", "iter_num", "best_val_loss", "config"} <= loaded.keys()
    assert all(torch.equal(loaded["model"][name], tensor) for name, tensor in checkpoint["model"].items())
    compiled = loaded | {"model": {f"_orig_mod.{name}": tensor for name, tensor in loaded["model"].items()}}
    assert torch.equal(model_from_checkpoint(compiled).lm_head.weight, checkpoint["model"]["lm_head.weight"])


def test_truncation_is_named_at_every_length(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "c.pt", checkpoint)
    whole = (tmp_path / "c.pt").read_bytes()
    for length in [0, 1, 10, 1000, *range(5000, len(whole), len(whole) // 15), len(whole) - 1]:
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="cut.pt") as caught:
            load_checkpoint(tmp_path / "cut.pt")
        assert "\n" not in str(caught.value)


def nanogpt_checkpoint(path, prefix: str, masks: bool, **args) -> dict:
    "A ckpt.pt with the six keys that nanoGPT's train.py writes; returns the weights under our names."
    model_args = dict(n_layer=2, n_head=2, n_embd=8, block_size=6, bias=False, vocab_size=11, dropout=0.1) | args
    model = GPT(GPTConfig(**model_args), torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 6, dtype=torch.long), torch.ones(1, 6, dtype=torch.long))[1].backward()
    optimizer.step()
    mask = (
        {f"transformer.h.{i}.attn.bias": torch.ones(6, 6).tril().view(1, 1, 6, 6) for i in range(2)} if masks else {}
    )
    content = {
        "model": {prefix + name: tensor for name, tensor in (model.state_dict() | mask).items()},
        "optimizer": optimizer.state_dict(),
        "model_args": model_args,
        "iter_num": 5,
        "best_val_loss": torch.tensor(2.5),
        "config": {"dataset": "shakespeare_char", "compile": True},
    }
    torch.save(content, path)
    return model.state_dict()


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_checkpoints_of_nanogpt_load(tmp_path, prefix, masks, bias):
    weights = nanogpt_checkpoint(tmp_path / "ckpt.pt", prefix, masks, bias=bias)
    model = model_from_checkpoint(load_checkpoint(tmp_path / "ckpt.pt"))
    assert model.config == GPTConfig(
        n_layer=2, n_head=2, n_embd=8, block_size=6, bias=bias, vocab_size=11, dropout=0.1, mlp="gelu_exact"
    )
    assert not model.training
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "name", ["transformer.h.0.attn.masked_bias", "transformer.attn.bias", "x.transformer.h.0.attn.bias"]
)
def test_nothing_else_of_a_checkpoint_is_passed_over(tmp_path, name):
    nanogpt_checkpoint(tmp_path / "ckpt.pt", "", True)
    checkpoint = load_checkpoint(tmp_path / "ckpt.pt")
    checkpoint["model"][name] = torch.zeros(1)
    with pytest.raises(ValueError, match=f'do not fit its model_args.*"{name}"'):
        model_from_checkpoint(checkpoint)


def test_no_code_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {}, "model_args": Intruder()}, "c.pt")
    with pytest.raises(ValueError, match="something other than tensors and plain values"):
        load_checkpoint("c.pt")
    assert not os.path.exists("intruded")


def test_other_files_are_named(tmp_path, checkpoint):
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "absent.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="is damaged or of another kind"):
        load_checkpoint(tmp_path / "list.pt")
    checkpoint["model_args"]["n_embd"] = 32
    with pytest.raises(ValueError, match="do not fit its model_args.*wte") as caught:
        model_from_checkpoint(checkpoint)
    assert "\n" not in str(caught.value)


def test_another_tokenizer_is_named(checkpoint):
    check_tokenizer(checkpoint, tokenizer_from_checkpoint(checkpoint))
    for other in (ByteTokenizer(), CharTokenizer("ab")):
        with pytest.raises(ValueError, match="trained with another tokenizer"):
            check_tokenizer(checkpoint, other)
    del checkpoint["tokenizer"]
    with pytest.raises(ValueError, match="does not say which tokenizer"):
        tokenizer_from_checkpoint(checkpoint)


FULL_DISK = """
import resource, signal, sys
from nanogpt.checkpoint import load_checkpoint, save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = sys.argv[1]
checkpoint = load_checkpoint(path)
checkpoint["iter_num"] = 999
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
save_checkpoint(path, checkpoint)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="file-size limits are POSIX")
def test_no_space_keeps_the_old_checkpoint(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "c.pt", checkpoint)
    done = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path / "c.pt"], capture_output=True, encoding="utf-8")
    assert done.returncode != 0 and "no room" in done.stderr
    assert load_checkpoint(tmp_path / "c.pt")["iter_num"] == 0
    assert [name for name in os.listdir(tmp_path) if name.endswith(".tmp")] == []


class Unwritable:
    def __reduce__(self):
        raise OSError(28, "No space left on device")


def test_a_value_that_cannot_be_written_keeps_the_old_checkpoint(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "c.pt", checkpoint)
    with pytest.raises(OSError, match="c.pt was not saved .no room"):
        save_checkpoint(tmp_path / "c.pt", {"model": Unwritable()})
    assert load_checkpoint(tmp_path / "c.pt")["iter_num"] == 0 and not list(tmp_path.glob(".*.tmp"))


def test_atomic_write_survives_an_interrupt(tmp_path):
    path = tmp_path / "a" / "f.txt"
    with atomic_write(path) as file:
        file.write("é\n")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:
        file.write("half")
        file.flush()
        raise KeyboardInterrupt
    assert path.read_bytes() == "é\n".encode() and os.listdir(path.parent) == ["f.txt"]


def test_a_checkpoint_of_another_shape_is_not_resumed(tiny):
    train(tiny, progress=False)
    with pytest.raises(ValueError, match="n_embd is 16 there and 32 here"):
        train(replace(tiny, n_embd=32, init_from="resume"), progress=False)
    assert isinstance(tiny, TrainConfig)


def test_a_copy_shares_what_its_original_shares():
    weight = torch.arange(6.0).view(2, 3)
    original = {
        "tied": weight,
        "head": weight,
        "turned": weight.T,
        "bits": weight.view(torch.int32),
        "list": [weight[0], weight[1], 5],
    }
    copies = {}
    copy = copy_to_cpu(original, copies)
    weight += 10
    assert copy["head"] is copy["tied"] and copy["tied"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert copy["turned"].tolist() == [[0, 3], [1, 4], [2, 5]] and copy["bits"].dtype == torch.int32
    assert [part.tolist() for part in copy["list"][:2]] == [[0, 1, 2], [3, 4, 5]] and copy["list"][2] == 5
    again = copy_to_cpu(original, {}, copies)
    assert again["tied"] is copy["tied"] and again["tied"].tolist() == [[10, 11, 12], [13, 14, 15]], (
        "the same memory, written anew"
    )


def state(number: float) -> dict:
    return {"model": {"w": torch.full((1000,), number)}, "model_args": {}, "iter_num": int(number)}


def test_what_is_written_is_what_was_saved(tmp_path, monkeypatch):
    "Training changes the tensors while the thread has not even begun to write; the next save waits for it."
    go, written = threading.Event(), []

    def slowly(path, checkpoint):
        assert go.wait(60)
        written.append(checkpoint["model"]["w"][0].item())
        save_checkpoint(path, checkpoint)

    monkeypatch.setattr("nanogpt.checkpoint.save_checkpoint", slowly)
    checkpoint = state(1)
    with CheckpointWriter(tmp_path) as writer:
        writer.save(checkpoint, {**checkpoint, "best": True})
        checkpoint["model"]["w"] += 1
        threading.Timer(0.1, go.set).start()
        writer.save({**checkpoint, "iter_num": 2})
        checkpoint["model"]["w"] += 1
    assert written == [1, 1, 2]
    for name, number in (("best.pt", 1), ("ckpt-1.pt", 1), ("ckpt.pt", 2)):
        loaded = load_checkpoint(tmp_path / name)
        assert loaded["iter_num"] == number and torch.equal(loaded["model"]["w"], torch.full((1000,), float(number)))


def test_an_error_in_the_background_is_not_lost(tmp_path, monkeypatch):
    def full(path, checkpoint):
        raise OSError(28, f"{path} was not saved")

    with CheckpointWriter(tmp_path) as writer:
        writer.save(state(1))
    monkeypatch.setattr("nanogpt.checkpoint.save_checkpoint", full)
    for end in ("save", "wait", "with"):
        with pytest.raises(OSError, match="ckpt-new.pt was not saved"), CheckpointWriter(tmp_path) as writer:
            writer.save(state(2))
            if end != "with":
                writer.save(state(3)) if end == "save" else writer.wait()
        assert writer.pool._shutdown
    assert [path.name for path in find_checkpoints(tmp_path)] == ["ckpt.pt"] and load_checkpoint(
        tmp_path / "ckpt.pt"
    )["iter_num"] == 1


def test_only_whole_checkpoints_are_found_in_their_order(tmp_path):
    for name in (
        "ckpt-10.pt",
        "ckpt-2.pt",
        "ckpt.pt",
        "ckpt-new.pt",
        "ckpt.pt.bak",
        "ckpt-old.pt",
        "best.pt",
        ".ckpt.pt.1.tmp",
    ):
        (tmp_path / name).write_bytes(b"")
    for name in ("ckpt-1.dcp", "ckpt-3.dcp", "ckpt-4.dcp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__0_0.distcp").write_bytes(b"")
    for name in ("ckpt-1.dcp", "ckpt-3.dcp"):
        (tmp_path / name / "run.pt").write_bytes(b"")
    assert [path.name for path in find_checkpoints(tmp_path)] == [
        "ckpt-new.pt",
        "ckpt.pt",
        "ckpt-1.dcp",
        "ckpt-2.pt",
        "ckpt-3.dcp",
        "ckpt-10.pt",
    ]
    for name in ("ckpt-1.dcp", "ckpt-2.pt", "absent.pt"):
        remove_checkpoint(tmp_path / name)
    assert [path.name for path in find_checkpoints(tmp_path)] == [
        "ckpt-new.pt",
        "ckpt.pt",
        "ckpt-3.dcp",
        "ckpt-10.pt",
    ]


def test_a_model_is_opened_from_whatever_it_is_kept_in(tiny, tmp_path):
    train(tiny, progress=False)
    out = Path(tiny.out_dir)
    best, best_checkpoint = load_model(str(out))
    last, _ = load_model(str(out / "ckpt-1.pt"), dropout=0.3)
    assert (
        best_checkpoint["iter_num"] == 20
        and best.config.dropout == 0.0
        and last.config.dropout == 0.3
        and not last.training
    )
    assert (
        tokenizer_of(str(out), best_checkpoint).fingerprint == tokenizer_from_checkpoint(best_checkpoint).fingerprint
    )
    gpt2 = GPT(
        GPTConfig(n_layer=1, n_head=2, n_embd=8, block_size=8, vocab_size=11), torch.Generator().manual_seed(0)
    )
    save_pretrained(gpt2, tmp_path / "hf")
    model, nothing = load_model(str(tmp_path / "hf"))
    assert nothing == {} and torch.equal(model.lm_head.weight, gpt2.lm_head.weight)
    (out / "best.pt").unlink()
    assert load_model(str(out))[1]["iter_num"] == 20, "the latest where there is no best"
    with pytest.raises(FileNotFoundError, match="there is no folder .*absent and no such checkpoint"):
        load_model(str(tmp_path / "absent"))


def test_states_of_another_shape_are_refused(tmp_path, tiny):
    "torch's fused AdamW would write past the end of the smaller tensor."
    train(replace(tiny, ema=0.9), progress=False)
    path = Path(tiny.out_dir) / "ckpt.pt"
    whole = load_checkpoint(path)

    def refused(change, match):
        damaged = load_checkpoint(path)
        change(damaged)
        save_checkpoint(path, damaged)
        with pytest.raises(ValueError, match=match) as caught:
            train(replace(tiny, ema=0.9, resume="auto", keep=1), progress=False)
        save_checkpoint(path, whole)
        assert "\n" not in str(caught.value)

    (Path(tiny.out_dir) / "ckpt-1.pt").unlink()
    small = {"exp_avg": torch.zeros(2, 3)}
    refused(lambda c: c["optimizer"]["state"][0].update(small), "exp_avg of parameter 0 has the shape")
    refused(lambda c: c["optimizer"].update(state={}), "the optimizer's state is not of")
    refused(lambda c: c["average"].pop(), "cannot be resumed")
    refused(lambda c: c["average"].__setitem__(0, torch.zeros(1)), "cannot be resumed")
    refused(lambda c: c.update(iter_num=-5), "iter_num: input should be greater than or equal to 0, and it is -5")
    refused(lambda c: c["sampler"].update(drawn=-1), "a sampler cannot have drawn -1 windows")
    refused(lambda c: c["rng"][0].update(torch=torch.zeros(3)), "cannot be resumed")


def test_a_link_that_leads_nowhere_is_no_new_run(tiny):
    train(replace(tiny, max_iters=5), progress=False)
    out = Path(tiny.out_dir)
    for path in out.glob("ckpt*.pt"):
        path.unlink()
    (out / "ckpt.pt").symlink_to(out / "elsewhere.pt")
    with pytest.raises(ValueError, match="no checkpoint at .*ckpt.pt"):
        train(replace(tiny, resume="auto"), progress=False)
