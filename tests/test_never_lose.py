"""No run is lost: not to a kill, a damaged file, a full disk, a clock that leaps, or a crash between two renames."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import replace
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nanogpt.checkpoint import (
    CheckpointWriter,
    find_checkpoints,
    load_checkpoint,
    model_from_checkpoint,
    rotate_checkpoints,
    save_checkpoint,
)
from nanogpt.config import GPTConfig
from nanogpt.model import GPT
from nanogpt.optim import adamw
from nanogpt.recipe import TrainConfig
from nanogpt.report import read_metrics
from nanogpt.sharded import latest_checkpoint, save_sharded
from nanogpt.start import start_run
from nanogpt.train import train


def assert_equal(ours, theirs, where: str = "checkpoint"):
    "Bit for bit, but for the seconds that a run took and the folder it is in."
    assert type(ours) is type(theirs), where
    if isinstance(theirs, torch.Tensor):
        assert torch.equal(ours, theirs), where
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), where
        for name in theirs.keys() - {"seconds", "tokens_per_s", "out_dir", "resume", "max_iters"}:
            assert_equal(ours[name], theirs[name], f"{where}.{name}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        for i, (one, other) in enumerate(zip(ours, theirs)):
            assert_equal(one, other, f"{where}[{i}]")
    else:
        assert ours == theirs, where


def assert_same_run(ours: TrainConfig, theirs: TrainConfig):
    "The checkpoints, the best weights and the metrics of two runs are equal."
    for name in ("ckpt.pt", "best.pt"):
        assert_equal(*(load_checkpoint(Path(config.out_dir) / name) for config in (ours, theirs)), name)
    assert_equal(read_metrics(ours.out_dir), read_metrics(theirs.out_dir), "metrics")


def whole_run(config: TrainConfig) -> TrainConfig:
    "The same run in another folder, uninterrupted."
    whole = replace(config, out_dir=config.out_dir + "-whole")
    train(whole, progress=False)
    return whole


def go_on(config: TrainConfig):
    return train(replace(config, resume="auto"), progress=False)


def iterations(config: TrainConfig) -> dict[str, int]:
    "Of every checkpoint in the run's folder."
    return {path.name: load_checkpoint(path)["iter_num"] for path in find_checkpoints(config.out_dir)}


# A process that has imported all there is and forks a run for every line it reads: a fresh Python takes seconds
# to start.
SERVER = """
import json, os, sys, threading, time, traceback
import torch
from importlib import import_module

training = import_module("nanogpt.train")  # the name nanogpt.train is the function
torch.set_num_threads(1)
fsync, step, write, first = os.fsync, training.Run.step, training.CheckpointWriter._write, True

def note(iteration, at):  # a kill does not undo a write
    os.pwrite(progress, iteration.to_bytes(8, "little"), at)

def slow_fsync(handle):  # so that saves last long enough to be hit
    if threading.current_thread() is not threading.main_thread():
        time.sleep(0.015)
    fsync(handle)

def noted_step(run, stop):
    global first
    result = step(run, stop)
    if first:
        note(run.iter_num, 0)
        first = False
    note(run.iter_num, 8)
    return result

def noted_write(writer, checkpoint, best):
    note(checkpoint["iter_num"], 16)
    write(writer, checkpoint, best)

os.fsync, training.Run.step, training.CheckpointWriter._write = slow_fsync, noted_step, noted_write
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            progress = os.open(sys.argv[1], os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
            training.train(training.TrainConfig(**json.loads(line)), progress=False)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Life:
    "One process of the run, from its start to its end."

    def __init__(self, server: subprocess.Popen, config: TrainConfig, progress: Path):
        self.server, self.out_dir, self.progress = server, Path(config.out_dir), progress
        progress.write_bytes(b"")
        server.stdin.write(json.dumps(asdict(config)) + "\n")
        server.stdin.flush()
        self.pid = int(server.stdout.readline())

    def noted(self) -> tuple[int, int, int]:
        "The first and the last iteration that it finished, and the last that it began to save; 0 for none."
        numbers = self.progress.read_bytes()
        return tuple(int.from_bytes(numbers[at : at + 8], "little") for at in (0, 8, 16))

    def saving(self) -> bool:
        return any(self.out_dir.glob(".ckpt-new.pt.*.tmp"))

    def wait_until(self, condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "the run stands still"
            time.sleep(0.0005)

    def end(self, kill: bool) -> int:
        if kill:
            os.kill(self.pid, signal.SIGKILL)
        return int(self.server.stdout.readline())


@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has loaded torch")
def test_twenty_kills_change_nothing(tiny, tmp_path):
    """Half of them in the middle of a save, the others at any moment, the start of the process and the first steps
    included.

    What is lost: the steps since the last save began, and, where that one was torn, the interval before it.
    """
    interval, kills, rng = 8, 20, random.Random(7)
    config = replace(tiny, max_iters=300, eval_interval=interval, ema=0.9, resume="auto")
    whole, progress = replace(config, out_dir=str(tmp_path / "whole")), tmp_path / "progress"
    command = [sys.executable, "-c", SERVER, str(progress)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    ) as server:
        resumed, torn = 0, 0
        for kill in range(kills):
            life = Life(server, config, progress)
            enough = resumed + rng.randint(0, 2 * interval) if rng.random() < 0.9 else 0
            life.wait_until(lambda life=life, enough=enough: life.noted()[1] >= enough)
            if kill % 2:
                life.wait_until(life.saving)
            else:
                time.sleep(rng.uniform(0, 0.02))
            assert life.end(kill=True) == -signal.SIGKILL
            torn += life.saving()
            first, reached, begun = life.noted()
            assert first in (0, resumed + 1), "it went on where the one before it left off"
            begun = begun or resumed
            resumed = latest_checkpoint(config.out_dir)[1]["iter_num"] if find_checkpoints(config.out_dir) else 0
            assert begun - interval <= resumed <= begun, (
                f"the save of {begun} was hit, and the run is back at {resumed}"
            )
            assert reached - resumed <= 2 * interval, "a save has begun only where the one before it is whole"
        assert torn >= kills // 2, "half of the kills tore a save apart"
        assert Life(server, config, progress).end(kill=False) == 0
        assert Life(server, whole, progress).end(kill=False) == 0
        server.stdin.close()
    assert not any(Path(config.out_dir).glob(".*.tmp"))
    assert_same_run(config, whole)


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGE = {
    "a bit": flip,
    "cut short": lambda data: data[:-100],
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_costs_one_interval(tiny, damage):
    config = replace(tiny, lr_decay_iters=20)
    train(replace(config, max_iters=15), progress=False)
    out = Path(config.out_dir)
    (out / "ckpt.pt").write_bytes(damage((out / "ckpt.pt").read_bytes()))
    with pytest.warns(
        UserWarning, match=r"out/ckpt.pt is damaged or cut short .*; going on from .*out/ckpt-1.pt, iteration 10$"
    ):
        go_on(config)
    assert [row["iter"] for row in read_metrics(out)] == [0, 5, 10, 15, 20], "no gap, and nothing twice"
    assert_same_run(config, whole_run(config))


def test_where_all_are_damaged_nothing_is_touched(tiny):
    train(tiny, progress=False)
    out = Path(tiny.out_dir)
    for name in ("ckpt.pt", "ckpt-1.pt"):
        (out / name).write_bytes(flip((out / name).read_bytes()))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for change in ({"resume": "auto"}, {"init_from": "resume"}):
        with pytest.raises(ValueError, match="ckpt.pt is damaged .*ckpt-1.pt is damaged") as caught:
            train(replace(tiny, max_iters=25, **change), progress=False)
        assert "\n" not in str(caught.value)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("keep, left", [(1, {"ckpt.pt": 20}), (3, {"ckpt.pt": 20, "ckpt-1.pt": 15, "ckpt-2.pt": 10})])
def test_the_last_few_are_kept(tiny, keep, left):
    train(replace(tiny, keep=keep), progress=False)
    assert iterations(tiny) == left
    train(replace(tiny, keep=2, max_iters=25, resume="auto"), progress=False)
    assert iterations(tiny) == {"ckpt.pt": 25, "ckpt-1.pt": 20}, "a smaller number applies to what is there too"


def test_a_crash_between_two_renames(tiny):
    "In real: ckpt.pt has become ckpt-1.pt, and ckpt-new.pt has not become ckpt.pt."
    config = replace(tiny, lr_decay_iters=20)
    train(replace(config, max_iters=10), progress=False)
    out = Path(config.out_dir)
    (out / "ckpt.pt").rename(out / "ckpt-new.pt")
    assert iterations(config) == {"ckpt-new.pt": 10, "ckpt-1.pt": 5}
    go_on(replace(config, max_iters=15))
    assert iterations(config) == {"ckpt.pt": 15, "ckpt-1.pt": 10}
    go_on(config)
    assert_same_run(config, whole_run(config))


class Crash(BaseException):
    pass


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("crash_at", range(6))
def test_a_crash_at_every_step_of_a_rotation(tmp_path, monkeypatch, keep, crash_at):
    """The newest is always there, as many as are to be kept are too, and after the next save all is as if nothing
    had happened.
    """
    names = ["ckpt-2.pt", "ckpt-1.pt", "ckpt.pt", "ckpt-new.pt"]
    number = {name: {"model": {}, "model_args": {}, "iter_num": i} for i, name in enumerate(names, start=1)}
    for name in list(number)[-keep - 1 :]:
        save_checkpoint(tmp_path / name, number[name])
    left = [crash_at]

    def or_crash(act):
        def wrapped(path, *args, **options):
            if path.exists():
                left[0] -= 1
                if left[0] < 0:
                    raise Crash
            return act(path, *args, **options)

        return wrapped

    with monkeypatch.context() as patch:
        for name in ("rename", "unlink"):
            patch.setattr(Path, name, or_crash(getattr(Path, name)))
        try:
            rotate_checkpoints(tmp_path, keep)
        except Crash:
            pass
    there = [load_checkpoint(path)["iter_num"] for path in find_checkpoints(tmp_path)]
    assert there[:keep] == [4, 3, 2][:keep], "at every moment"
    with CheckpointWriter(tmp_path, keep) as writer:
        assert [load_checkpoint(path)["iter_num"] for path in find_checkpoints(tmp_path)][:keep] == [4, 3, 2][:keep]
        writer.save({"model": {}, "model_args": {}, "iter_num": 5})
    assert [path.name for path in find_checkpoints(tmp_path)] == ["ckpt.pt", "ckpt-1.pt", "ckpt-2.pt"][:keep]
    assert [load_checkpoint(path)["iter_num"] for path in find_checkpoints(tmp_path)] == [5, 4, 3][:keep]


def full_disk(file, room: int):
    "Make an open file's disk full after so many bytes."
    write, left = file.write, [room]

    class Full:
        def write(self, data):
            data = bytes(data)[: left[0]]
            left[0] -= len(data)
            write(data)
            if left[0] <= 0:
                raise OSError(28, "No space left on device")
            return len(data)

        def __getattr__(self, name):
            return getattr(file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            file.close()

    return Full()


@pytest.mark.parametrize("name", ["ckpt-new.pt", "best.pt", "metrics.jsonl"])
def test_a_full_disk_stops_the_run_and_loses_nothing(tiny, monkeypatch, name):
    """The third time that the file is written, at iteration 10; what is written in the background tells of it at
    the next save.
    """
    times = []

    def open_(path, mode, **options):
        file = open(path, mode, **options)
        if f".{name}." not in Path(path).name:
            return file
        times.append(path)
        return file if len(times) < 3 else full_disk(file, 20) if "b" in mode else full_text(file)

    def full_text(file):
        file.close()
        raise OSError(28, "No space left on device")

    config = replace(tiny, learning_rate=1e-2)  # so that every evaluation is the best so far
    with monkeypatch.context() as patch:
        patch.setattr("nanogpt.files.open", open_, raising=False)
        said = (
            "No space left on device"
            if name == "metrics.jsonl"
            else rf"out/{name} was not saved \(no room on the disk: make some\)"
        )
        with pytest.raises(OSError, match=said) as caught:
            train(config, progress=False)
    assert "\n" not in str(caught.value) and name in str(caught.value)
    assert iterations(config)["ckpt.pt"] == 5
    assert not any(Path(config.out_dir).glob(".*.tmp"))
    go_on(config)
    assert_same_run(config, whole_run(config))


def test_a_clock_that_leaps_is_not_asked(tiny, monkeypatch):
    "Seconds, speed and `max_seconds` come from clocks that only go forwards."

    def leap() -> float:
        raise AssertionError("the clock on the wall was asked")

    monkeypatch.setattr(time, "time", leap)
    begin = time.monotonic()
    result = train(replace(tiny, max_iters=1_000_000, max_seconds=2.0), progress=False)
    elapsed = time.monotonic() - begin
    assert result.stopped == "max_seconds" and result.exit_code == 0 and 2.0 < elapsed < 60
    seconds = [row["seconds"] for row in result.metrics]
    assert seconds == sorted(seconds) and 0 < seconds[-1] < elapsed
    last = result.metrics[-1]
    assert last["tokens_per_s"] == pytest.approx(last["tokens"] / last["seconds"], rel=0.01)


def test_max_seconds_saves_and_goes_on(tiny, capsys):
    result = train(
        replace(tiny, max_iters=1000, lr_decay_iters=1000, max_seconds=0.5, eval_interval=1000), progress=False
    )
    reached = iterations(tiny)["ckpt.pt"]
    assert result.stopped == "max_seconds" and 0 < reached < 1000, "saved between two evaluations"
    assert f"stopped by max_seconds at iteration {reached}, all saved in {tiny.out_dir}" in capsys.readouterr().out
    config = replace(tiny, max_iters=reached + 3, lr_decay_iters=1000, eval_interval=1000)
    go_on(config)
    assert_same_run(config, whole_run(config))


def test_patience_stops_and_is_remembered(tiny):
    "A learning rate of 0 makes no evaluation better than the first."
    config = replace(tiny, learning_rate=0.0, min_lr=0.0, patience=3)
    assert train(replace(config, max_iters=10), progress=False).stopped == "max_iters"
    result = go_on(replace(config, max_iters=100))
    assert result.stopped == "patience" and result.exit_code == 0
    assert [row["iter"] for row in read_metrics(config.out_dir)] == [0, 5, 10, 15]
    assert iterations(config)["ckpt.pt"] == 15


def test_a_deleted_shard_is_named(tiny):
    config = replace(tiny, lr_decay_iters=20)
    train(replace(config, max_iters=10), progress=False)
    shard = next(path for path in Path(config.data_dir).iterdir() if path.name.startswith("train") and path.is_file())
    data = shard.read_bytes()
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=shard.name) as caught:
        go_on(config)
    assert "\n" not in str(caught.value) and iterations(config) == {"ckpt.pt": 10, "ckpt-1.pt": 5}
    shard.write_bytes(data)
    (Path(config.out_dir) / ".ckpt-new.pt.123.tmp").write_bytes(b"half a checkpoint")
    go_on(config)
    assert not any(Path(config.out_dir).glob(".*.tmp")), "of a process that was killed"
    assert_same_run(config, whole_run(config))


def test_best_pt_holds_the_average_that_torch_computes(tiny):
    "Float32 rounds differently in `lerp` and in torch's own: 1e-6."
    config = replace(tiny, ema=0.9)
    train(config, progress=False)
    best = load_checkpoint(Path(config.out_dir) / "best.pt")
    run = start_run(replace(config, out_dir=config.out_dir + "-by-hand"))
    average = AveragedModel(run.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    average.update_parameters(run.model)  # the first time it copies
    while run.iter_num < best["iter_num"]:
        run.step()
        average.update_parameters(run.model)
    assert best["iter_num"] == 20
    ours = model_from_checkpoint(best)
    for (name, weight), theirs, last in zip(
        ours.named_parameters(), average.module.parameters(), run.model.parameters(), strict=True
    ):
        torch.testing.assert_close(weight, theirs, atol=1e-6, rtol=0, msg=name)
        assert not torch.equal(weight, last), f"{name} is no average"


def test_a_run_with_an_average_goes_on_exactly(tiny):
    config = replace(tiny, ema=0.9, lr_decay_iters=20)
    train(replace(config, max_iters=10), progress=False)
    go_on(config)
    assert_same_run(config, whole_run(config))


SHAPES = {  # of the learning rate: points, with straight lines between them
    "constant": ([0, 4, 20], [0.2e-3, 1e-3, 1e-3]),
    "wsd": ([0, 4, 15, 20], [0.2e-3, 1e-3, 1e-3, 1e-4]),
}


@pytest.mark.parametrize("schedule", SHAPES)
def test_schedules_are_followed_across_a_stop(tiny, schedule):
    config = replace(tiny, schedule=schedule, warmup_iters=4, lr_decay_iters=20, decay_fraction=0.25, eval_interval=1)
    train(replace(config, max_iters=8), progress=False)
    go_on(replace(config, max_iters=21))
    rows = read_metrics(config.out_dir)
    assert [row["iter"] for row in rows] == list(range(22))
    expected = np.interp(range(21), *SHAPES[schedule])
    assert [row["lr"] for row in rows[1:]] == pytest.approx(expected, rel=1e-9), (
        "a row tells the rate of the step before it"
    )


def test_metrics_go_on_without_gap_from_an_older_checkpoint(tiny):
    "Though their last line was cut short, and lines of the checkpoint that is gone are there."
    config = replace(tiny, lr_decay_iters=20)
    train(replace(config, max_iters=15), progress=False)
    out = Path(config.out_dir)
    (out / "ckpt.pt").unlink()
    with open(out / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"iter": 20, "va')
    go_on(config)
    assert_same_run(config, whole_run(config))


@pytest.mark.parametrize(
    "damage", [lambda path: path.write_bytes(b""), lambda path: path.unlink()], ids=["empty", "gone"]
)
def test_metrics_that_are_lost_cost_no_checkpoint(tiny, damage):
    config = replace(tiny, lr_decay_iters=20)
    train(replace(config, max_iters=10), progress=False)
    damage(Path(config.out_dir) / "metrics.jsonl")
    start = iterations(config)
    go_on(replace(config, max_iters=15))
    assert start == {"ckpt.pt": 10, "ckpt-1.pt": 5} and iterations(config) == {"ckpt.pt": 15, "ckpt-1.pt": 10}


def test_a_full_disk_while_parts_are_written_is_one_line(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FileSystemWriter, "write_data", full)
    model = GPT(GPTConfig(block_size=8, vocab_size=11, n_layer=1, n_head=1, n_embd=8))
    with pytest.raises(OSError, match="x.dcp was not saved .*No space left on device.*before it are untouched"):
        save_sharded(tmp_path / "x.dcp", model, adamw(model, 1e-3), {"model_args": {}})
    assert not (tmp_path / "x.dcp" / "run.pt").exists(), "so it is no checkpoint"
