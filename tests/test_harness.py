"""The field's harness asks our models, and its scores are those that one computes by hand, one text at a time."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from nanogpt.bpe import train_bpe
from nanogpt.chat import PLAIN_TEMPLATE, reply
from nanogpt.config import GPTConfig
from nanogpt.hub import save_pretrained
from nanogpt.model import GPT
from nanogpt.sample import generate, sample_text, score_text

lm_eval = pytest.importorskip("lm_eval", reason="lm_eval is not installed: pip install 'nanogpt[eval]'")
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from nanogpt.harness import NanoGPT  # noqa: E402

DATA = Path(__file__).parent / "data"
TEXT = "User: where is the fox?\nAssistant: The fox is in the hollow tree by the mill.\n" * 4
QUESTIONS = [json.loads(line) for line in (DATA / "harness/questions.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(TEXT, 300, ["<|endoftext|>"])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = GPT(GPTConfig(block_size=48, vocab_size=300, n_layer=1, n_head=2, n_embd=16)).eval()
    for weight in model.parameters():
        weight.data *= 3  # so that scores differ
    return model


@pytest.fixture
def ours(model, tokenizer):
    return NanoGPT((model, tokenizer), batch_size=3)


def requests(kind, *arguments):
    return [Instance(request_type=kind, doc={}, arguments=one, idx=0, metadata=("", 0, 1)) for one in arguments]


def by_hand(model, tokenizer, context: str, continuation: str) -> tuple[float, bool]:
    "The log-probability of a continuation, one text alone, and whether it is the likeliest."
    before = len(tokenizer.encode(context)) + 1
    ids = torch.tensor([tokenizer.eot, *tokenizer.encode(context + continuation)])[-49:]
    new = len(tokenizer.encode(context + continuation)) + 1 - before
    logits = model(ids[None, :-1])[0][0, -new:]
    return -F.cross_entropy(logits, ids[-new:], reduction="sum").item(), bool((logits.argmax(-1) == ids[-new:]).all())


def run(ours, *tasks, **options):
    manager = TaskManager(include_path=str(DATA / "harness"), include_defaults=False)
    return lm_eval.simple_evaluate(ours, tasks=[*tasks], task_manager=manager, bootstrap_iters=0, **options)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.chdir(DATA)  # the tasks' files are named from here
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_likelihoods_are_those_of_each_text_alone(ours, model, tokenizer):
    pairs = [(one["question"], " " + choice) for one in QUESTIONS for choice in one["choices"]]
    pairs += [("", "the fox"), (" the fox is" * 20, " by the mill")]
    scores = ours.loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True)
    expected = [by_hand(model, tokenizer, *pair) for pair in pairs]
    assert [score for score, _ in scores] == pytest.approx([score for score, _ in expected], rel=1e-5)
    assert [greedy for _, greedy in scores] == [greedy for _, greedy in expected]
    likeliest = generate(model, torch.tensor([[tokenizer.eot, 1]]), 3, temperature=0)[0].tolist()
    pairs = [(None, likeliest[:2], likeliest[2:]), (None, likeliest[:2], [*likeliest[2:4], likeliest[4] ^ 1])]
    assert [greedy for _, greedy in ours._loglikelihood_tokens(pairs, disable_tqdm=True)] == [True, False]


def test_a_task_of_multiple_choice(ours, model, tokenizer):
    right = {"acc,none": 0, "acc_norm,none": 0}
    for one in QUESTIONS:
        scores = [by_hand(model, tokenizer, one["question"], " " + choice)[0] for choice in one["choices"]]
        per_character = [score / len(choice) for score, choice in zip(scores, one["choices"])]
        right["acc,none"] += scores.index(max(scores)) == one["answer"]
        right["acc_norm,none"] += per_character.index(max(per_character)) == one["answer"]
    results = run(ours, "toy_choice")["results"]["toy_choice"]
    assert {name: results[name] * len(QUESTIONS) for name in right} == pytest.approx(right) and any(right.values())


def test_a_task_of_whole_texts(ours, model, tokenizer):
    results = run(ours, "toy_text", limit=2)["results"]["toy_text"]
    texts = [(f"{one['question']} {' '.join(one['choices'])}. ") * 5 for one in QUESTIONS[:2]]
    total = size = 0.0
    for text in texts:
        ids = [tokenizer.eot, *tokenizer.encode(text)]
        assert len(ids) > 49, "longer than the context"
        done = 0
        while done < len(ids) - 1:  # windows of 48 targets; the last one is as long, and counts what is new
            end = min(done + 48, len(ids) - 1)
            window = torch.tensor(ids[max(end - 48, 0) : end + 1])
            losses = F.cross_entropy(model(window[None, :-1])[0][0], window[1:], reduction="none")
            total += losses[-(end - done) :].sum().item()
            done = end
        size += len(text.encode())
    assert results["bits_per_byte,none"] == pytest.approx(total / size / math.log(2), rel=1e-5)


def test_a_short_text_gets_the_score_of_score_text(ours, model, tokenizer):
    known = score_text(model, tokenizer, "the fox is in the tree")
    (total,) = ours.loglikelihood_rolling(requests("loglikelihood_rolling", ("the fox is in the tree",)), True)
    assert total == pytest.approx(-known["nats_per_token"] * known["tokens"], rel=1e-5)


def test_a_task_of_writing(ours, model, tokenizer):
    done = run(ours, "toy_write", log_samples=True)["samples"]["toy_write"]
    written = {sample["doc"]["question"]: sample["resps"][0][0] for sample in done}
    for question, text in written.items():
        expected = sample_text(model, tokenizer, question, 1, 12, None, ["x", "\n"], temperature=0.0)[0]
        assert question + text == expected


def test_a_chat_template(ours, model, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", PLAIN_TEMPLATE)
    done = run(ours, "toy_write", log_samples=True, apply_chat_template=True, limit=1)["samples"]["toy_write"][0]
    asked = [{"role": "user", "content": QUESTIONS[0]["question"]}]
    answer = "".join(reply(model, tokenizer, asked, 12, None, ["x", "\n"], temperature=0.0))
    assert done["resps"][0][0].lstrip() == answer


@pytest.mark.parametrize("shape", [GPTConfig, GPTConfig.llama])
def test_the_same_scores_as_the_harness_with_transformers(shape, tokenizer, tmp_path):
    pytest.importorskip("accelerate", reason="the harness's own adapter needs accelerate")
    from lm_eval.models.huggingface import HFLM

    torch.manual_seed(0)
    model = GPT(shape(block_size=48, vocab_size=300, n_layer=2, n_head=2, n_embd=16)).eval()
    for weight in model.parameters():
        weight.data *= 2
    save_pretrained(model, tmp_path / "tiny", tokenizer)
    folder, tasks = str(tmp_path / "tiny"), ("toy_choice", "toy_text", "toy_write")
    ours = NanoGPT(folder, device="cpu")
    ours.tokenizer.start_ids = ()  # transformers puts nothing before a text
    theirs = HFLM(folder, device="cpu")
    for task in tasks:
        both = [run(adapter, task, log_samples=True)["samples"][task] for adapter in (ours, theirs)]
        for one, other in zip(*both):
            answers = [answer for (answer,) in one["resps"]], [answer for (answer,) in other["resps"]]
            if task == "toy_choice":
                answers = [[score for score, _ in scores] for scores in answers]
            assert answers[0] == (answers[1] if task == "toy_write" else pytest.approx(answers[1], rel=1e-5))


def test_errors_are_one_line(ours):
    for continuation in ("", "fox " * 60):
        with pytest.raises(ValueError, match=r"a continuation has \d+ tokens, the model scores 1 to 48"):
            ours.loglikelihood(requests("loglikelihood", ("the", continuation)), disable_tqdm=True)


def test_the_harness_by_name(model, tokenizer, tmp_path):
    save_pretrained(model, tmp_path / "tiny", tokenizer)
    command = [sys.executable, "-m", "nanogpt.harness", "--model", "nanogpt", "--tasks", "toy_choice"]
    command += ["--model_args", f"run={tmp_path / 'tiny'}", "--include_path", str(DATA / "harness"), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0 and "|toy_choice|" in done.stdout, done.stderr
