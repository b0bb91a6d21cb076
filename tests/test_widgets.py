"""Explorers draw what they say, follow their sliders, and are plain figures where no notebook is live."""

import subprocess
import sys

import IPython.display
import ipywidgets
import nbformat
import pytest
import torch
from nbclient import NotebookClient

from nanogpt.sample import filter_logits
from nanogpt.tokenizer import ByteTokenizer, CharTokenizer
from nanogpt.widgets import explore_sampling, plot_sampling, token_label

TOKENIZER = CharTokenizer("\n $abcdefgh", eot="\n")
LOGITS = torch.linspace(3, -3, 11)[torch.randperm(11, generator=torch.Generator().manual_seed(0))]
PNG = b"\x89PNG"


KNOBS = [{}, dict(temperature=0.5), dict(top_k=3), dict(top_p=0.7, min_p=0.1), dict(temperature=0)]


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
def test_bars_are_the_probabilities(knobs):
    ax = plot_sampling(LOGITS, TOKENIZER, 6, **knobs)
    best = LOGITS.argsort(descending=True)[:6]
    heights = torch.tensor([bar.get_height() for bar in ax.patches], dtype=torch.float32)
    greedy = knobs.get("temperature") == 0
    after = torch.eye(11)[best[0]] if greedy else filter_logits(LOGITS, **knobs).softmax(-1)
    assert torch.allclose(heights, torch.cat([LOGITS.softmax(-1)[best], after[best]]))
    entropy = (after * after.clamp(min=1e-30).log()).sum().abs()
    assert ax.get_title().startswith(f"{(after > 0).sum()} of 11 tokens kept, entropy {entropy:.2f} nats")
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == [token_label(TOKENIZER, i) for i in best.tolist()]


def test_labels_are_visible():
    assert [token_label(TOKENIZER, i) for i in (0, 1, 2, 3, 11)] == [r"\n", "␣", r"\$", "a", "id 11"]
    assert token_label(ByteTokenizer(), 0xC3) == "\ufffd"


def test_errors():
    with pytest.raises(ValueError, match=r"a tensor \(V,\), got shape \(1, 11\); take one position"):
        plot_sampling(LOGITS[None], TOKENIZER)
    with pytest.raises(ValueError, match="top_p must be above 0 and at most 1, got 2"):
        plot_sampling(LOGITS, TOKENIZER, top_p=2)


def test_a_slider_draws_the_figure_anew(monkeypatch):
    shown, updates = [], []

    class Handle:
        update = staticmethod(updates.append)

    display = lambda item, display_id=None: shown.append(item) or Handle()
    monkeypatch.setattr(IPython.display, "display", display)
    assert explore_sampling(LOGITS, TOKENIZER) is None
    box, picture = shown
    assert isinstance(box, ipywidgets.VBox) and picture.data.startswith(PNG)
    temperature, top_k, top_p, min_p = box.children
    for slider, value in ((temperature, 0.0), (top_k, 3), (top_p, 0.5), (min_p, 0.9), (temperature, 3.0)):
        slider.value = value
    assert len(updates) == 5 and all(update.data.startswith(PNG) for update in updates)
    temperature.value, top_k.value, top_p.value, min_p.value = 1.0, 11, 1.0, 0.0
    assert updates[-1].data == picture.data != updates[0].data


def test_in_a_kernel_the_figure_is_an_output_that_the_sliders_replace(tmp_path):
    setup = "import torch, ipywidgets, gc\nfrom nanogpt.tokenizer import CharTokenizer\n"
    setup += "from nanogpt.widgets import explore_sampling\n"
    move = "[s for s in gc.get_objects() if type(s) is ipywidgets.SelectionSlider][0].value = 2"
    cells = [setup + "explore_sampling(torch.arange(11.0), CharTokenizer('\\n $abcdefgh'))", move]
    notebooks = []
    for count in (1, 2):
        notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells[:count])))
        resources = {"metadata": {"path": str(tmp_path)}}
        NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
        notebooks.append(notebook)
    data = ([output.get("data", {}) for output in notebook.cells[0].outputs] for notebook in notebooks)
    still, moved = ([mime["image/png"] for mime in outputs if "image/png" in mime] for outputs in data)
    assert len(still) == len(moved) == 1 and still != moved
    assert not notebooks[1].cells[1].outputs, "the old figure changes; no new one is added"


def test_without_jupyter_nothing_breaks():
    code = "import torch\nfrom nanogpt.tokenizer import CharTokenizer\n"
    code += "from nanogpt.widgets import explore_sampling\n"
    code += "explore_sampling(torch.arange(11.0), CharTokenizer('\\n $abcdefgh'))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
