"""Explorers draw what they say, follow their sliders, and are plain figures where no notebook is live."""

import re
import subprocess
import sys

import IPython.display
import ipywidgets
import nbformat
import pytest
import torch
from nbclient import NotebookClient

from nanogpt.config import GPTConfig
from nanogpt.lens import explore_stream
from nanogpt.model import GPT
from nanogpt.sample import filter_logits, generate
from nanogpt.tokenizer import ByteTokenizer, CharTokenizer
from nanogpt.widgets import (
    attention_weights,
    explore_attention,
    explore_next,
    explore_sampling,
    explore_schedule,
    explore_size,
    explore_tokens,
    plot_sampling,
    show_attention,
    token_html,
    token_label,
)

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


@pytest.fixture
def notebook(monkeypatch):
    "What is displayed, and what takes its place later."
    shown, updates = [], []

    class Handle:
        update = staticmethod(updates.append)

    display = lambda item, display_id=None: shown.append(item) or Handle()
    monkeypatch.setattr(IPython.display, "display", display)
    return shown, updates


def test_a_slider_draws_the_figure_anew(notebook):
    shown, updates = notebook
    assert explore_sampling(LOGITS, TOKENIZER) is None
    box, picture = shown
    assert isinstance(box, ipywidgets.VBox) and picture.data.startswith(PNG)
    temperature, top_k, top_p, min_p, _ = box.children
    for slider, value in ((temperature, 0.0), (top_k, 3), (top_p, 0.5), (min_p, 0.9), (temperature, 3.0)):
        slider.value = value
    assert len(updates) == 5 and all(update.data.startswith(PNG) for update in updates)
    temperature.value, top_k.value, top_p.value, min_p.value = 1.0, 11, 1.0, 0.0
    assert updates[-1].data == picture.data != updates[0].data


GPT_CONFIGS = [
    GPTConfig(16, 11, n_layer=2, n_head=4, n_embd=32, init_std=0.3),
    GPTConfig.llama(
        block_size=16, vocab_size=11, n_layer=2, n_head=4, n_embd=32, init_std=0.3, n_kv_head=2, qk_norm=True
    ),
    GPTConfig(16, 11, n_layer=2, n_head=4, n_embd=32, init_std=0.3, window=3, document_token=0),
]
EXPLORERS = {
    "schedule": (lambda: explore_schedule(50), dict(schedule="wsd", learning_rate=1e-2, warmup_iters=0)),
    "size": (lambda: explore_size("cpu"), dict(n_layer=1, n_head=25, block_size=64, vocab_size=65, tokens=5e9)),
    "attention": (
        lambda: explore_attention(GPT(GPT_CONFIGS[0]), TOKENIZER, "abba"),
        dict(layer=2, head=4, text="a cab" * 9),
    ),
}


@pytest.mark.parametrize("name", EXPLORERS)
def test_every_control_draws_its_figure_anew(notebook, name):
    (start, changes), (shown, updates) = EXPLORERS[name], notebook
    assert start() is None
    box, *others, picture = shown
    assert picture.data.startswith(PNG) and repr(box) == "(In a live notebook there are controls here.)"
    controls = {control.description: control for control in box.children[:-1]}
    drawn = [picture.data]
    for control, value in changes.items():
        assert not controls[control].continuous_update, "a figure takes a while"
        controls[control].value = value
        drawn.append(updates[-1].data)
    assert len(set(drawn)) == len(drawn) == len(updates) // (1 + len(others)) + 1
    assert all(data.startswith(PNG) for data in drawn)


def test_a_wrong_text_is_explained_where_the_figure_was(notebook):
    shown, updates = notebook
    explore_attention(GPT(GPT_CONFIGS[0]), TOKENIZER, "abba")
    text = shown[0].children[-2]
    for wrong, why in (("<z>", "not in the vocabulary"), ("", "the text is empty")):
        text.value = wrong
        message, figure = updates[-2:]
        assert why in message.data and "<z>" not in message.data and figure.data == "", "the old figure goes"
    text.value = "abba"
    assert [update.data for update in updates[-2:]] == [one.data for one in shown[1:]]


def test_tokens_follow_every_key(notebook):
    shown, updates = notebook
    explore_tokens("a$b", {"bytes": ByteTokenizer(), "<few>": TOKENIZER})
    page, (text, _) = shown[1], shown[0].children
    assert text.continuous_update and page.data.count("<code") == 6 and "<b>&lt;few&gt;</b>: 3 tokens" in page.data
    text.value = "€ <\n"
    assert all(f">{label}</code>" in updates[-1].data for label in ("e2", "82", "ac", "␣", "&lt;", r"\n"))
    assert updates[-1].data.count("<code") == 6 and "not in the vocabulary" in updates[-1].data
    text.value = ""
    assert updates[-1].data.count(": 0 tokens") == 2


def rules(page: str) -> dict[str, dict[int, float]]:
    "What each selector of the page's style sheet sets the weights to."
    sheet = re.findall(r"([^{}]+){([^{}]*)}", re.search("<style>(.*)</style>", page)[1])
    weights = lambda body: {int(j): float(w) for j, w in re.findall(r"--(\d+):([\d.]+)", body)}
    return {selector: weights(body) for names, body in sheet for selector in names.split(",.")}


def test_the_text_takes_the_shades_of_the_row_that_is_pointed_at():
    rows = torch.tensor([[1.0, 0, 0], [0.25, 0.75, 0], [0.5, 0.125, 0.375]])
    page, other = show_attention(rows, ["a", "&lt;", "c"]), show_attention(rows.roll(1, 0), ["a", "b", "c"])
    spans = re.findall(r'<span tabindex="0" style="[^"]*/calc\(var\(--(\d),0\)/var\(--most\)\)\)">(.*?)</span>', page)
    assert spans == [("0", "a"), ("1", "&lt;"), ("2", "c")]
    seen = rules(page)
    for i, row in enumerate(({0: 1.0}, {0: 0.25, 1: 0.75}, {0: 0.5, 1: 0.12, 2: 0.38}), 1):
        chosen = [body for selector, body in seen.items() if f":has(span:nth-child({i}):" in selector]
        assert chosen == [row, row], "the row under the pointer, and in focus, without what comes later"
    assert [body for selector, body in seen.items() if selector.endswith(":not(:has(span:hover,span:focus))")] == [row]
    assert re.search("attention-[0-9]+", page)[0] != re.search("attention-[0-9]+", other)[0]


def test_a_token_is_text_for_a_page():
    assert [token_html(ByteTokenizer(), i) for i in (*b"a <\n\xc3", 256)] == ["a", " ", "&lt;", r"\n", "c3", "id 256"]


NEXT_MODEL = GPT(GPT_CONFIGS[0], torch.Generator().manual_seed(0)).eval()


def test_the_text_grows_as_the_model_writes_it_and_shrinks_again(notebook):
    shown, updates = notebook
    assert explore_next(NEXT_MODEL, TOKENIZER, "abba", seed=3) is None
    *controls, row = shown[0].children
    text, temperature, *_ = controls
    following, back, ten = row.children
    tokens = lambda page: re.findall(r"background:([^\"]*)\">(.*?)</span>", page.data)
    start = [("white", piece) for piece in (r"\n", "a", "b", "b", "a")]
    assert tokens(shown[1]) == start and shown[2].data.startswith(PNG)
    following.click()
    ten.click()
    prompt, generator = torch.tensor([[0, 3, 4, 4, 3]]), torch.Generator().manual_seed(3)
    expected = generate(NEXT_MODEL, prompt, 11, generator=generator)[0, 5:].tolist()
    page, figure = updates[-2:]
    assert tokens(page) == start + [("#cfe2f8", token_html(TOKENIZER, i)) for i in expected]
    assert updates[1].data != shown[2].data != figure.data, "the figure is of the next token"
    for _ in range(12):  # once more than there are tokens
        back.click()
    assert tokens(updates[-2]) == start and updates[-1].data == shown[2].data
    temperature.value = 0.0
    ten.click()
    greedy = generate(NEXT_MODEL, prompt, 10, temperature=0)[0, 5:].tolist()
    assert [piece for _, piece in tokens(updates[-2])[5:]] == [token_html(TOKENIZER, i) for i in greedy]
    text.value = "zzz"
    following.click()
    assert "not in the vocabulary" in updates[-2].data
    text.value = "a"
    assert len(tokens(updates[-2])) == 2, "another beginning has its own continuation"


def test_it_writes_on_beyond_the_context(notebook):
    explore_next(NEXT_MODEL, TOKENIZER, "a" * 15)
    _, _, ten = notebook[0][0].children[-1].children
    ten.click()
    ten.click()
    assert notebook[1][-2].data.count("<span") == 36


@pytest.mark.parametrize("config", GPT_CONFIGS, ids=["GPT-2", "Qwen3", "window and documents"])
def test_the_weights_are_those_that_the_model_uses(config):
    model, outputs = GPT(config, torch.Generator().manual_seed(0)).eval(), []
    ids = torch.tensor([1, 2, 0, 3, 4, 5, 6, 2, 1])
    before = model(ids[None])[0]
    weights = attention_weights(model, ids)
    assert weights.shape == (2, 4, 9, 9) and torch.allclose(weights.sum(-1), torch.ones(2, 4, 9))
    assert not weights.triu(1).any() and (config.window is None or not weights.tril(-3).any())
    assert config.document_token is None or not weights[..., 2:, :2].any()
    keep = lambda layer, inputs, output: outputs.append((layer, layer.heads(inputs[0])[2], output))
    hooks = [block.attn.register_forward_hook(keep) for block in model.transformer.h]
    assert torch.equal(model(ids[None])[0], before), "the model is as it was"
    for hook, rows, (layer, v, output) in zip(hooks, weights, outputs):
        hook.remove()
        mixed = rows @ v.repeat_interleave(4 // v.shape[1], dim=1)
        torch.testing.assert_close(layer.c_proj(mixed.transpose(1, 2).flatten(2)), output)
    assert not any(block.attn._forward_pre_hooks for block in model.transformer.h)


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


def test_the_stream_of_a_model_with_more_ids_than_its_tokenizer(notebook):
    shown, _ = notebook
    wide = GPT(GPTConfig(16, 64, n_layer=1, n_head=2, n_embd=32, init_std=0.3), torch.Generator().manual_seed(0)).eval()
    explore_stream(wide, TOKENIZER, "abba")
    page = next(one.data for one in shown[1:] if isinstance(one.data, str))
    assert page.count('tabindex="0"') == 3 * 5
