"""What more than one test needs: a tiny run, and the command line in a process of its own."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import child
import hypothesis
import pytest
import torch

from nanogpt.config import GPTConfig
from nanogpt.corpus import tales
from nanogpt.model import GPT
from nanogpt.prepare import prepare
from nanogpt.recipe import TrainConfig, config_from_dict
from nanogpt.start import Run
from nanogpt.tokenizer import CharTokenizer

root = Path(__file__).parent.parent


def copy_clone(folder: Path) -> set[str]:
    "Copy this clone as it is now, without what git ignores; returns the files' names."
    if not shutil.which("git") or not (root / ".git").exists():
        pytest.skip("needs git, and a clone")
    list_files = ["git", "ls-files", "-coz", "--exclude-standard"]
    listed = subprocess.check_output(list_files, cwd=root, encoding="utf-8").split("\0")
    names = {name for name in listed if (root / name).is_file()}
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, folder / name)
    return names


def replace(config: TrainConfig, **changes) -> TrainConfig:
    "Another description: `dataclasses.replace` that reaches the model's fields too, as the command line does."
    return config_from_dict(changes, config)


TINY = TrainConfig(
    GPTConfig(block_size=32, vocab_size=0, n_layer=2, n_head=2, n_embd=16, dropout=0.1, bias=False),
    batch_size=4,
    max_iters=20,
    warmup_iters=2,
    eval_interval=5,
    eval_windows=8,
    device="cpu",
)


class Intruder:
    "A pickle of it makes a folder when it is read."

    def __reduce__(self):
        return (os.mkdir, ("intruded",))


def larger_weights(config: GPTConfig) -> GPT:
    "A model in eval mode, with weights large enough that positions, heads and n-grams matter."
    model = GPT(config, torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("ngrams.weight"):  # zeros
                p.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
            p.mul_(5 if p.dim() == 2 and not name.endswith("lm_head.weight") else 1)
    return model


def prepare_tales(folder: Path):
    "A few tales as ids."
    corpus = tales(count=60)
    prepare(corpus, CharTokenizer.from_text(corpus.documents(), corpus.end), folder, val_fraction=0.2)


@pytest.fixture
def tiny(tmp_path) -> TrainConfig:
    "A run of seconds on a few tales, in a folder of its own."
    prepare_tales(tmp_path / "data")
    return replace(TINY, data_dir=str(tmp_path / "data"), out_dir=str(tmp_path / "out"))


FORKS = "forkserver" in multiprocessing.get_all_start_methods()
if FORKS:
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(["nanogpt.train", "nanogpt.hub", "nanogpt.watch", "torch._dynamo"])


@pytest.fixture
def nanogpt(tmp_path, tmp_path_factory):
    """Run the `nanogpt` command in an empty folder; returns the finished process with its output as text.

    Importing torch takes most of the time of most commands, so it is done once, unless the environment is another.
    """

    def run(*args, **options) -> subprocess.CompletedProcess:
        args, given = [*map(str, args)], options.pop("env", None)
        if FORKS and given is None and set(options) <= {"input"}:
            folder = tmp_path_factory.mktemp("streams")
            streams = [str(folder / name) for name in ("stdin", "stdout", "stderr")]
            Path(streams[0]).write_text(options.get("input", ""), encoding="utf-8")
            process = forking.Process(target=child.command, args=(args, str(tmp_path), streams))
            process.start()
            process.join(300)
            assert process.exitcode is not None, f"{args} is still running after 300 s"
            out, err = (Path(stream).read_text(encoding="utf-8") for stream in streams[1:])
            return subprocess.CompletedProcess(args, process.exitcode, out, err)
        command = [sys.executable, "-c", "import sys; from nanogpt.cli import main; sys.exit(main())", *args]
        environment = {**os.environ, "COLUMNS": "200", **(given or {})}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=300, **options
        )

    return run


def assert_overflow_is_survived(run: Run):
    "Of a float16 run, on any device."
    run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": 2.0**40})
    before = run.model.lm_head.weight.clone()
    run.step()
    assert run.scaler.get_scale() == 2.0**39 and torch.equal(run.model.lm_head.weight, before), (
        "the step is left out, the scale halved"
    )
    run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": 2.0**10})
    losses = [run.step()[0] for _ in range(20)]
    assert losses[-1] < losses[0]


TINY_FLAGS = ["--ngram-orders", "--positions=learned", "--tied"] + [  # GPT-2's parts, which can be exported
    flag
    for kind in (TINY.model, TINY)
    for field in fields(kind)
    for flag in (f"--{field.name.replace('_', '-')}", str(getattr(kind, field.name)))
    if field.name
    in (
        "block_size",
        "n_layer",
        "n_head",
        "n_embd",
        "batch_size",
        "max_iters",
        "warmup_iters",
        "eval_interval",
        "eval_windows",
    )
]

hypothesis.settings.register_profile("nanogpt", deadline=None)  # a shared machine may pause; no test judges time
hypothesis.settings.load_profile("nanogpt")
