"""The benchmarks compare equal work and report it right. No test judges a time or a ratio of times."""
import json
import os
import re
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch

from nanogpt import benchmarks, ladder, speedrun
from nanogpt.bench import (
    Benchmark,
    Row,
    machine,
    reopening_batch,
    report,
    save_benchmarks,
    side_by_side,
    to_rows,
)
from nanogpt.benchmarks import (
    bench_bpe,
    bench_decode,
    bench_loss,
    bench_prepare,
    bench_save,
    repeated_stdlib,
    some_text,
)
from nanogpt.bpe import train_bpe
from nanogpt.cli import main
from nanogpt.config import GPTConfig
from nanogpt.corpus import text_files
from nanogpt.data import Sampler, TokenDataset
from nanogpt.ladder import BASE, bench_ladder, climb, compare, crossing, plot_ladder
from nanogpt.prepare import prepare
from nanogpt.profiling import bench_scaling, bench_step, in_a_process, ranks_measured
from nanogpt.recipe import TrainConfig
from nanogpt.speedrun import bench_time_to_loss, train_timed

TEXT = "the cat sat on the mat, and the dog ran after the cat. " * 40


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory):
    "A small byte-pair encoding, saved."
    path = tmp_path_factory.mktemp("bench") / "bpe.json"
    train_bpe(TEXT, 275, ["<|endoftext|>"]).save(path)
    return path


def test_medians_and_ratios():
    seconds = {"base": [4.0, 1.0, 100.0], "fast": [2.0, 0.5, 1.0, 0.25], "slow": [8.0]}
    rows = {row.name: row for row in to_rows(seconds, work=12, base="base")}
    assert list(rows) == list(seconds)
    for name, times in seconds.items():
        middle = statistics.median(times)
        assert rows[name] == Row(name, middle, min(times), max(times), 12 / middle, 4.0 / middle)
    assert (rows["base"].ratio, rows["fast"].ratio, rows["slow"].ratio) == (1, 4 / 0.75, 0.5)
    assert to_rows(seconds, work=12) == list(rows.values()), "the first is the base unless another is named"
    assert [row.ratio for row in to_rows(seconds, 12, base="slow")] == [2, 8 / 0.75, 1]


def test_turns():
    order = []
    contenders = {name: lambda name=name: order.append(name) for name in "AB"}
    seconds = side_by_side(contenders, rounds=3)
    assert "".join(order) == "ABABABAB"
    assert all(len(times) == 3 and min(times) >= 0 for times in seconds.values())
    order.clear()
    side_by_side(contenders, rounds=2, warm_up=False)
    assert "".join(order) == "ABAB"
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        side_by_side(contenders, rounds=0)


def test_a_report_has_all_figures(tmp_path):
    rows = to_rows({"old": [200.0], "a new way": [0.00123456]}, work=1e6, base="old")
    benchmark = Benchmark("some work", "tokens", rows, {"memory": "3 MB"})
    lines = report(benchmark).splitlines()
    assert lines[0] == "some work" and lines[-2:] == ["memory: 3 MB", machine()]
    assert lines[2].split() == ["old", "200", "200", "200", "5,000", "1.00×"]
    assert lines[3].split()[3:] == ["0.00123", "0.00123", "0.00123", "810,005,184", "162001.04×"]
    save_benchmarks([benchmark], tmp_path / "kept.json")
    [kept] = json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))["benchmarks"]
    assert Benchmark(**{**kept, "rows": [Row(**row) for row in kept["rows"]]}) == benchmark


def test_batches_from_the_command_line(nanogpt, tmp_path):
    done = nanogpt("bench", "batches", "--rounds", 1, "--json", "kept/figures.json")
    assert done.returncode == 0, done.stderr
    assert "median s" in done.stdout and "tokens/s" in done.stdout and "ratio" in done.stdout
    for name in ("nanoGPT's way", "random windows", "epochs"):
        assert re.search(rf"^{name} .* [\d.]+×$", done.stdout, re.M)
    figures = json.loads((tmp_path / "kept" / "figures.json").read_text(encoding="utf-8"))
    [kept] = figures["benchmarks"]
    assert re.search(r"^\d+ cores of .+, Python 3\.", kept["machine"])
    assert f"torch {torch.__version__}" in kept["machine"]
    assert re.search(r"\d{4}-\d\d-\d\d$", kept["machine"]) and kept["machine"] in done.stdout
    assert len(kept["rows"]) == 3 and kept["rows"][0]["ratio"] == 1 and figures["nanogpt"]
    assert figures["command"] == "nanogpt bench batches --rounds=1"


def test_all_ways_draw_right_windows(tmp_path):
    np.arange(5000, dtype=np.uint16).tofile(tmp_path / "train.bin")
    data = TokenDataset(tmp_path)
    samplers = [Sampler(data, 50, 32), Sampler(data, 50, 32, epochs=True)]
    for x, y in (reopening_batch(tmp_path / "train.bin", 50, 32), *map(next, samplers)):
        assert x.dtype == y.dtype == torch.int64 and len(x[:, 0].unique()) > 40
        assert torch.equal(x, x[:, :1] + torch.arange(32)) and torch.equal(y, x + 1)
        assert 0 <= x.min() and y.max() < 5000


def test_both_sides_of_prepare_make_the_same_ids(tmp_path):
    tokenizer, corpus = train_bpe(TEXT, 275), repeated_stdlib(1)
    documents = list(corpus.documents())
    assert 1e6 <= sum(map(len, documents)) < 1e6 + len(documents[-1]) and len(set(documents)) == len(documents)
    splits = prepare(corpus, tokenizer, tmp_path, val_fraction=0.9, workers=1)["splits"].values()
    encoded = tokenizer.encoding.encode_ordinary_batch(documents)
    assert sum(split["tokens"] for split in splits) == sum(map(len, encoded))


@pytest.mark.skipif(sys.platform == "win32", reason="reads peak memory through `resource`")
@pytest.mark.parametrize("workers", [1, 2])
def test_prepare(workers, tokenizer_path):
    [result] = bench_prepare(1, str(tokenizer_path), workers, rounds=1)
    assert [row.name for row in result.rows] == ["tiktoken encode_ordinary_batch", "prepare"]
    assert "1 MB of Python" in result.title
    note = result.notes["peak memory of prepare"]
    largest_worker = r", [\d,]+ MB in the largest worker" * (workers > 1)
    assert re.fullmatch(r"[\d,]+ MB in the parent process" + largest_worker, note)
    assert all(10 < int(number.replace(",", "")) < 5000 for number in re.findall(r"[\d,]+(?= MB)", note))


@pytest.mark.skipif(sys.platform == "win32", reason="reads peak memory through `resource`")
def test_peak_memory_is_that_of_prepare_alone(tokenizer_path):
    "What this process holds is not counted."
    ballast = np.ones(100_000_000)  # 800 MB
    _, own, _ = in_a_process("benchmarks._prepare_measured", 0.1, str(tokenizer_path), 1)
    assert own < ballast.nbytes / 1e6


@pytest.mark.skipif(sys.platform == "win32", reason="reads peak memory through `resource`")
def test_a_failed_process_is_one_line(capfd):
    message = r"_prepare_measured\(0.1, 'absent', 1\) failed \(.*unknown tokenizer 'absent'.*\); free memory"
    with pytest.raises(OSError, match=message):
        in_a_process("benchmarks._prepare_measured", 0.1, "absent", 1)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"megabytes": 0}, "megabytes must be a positive number, got 0"),
        ({"megabytes": float("nan")}, "megabytes must be a positive number, got nan"),
        ({"tokenizer": "byte"}, "tiktoken cannot encode like tokenizer 'byte'"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="reads peak memory through `resource`")
def test_prepare_refuses(arguments, message, tokenizer_path):
    with pytest.raises(ValueError, match=message):
        bench_prepare(**{"megabytes": 1, "tokenizer": str(tokenizer_path), "rounds": 1, **arguments})


def test_missing_libraries_are_one_line(monkeypatch, capsys, tokenizer_path):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    monkeypatch.setitem(sys.modules, "resource", None)
    with pytest.raises(ImportError, match=r"needs tokenizers; run `pip install 'nanogpt\[hf\]'`$"):
        bench_bpe()
    with pytest.raises(ImportError, match="run it on Linux, macOS or in WSL"):
        bench_prepare(1, str(tokenizer_path))
    assert main(["bench", "bpe"]) == 1
    needs = "the benchmark of byte-pair encoding needs tokenizers; run `pip install 'nanogpt[hf]'`"
    assert capsys.readouterr().err == f"nanogpt: error: {needs}\n"


def test_bpe_trains_equally_large_vocabularies():
    pytest.importorskip("tokenizers")
    huggingface = benchmarks._huggingface_trainer(275)(TEXT)
    assert huggingface.get_vocab_size() == train_bpe(TEXT, 275).vocab_size == 275
    against_peer, against_naive = bench_bpe(vocab_size=275, naive_vocab_size=265, rounds=1, text=TEXT)
    assert [row.name for row in against_peer.rows] == ["Hugging Face tokenizers", "train_bpe"]
    assert [row.name for row in against_naive.rows] == ["train_bpe_naively", "train_bpe"]
    assert against_peer.rows[0].ratio == against_naive.rows[0].ratio == 1
    assert f"{len(TEXT) / 1e6:.3g} MB" in against_peer.title and str(date.today().year) in against_peer.machine


def test_text_without_the_network(monkeypatch):
    def offline():
        raise OSError("no network")

    monkeypatch.setattr(benchmarks, "shakespeare", offline)
    assert len(some_text()) == 1_115_394


@pytest.mark.parametrize("bench", [bench_decode, bench_loss, bench_save])
def test_bad_counts_are_named_before_any_work(bench):
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        bench(rounds=0)


def test_decode_and_loss_report():
    pytest.importorskip("transformers")
    shape = GPTConfig(block_size=32, vocab_size=50, n_layer=1, n_head=2, n_embd=16)
    [decode] = bench_decode(shape, new_tokens=4, rounds=1)
    names = ["nanoGPT's way", "transformers generate", "generate", "generate, 8-bit weights"]
    assert [row.name for row in decode.rows] == names
    assert "tokens/s" in decode.notes["limit by bandwidth"]
    rates, shares = [row.rate for row in decode.rows], decode.figures["share_of_bandwidth"]
    speeds = [rate / share for rate, share in zip(rates, shares.values(), strict=True)]
    assert speeds == pytest.approx([speeds[0]] * 3 + [4 * speeds[0]]), "8-bit weights have another limit"
    assert decode.figures["against_transformers"]["generate"] == rates[2] / rates[1]
    [loss] = bench_loss(n_layer=1, loss_chunk=8, batch_size=1, block_size=16, rounds=1)
    assert len(loss.rows) == 2
    assert re.search(r"MB with all logits at once, [\d,]+ MB in chunks", loss.notes["peak memory"])


def test_saving_is_measured_both_ways():
    (result,) = bench_save(n_layer=1, n_embd=16, rounds=1)
    assert [row.name for row in result.rows] == ["training waits", "in the background"] and result.unit == "MB"
    assert "longest pause" in result.notes and "while a save is written" in result.notes["median step"]


THEIR_TRAIN = """
import os, sys, torch
from nanogpt import GPT, GPTConfig
options = dict(part.removeprefix("--").split("=") for part in sys.argv[2:])
assert sys.argv[1] == "config/train_shakespeare_char.py" and options["always_save_checkpoint"] == "True"
assert options["n_embd"] == "128" and options["device"] == "cpu" and options["compile"] == "False"
last, every = int(options["max_iters"]), int(options["eval_interval"])
for i in range(last + 1):
    print(f"iter {i}: loss 3.1, time {5000 if i % every == 0 else 10}.00ms, mfu 0.01%")
shape = dict(n_layer=1, n_head=1, n_embd=8, block_size=16, bias=False, vocab_size=30, dropout=0.0)
model = GPT(GPTConfig(**shape, mlp="gelu_exact"))
os.makedirs("out-shakespeare-char", exist_ok=True)
torch.save({"model": model.state_dict(), "model_args": shape}, "out-shakespeare-char/ckpt.pt")
"""
THEIR_PREPARE = """
import numpy as np
text = open("data/shakespeare_char/input.txt").read()
ids = np.array([sorted(set(text)).index(c) for c in text], dtype=np.uint16)
ids[-len(ids) // 10 :].tofile("data/shakespeare_char/val.bin")
"""


@pytest.fixture
def small_shakespeare(tmp_path, monkeypatch):
    "A few kilobytes instead of Tiny Shakespeare, a tiny recipe of ours, and a folder that looks like nanoGPT's."
    (tmp_path / "plays.txt").write_text(5 * TEXT, encoding="utf-8")
    shape = GPTConfig(block_size=16, vocab_size=0, n_layer=1, n_head=1, n_embd=16, init_std=0.2)
    config = TrainConfig(
        shape, corpus=str(tmp_path / "plays.txt"), device="cpu", batch_size=8, max_iters=40, learning_rate=0.02
    )
    monkeypatch.setattr(speedrun, "shakespeare", lambda: text_files(tmp_path / "plays.txt"))
    monkeypatch.setattr(speedrun, "get_preset", lambda name: config)
    monkeypatch.setattr(speedrun, "LINE", 2.9)
    monkeypatch.setattr(ladder, "BASE", config)
    for name in speedrun._FILES:
        path = tmp_path / "theirs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text({"train.py": THEIR_TRAIN, "prepare.py": THEIR_PREPARE}.get(path.name, ""), encoding="utf-8")
    return tmp_path / "theirs"


def test_time_to_loss(small_shakespeare, tmp_path, capsys):
    [result] = bench_time_to_loss(str(small_shakespeare), rounds=2, iterations=10)
    theirs, ours, plain = result.rows
    assert theirs.seconds == pytest.approx(0.09), "iterations 1 to 9: the others evaluate"
    save_benchmarks([result], tmp_path / "kept.json")
    kept = json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))
    assert kept["nanogpt_seconds"] == theirs.seconds and kept["seeds"] == [1337, 1338]
    assert kept["ratio"] == theirs.seconds / ours.seconds and kept["ratio_plain"] == theirs.seconds / plain.seconds
    assert kept["nanogpt_loss"] == pytest.approx(np.log(30), abs=0.2) and not kept["nanogpt_reached"]
    for name, curves in kept["curves"].items():
        for curve, seconds in zip(curves, kept["seconds"][name], strict=True):
            assert [iteration for iteration, *_ in curve] == [10, 20, 30, 40]
            assert seconds == next(spent for _, spent, loss in curve if loss <= 2.9)
    assert kept["loss_in_nanogpts_time"] > 0 and kept["long_run"]["iterations"] >= 1
    assert "its whole run counts" in report(result)
    assert capsys.readouterr().err.count("round 2 of 2") == 3
    assert not list(small_shakespeare.glob("out*")), "only a copy is used"


def test_time_to_loss_refuses(small_shakespeare, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there is no train.py in absent; clone https://github"):
        bench_time_to_loss("absent")
    with pytest.raises(ValueError, match="rounds must be at least 1 and iterations 3, got rounds=1 and iterations=2"):
        bench_time_to_loss(str(small_shakespeare), rounds=1, iterations=2)
    monkeypatch.setattr(speedrun, "LINE", 0.01)
    with pytest.raises(ValueError, match=r"speedrun-cpu ended at \d\.\d+, mostly above 0.01: there is no time"):
        bench_time_to_loss(str(small_shakespeare), rounds=1, iterations=3)
    (small_shakespeare / "train.py").write_text("raise RuntimeError('no torch')", encoding="utf-8")
    monkeypatch.setattr(speedrun, "LINE", 9.0)
    with pytest.raises(OSError, match=r"nanoGPT's train.py failed \(RuntimeError: no torch\)"):
        bench_time_to_loss(str(small_shakespeare), rounds=1, iterations=3)


def test_evaluations_do_not_disturb_a_timed_run(tiny):
    "However often it is evaluated, the run is the same."
    often, once = (train_timed(tiny, every) for every in (5, tiny.max_iters))
    assert len(often) == 4 and len(once) == 1 and often[-1][2] == once[-1][2]


def test_rungs_add_up():
    assert len(climb(BASE, ladder.RUNGS)) == len(ladder.RUNGS), "each can be built"
    configs = climb(BASE, {"a": {"norm": "rms"}, "b": {"n_layer": 2, "learning_rate": 0.5}})
    assert configs["b"].model.norm == "rms" and configs["b"].model.n_layer == 2 and configs["a"].model.n_layer == 4
    assert BASE.model.norm == "layer", "unchanged"
    with pytest.raises(ValueError, match="c: unknown nrom"):
        climb(BASE, {"c": {"nrom": "rms"}})


def test_ladder(small_shakespeare, monkeypatch):
    monkeypatch.setattr(ladder, "RUNGS", {"base": {}, "worse": {"learning_rate": 1e-4}, "not counted": {}})
    [result] = bench_ladder(iterations=20, seeds=2, rungs=2, workers=2)
    base, worse = result.figures["rungs"]
    assert [row.name for row in result.rows] == ["base", "worse"] and result.figures["seeds"] == [1337, 1338]
    assert result.figures["line"] == max(base["losses"]) and base["reached"] == [True, True]
    assert worse["reached"] == [False, False] and "never got there" in result.notes["worse"]
    assert worse["loss_change"][0] > 0 and worse["changes"] == {"learning_rate": 1e-4}
    axes = plot_ladder(result.figures["rungs"])
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["base", "worse"]
    with pytest.raises(ValueError, match="seeds must be at least 2"):
        bench_ladder(seeds=1)


def test_pairs_cancel_luck():
    "Seeds differ by far more than rungs do, and the interval knows it."
    lucks = [0.0, 1.0, 3.0]
    ends = {"a": 4, "b": 3}
    curves = {name: [[(10, 2.0, 5 + luck), (20, 4.0, end + luck)] for luck in lucks] for name, end in ends.items()}
    line, (a, b) = compare(curves)
    assert line == 7 and b["losses"] == [3, 4, 6] and b["loss_change"] == pytest.approx((-1, -1, -1))
    assert crossing(line, curves["b"][2]) == 2 + 2 * (8 - 7) / (8 - 6)


THEIR_MODEL = """
import torch
from dataclasses import dataclass
from nanogpt import GPT as Ours, GPTConfig as Shape

@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool

class GPT(Ours):
    def __init__(self, config):
        super().__init__(Shape(**vars(config), mlp="gelu_exact"))
        print("number of parameters")

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        return torch.optim.AdamW(self.parameters(), learning_rate, betas, weight_decay=weight_decay)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="reads peak memory through `resource`")
def test_the_report_of_a_gpu_can_be_tried_without_one(tmp_path):
    script = Path(__file__).parents[1] / "scripts" / "gpu_report.py"
    done = subprocess.run(
        [sys.executable, script, "--dry-run"],
        env=os.environ | {"TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "gpu-dry-run.json").read_text(encoding="utf-8"))
    assert kept["tests"]["exit_status"] == 0 and kept["tests"]["skipped"] > 20
    assert kept["benchmarks"][0]["rows"][0]["name"] == "ours" and kept["shakespeare-char"]["seconds"] > 0


@pytest.mark.skipif(sys.platform == "win32", reason="reads peak memory through `resource`")
def test_step_in_parts(tmp_path, capsys):
    (tmp_path / "model.py").write_text(THEIR_MODEL, encoding="utf-8")
    trace = tmp_path / "trace.json"
    [result] = bench_step(str(tmp_path), rounds=1, shapes=((1, 2, 16, 8, 2),), profile=str(trace))
    assert "aten::mm" in trace.read_text(encoding="utf-8") and "ms, " in result.notes["slowest operations"]
    assert [row.name for row in result.rows] == ["nanoGPT", "ours"] and capsys.readouterr().out == ""
    figures = result.figures["step_1x16"]
    assert list(figures["parts"]["ours"]) == ["data", "forward", "backward", "clip", "optimizer"]
    assert all(seconds > 0 for parts in figures["parts"].values() for seconds in parts.values())
    assert figures["ratio"] == result.rows[1].ratio and all(0 < share < 2 for share in figures["mfu"].values())
    assert all(50 < used < 5000 for used in figures["megabytes"].values())
    with pytest.raises(FileNotFoundError, match="there is no model.py in absent; clone"):
        bench_step("absent")
    another = THEIR_MODEL.replace('mlp="gelu_exact"', "n_inner=7")
    (tmp_path / "model.py").write_text(another, encoding="utf-8")
    with pytest.raises(ValueError, match="they do not compare"):
        bench_step(str(tmp_path), rounds=1)


def test_scaling_counts_tokens():
    "Rows compare although their steps have different numbers of tokens."
    [result] = bench_scaling(rounds=1, scales={"batch_size": (1, 2)}, shapes=())
    assert [row.name for row in result.rows] == ["batch_size 1", "batch_size 2"]
    assert all(row.rate == pytest.approx(1000 / row.seconds) for row in result.rows)
    assert result.figures["mfu_batch_size"].keys() == {"batch_size 1", "batch_size 2"}
    assert ranks_measured(1, 5, 1, 2, 16, 8, 2) > 0
