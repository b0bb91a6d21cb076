"""From a file of questions and answers to a model that chats, here and in transformers; and adapters by themselves."""

import copy
import json

import pytest
import torch
from conftest import TINY_FLAGS

from nanogpt.bpe import train_bpe
from nanogpt.chat import Chat, chat_dataset, read_chats, render
from nanogpt.config import GPTConfig
from nanogpt.data import Sampler
from nanogpt.hub import load
from nanogpt.lora import LoRALinear, add_lora, lora_rank, merge_lora
from nanogpt.model import GPT
from nanogpt.optim import adamw
from nanogpt.step import train_step

PLACES = ["mill", "meadow", "barn", "village", "garden"]
CHATS = [
    [
        {"role": "user", "content": f"Where is {animal} {number}?"},
        {"role": "assistant", "content": f"In the {PLACES[number % 5]}."},
    ]
    for animal in ("the fox", "a hen", "my goat")
    for number in range(10)
]
TEXT = " ".join(message["content"] for chat in CHATS for message in chat)


def lines(chats: list) -> str:
    return "".join(json.dumps({"messages": chat}) + "\n" for chat in chats)


@pytest.fixture
def base(nanogpt, tmp_path):
    "A tiny GPT-2 that has read a few sentences, and 30 chats; `finetune` is the command with them."
    (tmp_path / "text.txt").write_text(TEXT * 4, encoding="utf-8")
    (tmp_path / "chat.jsonl").write_text(lines(CHATS), encoding="utf-8")
    flags = [*TINY_FLAGS, "--corpus", "text.txt", "--tokenizer", "bpe-300", "--no-aligned"]
    done = nanogpt("train", "demo", *flags, "--block-size", 64, "--out-dir", "base")
    assert done.returncode == 0, done.stderr

    def finetune(*args, **options):
        rest = ("--eval-interval", 10, "--learning-rate", 0.01, "--device", "cpu")
        return nanogpt("train", "--init-from", "base", "--corpus", "chat.jsonl", *rest, *args, **options)

    return finetune


def failure(done) -> str:
    "The one line of a command that failed."
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    return line


def answer_of(nanogpt, run: str, question: str) -> str:
    greedy = ("--temperature", 0, "--max-new-tokens", 20)
    done = nanogpt("sample", run, "--chat", *greedy, input=question + "\n")
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n> ")[1].strip()


def test_own_questions_and_answers_from_file_to_transformers(base, nanogpt, tmp_path):
    flags = ("--lora-rank", 4, "--lr-decay-iters", 60, "--out-dir")
    for args in ((*flags, "whole", "--max-iters", 60), (*flags, "halves", "--max-iters", 30)):
        done = base(*args)
        assert done.returncode == 0, done.stderr
    done = base(*flags, "halves", "--max-iters", 60, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    whole, halves = (torch.load(tmp_path / run / "ckpt.pt", weights_only=True)["model"] for run in ("whole", "halves"))
    assert all(torch.equal(tensor, halves[name]) for name, tensor in whole.items())  # resumed to the bit
    old = load(tmp_path / "base", "cpu")[0].state_dict()
    assert all(torch.equal(old[name], tensor) for name, tensor in whole.items() if "lora" not in name)
    assert any(tensor.any() for name, tensor in whole.items() if name.endswith("lora_B"))

    question = "Where is a hen 3?"
    answer = answer_of(nanogpt, "whole", question)
    assert answer.startswith("In the") and answer.index(".") == len(answer) - 1  # there it stops
    done = nanogpt("export", "whole", "exported")
    assert done.returncode == 0, done.stderr
    assert answer_of(nanogpt, "exported", question) == answer
    transformers = pytest.importorskip("transformers")
    pipe = transformers.pipeline("text-generation", model=str(tmp_path / "exported"), device="cpu")
    messages = [{"role": "user", "content": question}]
    said = pipe(messages, max_new_tokens=20, do_sample=False)[0]["generated_text"][-1]
    assert said["role"] == "assistant" and said["content"].strip() == answer


def test_what_a_chat_cannot_be_learnt_from_is_one_line(base, nanogpt, tmp_path):
    def wrong(text: str, *args) -> str:
        (tmp_path / "chat.jsonl").write_text(text, encoding="utf-8")
        return failure(base("--out-dir", "wrong", *args))

    no_roles = [[{"content": "hello"}, {"content": "hello, you"}]] * 3
    assert "chat.jsonl, line 1: message 1 needs a role (system, user, assistant)" in wrong(lines(no_roles))
    long = [[CHATS[0][0], {"role": "assistant", "content": "In the mill. " * 40}]]
    message = wrong(lines(CHATS + long))
    assert "chat.jsonl, the chat that begins 'Where is the fox 0?': it has" in message
    assert "the model reads 64; shorten it" in message
    assert "has 1 chats; give it two or more" in wrong(lines(CHATS[:1]))
    unanswered = lines([CHATS[0][:1]])
    assert "line 1: the last message must be the assistant's" in wrong(unanswered)
    assert "line 2 cannot be read as JSON" in wrong(lines(CHATS[:1]) + '{"messages": [\n')
    assert "set --aligned and --sampling epochs" in wrong(lines(CHATS), "--no-aligned")
    alone = nanogpt("train", "--corpus", "chat.jsonl", "--out-dir", "wrong")
    assert "name one with --init-from" in failure(alone)


def test_adapters_that_cannot_be_are_one_line(base, nanogpt):
    flags = ("--out-dir", "adapted", "--max-iters", 10, "--lora-rank")
    assert base(*flags, 2).returncode == 0
    line = failure(base(*flags, 3, "--resume", "auto"))
    assert "adapted has adapters of rank 2, not 3; set --lora-rank 2" in line
    scratch = nanogpt("train", "demo", *TINY_FLAGS, "--corpus", "text.txt", "--no-aligned", *flags[2:], 2)
    assert "adapts a trained model" in failure(scratch)


SHAPE = GPTConfig(block_size=64, vocab_size=300, n_layer=2, n_head=2, n_embd=16)


def trained(rank: int, seed: int = 0, iterations: int = 10) -> tuple[GPT, GPT]:
    "A model, and the same with adapters that have learned something."
    model = GPT(SHAPE, torch.Generator().manual_seed(seed))
    adapted = copy.deepcopy(model)
    add_lora(adapted, rank, generator=torch.Generator().manual_seed(seed))
    data = chat_dataset(CHATS, train_bpe(TEXT, 300, ["<|endoftext|>"]), 64)
    batches, optimizer = Sampler(data, 4, 64, epochs=True, aligned=True), adamw(adapted, 0.02)
    for _ in range(iterations):
        train_step(adapted, optimizer, [next(batches)])
    return model, adapted


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_merging_changes_rounding_only_and_the_old_weights_stay(rank):
    model, adapted = trained(rank)
    idx = torch.arange(60).reshape(2, 30)
    learnt = dict(adapted.named_parameters())
    assert all(torch.equal(learnt[name], p) for name, p in model.named_parameters())
    assert {name.rpartition(".")[2] for name, p in learnt.items() if p.requires_grad} == {"lora_A", "lora_B"}
    logits = adapted(idx)[0]
    assert (logits - model(idx)[0]).abs().max() > 0.01 and lora_rank(adapted) == rank
    for layer in adapted.modules():
        if isinstance(layer, LoRALinear):
            layer.merge()
            layer.merge()  # twice is once
    torch.testing.assert_close(adapted(idx)[0], logits, rtol=1e-4, atol=1e-5)
    for layer in adapted.modules():
        if isinstance(layer, LoRALinear):
            layer.merge(False)
    for name, p in model.named_parameters():
        torch.testing.assert_close(learnt[name], p, rtol=1e-6, atol=1e-6)
    merge_lora(adapted)
    assert lora_rank(adapted) == 0 and adapted.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(adapted(idx)[0], logits, rtol=1e-4, atol=1e-5)


def test_a_rank_below_one_is_refused_before_anything_changes():
    model = GPT(SHAPE)
    for rank in (0, -1):
        with pytest.raises(ValueError, match=f"must be at least 1, got {rank}"):
            add_lora(model, rank)
    assert lora_rank(model) == 0 and all(p.requires_grad for p in model.parameters())


def test_logits_and_gradients_are_those_of_peft():
    peft = pytest.importorskip("peft")
    model, adapted = trained(4)
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn", "c_proj", "c_fc"])
    theirs = peft.get_peft_model(model, settings)
    pairs = []
    for name, p in adapted.named_parameters():
        if p.requires_grad:
            pairs.append((p, theirs.get_parameter(f"base_model.model.{name}.default.weight")))
            pairs[-1][1].data.copy_(p)
    assert len(pairs) == sum(p.requires_grad for p in theirs.parameters()) == 16
    x, y = torch.randint(300, (2, 2, 20), generator=torch.Generator().manual_seed(1))
    results = [adapted(x, y), theirs.base_model.model(x, y)]
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-5)
    for _, loss in results:
        loss.backward()
    for ours, reference in pairs:
        torch.testing.assert_close(ours.grad, reference.grad, rtol=1e-4, atol=1e-6)


def test_a_template_that_fails_is_one_line(tmp_path):
    tokenizer = train_bpe(TEXT, 300, ["<|endoftext|>"])
    for template, why in {
        "{{ raise_exception('no system') }}": "the chat template fails: no system",
        "{% for message in": "the chat template fails: ",
        "{{ messages | nothing }}": "the chat template fails: ",
    }.items():
        tokenizer.chat_template = template
        with pytest.raises(ValueError) as caught:
            chat_dataset(CHATS, tokenizer, 64, "chat.jsonl")
        place = "chat.jsonl, the chat that begins 'Where is the fox 0?'"
        assert f"{place}: {why}" in str(caught.value) and "\n" not in str(caught.value)
        with pytest.raises(ValueError, match="the chat template fails"):
            Chat(GPT(SHAPE), tokenizer).ask("Where?")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    with pytest.raises(ValueError, match="ends an answer with no token at which a model stops"):
        chat_dataset(CHATS, tokenizer, 64)
    assert render(CHATS[0], tokenizer) == "Where is the fox 0? In the mill. "


def test_chats_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "chat.jsonl"
    odd = [[{"role": "user", "content": "Wo? \u00fc\u2028"}, {"role": "assistant", "content": "Im Wald \U0001f98a"}]]
    path.write_text(lines(odd) + "\n" + lines(CHATS), encoding="utf-8")
    assert read_chats(path) == odd + CHATS
    path.write_text("\n".join(json.dumps({"messages": chat}, ensure_ascii=False) for chat in odd), encoding="utf-8")
    assert read_chats(path) == odd
