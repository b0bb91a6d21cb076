"""The benchmarks compare equal work and report it right. No test judges a time or a ratio of times."""
import json
import re
import statistics
import sys
from datetime import date

import numpy as np
import pytest
import torch

from nanogpt import benchmarks
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
from nanogpt.data import Sampler, TokenDataset
from nanogpt.prepare import prepare

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
        assert rows[name] == Row(name, middle, min(times), 12 / middle, 4.0 / middle)
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
    assert lines[2].split() == ["old", "200", "200", "5,000", "1.00×"]
    assert lines[3].split()[3:] == ["0.00123", "0.00123", "810,005,184", "162001.04×"]
    save_benchmarks([benchmark], tmp_path / "kept.json")
    [kept] = json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))["benchmarks"]
    assert Benchmark(**{**kept, "rows": [Row(**row) for row in kept["rows"]]}) == benchmark


def test_batches_from_the_command_line(nanogpt, tmp_path):
    done = nanogpt("bench", "batches", "--rounds", 1, "--out", "kept/figures.json")
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
    _, own, _ = benchmarks._in_a_process(benchmarks._prepare_measured, 0.1, str(tokenizer_path), 1)
    assert own < ballast.nbytes / 1e6


@pytest.mark.skipif(sys.platform == "win32", reason="reads peak memory through `resource`")
def test_a_failed_process_is_one_line(capfd):
    message = r"_prepare_measured\(0.1, 'absent', 1\) failed \(.*unknown tokenizer 'absent'.*\); free memory"
    with pytest.raises(OSError, match=message):
        benchmarks._in_a_process(benchmarks._prepare_measured, 0.1, "absent", 1)
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
    assert [row.name for row in decode.rows][0] == "nanoGPT's way" and len(decode.rows) == 5
    assert "tokens/s" in decode.notes["limit by bandwidth"]
    assert len(decode.notes["shares of it"].split(", generate")) == 3, "8-bit weights have another limit"
    [loss] = bench_loss(n_layer=1, loss_chunk=8, batch_size=1, block_size=16, rounds=1)
    assert len(loss.rows) == 2
    assert re.search(r"MB with all logits at once, [\d,]+ MB in chunks", loss.notes["peak memory"])


def test_saving_is_measured_both_ways():
    (result,) = bench_save(n_layer=1, n_embd=16, rounds=1)
    assert [row.name for row in result.rows] == ["training waits", "in the background"] and result.unit == "MB"
    assert "longest pause" in result.notes and "while a save is written" in result.notes["median step"]
