"""Our GPT against transformers' GPT-2, and against its own promises."""
from dataclasses import replace

import pytest
import torch

from nanogpt.attention import CausalSelfAttention, KVCache
from nanogpt.model import GPT, GPT2_SIZES, GPTConfig, count_params, flops_per_token

SMALL = GPTConfig(block_size=16, vocab_size=37, n_layer=3, n_head=4, n_embd=32)


def transformers_gpt2(config: GPTConfig):
    "A GPT2LMHeadModel of the same shape, with random weights."
    transformers = pytest.importorskip("transformers")
    shape = dict(vocab_size=config.vocab_size, n_positions=config.block_size, n_embd=config.n_embd, n_layer=config.n_layer, n_head=config.n_head)
    dropouts = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape, **dropouts, bos_token_id=0, eos_token_id=0)).eval()


def ours_as_theirs(state: dict, theirs) -> dict:
    "Our tensors under transformers' names: the same ones, with the weights of its Conv1D layers transposed."
    transposed = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    assert set(state) == set(theirs.state_dict())
    return {name: tensor.t() if name.endswith(transposed) else tensor for name, tensor in state.items()}


def test_logits_equal_transformers_at_124m():
    config = GPTConfig.gpt2()
    torch.manual_seed(0)
    theirs = transformers_gpt2(config)
    ours = GPT(config, torch.Generator().manual_seed(1)).eval()
    assert ours.num_params() == 124_439_808
    theirs.load_state_dict(ours_as_theirs(ours.state_dict(), theirs))
    idx = torch.randint(config.vocab_size, (2, 64), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        difference = (ours(idx)[0] - theirs(idx).logits).abs().max().item()
    assert difference <= 1e-4, "float32 rounding over 12 layers; the logits themselves are of size one"


def test_every_gradient_equals_transformers():
    "In float64, so that what is left is rounding at 1e-16 times a few hundred operations."
    theirs = transformers_gpt2(SMALL).double()
    ours = GPT(SMALL, torch.Generator().manual_seed(1)).double()
    theirs.load_state_dict(ours_as_theirs(ours.state_dict(), theirs))
    idx = torch.randint(SMALL.vocab_size, (3, 12), generator=torch.Generator().manual_seed(2))
    loss = ours(idx[:, :-1], idx[:, 1:])[1]
    loss.backward()
    logits = theirs(idx[:, :-1]).logits  # its own loss would round to float32
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), idx[:, 1:].flatten())
    expected.backward()
    assert torch.allclose(loss, expected, atol=1e-12)
    gradients = ours_as_theirs({name: p.grad for name, p in ours.named_parameters()} | {"lm_head.weight": ours.lm_head.weight.grad}, theirs)
    for name, p in theirs.named_parameters():
        assert torch.allclose(gradients[name], p.grad, atol=1e-12), name


@pytest.mark.parametrize("size, total", [("gpt2", 124_439_808), ("gpt2-medium", 354_823_168), ("gpt2-large", 774_030_080), ("gpt2-xl", 1_557_611_200)])
def test_published_sizes(size, total):
    assert sum(count_params(GPTConfig.gpt2(size)).values()) == total


@pytest.mark.parametrize("bias", [False, True])
def test_count_params_is_what_is_built(bias):
    config = replace(SMALL, bias=bias)
    assert sum(count_params(config).values()) == GPT(config).num_params()


def test_flops_are_those_that_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    model = GPT(SMALL)
    idx = torch.zeros(2, SMALL.block_size, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(idx, idx)[1].backward()
    vectors = 6 * sum(p.numel() for p in model.parameters() if p.dim() == 1)  # norms and biases, which torch does not count
    assert counter.get_total_flops() == pytest.approx((flops_per_token(SMALL) - vectors) * idx.numel(), rel=0.02)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_embd": 30}, "n_embd must be a multiple of n_head, got n_embd=30 and n_head=4; try n_embd=32"),
        ({"n_layer": 0}, "n_layer must be a positive whole number, got 0"),
        ({"n_head": -1}, "n_head must be a positive whole number, got -1"),
        ({"block_size": 0}, "block_size must be"),
        ({"vocab_size": 1.5}, "vocab_size must be"),
        ({"n_embd": True}, "n_embd must be"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"dropout": float("nan")}, "dropout must lie"),
    ],
)
def test_bad_shapes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_bad_input_is_named():
    model = GPT(SMALL)
    with pytest.raises(ValueError, match="17 tokens is longer than block_size 16"):
        model(torch.zeros(1, 17, dtype=torch.long))
    with pytest.raises(ValueError, match="unknown GPT-2 size 'gpt3'; choose one of " + ", ".join(GPT2_SIZES)):
        GPTConfig.gpt2("gpt3")
    with pytest.raises(ValueError, match="multiple of n_head"):
        CausalSelfAttention(10, 3)
    with pytest.raises(ValueError, match="the cache holds 2 positions; 3 were asked"):
        CausalSelfAttention(8, 2)(torch.zeros(1, 3, 8), KVCache(2))


@pytest.mark.parametrize("chunks", [[16], [1] * 16, [5, 1, 10], [15, 1]])
def test_cached_hidden_states_equal_uncached(chunks):
    "1e-5: the same sums in another order, in float32."
    model = GPT(SMALL, torch.Generator().manual_seed(0)).eval()
    idx = torch.randint(SMALL.vocab_size, (2, 16), generator=torch.Generator().manual_seed(1))
    caches = [KVCache(16) for _ in range(SMALL.n_layer)]
    with torch.no_grad():
        parts = [model.hidden_states(part, caches) for part in idx.split(chunks, dim=1)]
        assert torch.allclose(torch.cat(parts, 1), model.hidden_states(idx), atol=1e-5)


def test_initial_weights_come_from_the_generator():
    one, same, other = (GPT(SMALL, torch.Generator().manual_seed(seed)).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["transformer.wte.weight"], other["transformer.wte.weight"])
