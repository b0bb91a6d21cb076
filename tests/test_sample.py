"""Sampling draws from the very distribution that it says, cached or not, inside the context and past it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import larger_weights
from hypothesis import given, settings, strategies as st

from nanogpt.bpe import train_bpe
from nanogpt.config import GPTConfig
from nanogpt.corpus import tales
from nanogpt.decode import Detokenizer, Int8Linear, by_onednn, check_prompts, slow_linears, to_int8
from nanogpt.model import GPT
from nanogpt.sample import (
    Sampling,
    filter_logits,
    generate,
    penalise,
    sample_text,
    score_samples,
    score_text,
    stream,
    stream_tokens,
)
from nanogpt.tokenizer import ByteTokenizer, CharTokenizer

SHAPE = dict(block_size=12, vocab_size=20, n_layer=2, n_head=4, n_embd=16)
CONFIGS = {
    "gpt2": GPTConfig(**SHAPE),
    "llama": GPTConfig.llama(**SHAPE, n_kv_head=2),
    "speedrun": GPTConfig.speedrun(**SHAPE, window=5, document_token=0),
    "n-grams": GPTConfig.speedrun(**SHAPE, ngram_orders=(2, 3, 5), ngram_rows=50, document_token=0),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
EVERY_KNOB = dict(repetition_penalty=1.3, temperature=0.8, top_k=9, top_p=0.9, min_p=0.02)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(config: GPTConfig) -> GPT:
    "Large weights, so that its distributions are far from uniform."
    model = larger_weights(config)
    if not config.tied:
        model.lm_head.weight.data *= 20
    return model


@pytest.fixture
def model() -> GPT:
    return build(CONFIGS["gpt2"])


def some_prompts(*lengths: int) -> list[list[int]]:
    return [torch.randint(20, (n,), generator=seeded(n)).tolist() for n in lengths]


def naive(
    model: GPT, prompts: list[list[int]], steps: int, sampling: Sampling, generator=None
) -> tuple[list, list]:
    "No cache, no padding: each row reads its context anew, past its end the newest half and what came since."
    rows, starts, logprobs = [list(prompt) for prompt in prompts], [0] * len(prompts), [[] for _ in prompts]
    block_size = model.config.block_size
    for _ in range(steps):
        logits = []
        for i, row in enumerate(rows):
            if len(row) - starts[i] > block_size:
                starts[i] = len(row) - max(block_size // 2, 1)
            with torch.no_grad():
                logits.append(model(torch.tensor([row[starts[i] :]]))[0][0, -1].float())
        seen = torch.tensor([[token in row for token in range(model.config.vocab_size)] for row in rows])
        for i, token in enumerate(sampling.draw(torch.stack(logits), seen, generator).flatten().tolist()):
            rows[i].append(token)
            logprobs[i].append(logits[i].log_softmax(-1)[token].item())
    return rows, logprobs


def streamed(model: GPT, prompts: list[list[int]], steps: int, *args) -> tuple[list, list]:
    "`stream_tokens` in the form of `naive`."
    tokens, logprobs = (
        torch.cat(parts, 1).tolist() for parts in zip(*stream_tokens(model, prompts, steps, *args))
    )
    copies = len(tokens) // len(prompts)
    return [prompts[i // copies] + row for i, row in enumerate(tokens)], logprobs


# The loop with a cache against a loop without one


@every_config
@pytest.mark.parametrize("length", [1, 5, 12])
@pytest.mark.parametrize(
    "knobs", [dict(temperature=0), {}, EVERY_KNOB], ids=["greedy", "plain", "every knob"]
)
def test_cached_equals_naive_inside_and_past_the_context(config, length, knobs):
    model, prompts = build(config).double(), some_prompts(length, length, length)
    prompts[1] = prompts[1][::-1]
    sampling = Sampling(**knobs)
    ours, our_logprobs = streamed(model, prompts, 31, sampling, seeded(2))
    expected, logprobs = naive(model, prompts, 31, sampling, seeded(2))
    assert ours == expected
    assert np.allclose(our_logprobs, logprobs, atol=1e-5), (
        "those of an uncached forward, whatever the knobs did"
    )
    if sampling.temperature:
        assert len({token for row in ours for token in row}) > 10, "else the test says nothing"


@pytest.mark.parametrize("block_size", [1, 2, 3, 5])
def test_short_and_odd_contexts(block_size):
    model = build(replace(CONFIGS["gpt2"], block_size=block_size)).double()
    prompts = some_prompts(1, block_size)
    ours, our_logprobs = streamed(model, prompts, 12, Sampling(), seeded())
    expected, logprobs = naive(model, prompts, 12, Sampling(), seeded())
    assert ours == expected and np.allclose(our_logprobs, logprobs, atol=1e-5)


@every_config
@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_a_row_in_company_gets_what_it_gets_alone(config, penalty):
    "Prompts of every length in one batch; 30 steps take each row past its context, at a step of its own."
    model, sampling = build(config).double(), Sampling(temperature=0, repetition_penalty=penalty)
    prompts = some_prompts(1, 4, 7, 8, 11, 12)
    together, logprobs = streamed(model, prompts, 30, sampling)
    for i, prompt in enumerate(prompts):
        alone, [alone_logprobs] = streamed(model, [prompt], 30, sampling)
        assert [together[i]] == alone == naive(model, [prompt], 30, sampling)[0]
        assert np.allclose(logprobs[i], alone_logprobs, atol=1e-5)


def positions_read(model: GPT, run) -> list[int]:
    "How many positions each call computes."
    counts = []
    hook = model.transformer.wte.register_forward_pre_hook(
        lambda module, inputs: counts.append(inputs[0].numel())
    )
    run()
    hook.remove()
    return counts


@every_config
def test_samples_share_what_was_read_of_the_prompt(config):
    model, prompts, greedy = build(config).double(), some_prompts(3, 9), Sampling(temperature=0)
    ours = streamed(model, prompts, 20, greedy, None, 3)[0]
    alone = [row for prompt in prompts for row in [naive(model, [prompt], 20, greedy)[0][0]] * 3]
    assert ours == alone
    counts = positions_read(model, lambda: streamed(model, prompts, 4, greedy, None, 3))
    assert counts == [2 * 9, 6, 6, 6], "the prompts once, then a token a row"
    drawn = streamed(model, prompts, 20, Sampling(**EVERY_KNOB), seeded(5), 3)[0]
    assert len(set(map(tuple, drawn))) == 6, "samples of one prompt differ"
    copies = [prompt for prompt in prompts for _ in range(3)]
    assert drawn == naive(model, copies, 20, Sampling(**EVERY_KNOB), seeded(5))[0], (
        "drawing in the order of the rows"
    )


def test_positions_stay_bounded_past_the_context(model):
    counts = positions_read(model, lambda: streamed(model, [[1]], 40, Sampling()))
    assert counts == [1] * 12 + [6, *[1] * 6] * 4, (
        "after 12 tokens 6 are read anew, and so after every 7 more"
    )


def test_greedy_equals_transformers():
    "GPT2LMHeadModel with our weights: prompts of one length with a penalty, and of several, padded."
    transformers = pytest.importorskip("transformers")
    config = replace(CONFIGS["gpt2"], block_size=40)
    ours = build(config)
    shape = dict(vocab_size=20, n_positions=40, n_embd=16, n_layer=2, n_head=4)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**shape, bos_token_id=None, eos_token_id=None)
    ).eval()
    transposed = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    theirs.load_state_dict(
        {name: p.t() if name.endswith(transposed) else p for name, p in ours.state_dict().items()}
    )
    ours, theirs = ours.double(), theirs.double()
    options = dict(max_new_tokens=25, do_sample=False, pad_token_id=0)
    prompts = torch.tensor(some_prompts(9, 9, 9))
    for penalty in (1.0, 1.4):
        expected = theirs.generate(
            prompts, attention_mask=torch.ones_like(prompts), repetition_penalty=penalty, **options
        )
        assert torch.equal(generate(ours, prompts, 25, temperature=0, repetition_penalty=penalty), expected)
    ragged = some_prompts(2, 9, 5)
    padded = torch.tensor([[0] * (9 - len(prompt)) + prompt for prompt in ragged])
    mask = torch.tensor([[0] * (9 - len(prompt)) + [1] * len(prompt) for prompt in ragged])
    expected = theirs.generate(padded, attention_mask=mask, **options)[:, 9:].tolist()
    rows = streamed(ours, ragged, 25, Sampling(temperature=0))[0]
    assert [row[len(prompt) :] for row, prompt in zip(rows, ragged)] == expected


# What is drawn, and how often


def exact(
    logits, seen=(), repetition_penalty=1.0, temperature=1.0, top_k=None, top_p=None, min_p=None
) -> np.ndarray:
    "The distribution by hand, in float64 and without torch: one token after the other, best first."
    z = np.array(logits.tolist(), dtype=np.float64)
    for token in set(seen):
        z[token] *= repetition_penalty if z[token] < 0 else 1 / repetition_penalty
    weights = np.exp((z - z.max()) / temperature)
    order = sorted(range(len(z)), key=lambda i: -weights[i])[:top_k]
    total, before, kept = sum(weights[i] for i in order), 0.0, []
    for i in order:
        if top_p is not None and before >= top_p:
            break
        before += weights[i] / total
        kept.append(i)
    kept = [i for i in kept if min_p is None or weights[i] >= min_p * weights[order[0]]]
    p = np.zeros(len(z))
    p[kept] = weights[kept] / weights[kept].sum()
    return p


def p_value(counts: np.ndarray, p: np.ndarray) -> float:
    "Pearson's chi-square test; cells that are expected less than 5 times are put together."
    assert counts[p == 0].sum() == 0, "what is ruled out never comes"
    expected, small = counts.sum() * p, counts.sum() * p < 5
    counts, expected = (np.append(x[~small], x[small].sum()) for x in (counts, expected))
    counts, expected = counts[expected > 0], expected[expected > 0]
    chi2 = ((counts - expected) ** 2 / expected).sum()
    degrees = torch.tensor(len(counts) - 1, dtype=torch.float64)
    return torch.special.gammaincc(degrees / 2, torch.tensor(chi2 / 2)).item() if len(counts) > 1 else 1.0


KNOBS = [
    {}, dict(temperature=0.5), dict(temperature=2.0, top_k=4), dict(top_k=1),
    dict(top_p=0.6), dict(min_p=0.15),
    {**EVERY_KNOB, "repetition_penalty": 1.0},
]  # fmt: skip


@pytest.mark.parametrize("knobs", KNOBS, ids=str)
def test_frequencies_pass_chi_square(knobs):
    logits = torch.linspace(3, -3, 12)[torch.randperm(12, generator=seeded(3))]
    drawn = Sampling(**knobs).draw(logits.expand(40_000, -1), None, seeded(4))
    counts = drawn.flatten().bincount(minlength=12).numpy()
    p = exact(logits, **knobs)
    assert p_value(counts, p) > 0.001
    if np.count_nonzero(p) > 1:
        hotter = {**knobs, "temperature": 1.25 * knobs.get("temperature", 1.0)}
        assert p_value(counts, exact(logits, **hotter)) < 0.001, "the test can fail"


@pytest.mark.parametrize(
    "knobs", [{}, dict(repetition_penalty=1.6), EVERY_KNOB], ids=["plain", "penalty", "every knob"]
)
def test_streamed_pairs_pass_chi_square(knobs):
    "The joint distribution of two tokens: the first is in the cache, and under the penalty, for the second."
    model, prompt, n = build(replace(CONFIGS["llama"], vocab_size=9)), [3, 1, 4, 1], 20_000
    with torch.no_grad():
        first = exact(model(torch.tensor([prompt]))[0][0, -1], prompt, **knobs)
        second = [
            exact(model(torch.tensor([prompt + [i]]))[0][0, -1], prompt + [i], **knobs) for i in range(9)
        ]
    joint = (first[:, None] * np.stack(second)).ravel()
    steps = stream_tokens(model, [prompt], 2, Sampling(**knobs), seeded(1), num_samples=n)
    one, two = (step.tokens.flatten() for step in steps)
    counts = (9 * one + two).bincount(minlength=81).numpy()
    assert np.count_nonzero(joint) > 5 and p_value(counts, joint) > 0.001
    if not knobs:
        assert p_value(counts, (first[:, None] * first).ravel()) < 0.001, "the second depends on the first"


def test_filters_equal_transformers():
    "Each of theirs alone, and all in the same order, on flat and on peaked rows."
    transformers = pytest.importorskip("transformers")
    logits = torch.randn(200, 50, generator=seeded(1)) * torch.linspace(0.1, 6, 200)[:, None]
    ids = torch.randint(50, (200, 30), generator=seeded(2))
    seen = torch.zeros(200, 50, dtype=torch.bool).scatter_(1, ids, True)
    warpers = dict(
        temperature=(0.7, transformers.TemperatureLogitsWarper(0.7)),
        top_k=(12, transformers.TopKLogitsWarper(12)),
        top_p=(0.8, transformers.TopPLogitsWarper(0.8)), min_p=(0.05, transformers.MinPLogitsWarper(0.05)),
    )  # fmt: skip
    chain = logits
    for name, (value, theirs) in warpers.items():
        ours = filter_logits(logits, **{name: value}).softmax(-1)
        assert torch.allclose(ours, theirs(ids, logits).softmax(-1), atol=1e-6), name
        chain = theirs(ids, chain)
    ours = filter_logits(logits, **{name: value for name, (value, _) in warpers.items()})
    assert torch.allclose(ours.softmax(-1), chain.softmax(-1), atol=1e-6)
    assert 1 < ours.isfinite().sum(-1).float().mean() < 12 and (ours.isfinite().sum(-1) == 1).any()
    for penalty in (0.8, 1.3):
        theirs = transformers.RepetitionPenaltyLogitsProcessor(penalty)
        assert torch.equal(penalise(logits, seen, penalty), theirs(ids, logits))


def test_filters_at_their_limits():
    logits = torch.tensor([2.0, 1.0, 1.0, 0.0])
    kept = lambda **knobs: filter_logits(logits, **knobs).isfinite().tolist()
    assert kept() == kept(top_k=4) == kept(top_k=99) == kept(top_p=1.0) == kept(min_p=0.0) == [True] * 4
    assert kept(top_k=2) == [True, True, True, False], "a tie for place k stays whole"
    assert kept(top_k=1) == kept(top_p=1e-9) == kept(min_p=1.0) == [True, False, False, False], (
        "the best always stays"
    )
    assert filter_logits(torch.tensor([1e4, -1e4, 0.0]), 1e-30).softmax(-1).tolist() == [1.0, 0.0, 0.0], (
        "no overflow"
    )
    for temperature in (0, 1e-30):
        assert Sampling(temperature=temperature).draw(logits[None]).item() == 0
    assert torch.equal(logits, torch.tensor([2.0, 1.0, 1.0, 0.0])), "what was given is not changed"


# generate


def test_a_seed_repeats_and_rows_share_it(model):
    idx = torch.tensor([[3, 1]])
    one, same, other = (generate(model, idx, 20, generator=seeded(s)) for s in (7, 7, 8))
    assert torch.equal(one, same) and not torch.equal(one, other)
    shared = seeded(7)
    first, second = (generate(model, idx, 20, generator=shared) for _ in range(2))
    assert torch.equal(first, one) and not torch.equal(second, one)


def test_greedy_is_the_limit_of_low_temperature(model):
    idx = torch.zeros(1, 1, dtype=torch.long)
    greedy = generate(model, idx, 30, 0)
    assert torch.equal(greedy, generate(model, idx, 30, 1.0, top_k=1))
    assert torch.equal(greedy, generate(model, idx, 30, 1e-6))


def test_mode_is_restored_and_dropout_is_off():
    model = GPT(GPTConfig(**SHAPE, dropout=0.9), seeded())
    tokenizer, idx = CharTokenizer("\nabcdefghijklmnopqrs", eot="\n"), torch.zeros(1, 1, dtype=torch.long)
    for mode in (True, False):
        model.train(mode)
        assert torch.equal(generate(model, idx, 20, 0), generate(model, idx, 20, 0))
        text = "abcabcabcabcabc"
        assert score_text(model, tokenizer, text) == score_text(model, tokenizer, text)
        steps = stream_tokens(model, [[0]], 5)
        next(steps)
        assert model.training is mode, "between the steps too"
        steps.close()
    written = generate(model, torch.zeros(1, 1, dtype=torch.long), 5)
    assert model(written, written)[1].requires_grad, "what it wrote can be trained on"


def test_generate_gives_the_steps_with_their_logprobs(model):
    idx = torch.tensor(some_prompts(4, 4))
    ids, logprobs = generate(
        model, idx, 6, 0.7, top_k=5, num_samples=2, generator=seeded(1), return_logprobs=True
    )
    assert (
        torch.equal(ids[:, :4], idx.repeat_interleave(2, dim=0))
        and ids.dtype == torch.int64
        and logprobs.dtype == torch.float32
    )
    with torch.no_grad():
        expected = model(ids)[0][:, 3:-1].log_softmax(-1).gather(2, ids[:, 4:, None])[..., 0]
    assert torch.allclose(logprobs, expected, atol=1e-5), "float32 sums in another order"
    assert torch.equal(generate(model, idx.int(), 6, 0.7, top_k=5, num_samples=2, generator=seeded(1)), ids)


def test_rows_stop_one_by_one(model):
    idx = torch.zeros(8, 1, dtype=torch.long)
    free = generate(model, idx, 60, generator=seeded(1))
    out, logprobs = generate(model, idx, 60, generator=seeded(1), stop_tokens=[3, 7], return_logprobs=True)
    ends = []
    for row, row_logprobs, unstopped in zip(out[:, 1:].tolist(), logprobs.tolist(), free[:, 1:].tolist()):
        end = min((unstopped.index(stop) for stop in (3, 7) if stop in unstopped), default=60)
        ends.append(end + 1)
        assert row[: end + 1] == unstopped[: len(row)][: end + 1]
        assert set(row[end:]) <= {row[min(end, 59)]}
        assert set(row_logprobs[end + 1 :]) <= {0.0} and all(row_logprobs[: end + 1])
    assert logprobs.shape == (8, min(max(ends), 60)) and len(set(ends)) > 2, "the call ends with its last row"
    idx = torch.tensor([[3]])
    in_prompt, free = (generate(model, idx, 4, generator=seeded(2), stop_tokens=stops) for stops in ({3}, ()))
    assert in_prompt.shape[1] > 1, "a stop token in the prompt stops nothing"
    assert torch.equal(in_prompt, free[:, : in_prompt.shape[1]])


# Every error


@pytest.mark.parametrize(
    "change, message",
    [
        ({"temperature": -0.5}, "temperature must be at least 0, got -0.5"),
        ({"temperature": math.nan}, "temperature must be at least 0"),
        ({"temperature": math.inf}, "temperature must be at least 0"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.1}, "top_p must be .* got 1.1"),
        ({"top_p": math.nan}, "top_p must be"),
        ({"min_p": -0.1}, "min_p must be at least 0 and at most 1, got -0.1"),
        ({"min_p": 1.5}, "min_p must be .* got 1.5"),
        ({"repetition_penalty": 0}, "repetition_penalty must be above 0, got 0"),
        ({"repetition_penalty": math.inf}, "repetition_penalty must be above 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"num_samples": -1}, "num_samples must be at least 1, got -1"),
        ({"idx": torch.zeros(1, 0, dtype=torch.long)}, "at least one token, such as the end-of-text id"),
        ({"idx": torch.zeros(0, 1, dtype=torch.long)}, "give at least one prompt"),
        ({"idx": torch.zeros(3, dtype=torch.long)}, r"in a tensor \(B, T\), got torch.int64 of shape \(3,\)"),
        ({"idx": torch.zeros(1, 3)}, r"whole numbers in a tensor \(B, T\), got torch.float32"),
        (
            {"idx": torch.zeros(1, 13, dtype=torch.long)},
            "13 tokens is longer than the model's context of 12; keep its last 12",
        ),
        (
            {"idx": torch.tensor([[20]])},
            "holds the id 20, outside the model's vocabulary of 20; use the tokenizer",
        ),
        ({"idx": torch.tensor([[3, -1, 19]])}, "holds the id -1, outside the model's vocabulary"),
    ],
)
def test_bad_parameters_are_named(model, change, message):
    with pytest.raises(ValueError, match=message):
        generate(
            **{"model": model, "idx": torch.zeros(1, 1, dtype=torch.long), "max_new_tokens": 2, **change}
        )


def test_errors_come_before_the_first_step(model):
    "From the call itself, not from the first `next`."
    calls = (lambda: stream_tokens(model, [[1], []], 3), lambda: stream_tokens(model, [[1]], 0))
    for call in (*calls, lambda: check_prompts(model, [], 12)):
        with pytest.raises(ValueError, match="at least"):
            call()
    with pytest.raises(ValueError, match="give a prompt, such as a newline"):
        stream(model, CharTokenizer("abcdefghijklmnopqrst"))
    with pytest.raises(ValueError, match="temperature"):
        stream(model, CharTokenizer("abcdefghijklmnopqrst"), "a", temperature=-1)


def test_bad_texts_are_named(model):
    tokenizer = CharTokenizer("\nabcdefghijklmnopqrs", eot="\n")
    for prompt, options, message in [
        ("abc", {"num_samples": 0}, "num_samples must be at least 1"),
        ([], {}, "give at least one prompt"),
        ("abcabcabcabc", {}, "a prompt of 13 tokens is longer than the model's context of 12"),
        ("abc", {"stop": "c"}, "stop must be a list of strings that are not empty, got 'c'"),
        ("abc", {"stop": ["c", ""]}, "stop must be a list of strings that are not empty"),
        ("xyz", {}, "'x'"),
    ]:
        with pytest.raises(ValueError, match=message):
            sample_text(model, tokenizer, prompt, **options)
    for call in (sample_text, stream, score_text):
        with pytest.raises(
            ValueError, match="the tokenizer has 257 ids, the model 20; use the tokenizer that"
        ):
            call(model, ByteTokenizer(), "abc")
    with pytest.raises(ValueError, match="give a prompt"):
        sample_text(model, CharTokenizer("abcdefghijklmnopqrst"))
    with pytest.raises(TypeError, match="topk"):
        sample_text(model, tokenizer, "abc", topk=3)


# Text


def byte_model(tokenizer) -> GPT:
    "A random model whose every token is about as likely as the next: its text is mostly no UTF-8."
    config = GPTConfig(block_size=16, vocab_size=tokenizer.vocab_size, n_layer=1, n_head=2, n_embd=8)
    return GPT(config, seeded()).eval()


BYTES = ByteTokenizer()
BPE = train_bpe("žluťoučký kůň úpěl ďábelské ódy 😀😃😄 日本語 " * 20, 290, special_tokens=["<|endoftext|>"])
MODELS = {"bytes": (byte_model(BYTES), BYTES), "bpe": (byte_model(BPE), BPE)}


def cut(text: str, stops: list[str]) -> str:
    "By hand: read on until what was read ends with a stop string, the longest one first."
    for end in range(len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)]
    return text


@pytest.mark.parametrize("name", MODELS)
@given(
    seed=st.integers(0, 10_000),
    places=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 4)), max_size=3),
    others=st.lists(st.text(min_size=1, max_size=3), max_size=2),
)  # fmt: skip
@settings(max_examples=60)
def test_streamed_text_is_the_decoded_tokens_cut_at_the_stop(name, seed, places, others):
    "Stop strings are taken out of the text itself, so that they occur, span tokens and overlap."
    model, tokenizer = MODELS[name]
    prompt = "ů"
    ids = [tokenizer.eot, *tokenizer.encode(prompt)]
    written = generate(model, torch.tensor([ids]), 40, generator=seeded(seed), stop_tokens=[tokenizer.eot])
    tokens = written[0, len(ids) :].tolist()
    text = tokenizer.decode([token for token in tokens if token != tokenizer.eot])
    stops = [text[at : at + n] for at, n in places if text[at : at + n]] + others
    pieces = list(stream(model, tokenizer, prompt, 40, seeded(seed), stop=stops))
    assert "".join(pieces) == cut(text, stops)
    assert all(pieces), "no empty pieces"
    assert sample_text(model, tokenizer, prompt, 1, 40, seeded(seed), stop=stops) == [
        prompt + cut(text, stops)
    ]


@given(text=st.text(min_size=1, max_size=12))
def test_a_character_comes_whole(text):
    "Feed the bytes of any text one by one: a piece is a whole character, and comes with its last byte."
    row = Detokenizer(BYTES, [])
    pieces = [row.add(byte) for byte in text.encode("utf-8")]
    assert [piece for piece in pieces if piece] == list(text) and row.finish() == ""
    last = np.cumsum([len(character.encode("utf-8")) for character in text]) - 1
    assert [i for i, piece in enumerate(pieces) if piece] == last.tolist()


def test_what_may_be_a_stop_string_is_held_back():
    row = Detokenizer(CharTokenizer("abcd"), ["abcd", "bd"])
    assert [row.add(i) for i in (0, 1, 2)] == ["", "", ""]  # abc may be the beginning of a stop string
    assert row.add(0) == "abc"  # it was not; the new a may be
    assert row.add(1) == "" and row.add(3) == "a" and row.finished  # a + bd
    assert row.add(0) == row.finish() == "", "nothing after the end"
    row = Detokenizer(CharTokenizer("abcd"), ["abcd"])
    assert row.add(0) == "" and row.finish() == "a", "what was held back comes at the end"


def test_a_stop_does_not_depend_on_the_tokens():
    "Two stop strings in one token: the one that is complete first counts, as it does letter by letter."
    tokenizer = train_bpe("abcd " * 50, 260)
    for parts in (["abcd"], ["ab", "cd"], "abcd"):
        tokens = [i for part in parts for i in tokenizer.encode(part)]
        for stops, text in (
            (["abcd", "bc"], "a"),
            (["bcd", "cd"], "a"),
            (["cd", "bcd"], "a"),
            (["d", "abcd"], ""),
        ):
            row = Detokenizer(tokenizer, stops)
            assert "".join(map(row.add, tokens)) + row.finish() == text
    assert len(tokenizer.encode("abcd")) == 1


def test_texts_of_many_prompts():
    tokenizer = CharTokenizer("\nabcdefghijklmnopqrs", eot="\n")
    model = build(CONFIGS["gpt2"])
    prompts, greedily = ["abc", "", "abcdefghijk"], dict(max_new_tokens=30, temperature=0)
    texts = sample_text(model, tokenizer, prompts, num_samples=2, max_new_tokens=30, generator=seeded())
    assert [text[:3] for text in texts[:2] + texts[4:]] == ["abc"] * 4 and len(texts) == 6
    assert (
        texts[4].startswith("abcdefghijk")
        and len(set(texts)) == 6
        and not any("\n" in text for text in texts)
    )
    greedy = sample_text(model, tokenizer, prompts, **greedily)
    assert greedy == [sample_text(model, tokenizer, prompt, **greedily)[0] for prompt in prompts]
    assert [greedy[0]] == ["abc" + "".join(stream(model, tokenizer, "abc", 30, temperature=0))]


def test_ids_that_the_tokenizer_lacks_are_never_drawn():
    "Checkpoints with a vocabulary that was rounded up: the logits of the rest are as good as random."
    tokenizer = CharTokenizer("\nabc", eot="\n")
    model = build(CONFIGS["gpt2"])
    for penalty in (1.0, 1.2):
        texts = sample_text(model, tokenizer, "abc", 20, 30, seeded(), repetition_penalty=penalty)
        assert set("".join(texts)) == set("abc")
    assert set("".join(stream(model, tokenizer, "a", 30, seeded(1), stop=["\n"]))) <= set("abc")
    [step] = stream_tokens(model, [[1]], 1, generator=seeded(), num_samples=20_000, vocab_size=4)
    counts = step.tokens.flatten().bincount(minlength=20)
    with torch.no_grad():
        p = exact(model(torch.tensor([[1]]))[0][0, -1, :4])
    assert p_value(counts.numpy(), np.append(p, np.zeros(16))) > 0.001


# Scores


@pytest.mark.parametrize("length", [1, 11, 12, 13, 40])
@pytest.mark.parametrize("eot", ["\n", None])
def test_score_text_by_hand(length, eot):
    model, tokenizer = build(CONFIGS["gpt2"]), CharTokenizer("\nabcdefghijklmnopqrs", eot=eot)
    text = tokenizer.decode(torch.randint(1, 20, (length,), generator=seeded(1)).tolist())
    ids = tokenizer.encode(("\n" if eot else "") + text)
    if len(ids) == 1:
        with pytest.raises(ValueError, match="a text to score must have at least two tokens"):
            score_text(model, tokenizer, text)
        return
    nats = 0.0
    for i in range(
        1, len(ids)
    ):  # windows of 12 that overlap by 5: each is predicted from its beginning, 6 tokens or more
        start = 0 if i <= 12 else 7 + (i - 13) // 7 * 7
        assert i - start >= 6 or start == 0
        with torch.no_grad():
            nats -= model(torch.tensor([ids[start:i]]))[0][0, -1].log_softmax(-1)[ids[i]].item()
    score = score_text(model, tokenizer, text)
    assert score["tokens"] == len(ids) - 1
    assert math.isclose(score["nats_per_token"], nats / (len(ids) - 1), rel_tol=1e-5)
    assert math.isclose(score["perplexity"], math.exp(nats / (len(ids) - 1)), rel_tol=1e-4)
    bits = nats / math.log(2) / (len(ids) - 1)  # a character is a byte here
    assert math.isclose(score["bits_per_byte"], bits, rel_tol=1e-5)


def test_bits_per_byte_count_bytes():
    model, text = byte_model(BPE), "žluťoučký kůň 日本語"
    score = score_text(model, BPE, text)
    assert score["tokens"] == len(BPE.encode(text)) < len(text.encode("utf-8")) > len(text)
    nats = score["bits_per_byte"] * len(text.encode("utf-8")) * math.log(2)
    assert math.isclose(nats, score["nats_per_token"] * score["tokens"], rel_tol=1e-9)
    with torch.no_grad():
        model.transformer.wte.weight.zero_()
    perplexity = score_text(model, BPE, text)["perplexity"]
    assert math.isclose(perplexity, BPE.vocab_size, rel_tol=1e-5), "all tokens are alike"
    for empty in (BPE, CharTokenizer("a")):
        with pytest.raises(ValueError, match="at least two tokens|give a prompt"):
            score_text(model, empty, "")


def test_score_samples():
    tokenizer = CharTokenizer.from_text(tales(500).documents(), eot="\n")
    model = build(GPTConfig(block_size=40, vocab_size=tokenizer.vocab_size, n_layer=1, n_head=1, n_embd=8))
    assert score_samples(model, tokenizer, 4) == {"well_formed": 0.0, "consistent": 0.0}
    with pytest.raises(ValueError, match="min_p"):
        score_samples(model, tokenizer, 4, min_p=2)


# Somebody else's model


class Own(torch.nn.Module):
    "No config, no cache, none of our names: each token's logits depend on the last two."

    def __init__(self, block_size: int | None = None, vocab_size: int = 20):
        super().__init__()
        self.tables = torch.nn.Parameter(2 * torch.randn(2, vocab_size, vocab_size, generator=seeded()))
        self.reads, self.dropout = [], torch.nn.Dropout(0.5)
        if block_size:
            self.block_size = block_size

    def forward(self, idx, targets=None):
        self.reads.append(tuple(idx.shape))
        logits = self.dropout(self.tables[0][idx])
        logits = torch.cat([logits[:, :1], logits[:, 1:] + self.tables[1][idx[:, :-1]]], dim=1)
        return logits, None

    def law(self, row: list[int]) -> torch.Tensor:
        return self.tables[0][row[-1]] + (self.tables[1][row[-2]] if len(row) > 1 else 0)


@pytest.mark.parametrize("block_size", [1, 2, 5])
def test_any_model_writes_from_its_newest_ids(block_size):
    model, prompts = Own(block_size), [[3], [1, 2], [4]] if block_size > 1 else [[3], [1], [4]]
    sampling = Sampling(repetition_penalty=1.2, top_k=7)
    ours, logprobs = streamed(model, prompts, 12, sampling, seeded(1), 2)
    rows, generator = [list(prompt) for prompt in prompts for _ in range(2)], seeded(1)
    for step in range(12):
        logits = torch.stack([model.law(row[-block_size:]) for row in rows]).detach()
        seen = torch.tensor([[token in row for token in range(20)] for row in rows])
        tokens = sampling.draw(logits, seen, generator).flatten().tolist()
        assert np.allclose(
            [row[step] for row in logprobs], logits.log_softmax(-1)[range(6), tokens], atol=1e-5
        )
        rows = [[*row, token] for row, token in zip(rows, tokens)]
    assert ours == rows and model.training, "its mode is put back; dropout was off"
    assert max(width for _, width in model.reads) == block_size


def test_any_model_generates_streams_and_is_scored():
    model, tokenizer = Own(4), CharTokenizer("\nabcdefghijklmnopqrs", eot="\n")
    ids, logprobs = generate(model, torch.tensor([[3, 1]]), 9, generator=seeded(), return_logprobs=True)
    assert ids.shape == (1, 11) and logprobs.shape == (1, 9)
    [text] = sample_text(model, tokenizer, "ab", max_new_tokens=9, generator=seeded())
    assert text == "ab" + "".join(stream(model, tokenizer, "ab", 9, seeded())) and len(text) > 2
    score = score_text(model, tokenizer, "abcdefgh")
    row = [0, *tokenizer.encode("abcdefgh")]
    with torch.no_grad():
        nats = -sum(model.law(row[:i]).log_softmax(-1)[row[i]] for i in range(1, 9))
    assert math.isclose(score["nats_per_token"], nats / 8, rel_tol=1e-5)


def test_a_model_that_states_no_size_is_told():
    model, idx = Own(), torch.tensor([[3, 1, 4]])
    with pytest.raises(
        ValueError, match="neither the model nor its config has a block_size; pass block_size="
    ):
        generate(model, idx, 5)
    assert torch.equal(generate(model, idx, 5, 0, block_size=3), generate(Own(3), idx, 5, 0))
    assert sample_text(
        model, CharTokenizer("abcdefghijklmnopqrst"), "abc", block_size=8, temperature=0, max_new_tokens=4
    )
    with pytest.raises(ValueError, match="a prompt of 3 tokens is longer than the model's context of 2"):
        generate(model, idx, 5, block_size=2)


# Weights for decoding


@pytest.fixture
def slow_mkl(monkeypatch):
    "As on a processor that MKL is slow on."
    monkeypatch.setattr("nanogpt.decode.SLOW_MKL", True)
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        pytest.skip("this torch lacks MKL or oneDNN")


def large() -> GPT:
    "With layers that are large enough for oneDNN: 768 x 512 and larger."
    return build(GPTConfig(**SHAPE | dict(n_embd=512, n_layer=1, n_head=8)))


def test_onednn_writes_the_same_tokens(slow_mkl, monkeypatch):
    "1e-4 of logits whose spread is above 10: the same sums in another order, in float32."
    model, idx = large(), torch.tensor(some_prompts(5, 5))
    linears = slow_linears(model)
    assert len(linears) == 4, "all but the output layer, which is small here"
    with torch.no_grad():
        expected = model(idx)[0]
        with by_onednn(linears):
            ours = model(idx)[0]
    assert expected.std() > 1 and not torch.equal(ours, expected), "another library computed it"
    assert torch.allclose(ours, expected, atol=1e-4 * expected.std())
    written = generate(model, idx, 30, 0)
    monkeypatch.setattr("nanogpt.decode.SLOW_MKL", False)
    assert torch.equal(written, generate(model, idx, 30, 0))


def test_onednn_leaves_no_trace(slow_mkl):
    "Between the steps and after an error the model is as it was; gradients and autocast never meet oneDNN."
    model, idx = large(), torch.tensor([[1, 2, 3]])
    keys, names = list(model.state_dict()), [name for name, _ in model.named_modules()]
    untouched = lambda: not any("forward" in vars(module) for module in model.modules())
    steps = stream_tokens(model, [[1]], 5)
    next(steps)
    assert untouched()
    steps.close()

    def fail(*_):
        raise RuntimeError("a hook's")

    hook = model.transformer.ln_f.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="a hook's"):
        generate(model, idx, 5)
    hook.remove()
    assert untouched() and list(model.state_dict()) == keys
    assert [name for name, _ in model.named_modules()] == names
    with by_onednn(slow_linears(model)):
        model(idx, idx)[1].backward()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            assert model.transformer.h[0].mlp.c_fc(torch.zeros(1, 512)).dtype == torch.bfloat16
    assert all(p.grad is not None for p in model.parameters())


def changes() -> dict:
    "Everything that can happen to weights between two texts."

    class LoRA(torch.nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.linear, self.update = linear, torch.nn.Linear(512, 2048, bias=False)

        def forward(self, x):
            return self.linear(x) + 5 * self.update(x)

    def step(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
        model(torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 4]]))[1].backward()
        optimizer.step()

    def load(model):
        model.load_state_dict({name: 1.5 * p for name, p in model.state_dict().items()})

    def through_data(model):
        model.transformer.h[0].mlp.c_fc.weight.data.mul_(-1)

    def replace_layer(model):
        model.transformer.h[0].mlp.c_proj = torch.nn.Linear(2048, 512)

    def wrap(model):
        model.transformer.h[0].mlp.c_fc = LoRA(model.transformer.h[0].mlp.c_fc)

    def hook(model):
        model.transformer.h[0].mlp.c_fc.register_forward_hook(lambda module, inputs, output: -output)

    def patch(model):
        layer = model.transformer.h[0].mlp.c_fc
        layer.forward = lambda x, forward=layer.forward: -forward(x)

    def there_and_back(model):
        model.double().float().requires_grad_(False)
        through_data(model)

    return {f.__name__: f for f in (step, load, through_data, replace_layer, wrap, hook, patch, there_and_back)}


@pytest.mark.parametrize("change", changes().values(), ids=changes())
def test_what_is_written_follows_the_weights(slow_mkl, change):
    torch.manual_seed(0)
    model, idx = large(), torch.tensor([[1, 2, 3]])
    before = generate(model, idx, 9, return_logprobs=True, generator=seeded())[1]
    change(model)
    after = generate(model, idx, 9, return_logprobs=True, generator=seeded())[1]
    assert not torch.allclose(before, after, atol=1e-3)
    written, logprobs = generate(model, idx, 9, 0, return_logprobs=True)
    with torch.no_grad():
        expected = model(written)[0][0, 2:-1].log_softmax(-1).gather(1, written[0, 3:, None])
    assert torch.allclose(logprobs[0], expected[:, 0], atol=1e-3)


@pytest.mark.parametrize("rows", [1, 3, 8, 9, 50])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(16, 48), (33, 7), (64, 100)])
def test_int8_rounds_no_more_than_it_must(rows, bias, sizes):
    """A weight is off by half a step at most, a step being its row's largest weight / 127.

    With few rows three bfloat16 roundings are added (activations, scale, result), each of 2^-8 of the sum of
    absolute products at most.
    """
    linear = torch.nn.Linear(*sizes, bias=bias)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(sizes[::-1], generator=seeded(1)))
        linear.weight[0] = 0
        x = torch.randn(rows, sizes[0], generator=seeded(2))
        layer, weight = Int8Linear(linear), linear.weight.abs()
        step = weight.amax(1, keepdim=True) / 127
        assert ((layer.weight * layer.scale[:, None] - linear.weight).abs() <= 0.501 * step).all()
        assert layer.weight.abs().max() == 127
        exact, ours = linear(x), layer(x)
        bound = 0.5 * x.abs().sum(1, keepdim=True) * step.T + 1e-5
        if rows <= 8 and sizes[0] % 16 == 0:
            bound += 3.1 * 2**-8 * x.abs() @ weight.t()
        assert ((ours - exact).abs() <= bound).all()
        assert not torch.equal(ours, exact)
        batched = layer(x.view(rows, 1, -1))
        assert torch.equal(batched[:, 0], ours)


@every_config
def test_int8_reads_and_writes_alike(config):
    "Prompts and single tokens go through different kernels; both are off by hundredths of the spread."
    model = build(config)
    fast = to_int8(model)
    idx = torch.randint(20, (1, 12), generator=seeded(1))
    with torch.no_grad():
        exact, at_once = model(idx)[0], fast(idx)[0]
        one_by_one = torch.cat([fast(idx[:, : i + 1])[0][:, -1:] for i in range(8)], 1)
    assert (at_once - exact).std() < 0.05 * exact.std()
    assert (one_by_one - at_once[:, :8]).std() < 0.05 * exact.std()
    assert fast.transformer.wte.weight.data_ptr() == model.transformer.wte.weight.data_ptr()
    int8 = [module for module in fast.modules() if isinstance(module, Int8Linear)]
    assert int8 and all(
        module.weight.dtype == torch.int8 and module.weight.abs().max() <= 127 for module in int8
    )
    ids, logprobs = generate(fast, idx, 20, generator=seeded(0), return_logprobs=True)
    assert ids.shape == (1, 32) and logprobs.isfinite().all()


def test_int8_says_what_it_cannot_do(model):
    wrong = "takes a model in float32 on the CPU; this one is torch.bfloat16 on cpu"
    with pytest.raises(ValueError, match=wrong):
        to_int8(model.bfloat16())
    with pytest.raises(ValueError, match="this one is torch.float32 on meta"):
        to_int8(model.float().to("meta"))
