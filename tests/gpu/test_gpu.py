"""On an NVIDIA GPU: the fast ways of training, which compute what the slow ones do."""

import os
import warnings
from pathlib import Path

import pytest
import torch
from conftest import assert_overflow_is_survived, replace
from test_distributed import largest_difference, launch, result_of, run
from torch.nn.attention import SDPBackend, sdpa_kernel

from nanogpt.budget import free_memory, peak_flops, training_memory
from nanogpt.config import GPTConfig
from nanogpt.data import Prefetcher, Sampler
from nanogpt.decode import to_int8
from nanogpt.device import pick_device, pick_dtype
from nanogpt.inputs import load_data
from nanogpt.model import GPT
from nanogpt.optim import Muon, adamw, param_groups
from nanogpt.profiling import attention_kernels
from nanogpt.recipe import TrainConfig
from nanogpt.start import start_run
from nanogpt.step import train_step
from nanogpt.train import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS need not compute the same twice
NAME = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
CAPABILITY = torch.cuda.get_device_capability() if torch.cuda.is_available() else (0, 0)
ampere = pytest.mark.skipif(
    CAPABILITY < (8, 0), reason="bfloat16, TF32 and flash attention are for capability 8 and above"
)
volta = pytest.mark.skipif(CAPABILITY < (7, 0), reason="torch.compile needs capability 7")


@pytest.fixture
def cuda(tiny) -> TrainConfig:
    return replace(tiny, device="cuda", compile=False)


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_the_fast_dtype_is_picked(cuda):
    assert pick_device().type == "cuda"
    assert pick_dtype(torch.device("cuda")) == (torch.bfloat16 if CAPABILITY >= (8, 0) else torch.float16)


@pytest.mark.parametrize("dtype", ["float32", "float16", pytest.param("bfloat16", marks=ampere)])
def test_every_dtype_trains_and_keeps_the_weights_in_float32(cuda, dtype):
    result = train(replace(cuda, dtype=dtype, max_iters=50), progress=False)
    assert result.metrics[-1]["val_loss"] < result.metrics[0]["val_loss"]
    weight = result.model.lm_head.weight
    assert weight.is_cuda and weight.dtype == torch.float32


def test_float16_survives_an_overflow(cuda):
    assert_overflow_is_survived(start_run(replace(cuda, dtype="float16")))


@volta
def test_a_compiled_model_trains_the_same(cuda):
    "1e-4 in float32, where fused kernels round elsewhere."
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="torch.compile failed")
        eager, compiled = (
            start_run(replace(cuda, compile=compile, dtype="float32", dropout=0.0)) for compile in (False, None)
        )
    assert eager.step_model is eager.model and compiled.step_model is not compiled.model, "the default on a GPU"
    losses = [(eager.step()[0], compiled.step()[0]) for _ in range(20)]
    assert max(abs(one - other) for one, other in losses) < 1e-4


def test_a_compiler_that_fails_is_done_without(cuda, monkeypatch):
    def compiled(*args):
        raise OSError("no Triton")

    monkeypatch.setattr(torch, "compile", lambda model: compiled)
    with pytest.warns(
        UserWarning,
        match=r"^torch.compile failed \(OSError: no Triton\); training goes on without it, at a lower speed$",
    ) as seen:
        result = train(replace(cuda, compile=None), progress=False)
    assert (
        len([warning for warning in seen if "torch.compile" in str(warning.message)]) == 1
        and result.metrics[-1]["iter"] == 20
    )


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_waits_for_the_gpu_once(cuda, optimizer):
    "The read at its end. (A scaler of float16 reads one more number for Muon.)"
    run = start_run(replace(cuda, optimizer=optimizer, dtype="float32", gradient_accumulation_steps=2))
    run.step()
    batches = [next(run.batches) for _ in range(2)]
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True, action="always") as caught:
            train_step(run.step_model, run.optimizer, batches, 1.0, run.autocast, run.scaler)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [warning for warning in caught if "synchronizing CUDA operation" in str(warning.message)]
    assert len(waits) == 1, [f"{warning.filename}:{warning.lineno}" for warning in waits]


@pytest.mark.skipif(peak_flops(NAME) is None, reason="a card of no known speed")
def test_the_utilisation_is_logged(cuda):
    rows = train(replace(cuda, dtype="auto"), progress=False).metrics
    assert "mfu" not in rows[0] and 0 < rows[-1]["mfu"] < 1


@ampere
def test_attention_is_flash_attention():
    """It runs where nothing else is allowed, forward and backward; and what torch chooses by itself never writes
    the T × T weights.
    """
    model = GPT(
        GPTConfig(block_size=128, vocab_size=64, n_layer=2, n_head=2, n_embd=64), torch.Generator().manual_seed(0)
    ).cuda()
    ids = torch.zeros(2, 128, dtype=torch.int64, device="cuda")
    with torch.autocast("cuda", torch.bfloat16), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        loss = model(ids, ids)[1]
    loss.backward()
    with (
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile,
        torch.autocast("cuda", torch.bfloat16),
    ):
        model(ids, ids)
    called = {event.key for event in profile.key_averages()}
    assert "aten::scaled_dot_product_attention" in called and "aten::_scaled_dot_product_attention_math" not in called


def test_no_kind_of_attention_in_a_step_runs_on_the_slow_kernel():
    kernels = attention_kernels(torch.device("cuda"))
    assert "math" not in {kernel for (kind, _), kernel in kernels.items() if not kind.startswith("one new token")}


@ampere
def test_muon_computes_in_bfloat16_what_torchs_computes():
    "Up to 2 % of the way: bfloat16 has 8 bits."
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = ((192, 64), (192, 64), (64, 256))
    starts = [torch.randn(shape, generator=generator, device="cuda") for shape in shapes]
    ours, theirs = ([torch.nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    for optimizer in (Muon(ours, lr=0.02), torch.optim.Muon(theirs, lr=0.02)):
        generator.manual_seed(1)
        for _ in range(10):
            for p in optimizer.param_groups[0]["params"]:
                p.grad = torch.randn(p.shape, generator=generator, device="cuda")
            optimizer.step()
    for one, other, start in zip(ours, theirs, starts):
        assert (one - other).norm() < 0.02 * (other - start).norm()


def test_muon_trains_in_float16(cuda):
    result = train(replace(cuda, optimizer="muon", dtype="float16", max_iters=50), progress=False)
    assert result.metrics[-1]["val_loss"] < result.metrics[0]["val_loss"]


def test_fused_adamw_is_adamw():
    models = [
        GPT(
            GPTConfig(block_size=32, vocab_size=64, n_layer=2, n_head=2, n_embd=16), torch.Generator().manual_seed(0)
        ).cuda()
        for _ in range(2)
    ]
    fused = adamw(models[0], 1e-2, (0.9, 0.95), 0.1)
    plain = torch.optim.AdamW(param_groups(models[1], 0.1), lr=1e-2, betas=(0.9, 0.95), foreach=False, fused=False)
    assert fused.defaults["fused"]
    generator = torch.Generator("cuda").manual_seed(0)
    for _ in range(10):
        for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=generator, device="cuda")
            other.grad = one.grad.clone()
        fused.step()
        plain.step()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize(
    "ranks", [1, pytest.param(2, marks=pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU"))]
)
def test_ranks_over_nccl_train_what_one_process_trains(cuda, strategy, ranks, tmp_path):
    config = replace(cuda, dtype="float64", dropout=0.0, batch_size=2, gradient_accumulation_steps=4)
    theirs, ours = (replace(config, strategy=strategy, out_dir=str(tmp_path / name)) for name in ("theirs", "ours"))
    process = launch(ranks, theirs)
    assert process.returncode == 0, process.stderr
    result, alone = result_of(theirs), run(ours)
    for kind in ("losses", "val"):
        assert largest_difference(result[kind], alone[kind]) <= 1e-8


@ampere
def test_bfloat16_trains_cut_up(cuda):
    config = replace(cuda, dtype="bfloat16", dropout=0.0, strategy="fsdp", checkpoint_activations=True, max_iters=50)
    process = launch(1, config)
    assert process.returncode == 0, process.stderr
    losses = result_of(config)["losses"]
    assert losses[-1] < losses[0]


def test_running_out_of_memory_is_explained(cuda):
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (64 << 20)) / total)
    try:
        with pytest.raises(
            MemoryError,
            match=r"^out of memory \(CUDA out of memory.*; the run needs about [\d.]+ GB; lower batch_size ",
        ) as raised:
            train(replace(cuda, dtype="float32", batch_size=20_000), progress=False)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert "\n" not in str(raised.value)


def test_the_batch_that_fits_keeps_the_product(cuda):
    run = start_run(replace(cuda, auto_batch=True, batch_size=6, gradient_accumulation_steps=4))
    assert run.config.batch_size * run.config.gradient_accumulation_steps == 24
    assert next(run.batches)[0].shape[0] == run.config.batch_size


def test_a_resumed_run_is_the_same_run(cuda, deterministic, tmp_path):
    "Bit for bit, with dropout, whose generator is the GPU's."
    straight = run(replace(cuda, out_dir=str(tmp_path / "straight")))
    first = run(replace(cuda, max_iters=10, lr_decay_iters=20))
    second = run(replace(cuda, init_from="resume"))
    assert first["losses"] + second["losses"] == straight["losses"] and second["val"] == straight["val"]


SHAPES = {
    "many words": (GPTConfig(block_size=512, vocab_size=50_257, n_layer=2, n_head=4, n_embd=256), 4),
    "many layers": (GPTConfig(block_size=512, vocab_size=1000, n_layer=12, n_head=8, n_embd=512), 8),
    "many weights": (GPTConfig(block_size=64, vocab_size=50_257, n_layer=6, n_head=8, n_embd=1024), 1),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float32, 0.15), pytest.param(torch.bfloat16, 0.25, marks=ampere)]
)
def test_the_memory_estimate_is_what_a_step_takes(shape, dtype, tolerance):
    "Within 15 %; under autocast within 25 %."

    def steps(config: GPTConfig, batch_size: int) -> int:  # bytes at the height of the second step
        model = GPT(config, torch.Generator().manual_seed(0)).cuda()
        optimizer, ids = (
            adamw(model, 1e-4),
            torch.zeros(batch_size, config.block_size, dtype=torch.int64, device="cuda"),
        )
        for _ in range(2):
            torch.cuda.reset_peak_memory_stats()
            with torch.autocast("cuda", dtype, enabled=dtype.itemsize == 2):
                loss = model(ids, ids)[1]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return torch.cuda.max_memory_allocated()

    steps(
        GPTConfig(block_size=32, vocab_size=64, n_layer=1, n_head=1, n_embd=32), 1
    )  # cuBLAS keeps a workspace from now on
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    config, batch_size = SHAPES[shape]
    assert sum(training_memory(config, batch_size, dtype).values()) == pytest.approx(
        steps(config, batch_size) - before, rel=tolerance
    )


def test_free_memory_is_plausible():
    free, total = torch.cuda.mem_get_info()
    assert free <= free_memory(torch.device("cuda")) <= total


def test_batches_come_from_pinned_memory_and_are_the_samplers(cuda):
    data = load_data(cuda)[0]
    batches, plain = (Sampler(data, 4, 32, 0) for _ in range(2))
    batches = Prefetcher(batches, "cuda")
    assert all(tensor.is_pinned() for tensor in batches.upcoming.result()[:2])
    for _ in range(20):
        for ours, theirs in zip(next(batches), next(plain), strict=True):
            assert ours.is_cuda and torch.equal(ours.cpu(), theirs)


@pytest.mark.parametrize("tf32, precision", [(True, "high"), (False, "highest")])
def test_tf32_is_as_the_configuration_says_and_as_it_was_afterwards(cuda, tf32, precision):
    before = torch.get_float32_matmul_precision()
    result = train(
        replace(cuda, tf32=tf32),
        on_eval=lambda run: {"precision": torch.get_float32_matmul_precision()},
        progress=False,
    )
    assert {row["precision"] for row in result.metrics} == {
        precision
    } and torch.get_float32_matmul_precision() == before


@ampere
def test_tf32_is_faster_arithmetic_with_fewer_digits():
    a = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    exact, errors = a.double() @ a.double(), {}
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        errors[precision] = (a.cuda() @ a.cuda()).cpu().double().sub(exact).abs().max().item()
    torch.set_float32_matmul_precision("highest")
    assert errors["highest"] < 1e-4 < errors["high"] < 0.2


def test_decoding_on_the_cpu_is_for_the_cpu(cuda):
    model = start_run(cuda).model
    with pytest.raises(
        ValueError, match="to_int8 takes a model in float32 on the CPU; this one is torch.float32 on cuda:0"
    ):
        to_int8(model)


def test_a_checkpoint_of_a_gpu_goes_on_without_one(cuda):
    train(replace(cuda, max_iters=10, lr_decay_iters=20, dtype="float32"), progress=False)
    assert train(replace(cuda, device="cpu", init_from="resume"), progress=False).metrics[-1]["iter"] == 20
    assert Path(cuda.out_dir, "best.pt").exists()
