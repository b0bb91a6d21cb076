"""Scaling laws: the fit finds what was put in, its minimum is that of another optimizer, and the grid is resumable."""
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nanogpt.crawl import SHARES, STAGES, bench_data_ladder, crawl, keep_likely, text_losses
from nanogpt.exercises.scaling import _CHINCHILLA
from nanogpt.grid import (
    BUDGETS,
    PLAYS_GRID,
    TALES_GRID,
    Trunk,
    WIDTHS,
    bench_scaling_laws,
    read_runs,
    run_grid,
    shape,
    sizes,
    tales_text,
    train_budgets,
    word_tales,
)
from nanogpt.model import GPT
from nanogpt.scaling import Law, bootstrap_laws, fit_law, frontier, huber, lowest_point, power_law
from nanogpt.tales import TALES, measure

root = Path(__file__).parent.parent
N, D = (grid.ravel() for grid in np.meshgrid(np.geomspace(5e3, 3e5, 7), np.geomspace(3e4, 2e6, 6)))


LAWS = Law(0.64, 40.0, 0.5, 300.0, 0.6), Law(1.7, 400.0, 0.34, 2000.0, 0.37), Law(0.1, 5.0, 1.0, 9.0, 0.2)


@pytest.mark.parametrize("true", LAWS)
def test_the_fit_recovers_constants(true):
    assert np.allclose(fit_law(N, D, true(N, D)), true, rtol=1e-3)


def test_a_known_floor_stays():
    true = LAWS[0]
    assert np.allclose(fit_law(N, D, true(N, D), floor=0.64), true, rtol=1e-3)
    assert fit_law(N, D, true(N, D), floor=0.5).E == pytest.approx(0.5, rel=1e-9)


def noisy():
    return LAWS[0](N, D) * np.exp(0.01 * np.random.default_rng(0).standard_normal(len(N)))


def test_no_better_minimum_by_scipy():
    optimize = pytest.importorskip("scipy.optimize")
    log_loss = np.log(noisy())

    def error(theta):
        a, alpha, b, beta, e = theta
        terms = np.stack([a - alpha * np.log(N), b - beta * np.log(D), np.full(len(N), e)])
        return huber(log_loss - np.logaddexp.reduce(terms), 1e-3).sum()

    law = fit_law(N, D, noisy())
    ours = error([math.log(law.A), law.alpha, math.log(law.B), law.beta, math.log(law.E)])
    starts = [[a, alpha, a, alpha, e] for a in (0, 5) for alpha in (0.3, 0.8) for e in (-1.0, 0.0)]
    theirs = min(optimize.minimize(error, start, method="L-BFGS-B").fun for start in starts)
    assert ours <= theirs * (1 + 1e-4)


def test_a_wild_run_does_not_drag_the_fit():
    true = LAWS[0]
    losses = true(N, D)
    losses[5] *= 2
    assert np.allclose(fit_law(N, D, losses), true, rtol=0.02)


def test_the_bootstrap_holds_the_truth():
    samples = [law.alpha for law in bootstrap_laws(N, D, noisy(), times=40)]
    assert np.percentile(samples, 2) < 0.5 < np.percentile(samples, 98)
    assert np.std(samples) > 0


def test_too_few_runs():
    with pytest.raises(ValueError, match="six runs, got 5"):
        fit_law(N[:5], D[:5], N[:5])


def test_growth_is_that_of_the_best_split():
    law, compute = _CHINCHILLA, np.array([1e20, 1e22])
    sizes = np.geomspace(1e7, 1e12, 20_001)
    best = [sizes[np.argmin(law(sizes, c / (6 * sizes)))] for c in compute]
    assert power_law(compute, np.array(best))[1] == pytest.approx(law.growth, abs=1e-3)


def test_frontier_and_lowest_point():
    assert frontier(np.array([3.0, 1, 2, 2, 4]), np.array([1.0, 3, 3.5, 2, 1.5])).tolist() == [1, 3, 0]
    assert frontier(np.array([1.0, 2.0]), np.array([1.0, 1.0])).tolist() == [0], "as good for more is no improvement"
    assert lowest_point(np.array([1.0, 10, 100]), np.array([2.0, 1, 2])) == pytest.approx(10)
    for losses in ([3.0, 2, 1.5], [1.0, 2, 1]):
        assert math.isnan(lowest_point(np.array([1.0, 10, 100]), np.array(losses)))


def test_words_have_the_entropy_of_tales():
    grammar, words = word_tales()
    ours, plain = measure(grammar), measure(TALES)
    assert ours.entropy == pytest.approx(plain.entropy) and ours.count == plain.count
    text = tales_text(16, held_out=200)
    assert text.floor == pytest.approx(plain.entropy / (ours.mean_length + 1))
    assert text.vocab_size == len(words) == len(set(words)) and text.train.max() < len(words)


def test_a_branch_is_the_run_that_it_replaces():
    text = tales_text(96)
    config = shape(8, text.vocab_size, text.train.shape[1] - 1)
    *_, branch = train_budgets(config, text.train, [32, 96], 0.03)
    [alone] = train_budgets(config, text.train, [96], 0.03)
    assert all(torch.equal(p, q) for p, q in zip(branch.parameters(), alone.parameters()))
    with pytest.raises(ValueError, match=r"between 8 and 96 rows, got \[97\]"):
        next(train_budgets(config, text.train, [97], 0.03))


def test_a_grid_goes_on_where_it_stopped(tmp_path, capsys):
    plan = [Trunk("tales", 8, (16, 32))]
    whole = run_grid(tmp_path / "whole.jsonl", plan)
    run_grid(tmp_path / "parts.jsonl", [Trunk("tales", 8, (32,))])
    capsys.readouterr()
    parts = run_grid(tmp_path / "parts.jsonl", plan)
    assert capsys.readouterr().err.count("loss") == 1, "only what is missing is trained"
    assert sorted(run["loss"] for run in parts) == sorted(run["loss"] for run in whole)
    [result] = bench_scaling_laws(str(tmp_path / "parts.jsonl"), plan)
    assert result.rows[0].name == "width 8" and "floor" in result.notes
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("line, problem", [('{"width": 8}\n', "is damaged"), ('{"wid', "cannot be read as JSON")])
def test_a_file_of_something_else(tmp_path, line, problem):
    (tmp_path / "runs.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(ValueError, match=f"runs.jsonl, line 1 {problem}"):
        read_runs(tmp_path / "runs.jsonl")


def test_the_chapter_has_the_figures_of_the_committed_runs():
    results = root / "benchmarks/results"
    runs = read_runs(results / "scaling-laws.jsonl") + read_runs(results / "data-ladder.jsonl")
    key = lambda run: (run["corpus"], run["width"], run["times"], run["rows"], run["seed"])
    losses = {key(run): round(run["loss"], 4) for run in runs}
    assert len(losses) == len(runs), "no run is there twice"
    words = [run for run in runs if run["corpus"] != "shakespeare"]
    assert all(sizes(shape(run["width"], 232, 80))[0] == run["params"] for run in words)
    cells = json.loads((root / "nbs/17_scaling.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    [tables] = [source for source in sources if "LOSSES = np.array" in source]
    space = {"np": np}
    for source in (tables, *(one for one in sources if one.startswith(("SEEDS =", "PLAYS =", "LADDER =")))):
        exec(source.partition("\n\n")[0], space)

    def seeds(corpus, width, rows, count=5):
        return tuple(losses[corpus, width, 1.0, rows, seed] for seed in range(count))

    for width, row in zip(WIDTHS, space["LOSSES"], strict=True):
        measured = row[np.isfinite(row)].tolist()
        assert [losses["tales", width, 1.0, rows, 0] for rows in BUDGETS[: len(measured)]] == measured
    whole = {t.width: [seeds("tales", t.width, rows) for rows in t.budgets if rows >= 2048] for t in TALES_GRID}
    assert space["SEEDS"] == whole
    plays = [[seeds("shakespeare", t.width, rows, 3) for rows in t.budgets] for t in PLAYS_GRID if t.seed == 0]
    assert np.array_equal(space["PLAYS"], np.swapaxes(plays, 1, 2))
    shortest = [np.mean(seeds("tales", 64, rows)) for rows in BUDGETS[:2]]
    assert space["clean_losses"][:2] == pytest.approx(shortest, abs=6e-5)
    assert space["LADDER"] == {name: seeds(name, 64, 8192) for name in STAGES}


def test_a_crawl_has_what_was_planted():
    pages = crawl(400, seed=3)
    assert pages == crawl(400, seed=3) != crawl(400, seed=4)
    for kind, share in SHARES.items():
        assert sum(page.kind == kind for page in pages) / 400 == pytest.approx(share, abs=0.08)
    new = [page.text for page in pages if page.kind == "new"]
    assert len(set(new)) == len(new)
    assert not set(new) & {page.text for page in crawl(400, seed=4)}


def test_a_filter_keeps_order_and_share():
    texts = [page.text for page in crawl(60, seed=0)]
    model = GPT(shape(8, len(word_tales()[1]), 80), torch.Generator().manual_seed(0))
    kept = keep_likely(texts, model, share=0.5)
    assert kept == [text for text in texts if text_losses(model, [text]) <= text_losses(model, texts).median() + 1e-6]


def test_the_ladder_command(tmp_path, capsys):
    plan = [Trunk("all new", 8, (32,), seed=seed) for seed in range(2)]
    [result] = bench_data_ladder(str(tmp_path / "runs.jsonl"), plan)
    assert capsys.readouterr().err.count("loss") == 2
    assert result.notes["all new"].endswith("mean of 2") and [row.name for row in result.rows] == ["all new"]
