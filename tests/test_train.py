"""Runs that stop and go on, and steps that are what they claim to be."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from conftest import replace
from torch.utils._python_dispatch import TorchDispatchMode

from nanogpt.checkpoint import load_checkpoint
from nanogpt.corpus import tales
from nanogpt.data import TokenDataset, all_batches
from nanogpt.device import pick_device, pick_dtype
from nanogpt.inputs import load_data
from nanogpt.model import GPT
from nanogpt.prepare import prepare
from nanogpt.recipe import PRESETS, TrainConfig, get_preset
from nanogpt.report import read_metrics, validation_batches
from nanogpt.start import checkpoint_of, restore, start_run
from nanogpt.step import evaluate
from nanogpt.tokenizer import ByteTokenizer, CharTokenizer
from nanogpt.train import train

RUN = """
import json, sys
from nanogpt.recipe import TrainConfig
from nanogpt.train import train
sys.exit(train(TrainConfig(**json.loads(sys.argv[1])), progress=False).exit_code)
"""


def start(config: TrainConfig, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, json.dumps(asdict(config))], env=os.environ | {"OMP_NUM_THREADS": "1"}, **options
    )


def wait_for(config: TrainConfig, iteration: int, process: subprocess.Popen):
    "Wait until the metrics file shows an iteration."
    path = Path(config.out_dir) / "metrics.jsonl"
    while not path.exists() or read_metrics(path)[-1]["iter"] < iteration:
        assert process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_bit_for_bit(tiny, how, tmp_path):
    "With dropout, so that torch's generator matters; killed between checkpoints, so that steps are repeated."
    config = replace(tiny, max_iters=300, eval_interval=20)
    whole = start(replace(config, out_dir=str(tmp_path / "whole")))
    stopped = start(config)
    wait_for(config, 40, stopped)
    stopped.send_signal(how)
    assert stopped.wait(60) == {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}[how]
    assert load_checkpoint(Path(config.out_dir) / "ckpt.pt")["iter_num"] < 300
    assert start(replace(config, init_from="resume")).wait(120) == 0 and whole.wait(120) == 0
    ours, theirs = (load_checkpoint(folder / "ckpt.pt") for folder in (Path(config.out_dir), tmp_path / "whole"))
    assert ours["iter_num"] == theirs["iter_num"] == 300
    for name, tensor in theirs["model"].items():
        assert torch.equal(ours["model"][name], tensor), name
    assert ours["sampler"] == theirs["sampler"]
    kept = ("iter", "train_loss", "val_loss", "lr", "tokens")
    rows = [
        [{key: row[key] for key in kept} for row in read_metrics(folder)]
        for folder in (config.out_dir, tmp_path / "whole")
    ]
    assert rows[0] == rows[1], "the metrics of the stopped run have no gap and nothing twice"


def test_a_seed_gives_the_same_run_and_leaves_torchs_generator_alone(tiny, tmp_path):
    state = torch.get_rng_state()
    one = train(tiny, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    same = train(replace(tiny, out_dir=str(tmp_path / "same")), progress=False)
    other = train(replace(tiny, out_dir=str(tmp_path / "other"), seed=2), progress=False)
    assert torch.equal(one.model.lm_head.weight, same.model.lm_head.weight)
    assert not torch.equal(one.model.lm_head.weight, other.model.lm_head.weight)


def test_accumulation_equals_one_large_batch(tiny):
    """Over 50 steps: 1e-8 in float64, 1e-4 in float32, which sums in another order. In epochs of aligned windows
    micro-batches have unequal numbers of targets.
    """
    for dtype, tolerance in (("float64", 1e-8), ("float32", 1e-4)):
        for sampling in ("random", "epochs"):
            config = replace(
                tiny, dropout=0.0, dtype=dtype, sampling=sampling, aligned=sampling == "epochs", max_iters=50
            )
            small = start_run(replace(config, batch_size=2, gradient_accumulation_steps=4))
            large = start_run(replace(config, batch_size=8, gradient_accumulation_steps=1))
            assert small.config.tokens_per_iter == large.config.tokens_per_iter
            losses = [(small.step()[0], large.step()[0]) for _ in range(50)]
            assert all(math.isclose(a, b, abs_tol=tolerance) for a, b in losses), (
                "the sampler deals the same windows either way"
            )


MODERN = dict(
    norm="rms",
    mlp="swiglu",
    positions="rotary",
    n_kv_head=1,
    qk_norm=True,
    window=24,
    document_masking=True,
    tied=False,
    vocab_multiple=64,
)


def test_the_ids_of_the_model_come_from_the_tokenizer(tiny):
    run = start_run(replace(tiny, **MODERN))
    assert run.model.config.document_token == run.tokenizer.eot is not None
    assert (run.model.config.n_kv_head, run.model.config.vocab_rows) == (1, 64)


def test_a_modern_model_trains_and_resumes_with_its_own_shape_only(tiny):
    config = replace(tiny, **MODERN)
    first = train(config, progress=False)
    assert first.metrics[-1]["val_loss"] < first.metrics[0]["val_loss"]
    assert train(replace(config, init_from="resume", max_iters=25), progress=False).metrics[-1]["iter"] == 25
    differ = (
        "norm is rms there and layer here; .*window is 24 there and None here; "
        "document_token is 0 there and None here; tied is False there"
    )
    with pytest.raises(ValueError, match=differ):
        train(replace(tiny, init_from="resume", max_iters=25), progress=False)


def test_muon_goes_on_to_the_bit_and_with_its_own_state_only(tiny, tmp_path):
    config = replace(tiny, optimizer="muon", muon_lr=0.05, lr_decay_iters=20)
    rates = []
    whole = train(
        replace(config, out_dir=str(tmp_path / "whole")),
        progress=False,
        on_step=lambda run: rates.append([group["lr"] for group in run.optimizer.param_groups]),
    )
    assert all(math.isclose(muon, 50 * adamw) for muon, adamw, _ in rates), "one schedule scales both rates"
    train(replace(config, max_iters=10), progress=False)
    resumed = train(replace(config, resume="auto"), progress=False)
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters()):
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="or of another optimizer; or start from its weights"):
        train(replace(config, optimizer="adamw", resume="auto", max_iters=30), progress=False)


def test_loss_chunk_changes_memory_and_nothing_else(tiny, tmp_path):
    "In float32 the chunks add up in another order: 1e-5."
    plain = train(replace(tiny, dropout=0.0), progress=False)
    chunked = train(replace(tiny, dropout=0.0, loss_chunk=50, out_dir=str(tmp_path / "chunked")), progress=False)
    for one, other in zip(plain.metrics, chunked.metrics, strict=True):
        assert one["val_loss"] == pytest.approx(other["val_loss"], abs=1e-5)
    run = start_run(replace(tiny, loss_chunk=50, out_dir=str(tmp_path / "run")))
    assert run.model.loss_chunk == 50 and run.model(*next(run.batches))[0] is None, "no logits of all tokens"


def test_document_masking_needs_documents(tiny, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("one text and no end of it, " * 200, encoding="utf-8")
    with pytest.raises(ValueError, match="document_masking needs an end-of-text id"):
        start_run(replace(tiny, corpus=str(text), data_dir=str(tmp_path / "notes"), document_masking=True))


def test_evaluation_is_in_eval_mode_and_restores_the_mode(tiny):
    run = start_run(replace(tiny, dropout=0.5))
    seen = []
    run.model.register_forward_hook(lambda model, *_: seen.append((model.training, torch.is_grad_enabled())))
    batches = list(all_batches(run.val_data, 8, tiny.model.block_size))
    for mode in (True, False):
        run.model.train(mode)
        losses = {evaluate(run.model, batches) for _ in range(2)}
        assert len(losses) == 1, "no dropout, so no luck"
        assert run.model.training is mode
    assert set(seen) == {(False, False)}
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(run.model, [])


def test_validation_loss_does_not_depend_on_the_batch_size(tiny):
    run = start_run(tiny)
    losses = [
        evaluate(run.model, all_batches(run.val_data, batch_size, tiny.model.block_size)) for batch_size in (1, 3, 64)
    ]
    assert max(losses) - min(losses) < 1e-6, "float32 sums in another order"


def test_an_evaluation_reads_no_number_before_its_end(tiny):
    "A GPU must be waited for at every number that is read."
    run, seen = start_run(tiny), []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    with Watch():
        evaluate(run.model, validation_batches(run))
    reads = [i for i, function in enumerate(seen) if function is torch.ops.aten._local_scalar_dense.default]
    losses = [i for i, function in enumerate(seen) if function is torch.ops.aten.nll_loss_forward.default]
    assert len(losses) > 1 and min(reads) > max(losses)


def test_a_log_that_fails_ends_nothing(tiny):
    def broken(row):
        raise OSError("no room")

    with pytest.warns(UserWarning, match=r"^a log failed \(OSError: no room\); the run goes on without it$"):
        result = train(tiny, logs=[broken], progress=False)
    assert result.metrics[-1]["iter"] == tiny.max_iters


def test_what_a_run_leaves(tiny):
    result = train(tiny, on_eval=lambda run: {"extra": run.iter_num}, progress=False)
    out = Path(tiny.out_dir)
    assert {path.name for path in out.iterdir()} == {
        ".nanogpt-run",
        "ckpt.pt",
        "ckpt-1.pt",
        "best.pt",
        "metrics.jsonl",
        "config.json",
        "tokenizer.json",
    }
    rows = read_metrics(out)
    assert rows == result.metrics and [row["iter"] for row in rows] == [0, 5, 10, 15, 20]
    assert {"iter", "train_loss", "val_loss", "lr", "tokens", "seconds", "tokens_per_s", "excess", "extra"} <= rows[
        -1
    ].keys()
    assert (
        load_checkpoint(out / "best.pt")["best_val_loss"]
        == result.best_val_loss
        == min(row["val_loss"] for row in rows)
    )
    described = TrainConfig(**json.loads((out / "config.json").read_text(encoding="utf-8")))
    assert described == replace(tiny, vocab_size=result.tokenizer.vocab_size)
    with open(out / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"iter": 25, "val')
    assert read_metrics(out) == rows, "a line cut short by a crash is left out"
    (out / "metrics.jsonl").write_bytes(b'{"iter": 0, "val_loss": 1.0}\n\xff\n')
    with pytest.raises(ValueError, match="metrics.jsonl is no UTF-8 text"):
        read_metrics(out)


def test_a_run_is_never_overwritten_unasked(tiny):
    train(tiny, progress=False)
    with pytest.raises(ValueError, match="already holds a run"):
        train(tiny, progress=False)
    train(replace(tiny, overwrite=True), progress=False)


def test_a_loss_that_is_no_number_stops_the_run(tiny):
    with pytest.raises(
        ValueError,
        match="the (loss|gradient's norm) is (nan|inf) at iteration .*checkpoint is in .*lower learning_rate",
    ):
        train(replace(tiny, learning_rate=1e30, grad_clip=0.0, max_iters=50), progress=False)


def test_data_of_another_tokenizer_is_refused(tiny, tmp_path):
    train(tiny, progress=False)
    prepare(tales(60), ByteTokenizer(), tmp_path / "bytes", 0.2)
    with pytest.raises(ValueError, match="trained with another tokenizer"):
        train(replace(tiny, data_dir=str(tmp_path / "bytes"), init_from="resume"), progress=False)
    ByteTokenizer().save(tmp_path / "data" / "tokenizer.json")
    with pytest.raises(ValueError, match="prepared with another tokenizer"):
        load_data(tiny)


def test_raw_nanogpt_data_is_read(tiny, tmp_path):
    import numpy as np

    (tmp_path / "raw").mkdir()
    for split in ("train", "val"):
        np.arange(300, dtype=np.uint16).__mod__(256).tofile(tmp_path / "raw" / f"{split}.bin")
    result = train(replace(tiny, data_dir=str(tmp_path / "raw"), tokenizer="byte"), progress=False)
    assert result.floor is None and result.model.config.vocab_size == 257
    np.full(300, 300, dtype=np.uint16).tofile(tmp_path / "raw" / "train.bin")
    with pytest.raises(ValueError, match="holds id 300, but the vocabulary has 257 ids"):
        train(replace(tiny, data_dir=str(tmp_path / "raw"), tokenizer="byte", overwrite=True), progress=False)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"batch_size": 0}, "batch_size must be at least 1 and at most 1000000, got 0"),
        ({"max_iters": -1}, "max_iters must be at least 1"),
        ({"learning_rate": -1.0}, "learning_rate must be at least 0, got -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be at least 0 and at most 1e"),
        ({"learning_rate": float("inf")}, "learning_rate must be at least 0 and at most 1e"),
        ({"resume": "atuo"}, "resume must be one of never, auto, got 'atuo'"),
        ({"schedule": "linear"}, "schedule must be one of cosine, constant, wsd, got 'linear'"),
        ({"strategy": "tp"}, "strategy must be one of ddp, fsdp"),
        ({"optimizer": "sgd"}, "optimizer must be one of adamw, muon, got 'sgd'"),
        ({"muon_lr": -0.1}, "muon_lr must be at least 0, got -0.1"),
        ({"keep": 0}, "keep must be at least 1, got 0"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1, got 1.0"),
        ({"timeout": 0.0}, "timeout must be above 0 and at most"),
        ({"max_seconds": -1.0}, "max_seconds must be at least 0"),
        ({"seed": 2**64}, "seed must be at least 0 and below"),
        ({"batch_size": True}, "batch_size must be of type int, got True"),
        ({"reference": "dmo"}, "reference must be one of .*demo, .*, got 'dmo'"),
        ({"dtype": "float8"}, "dtype must be one of"),
        ({"min_lr": 0.1}, "min_lr must not exceed learning_rate, got 0.1 and 0.001"),
        ({"beta2": 1.0}, "beta2 must be at least 0 and below 1"),
        ({"n_embd": 15}, "n_embd must be a multiple of n_head"),
        ({"n_layer": 0}, "n_layer must be at least 1"),
    ],
)
def test_bad_configurations_are_named(tiny, change, message):
    with pytest.raises(ValueError, match=message):
        replace(tiny, **change)


def test_short_corpus_is_named(tiny):
    with pytest.raises(ValueError, match="fewer than block_size"):
        train(replace(tiny, block_size=100_000), progress=False)


def test_unknown_preset_suggests(monkeypatch):
    with pytest.raises(ValueError, match="unknown preset 'shakespear-char'; did you mean 'shakespeare-char'"):
        get_preset("shakespear-char")
    get_preset("demo").max_iters = 1
    assert PRESETS["demo"].max_iters > 1, "a preset is handed out as a copy"


def test_the_speedrun_of_124_million_has_gpt2s_size_and_learns(tmp_path):
    "GPT-2's 124 million, and 39 million of an output layer of its own; here a small copy of it."
    preset = get_preset("speedrun-124m")
    with torch.device("meta"):
        params = GPT(replace(preset, vocab_size=50257).model).num_params()
    assert round(params / 1e6) == 162 and preset.tokens_per_iter == 2**19
    small = replace(
        preset, corpus="tales", tokenizer="byte", data_dir=str(tmp_path / "data"), out_dir=str(tmp_path / "out"),
        n_layer=2, n_head=2, n_embd=32, block_size=64, batch_size=4, gradient_accumulation_steps=2, max_iters=40,
        eval_interval=40, eval_windows=8, compile=False,
    )  # fmt: skip
    rows = train(small, progress=False).metrics
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] - 1


def test_devices_and_dtypes(monkeypatch):
    with pytest.raises(ValueError, match="cannot be used here"):
        pick_device("cuda:77")
    assert (
        pick_dtype(torch.device("cpu")) == torch.float32
        and pick_dtype(torch.device("cpu"), "bfloat16") == torch.bfloat16
    )
    for capability, dtype in (((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        assert pick_dtype(torch.device("cuda")) == dtype


def test_bfloat16_on_cpu_trains(tiny):
    result = train(replace(tiny, dtype="bfloat16"), progress=False)
    assert result.metrics[-1]["val_loss"] < result.metrics[0]["val_loss"]
    assert result.model.lm_head.weight.dtype == torch.float32


def test_prepared_on_demand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("abc " * 200, encoding="utf-8")
    train_data, val_data, tokenizer = load_data(TrainConfig(corpus="mine.txt"))
    assert train_data.name == "data/mine-char" and isinstance(tokenizer, CharTokenizer)
    assert isinstance(val_data, TokenDataset)
    with pytest.raises(FileNotFoundError, match="nanogpt prepare"):
        load_data(get_preset("gpt2-124m"))


def test_data_of_other_text_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text("abc " * 200, encoding="utf-8")
    load_data(TrainConfig(corpus="mine.txt"))
    Path("mine.txt").write_text("abd " * 200, encoding="utf-8")
    with pytest.raises(
        ValueError, match="data/mine-char was prepared from other text than corpus='mine.txt' is now"
    ):
        load_data(TrainConfig(corpus="mine.txt"))
    load_data(TrainConfig(corpus="", data_dir="data/mine-char"))
    Path("mine.txt").unlink()
    load_data(TrainConfig(corpus="mine.txt"))


@pytest.mark.parametrize(
    "asked, match",
    [
        ({"tokenizer": "gpt2"}, "another tokenizer than tokenizer='gpt2'"),
        ({"tokenizer": "bpe-512"}, "another tokenizer than tokenizer='bpe-512'"),
        ({"corpus": "/no/such"}, "other text than corpus='/no/such' is now"),
        ({"corpus": "shakespeare"}, "other text than corpus='shakespeare' is now"),
    ],
)
def test_what_is_asked_of_prepared_data_is_theirs_or_refused(tiny, asked, match):
    with pytest.raises(ValueError, match=match):
        load_data(replace(tiny, **asked))


def test_a_float32_run_resumes_in_float16(tiny):
    "As when a run moves from a CPU to a T4: it has no scale to restore, and the scaler begins anew."
    train(tiny, progress=False)
    run = start_run(replace(tiny, init_from="resume"))
    checkpoint = checkpoint_of(run)
    run.scaler = torch.amp.GradScaler("cpu")
    restore(run, checkpoint)
    assert checkpoint["scaler"] == {} and run.scaler.get_scale() > 1


def test_weights_that_have_diverged_are_never_saved(tiny):
    "Every step is followed by an evaluation here, which would make the spoilt weights the latest checkpoint."
    with pytest.raises(ValueError, match=r"(loss|norm) is (nan|inf) at iteration .*resume='auto'"):
        train(replace(tiny, learning_rate=1e30, grad_clip=0.0, eval_interval=1, keep=1), progress=False)
    result = train(replace(tiny, resume="auto", max_iters=40), progress=False)
    assert math.isfinite(result.metrics[-1]["val_loss"])


def test_a_logger_that_is_missing_leaves_the_old_run(tiny, monkeypatch):
    train(tiny, progress=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="nanogpt\\[log\\]"):
        train(replace(tiny, overwrite=True, tensorboard=True), progress=False)
    assert load_checkpoint(Path(tiny.out_dir) / "ckpt.pt")["iter_num"] == 20


def test_a_resumed_run_obeys_its_configuration(tiny):
    train(tiny, progress=False)
    run = start_run(replace(tiny, resume="auto", weight_decay=0.5, beta2=0.9))
    assert (
        run.optimizer.param_groups[0]["weight_decay"] == 0.5 and run.optimizer.param_groups[1]["weight_decay"] == 0.0
    )
    assert run.optimizer.param_groups[0]["betas"] == (0.9, 0.9)
    resumed = train(replace(tiny, resume="auto", batch_size=8, max_iters=25), progress=False)
    assert [row["tokens"] for row in resumed.metrics[-2:]] == [20 * 4 * 32, 20 * 4 * 32 + 5 * 8 * 32]


def test_part_of_the_validation_split_is_the_same_part_for_every_batch_size(tiny, tmp_path):
    losses = []
    for batch_size in (1, 3, 4, 8):
        config = replace(
            tiny, batch_size=batch_size, eval_windows=7, max_iters=1, out_dir=str(tmp_path / str(batch_size))
        )
        losses.append(train(config, progress=False).metrics[0]["val_loss"])
    assert max(losses) - min(losses) < 1e-6, "float32 sums in another order"
