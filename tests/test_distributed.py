"""Several processes: the same run on any number of them, and an end in good order when one of them dies.

torchrun starts this file itself: see `work`, what each rank does."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from conftest import TINY, prepare_tales, replace

from nanogpt.budget import count_params
from nanogpt.checkpoint import load_checkpoint, model_from_checkpoint
from nanogpt.data import TokenDataset, all_batches
from nanogpt.distributed import parallelize
from nanogpt.files import sha256_of
from nanogpt.hub import load
from nanogpt.ranks import full_tensor
from nanogpt.recipe import TrainConfig
from nanogpt.sharded import check_sharded, latest_checkpoint, read_checkpoint, read_plan
from nanogpt.start import Run, start_run
from nanogpt.step import evaluate
from nanogpt.train import train
from nanogpt.watch import watch

ROOM = 2.75  # times a model's float32 weights
LEAN = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1000000"}  # memory that is freed is given back
COMPILER = shutil.which("g++") is not None
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="torchrun and signals are POSIX")


def run(config: TrainConfig, on_eval=None) -> dict:  # losses of the steps and of the evaluations, and how it ended
    "Train, and note the loss of every step."
    losses = []
    result = train(config, on_eval=on_eval, on_step=lambda run: losses.append(run.loss), progress=False)
    return {
        "losses": losses,
        "val": [row["val_loss"] for row in result.metrics],
        "rows": result.metrics,
        "exit_code": result.exit_code,
    }


def work(path: str):
    "One run after the other. Rank 0 leaves a file beside each, every rank one with its error."
    rank = int(os.environ.get("RANK", 0))
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    for number, config in enumerate(job["configs"]):
        if job["room"] and number:  # the first run has made what every run needs once
            import resource  # POSIX only

            pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + job["room"],) * 2)
        config = TrainConfig(**config | {"out_dir": config["out_dir"].format(rank=rank)})
        try:
            result = run(config, ON_EVAL.get(job["on_eval"]))
        except ConnectionError as error:
            sys.exit(f"nanogpt: {error}")
        except (ValueError, OSError, MemoryError) as error:
            Path(f"{config.out_dir}.error{rank}").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
            continue
        if rank == 0:
            Path(f"{config.out_dir}.json").write_text(json.dumps(result), encoding="utf-8")
        if result["exit_code"]:
            sys.exit(result["exit_code"])


def last_rank() -> bool:
    return int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1


def die(run: Run) -> dict:
    if run.iter_num == 20 and last_rank():
        os._exit(7)
    return {}


def hang(run: Run) -> dict:
    if run.iter_num == 20 and last_rank():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # torchrun would wait 30 s for it before SIGKILL
        time.sleep(1000)
    return {}


def killed_once(run: Run) -> dict:
    if run.iter_num == 40 and last_rank() and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"restarts": int(os.environ["TORCHELASTIC_RESTART_COUNT"])}


def stop_torchrun(run: Run) -> dict:
    if run.iter_num == 20 and last_rank():
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(1)
    return {}


def look(run: Run) -> dict:
    if run.iter_num == 0 and run.scaler.is_enabled():
        run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": 2.0**30})  # overflows
    if run.config.run_name == "watched":
        watch(run)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return {"scale": run.scaler.get_scale(), "graphs": graphs}


ON_EVAL = {function.__name__: function for function in (die, hang, killed_once, stop_torchrun, look)}

if __name__ == "__main__":
    work(sys.argv[1])


def launch(
    ranks: int,
    *configs: TrainConfig,
    on_eval: str = "",
    options: tuple[str, ...] = (),
    timeout: int = 120,
    room: int = 0,  # bytes that each rank may add to its memory after the first run; 0: no limit
) -> subprocess.CompletedProcess:
    "Start so many ranks with torchrun and wait for their end."
    path = Path(configs[0].out_dir).with_suffix(".job.json")
    path.write_text(
        json.dumps({"on_eval": on_eval, "room": room, "configs": [asdict(config) for config in configs]}),
        encoding="utf-8",
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(ranks),
        *options,
        __file__,
        str(path),
    ]
    process = subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (LEAN if room else {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.terminate()  # a torchrun that is killed leaves its ranks behind
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def result_of(config: TrainConfig) -> dict:
    return json.loads(Path(f"{config.out_dir}.json").read_text(encoding="utf-8"))


def errors_of(folder: Path, name: str) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(folder.glob(f"{name}*.error?"))]


def largest_difference(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> TrainConfig:
    "50 steps of 8 windows in micro-batches of 2, in a folder that all tests share."
    folder = tmp_path_factory.mktemp("ranks")
    prepare_tales(folder / "data")
    return TrainConfig(
        dataclasses.replace(TINY.model, dropout=0.0),
        batch_size=2,
        gradient_accumulation_steps=4,
        max_iters=50,
        warmup_iters=2,
        eval_interval=20,
        eval_windows=6,
        device="cpu",
        dtype="float64",
        ema=0.9,
        data_dir=str(folder / "data"),
        out_dir=str(folder / "run"),
    )


def named(base: TrainConfig, name: str, **changes) -> TrainConfig:
    return replace(base, out_dir=str(Path(base.out_dir).with_name(name)), **changes)


EQUAL = {  # each is trained on one process, on ranks with DDP, and on ranks with FSDP
    "float64": {},
    "epochs": {"sampling": "epochs", "aligned": True},  # micro-batches have unequal numbers of targets
    "float32": {"dtype": "float32"},
    "muon": {"optimizer": "muon"},  # which gathers what it orthogonalises
}


def equal(base: TrainConfig, where: str, **changes) -> list[TrainConfig]:
    return [named(base, f"{where}-{name}", **different, **changes) for name, different in EQUAL.items()]


def watched(base: TrainConfig, strategy: str) -> TrainConfig:
    changes = {"strategy": strategy, "run_name": "watched", "max_iters": 2, "eval_interval": 2}
    return named(base, f"watched-{strategy}", **changes)


@pytest.fixture(scope="module")
def alone(base) -> dict[str, dict]:
    "What one process makes of each."
    return {name: run(config) for name, config in zip(EQUAL, equal(base, "alone"))}


@pytest.fixture(scope="module")
def two_ranks(base):
    "All runs on two ranks that nothing disturbs, in one launch."
    configs = [
        *equal(base, "ddp2"),
        *equal(base, "fsdp2", strategy="fsdp"),
        named(base, "half", strategy="fsdp", max_iters=25, lr_decay_iters=50),
        named(base, "half-muon", strategy="fsdp", max_iters=25, lr_decay_iters=50, optimizer="muon"),
        named(base, "recomputed", checkpoint_activations=True),
        named(base, "ddp-dropout", dropout=0.1),
        named(base, "fsdp-dropout", dropout=0.1, strategy="fsdp"),
        named(base, "bfloat16", dtype="bfloat16", strategy="fsdp", checkpoint_activations=True, ema=0.0),
        named(base, "float16", dtype="float16", strategy="fsdp", ema=0.0),
        watched(base, "fsdp"),
        *[named(base, "compiled", strategy="fsdp", compile=True)] * COMPILER,
    ]
    process = launch(2, *configs, on_eval="look")
    assert process.returncode == 0, process.stderr


@pytest.fixture(scope="module")
def half(base, two_ranks) -> TrainConfig:
    "A sharded run, 25 of 50 steps long, with checkpoints at 20 and 25."
    return named(base, "half", strategy="fsdp", lr_decay_iters=50, resume="auto")


def copied(config: TrainConfig, name: str, **changes) -> TrainConfig:
    "The run so far, in a folder of its own to go on in."
    copy = named(config, name, **changes)
    shutil.copytree(config.out_dir, copy.out_dir)
    return copy


def assert_equal(base: TrainConfig, where: str, alone: dict[str, dict], *names: str):
    for name in names:
        ours, tolerance = result_of(named(base, f"{where}-{name}")), 1e-4 if name == "float32" else 1e-8
        assert len(ours["losses"]) == 50
        for kind in ("losses", "val"):
            assert largest_difference(ours[kind], alone[name][kind]) <= tolerance, f"{where} {name} {kind}"


def test_two_ranks_train_what_one_process_trains(base, alone, two_ranks):
    "With DDP and with FSDP: 1e-8 in float64, 1e-4 in float32, which sums in another order."
    for where in ("ddp2", "fsdp2"):
        assert_equal(base, where, alone, *EQUAL)


def test_four_ranks_train_it_too_and_take_over_the_parts_of_two(base, alone, half):
    resumed = copied(half, "resumed4")
    float64, _, float32, _ = equal(base, "ddp4")
    process = launch(4, float64, float32, resumed)
    assert process.returncode == 0, process.stderr
    assert_equal(base, "ddp4", alone, "float64", "float32")
    assert_goes_on(result_of(resumed), alone)


def assert_goes_on(resumed: dict, alone: dict[str, dict], done: int = 25, name: str = "float64"):
    assert largest_difference(resumed["losses"], alone[name]["losses"][done:]) <= 1e-8
    assert abs(resumed["val"][-1] - alone[name]["val"][-1]) <= 1e-8


def test_one_rank_is_one_process_and_takes_over_the_parts_of_two(base, alone, half):
    config, resumed = equal(base, "ddp1")[0], copied(half, "resumed1")
    process = launch(1, config, resumed)
    assert process.returncode == 0, process.stderr
    assert (
        result_of(config)["losses"] == alone["float64"]["losses"]
        and result_of(config)["val"] == alone["float64"]["val"]
    )
    assert_goes_on(result_of(resumed), alone)


@contextmanager
def group_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        time.sleep(0.1)
        dist.destroy_process_group()


def test_an_average_that_begins_later_begins_with_the_weights_of_the_parts(base):
    "With a checkpoint of a sharded run that kept none."
    config = named(base, "averageless", ema=0.0, strategy="fsdp", max_iters=2, eval_interval=2)
    with group_of_one():
        train(config, progress=False)
        resumed = start_run(replace(config, ema=0.9, resume="auto"))
        for mean, weight in zip(resumed.average.module.parameters(), resumed.model.parameters(), strict=True):
            assert torch.equal(full_tensor(mean), full_tensor(weight))


@pytest.mark.parametrize("name", ["os.system", "metadata.os.system"])
def test_the_plan_of_parts_runs_no_code(half, tmp_path, name):
    module, _, function = name.partition(".")
    module = "torch.distributed.checkpoint.metadata" if module == "metadata" else module
    folder = tmp_path / "stranger.dcp"
    shutil.copytree(Path(half.out_dir, "ckpt.dcp"), folder)
    code = f"\x80\x04\x8c{chr(len(module))}{module}\x8c{chr(len(function))}{function}\x93\x8c\x04true\x85R."
    (folder / ".metadata").write_bytes(code.encode("latin1"))
    with pytest.raises(ValueError, match=rf"no checkpoint of torch's: .metadata \(.*{function}\)"):
        read_plan(folder)


def test_one_process_takes_over_the_parts_of_two(half, alone):
    resumed = copied(half, "resumed0", strategy="ddp")
    assert_goes_on(run(resumed), alone)
    assert {path.name for path in Path(resumed.out_dir).glob("ckpt*")} == {"ckpt.pt", "ckpt-1.pt"}, (
        "from now on as one file"
    )


def test_muons_state_is_cut_up_and_put_together_again(base, half, alone):
    muon = {"strategy": "ddp", "optimizer": "muon"}
    assert_goes_on(run(copied(replace(half, out_dir=f"{half.out_dir}-muon"), "muon0", **muon)), alone, name="muon")
    with pytest.raises(ValueError, match="does not fit this run .*momentum_buffer.*init_from="):
        run(copied(half, "other-optimizer", **muon))


def test_two_ranks_take_over_or_say_why_not(base, half, alone):
    resumed = copied(half, "resumed2", strategy="ddp")  # the parts, put together on every rank
    switched = copied(named(base, "ddp2-float64"), "switched", strategy="fsdp", resume="auto", max_iters=60)
    unequal = named(base, "unequal", gradient_accumulation_steps=3)
    apart = named(base, "apart{rank}", resume="auto")
    copied(half, "apart1")
    process = launch(2, resumed, switched, unequal, apart)
    assert process.returncode == 0, process.stderr
    assert_goes_on(result_of(resumed), alone)
    folder = Path(base.out_dir).parent
    for name, message in (
        (
            "switched",
            "ckpt.pt is of a run with strategy='ddp'; go on with that; or start from its weights: init_from=",
        ),
        (
            "unequal",
            "2 ranks cannot share gradient_accumulation_steps=3 .* batch_size=1 and gradient_accumulation_steps=6",
        ),
        ("apart", "the ranks would go on from different checkpoints .* must be a folder that all of them share"),
    ):
        errors = errors_of(folder, name)
        assert len(errors) == 2 and all("\n" not in error for error in errors), name
        for error in errors:
            with pytest.raises(ValueError, match=message):
                raise ValueError(error)


def test_a_damaged_part_sends_a_run_back_to_the_checkpoint_before(half, alone):
    damaged = copied(half, "damaged", strategy="ddp")
    part = sorted(Path(damaged.out_dir, "ckpt.dcp").glob("__1_*.distcp"))[0]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.warns(
        UserWarning,
        match=f"its part {part.name} has changed; use another checkpoint; going on from .*ckpt-1.dcp, iteration 20",
    ):
        assert_goes_on(run(damaged), alone, done=20)


def test_parts_without_run_pt_are_no_checkpoint(half):
    unfinished = copied(half, "unfinished")
    Path(unfinished.out_dir, "ckpt.dcp", "run.pt").unlink()
    with warnings.catch_warnings(action="error"):
        path, checkpoint = latest_checkpoint(unfinished.out_dir)
    assert (path.name, checkpoint["iter_num"]) == ("ckpt-1.dcp", 20)


def test_the_best_weights_of_a_model_that_was_cut_up_are_a_model(half):
    checkpoint = read_checkpoint(Path(half.out_dir) / "best.dcp")
    batches = list(all_batches(TokenDataset(half.data_dir, "val"), half.batch_size, half.model.block_size))[
        : half.eval_windows // half.batch_size
    ]
    assert abs(evaluate(model_from_checkpoint(checkpoint), batches) - checkpoint["best_val_loss"]) < 1e-12
    model, tokenizer = load(half.out_dir)
    assert tokenizer is not None and torch.equal(
        model.lm_head.weight, checkpoint["model"]["lm_head.weight"].float()
    )
    begun = named(half, "begun", init_from=f"{half.out_dir}/ckpt.dcp", resume="never", max_iters=1, strategy="ddp")
    assert run(begun)["val"][0] == pytest.approx(checkpoint["best_val_loss"], abs=0.1), "weights of parts start a run"


def test_recomputed_activations_change_nothing(base, two_ranks):
    assert result_of(named(base, "recomputed"))["losses"] == result_of(named(base, "ddp2-float64"))["losses"]


def test_bfloat16_trains_cut_up(base, two_ranks):
    result = result_of(named(base, "bfloat16"))
    assert result["val"][-1] < result["val"][0] - 0.3


def test_an_overflow_of_float16_lowers_the_scale_and_training_goes_on(base, two_ranks):
    result = result_of(named(base, "float16"))
    assert 1 < result["rows"][-1]["scale"] < 2.0**30 and result["val"][-1] < result["val"][0] - 0.2


def test_a_killed_rank_is_started_again_and_nothing_is_lost(base, two_ranks):
    "SIGKILL at iteration 40, whose checkpoint is not written yet."
    config = named(base, "killed", dropout=0.1)
    process = launch(2, config, on_eval="killed_once", options=("--max-restarts", "2"))
    assert process.returncode == 0, process.stderr
    undisturbed, result = result_of(named(base, "ddp-dropout")), result_of(config)
    assert result["losses"] == undisturbed["losses"][20:] and result["val"] == undisturbed["val"]
    assert [row.get("restarts") for row in result["rows"]] == [0, 0, 1, 1]
    ours, theirs = (
        load_checkpoint(Path(base.out_dir).with_name(name) / "ckpt.pt") for name in ("killed", "ddp-dropout")
    )
    assert all(torch.equal(tensor, theirs["model"][name]) for name, tensor in ours["model"].items())


def test_a_model_that_is_cut_up_writes_what_it_would_write_whole(base, two_ranks):
    alone, ranks = watched(base, "ddp"), watched(base, "fsdp")
    run(alone, look)
    texts = [
        [path.read_text(encoding="utf-8") for path in sorted(Path(config.out_dir, "samples").iterdir())]
        for config in (alone, ranks)
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 2 and len(set(texts[0])) == 2


@pytest.mark.skipif(not COMPILER, reason="torch.compile on a CPU needs a C++ compiler")
def test_the_blocks_of_a_model_that_is_cut_up_are_compiled(base, alone, two_ranks):
    "All blocks share one graph, and no step makes another. (The average, which is evaluated, is not compiled.)"
    result = result_of(named(base, "compiled"))
    assert largest_difference(result["losses"], alone["float64"]["losses"]) <= 1e-8
    assert result["rows"][0]["graphs"] == result["rows"][-1]["graphs"] == 1


def test_a_model_to_be_cut_up_is_built_without_memory_and_with_the_weights_of_one_process(base, monkeypatch):
    places = []

    def noting(model, *rest, **options):
        places.append(next(model.parameters()).device.type)
        return parallelize(model, *rest, **options)

    monkeypatch.setattr("nanogpt.start.parallelize", noting)
    config = named(base, "unborn", optimizer="muon")
    whole = start_run(config)
    with group_of_one():
        cut = start_run(replace(config, strategy="fsdp"))
        assert places == ["cpu", "meta", "meta"], "the model, and its average"
        assert cut.model.lm_head.weight is cut.model.transformer.wte.weight
        for parts, theirs in ((cut.model, whole.model), (cut.average.module, whole.average.module)):
            for part, tensor in zip(parts.parameters(), theirs.parameters(), strict=True):
                assert torch.equal(full_tensor(part), tensor)


def test_each_rank_checks_its_share_of_the_parts(half, monkeypatch):
    folder, checked = Path(half.out_dir, "ckpt.dcp"), []
    monkeypatch.setattr("nanogpt.sharded.sha256_of", lambda path: checked.append(path.name) or sha256_of(path))
    for rank in (0, 1):
        monkeypatch.setattr("nanogpt.sharded.rank_and_size", lambda rank=rank: (rank, 2))
        check_sharded(folder)
    assert sorted(checked) == sorted(path.name for path in folder.iterdir() if path.name != "run.pt")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the limit is Linux's")
@pytest.mark.parametrize("strategy", ["fsdp", "ddp"])
def test_a_model_that_no_rank_could_hold_is_trained(base, strategy):
    """Two ranks have room for their halves of weights, gradients and moments, twice the model's size together, and
    for less than one more copy of it. Whole on each rank it does not fit.
    """
    shape = {"n_layer": 24, "n_head": 8, "n_embd": 384}
    size = 4 * sum(count_params(dataclasses.replace(base.model, **shape, vocab_size=64)).values())
    changes = {"strategy": strategy, "dtype": "float32", "ema": 0.0, "max_iters": 1, "eval_windows": 2}
    small, large = (named(base, f"{name}-{strategy}", **changes) for name in ("small", "large"))
    process = launch(2, small, replace(large, **shape, keep=1), room=int(ROOM * size))
    errors = errors_of(Path(base.out_dir).parent, f"large-{strategy}")
    if strategy == "fsdp":
        assert process.returncode == 0 and not errors, (errors, process.stderr)
        first, last = result_of(large)["val"]
        assert last < first
    else:
        assert result_of(small)["val"], "which has room"
        said = " ".join([*errors, process.stderr])
        assert not Path(f"{large.out_dir}.json").exists() and ("memory" in said or "bad_alloc" in said)


@pytest.mark.parametrize("on_eval, strategy", [("die", "ddp"), ("die", "fsdp"), ("hang", "ddp")])
def test_all_ranks_end_when_one_does_not_answer(base, on_eval, strategy):
    "Within 60 s, most of which is torchrun's; the rank that is left says in one line what happened and what to do."
    config = named(base, f"{on_eval}-{strategy}", timeout=5.0 if on_eval == "hang" else 600.0, strategy=strategy)
    process = launch(2, config, on_eval=on_eval, timeout=60)
    assert process.returncode == 1
    said = [line for line in process.stderr.splitlines() if line.startswith("nanogpt: ")]
    assert len(said) == 1 and said[0].endswith(
        f"start again with resume='auto': the last checkpoint is in {config.out_dir}"
    ), process.stderr
    assert said[0].startswith(f"nanogpt: rank 0: another rank died, or did not answer for {config.timeout:g} s (")
    assert (
        load_checkpoint(
            Path(config.out_dir) / "ckpt.pt" if strategy == "ddp" else Path(config.out_dir) / "ckpt.dcp" / "run.pt"
        )["iter_num"]
        == 0
    )


def test_sigterm_to_torchrun_saves_on_all_ranks(base, two_ranks):
    config = named(base, "stopped", dropout=0.1, strategy="fsdp", resume="auto")
    process = launch(2, config, on_eval="stop_torchrun")
    assert process.returncode != 0 and "stopped by SIGTERM at iteration" in process.stdout, process.stderr
    done = latest_checkpoint(config.out_dir)[1]["iter_num"]
    assert 20 <= done < 50
    stopped = result_of(config)
    process = launch(2, config)
    assert process.returncode == 0, process.stderr
    undisturbed, resumed = result_of(named(base, "fsdp-dropout")), result_of(config)
    assert stopped["losses"] + resumed["losses"] == undisturbed["losses"] and resumed["val"] == undisturbed["val"]
