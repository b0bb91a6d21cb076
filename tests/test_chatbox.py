"""The box asks, stops, asks anew and escapes; its buttons work while a model writes."""

import threading

import ipywidgets
import pytest
import torch

from nanogpt.bpe import train_bpe
from nanogpt.chat import Chat
from nanogpt.chatbox import ChatBox
from nanogpt.config import GPTConfig
from nanogpt.model import GPT

TEXT = "User: where is the fox?\nAssistant: The fox is in the hollow tree by the mill.\n" * 4


class Slow:
    "In place of a conversation's model: what it writes is given, and the second piece waits for a sign."

    def __init__(self):
        self.waits, self.go, self.count = threading.Event(), threading.Event(), 0

    def __call__(self, *_, **sampling):
        self.count, self.sampling = self.count + 1, sampling
        yield f"<i>answer {self.count}</i>"
        self.waits.set()
        self.go.wait(60)
        yield " and"
        yield " more"


@pytest.fixture
def box():
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=64, vocab_size=300, n_layer=1, n_head=2, n_embd=16)).eval()
    return ChatBox(Chat(model, train_bpe(TEXT, 300, ["<|endoftext|>"]), "be brief.", max_new_tokens=8, temperature=0.0))


@pytest.fixture
def slow(box, monkeypatch):
    model = Slow()
    monkeypatch.setattr("nanogpt.chat.reply", model)
    return model


def ask(box, text):
    "As a browser does it: the field's text, then Enter."
    box.text.value = text
    box.text._handle_msg({"content": {"data": {"method": "custom", "content": {"event": "submit"}}}, "buffers": []})


def finish(box):
    box.thread.join(60)
    assert not box.thread.is_alive()


def test_enter_sends_and_the_answer_is_the_chats(box):
    ask(box, "where is the fox?")
    finish(box)
    expected = Chat(box.chat.model, box.chat.tokenizer, "be brief.", max_new_tokens=8, temperature=0.0)
    assert "".join(expected.ask("where is the fox?")) and box.chat.messages == expected.messages
    assert box.text.value == "" and box.state.value.endswith(" tokens/s")
    ask(box, "   ")
    assert len(box.chat.messages) == 3, "an empty line asks nothing"


def test_stop_ends_an_answer_and_keeps_what_was_said(box, slow):
    ask(box, "hello")
    assert not box.stop_button.disabled and box.again_button.disabled
    ask(box, "too early")
    assert box.text.value == "too early" and slow.count == 1, "one answer at a time"
    assert slow.waits.wait(60)
    box.stop_button.click()
    slow.go.set()
    finish(box)
    assert box.chat.messages[-1]["content"] == "<i>answer 1</i> and", "the piece that was on its way is the last"
    assert box.stop_button.disabled and not box.again_button.disabled
    ask(box, "hello again")
    finish(box)
    assert box.chat.messages[-1]["content"] == "<i>answer 2</i> and more", "the next answer is not stopped"


def test_regenerate_takes_the_temperature_of_the_slider(box, slow):
    slow.go.set()
    ask(box, "hello")
    finish(box)
    box.temperature.value = 1.3
    box.again_button.click()
    finish(box)
    assert [message["role"] for message in box.chat.messages] == ["system", "user", "assistant"]
    assert box.chat.messages[-1]["content"].startswith("<i>answer 2") and slow.sampling == {"temperature": 1.3}


def test_a_high_temperature_is_kept(box):
    warm = ChatBox(Chat(box.chat.model, box.chat.tokenizer, temperature=3.0))
    assert (warm.temperature.value, warm.temperature.max, box.temperature.max) == (3.0, 3.0, 2.0)


def test_what_was_said_is_text_and_not_html(box, slow):
    slow.go.set()
    ask(box, "<script>alert(1)</script>")
    finish(box)
    shown = box._repr_mimebundle_()["text/html"]
    assert "&lt;script&gt;" in shown and "&lt;i&gt;answer" in shown
    assert "<script" not in shown and "<i>" not in shown


def test_errors_are_told_in_the_box(box, monkeypatch):
    box.again_button.click()
    assert box.state.value == "nothing was asked yet"
    ask(box, "fox " * 200)
    assert "the model reads 64" in box.state.value and box.text.value == "fox " * 200

    def full(*_, **__):
        raise MemoryError("8 texts at a time need 9 GB")

    monkeypatch.setattr("nanogpt.chat.reply", full)
    ask(box, "hello")
    assert box.state.value == "8 texts at a time need 9 GB" and box.text.value == "hello"

    def broken(*_, **__):
        yield "so"
        raise ValueError("logits <are> not finite")

    monkeypatch.setattr("nanogpt.chat.reply", broken)
    ask(box, "hello")
    finish(box)
    assert box.state.value == "logits &lt;are&gt; not finite" and not box.again_button.disabled
    assert box.said.value.endswith("<b>assistant</b>: so</p></div>")


def test_it_is_a_widget_in_a_live_notebook(box):
    assert "application/vnd.jupyter.widget-view+json" in box._repr_mimebundle_()
    assert isinstance(box.box, ipywidgets.VBox)
