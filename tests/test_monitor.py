"""A run's rows reach TensorBoard, Weights & Biases and a figure, whole and once."""

import logging
import sys
from dataclasses import replace

import matplotlib.pyplot as plt
import nbformat
import pytest
import wandb
from nbclient import NotebookClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nanogpt.config import GPTConfig
from nanogpt.monitor import LivePlot, TensorBoardLog, WandbLog
from nanogpt.recipe import TrainConfig


def row(i: int, **more) -> dict:
    return {
        "iter": i,
        "train_loss": 3.5 - i / 500 if i else None,
        "val_loss": 3.75 - i / 500,
        "lr": 0.001,
        "grad_norm": 0.5 if i else None,
        "tokens": 64 * i,
        "seconds": i / 10,
        "tokens_per_s": 640 if i else None,
        "note": "words",
        **more,
    }


def scalars(out_dir) -> dict[str, list[tuple[int, float]]]:
    "What TensorBoard would draw."
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every purge
    events = EventAccumulator(str(out_dir / "tensorboard")).Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_gets_every_number_at_its_iteration(tmp_path):
    log = TensorBoardLog(tmp_path / "out")
    log(row(0))
    log(row(250, well_formed=0.25))
    seen = scalars(tmp_path / "out")
    log.close()
    assert seen == scalars(tmp_path / "out"), "every row is seen at once"
    assert seen == {
        "train_loss": [(250, 3.0)],
        "val_loss": [(0, 3.75), (250, 3.25)],
        "lr": [(0, pytest.approx(1e-3)), (250, pytest.approx(1e-3))],
        "grad_norm": [(250, 0.5)],
        "tokens_per_s": [(250, 640.0)],
        "well_formed": [(250, 0.25)],
    }


def test_tensorboard_after_a_crash_and_after_a_new_start(tmp_path):
    for start, iters in ((0, [0, 250, 500]), (250, [500, 750])):
        log = TensorBoardLog(tmp_path, start)
        for i in iters:
            log(row(i, val_loss=start))
        log.close()
    assert scalars(tmp_path)["val_loss"] == [(0, 0), (250, 0), (500, 250), (750, 250)], (
        "the row of 500 that was lost is not drawn"
    )
    log = TensorBoardLog(tmp_path)
    log(row(0, val_loss=1))
    log.close()
    assert scalars(tmp_path)["val_loss"] == [(0, 1)], "the run that was overwritten is not drawn"


@pytest.fixture
def offline(monkeypatch):
    for name, value in {"MODE": "offline", "SILENT": "true", "ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)


def test_wandb_gets_the_rows_and_a_resumed_run_its_id(tmp_path, offline):
    out_dir = tmp_path / "out"
    ids = []
    for start, i in ((0, 0), (250, 500), (0, 0)):  # a run, resumed, and then overwritten
        log = WandbLog(out_dir, "project", "name" if start else "", {"n_layer": 21}, start)
        log(row(i, val_loss=7.53125 if start else 2.21875))
        log.close()
        ids.append((out_dir / "wandb_id.txt").read_text(encoding="utf-8"))
    assert ids[0] == ids[1] != ids[2]
    files = {path: path.read_bytes() for path in out_dir.glob("wandb/offline-run-*/*.wandb")}
    assert sorted(path.stem for path in files) == sorted(f"run-{i}" for i in ids)
    assert all(b"n_layer" in data and b"tokens" in data and b"words" not in data for data in files.values())
    assert sorted((b"2.21875" in data, b"7.53125" in data) for data in files.values()) == [
        (False, True),
        (True, False),
        (True, False),
    ]


def test_wandb_is_told_the_step_and_the_name(tmp_path, monkeypatch):
    calls = []

    class Run:
        log = staticmethod(lambda values, step: calls.append((values, step)))
        finish = staticmethod(lambda: calls.append("finish"))

    monkeypatch.setattr(wandb, "init", lambda **options: calls.append(options) or Run())
    log = WandbLog(tmp_path, "project", "", {"n_layer": 2})
    log(row(0))
    log(row(250))
    log.close()
    run_id = (tmp_path / "wandb_id.txt").read_text(encoding="utf-8")
    assert calls == [
        {
            "project": "project",
            "name": None,
            "config": {"n_layer": 2},
            "dir": tmp_path,
            "id": run_id,
            "resume": "allow",
        },
        ({"val_loss": 3.75, "lr": 0.001, "tokens": 0, "seconds": 0.0}, 0),
        (
            {
                "train_loss": 3.0,
                "val_loss": 3.25,
                "lr": 0.001,
                "grad_norm": 0.5,
                "tokens": 16000,
                "seconds": 25.0,
                "tokens_per_s": 640,
            },
            250,
        ),
        "finish",
    ]


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    def refuse(**options):
        raise wandb.errors.CommError("no key\nfound")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ValueError) as caught:
        WandbLog(tmp_path, "project", "name", {})
    assert (
        str(caught.value)
        == "wandb did not start the run (no key found); run `wandb login`, or set WANDB_MODE=offline"
    )
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    for log in (lambda: TensorBoardLog(tmp_path), lambda: WandbLog(tmp_path, "project", "name", {})):
        with pytest.raises(ImportError, match=r"pip install 'nanogpt\[log\]'"):
            log()


def lines(ax) -> dict[str, list[tuple[float, float]]]:
    return {line.get_label(): [*zip(line.get_xdata(), line.get_ydata())] for line in ax.lines}


def test_the_figure_holds_every_row_and_is_drawn_without_ipython(capsys):
    before, plot = plt.get_fignums(), LivePlot(floor=0.5, reference=[(0, 4.0), (500, 1.0)])
    for i in (0, 250, 500):
        plot(row(i, tokens_per_s=640 + i / 250 if i else None))
    losses, lr, norm, speed = plot.figure.axes
    curves = lines(losses)
    assert curves["training"] == [(250, 3.0), (500, 2.5)] and curves["validation"] == [
        (0, 3.75),
        (250, 3.25),
        (500, 2.75),
    ]
    assert curves["reference"] == [(0, 4.0), (500, 1.0)] and "floor 0.500" in curves
    assert {text.get_text() for text in losses.get_legend().get_texts()} == set(curves)
    assert [[*lines(ax).values()] for ax in (lr, norm, speed)] == [
        [[(0, 0.001), (250, 0.001), (500, 0.001)]],
        [[(250, 0.5), (500, 0.5)]],
        [[(250, 641), (500, 642)]],
    ]
    assert all(
        ax.get_ylim()[0] == 0 and ax.get_ylim()[1] > 1.02 * max(y for _, y in [*lines(ax).values()][0])
        for ax in (lr, norm, speed)
    )
    plot.close()
    assert plt.get_fignums() == before and capsys.readouterr() == ("", "")


def test_the_figure_is_in_nats_a_character_where_the_rows_know_them():
    plot = LivePlot()
    plot(row(0, nats_per_character=1.25))
    losses = plot.figure.axes[0]
    assert lines(losses) == {"validation": [(0, 1.25)]} and losses.get_ylabel() == "loss (nats per character)"


def test_a_notebook_shows_one_picture_that_changes_in_place():
    cells = [
        f"from nanogpt.monitor import LivePlot\nplot = LivePlot()\nplot({row(0)})",
        f"plot({row(250)}); plot({row(500)})",
        f"plot.close()\nnext_plot = LivePlot(); next_plot({row(0)}); next_plot.close()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    first = NotebookClient(nbformat.v4.new_notebook(cells=notebook.cells[:1]), timeout=120)
    first.execute()
    drawn = first.nb.cells[0].outputs[0]["data"]["image/png"]
    NotebookClient(notebook, timeout=120).execute()
    assert [len(cell.outputs) for cell in notebook.cells] == [1, 0, 1]
    assert all(output.output_type == "display_data" for cell in notebook.cells for output in cell.outputs)
    assert (
        notebook.cells[0].outputs[0]["data"]["image/png"]
        != drawn
        == notebook.cells[2].outputs[0]["data"]["image/png"]
    )


STOPPING = """
import signal
from nanogpt import GPTConfig, TrainConfig, train
from nanogpt.monitor import LivePlot
from nanogpt.watch import watch

shape = GPTConfig(block_size=16, vocab_size=0, n_layer=1, n_head=1, n_embd=8)
config = TrainConfig(shape, max_iters=400, batch_size=2, eval_interval=20, eval_windows=2, device="cpu", compile=False)
plot = LivePlot(0.1)

def press(run):
    plot.on_step(run)
    if run.iter_num == 50:
        signal.raise_signal(signal.SIGINT)

result = train(config, on_step=press, on_eval=watch, logs=[plot], progress=False)
assert result.stopped == "SIGINT" and (result.out_dir / "ckpt.pt").exists()
"""


def test_the_lines_below_the_figure_stay_and_the_button_goes(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(STOPPING)])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    figure, button, lines, *_ = (output for output in notebook.cells[0].outputs if output.output_type != "stream")
    assert "image/png" in figure.data and button.data["text/html"] == ""
    page = lines.data["text/html"]
    assert "iteration 51 of 400" in page and "above the floor" in page and " left<" in page
    assert "What it wrote at iteration 40:" in page and "MFU" not in page


def test_what_the_lines_say(tmp_path):
    class Run:
        config = replace(TrainConfig(GPTConfig(16, 65)), out_dir=str(tmp_path), max_iters=1000)
        iter_num, loss, tokens, seconds, utilisation = 1000, 1.25, 20_000, 10.0, 0.314

    plot = LivePlot()
    plot.on_step(Run())  # outside of a notebook it shows nothing
    assert plot.status() == (
        "<p>iteration 1,000 of 1,000 · loss 1.250 · 2,000 tokens per second · 31% of the GPU's peak (MFU)</p>"
    )
    (tmp_path / "samples").mkdir()
    for i in (0, 250):
        (tmp_path / f"samples/{i:07}.txt").write_text(f"a <b> {i}", encoding="utf-8")
    plot(row(1000, excess=0.0124))
    assert "0.012 nats per character above the floor" in plot.status()
    assert "iteration 250:" in plot.status() and "a &lt;b&gt; 250<" in plot.status()
    plot.close()
