"""What can be said of the page of `nanogpt explain` without a browser; tests/browser/test_page.py has one."""

import json
import re
from dataclasses import asdict
from html import escape

import pytest
import torch

from nanogpt import get_tokenizer
from nanogpt.bpe import train_bpe
from nanogpt.cli import main
from nanogpt.config import GPTConfig
from nanogpt.corpus import tales
from nanogpt.decode import to_int8
from nanogpt.explain import LIMIT, describe_tokenizer, encode_weights, explain
from nanogpt.hub import load
from nanogpt.model import GPT
from nanogpt.recipe import get_preset
from nanogpt.tokenizer import ByteTokenizer, CharTokenizer
from nanogpt.train import train

EVIL = "a </script><script>alert(1)</script> <!-- & \u2028 {{weights}} \"'"


def make_model(vocab_size: int, **shape) -> GPT:
    sizes = {**dict(block_size=16, n_layer=1, n_head=2, n_embd=8), **shape}
    return GPT(GPTConfig(vocab_size=vocab_size, **sizes), torch.Generator().manual_seed(0))


def definition_of(html: str) -> dict:
    return json.loads(re.findall(r'id="definition">(.*?)</script>', html, re.S)[0])


def test_the_page_of_the_demos_model_is_small():
    shape = asdict(get_preset("demo").model) | {"vocab_size": 512}
    tokenizer = train_bpe(tales(500).documents(), 512, ["<|endoftext|>"])
    page = explain(GPT(GPTConfig(**shape)), tokenizer, "Once", tales=True)
    assert len(page.html.encode()) < 4_000_000


@pytest.mark.parametrize("tokenizer", [CharTokenizer.from_text(EVIL), train_bpe(EVIL, 262, ["</script>"])])
def test_no_text_ends_a_script(tokenizer):
    model = make_model(tokenizer.vocab_size)
    page = explain(model, tokenizer, EVIL, title=EVIL)
    plain = explain(make_model(257), ByteTokenizer(), "a", title="a")
    for tag in ("<script", "</script", "<!--"):
        assert page.html.count(tag) == plain.html.count(tag)
    definition = definition_of(page.html)
    assert definition["text"] == EVIL and page.html.count(f">{escape(EVIL)}<") == 2
    tokens = [token.encode("latin-1") for token in definition["tokenizer"]["tokens"]]
    assert tokens == [tokenizer.decode_bytes([i]) for i in range(tokenizer.vocab_size)]


def test_a_notebook_shows_it_in_a_frame():
    page = explain(make_model(257), ByteTokenizer(), "a")
    assert page._repr_html_().startswith('<iframe srcdoc="&lt;!doctype html&gt;') and repr(page) == "Page()"


def test_a_tied_output_layer_is_written_once():
    tied, untied = (encode_weights(make_model(50, tied=tied)) for tied in (True, False))
    assert [*dict(tied[0])] == [name for name in dict(untied[0]) if name != "lm_head.weight"]
    assert len(untied[1]) - len(tied[1]) == pytest.approx(50 * 8 * 2 * 4 / 3, abs=4)


def test_where_a_text_begins_and_ends():
    tokenizer = train_bpe("abc", 258, ["<|endoftext|>", "<|end|>"])
    assert describe_tokenizer(tokenizer)["start"] == describe_tokenizer(tokenizer)["stop"] == [256]
    tokenizer.start_ids, tokenizer.stop_ids = [97], [257]
    described = describe_tokenizer(tokenizer)
    assert described["start"] == [97] and described["stop"] == [256, 257]
    assert described["special"] == {256: "<|endoftext|>", 257: "<|end|>"}
    assert describe_tokenizer(CharTokenizer("ab"))["start"] == []


def test_without_a_text_the_model_writes_one():
    text = definition_of(explain(make_model(3), CharTokenizer("abc")).html)["text"]
    assert len(text) > 8 and set(text) <= {*"abc"}


def refusal(call) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_a_page_cannot_run_is_refused_in_a_line(monkeypatch):
    model, tokenizer = make_model(257), ByteTokenizer()
    assert "this is a Linear" in refusal(lambda: explain(torch.nn.Linear(1, 1), tokenizer))  # pyright: ignore
    assert "this is a GPT" in refusal(lambda: explain(to_int8(model), tokenizer))
    monkeypatch.setattr("nanogpt.explain.LIMIT", 1000)
    assert "the limit is 1,000" in refusal(lambda: explain(model, tokenizer)) and LIMIT > 50_000_000
    monkeypatch.undo()
    assert "the tokenizer has 257 ids, the model 50" in refusal(lambda: explain(make_model(50), tokenizer))
    assert "the tokenizer has 257 ids, the model 50" in refusal(lambda: explain(make_model(50), tokenizer, "a"))
    model.lm_head.weight.data[3] = float("nan")
    assert "the model's weights are damaged" in refusal(lambda: explain(model, tokenizer))


def test_hugging_faces_tokenizers_are_refused_by_name(tmp_path):
    pytest.importorskip("tokenizers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(letters, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    made.save(str(tmp_path / "tokenizer.json"))
    theirs = get_tokenizer(str(tmp_path))
    assert "tokenizer (huggingface)" in refusal(lambda: explain(make_model(256), theirs))


def test_the_command_writes_a_page_of_a_run(tiny, tmp_path, capsys):
    train(tiny, progress=False)
    assert main(["explain", tiny.out_dir, "--out", str(tmp_path / "page.html"), "--text", "Once"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"page\.html: 0\.\d MB, with the weights as float16; open it in a browser\n", printed)
    definition = definition_of((tmp_path / "page.html").read_text(encoding="utf-8"))
    model, tokenizer = load(tiny.out_dir)
    assert definition["parameters"] == model.num_params() and definition["text"] == "Once"
    assert definition["grammar"]["start"] == "tale", "its corpus is the tales"
    assert main(["explain", tiny.out_dir, "--text", "Ж"]) == 1
    assert "not in the vocabulary of this CharTokenizer: 'Ж'" in capsys.readouterr().err


def test_a_run_that_is_not_there_is_one_line(tmp_path, capsys):
    assert main(["explain", str(tmp_path / "no"), "--out", str(tmp_path / "page.html")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1 and not (tmp_path / "page.html").exists()
