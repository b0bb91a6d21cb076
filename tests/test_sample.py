"""Sampling draws from exactly the distribution that it says, cached or not, inside the context and past it."""
import pytest
import torch

from nanogpt.model import GPT, GPTConfig
from nanogpt.sample import filter_logits, generate, next_token, sample_text
from nanogpt.tokenizer import ByteTokenizer, CharTokenizer

CONFIG = GPTConfig(block_size=12, vocab_size=20, n_layer=2, n_head=2, n_embd=16)


@pytest.fixture
def model() -> GPT:
    "Large weights, so that its distributions are far from uniform."
    model = GPT(CONFIG, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(5 if p.dim() == 2 else 1)
    return model


def naive(model, idx, steps, temperature, top_k, generator):
    "No cache: read the last block_size tokens anew for every token."
    for _ in range(steps):
        with torch.no_grad():
            logits = model(idx[:, -CONFIG.block_size :])[0][:, -1]
        idx = torch.cat([idx, next_token(logits, temperature, top_k, generator)], 1)
    return idx


@pytest.mark.parametrize("prompt", [1, 5, 12, 30])
@pytest.mark.parametrize("temperature, top_k", [(0, None), (1.0, None), (0.7, 5)])
def test_cached_equals_naive_inside_and_past_the_context(model, prompt, temperature, top_k):
    model.eval()
    idx = torch.randint(20, (3, prompt), generator=torch.Generator().manual_seed(1))
    ours = generate(model, idx, 20, temperature, top_k, torch.Generator().manual_seed(2))
    assert torch.equal(ours, naive(model, idx, 20, temperature, top_k, torch.Generator().manual_seed(2)))
    assert torch.equal(ours[:, :prompt], idx)


@pytest.mark.parametrize("temperature, top_k", [(1.0, None), (0.5, None), (2.0, 4), (1.0, 1)])
def test_frequencies_pass_chi_square(temperature, top_k):
    logits = torch.randn(8, generator=torch.Generator().manual_seed(3))
    exact = (logits.double() / temperature).softmax(-1)
    if top_k:
        exact[logits.argsort(descending=True)[top_k:]] = 0
        exact /= exact.sum()
    draws = 40_000
    drawn = next_token(logits.expand(draws, -1), temperature, top_k, torch.Generator().manual_seed(4)).flatten().bincount(minlength=8)
    possible = exact > 0
    assert drawn[~possible].sum() == 0
    chi2 = ((drawn - draws * exact)[possible] ** 2 / (draws * exact[possible])).sum()
    assert chi2 < 24.4, "99.9 % quantile of chi-square with 7 degrees of freedom; fewer possible tokens stay further below"


def test_greedy_is_the_limit_of_low_temperature(model):
    idx = torch.zeros(1, 1, dtype=torch.long)
    assert torch.equal(generate(model, idx, 10, 0), generate(model, idx, 10, 1.0, top_k=1))
    assert filter_logits(torch.tensor([1.0, 2.0]), top_k=50).tolist() == [1.0, 2.0]


def test_mode_is_restored_and_dropout_is_off():
    model = GPT(GPTConfig(block_size=12, vocab_size=20, n_layer=1, n_head=1, n_embd=8, dropout=0.9))
    idx = torch.zeros(1, 1, dtype=torch.long)
    for mode in (True, False):
        model.train(mode)
        assert torch.equal(generate(model, idx, 20, 0), generate(model, idx, 20, 0))
        assert model.training is mode


def test_rows_stop_one_by_one(model):
    out = generate(model, torch.zeros(8, 1, dtype=torch.long), 60, generator=torch.Generator().manual_seed(0), stop_token=3)
    for row in out[:, 1:].tolist():
        if 3 in row:
            assert set(row[row.index(3) :]) == {3}
    assert out.shape[1] <= 61


@pytest.mark.parametrize(
    "change, message",
    [
        ({"temperature": -0.5}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"idx": torch.zeros(1, 0, dtype=torch.long)}, "at least one token"),
        ({"idx": torch.zeros(3, dtype=torch.long)}, r"as a tensor \(B, T\)"),
        ({"idx": torch.tensor([[20]])}, "outside the model's vocabulary of 20"),
        ({"idx": torch.tensor([[-1]])}, "outside the model's vocabulary"),
    ],
)
def test_bad_parameters_are_named(model, change, message):
    with pytest.raises(ValueError, match=message):
        generate(**{"model": model, "idx": torch.zeros(1, 1, dtype=torch.long), "max_new_tokens": 2, **change})


def test_text(model):
    tokenizer = CharTokenizer("\nabcdefghijklmnopqrs", eot="\n")
    texts = sample_text(model, tokenizer, "abc", num_samples=4, max_new_tokens=30, generator=torch.Generator().manual_seed(0))
    assert len(texts) == 4 and all(text.startswith("abc") and "\n" not in text for text in texts)
    with pytest.raises(ValueError, match="give a prompt"):
        sample_text(model, CharTokenizer("abcdefghijklmnopqrst"))
    with pytest.raises(ValueError, match="has 257 ids.*model.*20"):
        sample_text(model, ByteTokenizer(), "abc")
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        sample_text(model, tokenizer, num_samples=0)
