"""What a run is said to need, against what it takes."""

from collections.abc import Callable
from functools import partial
from itertools import accumulate

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from nanogpt import budget as module
from nanogpt.budget import (
    MACHINES,
    UTILISATION,
    flops_per_token,
    free_memory,
    largest_batch,
    measure_speed,
    peak_flops,
    plan,
    training_memory,
    utilisation,
)
from nanogpt.config import GPTConfig
from nanogpt.model import GPT
from nanogpt.optim import adamw, muon

GPT2 = GPTConfig.gpt2("gpt2")
CPU = torch.device("cpu")


def measured(
    config: GPTConfig,
    batch_size: int,
    dtype: torch.dtype,
    checkpoint_activations: bool = False,
    loss_chunk: int = 0,
    make: Callable = adamw,
) -> int:
    "Bytes at the height of the second step on the CPU, by torch's profiler, with what was there before."
    model = GPT(config, torch.Generator().manual_seed(0))
    model.to(torch.float64 if dtype == torch.float64 else torch.float32)
    model.loss_chunk = loss_chunk
    if checkpoint_activations:
        for block in model.transformer.h:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    optimizer = make(model, 1e-4)
    ids = torch.zeros(batch_size, config.block_size, dtype=torch.int64)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(ids, ids)[1]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    before = sum(p.nbytes for p in model.parameters())
    before += sum(t.nbytes for state in optimizer.state.values() for t in state.values())
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return before + max(accumulate(event.nbytes() for event in events))


MEDIUM = dict(block_size=128, vocab_size=512, n_layer=4, n_head=4, n_embd=128)
SHAPES = {
    "many words": (GPTConfig(block_size=64, vocab_size=5000, n_layer=2, n_head=2, n_embd=64), 8),
    "many layers": (GPTConfig(block_size=128, vocab_size=256, n_layer=8, n_head=4, n_embd=64), 8),
    "many weights": (GPTConfig(block_size=32, vocab_size=1000, n_layer=4, n_head=4, n_embd=256), 1),
    "GPT-2": (GPTConfig(block_size=256, vocab_size=5000, n_layer=6, n_head=6, n_embd=192), 4),
    "modern": (GPTConfig.llama(**MEDIUM, n_kv_head=2, qk_norm=True, bias=True), 8),
    "Llama": (GPTConfig.llama(**MEDIUM, n_kv_head=2), 8),
    "window": (GPTConfig(**MEDIUM, window=32), 8),
    "n-grams": (GPTConfig.speedrun(**MEDIUM, ngram_orders=(2, 3, 4)), 8),
    "documents": (GPTConfig.llama(**MEDIUM, n_kv_head=1, document_token=3), 8),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("checkpoint_activations", [False, True])
@pytest.mark.parametrize("loss_chunk", [0, 64])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_estimate_is_what_a_step_takes(shape, dtype, checkpoint_activations, loss_chunk):
    "Within 15 %. Under autocast within 25 %: there not all parts are at their height together."
    config, batch_size = SHAPES[shape]
    estimate = sum(training_memory(config, batch_size, dtype, loss_chunk, checkpoint_activations).values())
    real = measured(config, batch_size, dtype, checkpoint_activations, loss_chunk)
    assert estimate == pytest.approx(real, rel=0.25 if dtype == torch.bfloat16 else 0.15)


def test_muons_products_take_what_its_single_mean_saves():
    shape = SHAPES["many weights"]
    estimate = sum(training_memory(*shape).values())
    assert estimate == pytest.approx(measured(*shape, torch.float32, make=muon), rel=0.15)


def test_what_is_not_asked_for_takes_nothing():
    plain, more = training_memory(GPT2, 1), training_memory(GPT2, 1, ema=True)
    assert plain["averaged weights"] == 0 and more["averaged weights"] == plain["weights"] == 124_439_808 * 4
    sharded = training_memory(GPT2, 1, ema=True, shards=4)
    for part in ("weights", "gradients", "optimizer", "averaged weights"):
        assert sharded[part] == more[part] // 4
    assert sharded["activations"] == plain["activations"]


@pytest.mark.parametrize("windows", [1, 7, 12, 480])
@pytest.mark.parametrize("memory", [4e9, 16e9, 80e9])
def test_the_largest_batch_that_fits_divides_the_windows(windows, memory):
    batch_size, accumulation = largest_batch(GPT2, windows, int(memory))
    assert batch_size * accumulation == windows
    assert sum(training_memory(GPT2, batch_size).values()) <= 0.9 * memory
    larger = [size for size in range(batch_size + 1, windows + 1) if windows % size == 0]
    assert not larger or sum(training_memory(GPT2, larger[0]).values()) > 0.9 * memory


def test_a_billion_windows_are_divided_at_once():
    assert largest_batch(GPT2, 10**9, 16 * 10**9) == (10, 10**8)
    assert largest_batch(GPT2, 999_999_937, 16 * 10**9) == (1, 999_999_937), "a prime"


def test_options_make_room_for_larger_batches():
    sizes = [
        largest_batch(GPT2, 480, 16 * 10**9, dtype=torch.float16, **options)[0]
        for options in ({}, {"loss_chunk": 1024}, {"loss_chunk": 1024, "checkpoint_activations": True})
    ]
    assert sizes == sorted(set(sizes))


def test_a_window_that_does_not_fit_is_named():
    advice = "set loss_chunk=1024 or checkpoint_activations=True, or lower block_size"
    message = rf"^one window needs about 3\.2 GB and 2\.0 GB are there; {advice}$"
    with pytest.raises(MemoryError, match=message):
        largest_batch(GPT2, 480, 2 * 10**9)


def test_free_memory_is_linuxs_word_for_it():
    psutil = pytest.importorskip("psutil")
    free = free_memory(CPU)
    if free is None:
        pytest.skip("this system has no /proc/meminfo")
    assert abs(free - psutil.virtual_memory().available) < 0.1 * psutil.virtual_memory().total
    assert free_memory(torch.device("meta")) is None, "nobody can tell"


def test_a_plan_for_gpt2_on_other_machines(monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda device: None)
    rows = {row["machine"]: row for row in plan(GPT2, 480, 600_000, CPU, torch.float32)}
    assert rows.keys() == MACHINES.keys()
    for name, row in rows.items():
        assert row["batch_size"] * row["gradient_accumulation_steps"] == 480
        assert row["of"] == MACHINES[name].memory / 1e9 and 0 < row["gigabytes"] <= 0.9 * row["of"]
        assert row["dtype"] == ("float16" if name.startswith("T4") else "bfloat16"), "a T4 has no bfloat16"
        assert row["hours"] * MACHINES[name].flops == pytest.approx(rows["A100 40 GB"]["hours"] * 312e12)
    assert 600 < rows["A100 80 GB"]["hours"] < 900, "nanoGPT tells of four days on eight of them"
    assert UTILISATION == 0.3, "as the docstring says"


@pytest.mark.parametrize(
    "name, teraflops",
    [
        ("Tesla T4", 65), ("NVIDIA L4", 121), ("NVIDIA L40S", None), ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H200", 989), ("NVIDIA GH200 480GB", None),
        ("NVIDIA B200", 2250), ("NVIDIA GeForce RTX 4090", 165), ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
    ],
)  # fmt: skip
def test_the_peak_of_a_gpu_is_its_data_sheets(name, teraflops):
    assert peak_flops(name) == (teraflops and teraflops * 1e12)


def test_utilisation_is_of_all_ranks_and_unknown_without_a_peak(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-40GB")
    monkeypatch.setattr(module, "rank_and_size", lambda: (0, 8))
    config, cuda = GPTConfig.gpt2(), torch.device("cuda")
    speed = 8 * 312e12 / flops_per_token(config)
    assert utilisation(config, speed / 2, cuda, torch.bfloat16) == pytest.approx(0.5)
    assert utilisation(config, speed, cuda, torch.float32) is None
    assert utilisation(config, speed, torch.device("cpu"), torch.bfloat16) is None


def test_a_machine_that_is_too_small_has_no_hours(monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda device: None)
    rows = plan(GPTConfig.gpt2("gpt2-xl"), 480, 1000, CPU, torch.float32)
    assert ["hours" in row for row in rows] == [False] * 3 + [True] * 5


def test_this_machine_is_measured():
    config, batch_size = SHAPES["many layers"]
    row = plan(config, batch_size, 100, CPU, torch.float32)[-1]
    if free_memory(CPU) is None:
        pytest.skip("this system has no /proc/meminfo")
    assert (row["machine"], row["dtype"], row["batch_size"]) == ("this machine (cpu)", "float32", batch_size)
    assert row["hours"] > 0 and measure_speed(config, 1, CPU, torch.bfloat16) > 0
