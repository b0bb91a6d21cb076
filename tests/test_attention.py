"""Attention's switches against transformers, and what the layer refuses."""
import math

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from nanogpt.attention import CausalSelfAttention, KVCache, attention, causal_mask, fused_attention
from nanogpt.rotary import rotary_angles, rotate


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
def test_layer_equals_transformers_qwen3(n_kv_head, window):
    """Rotary positions, shared keys, QK-norm, a head wider than C / H and a window in one layer.

    In float64: only the angles are float32, in both.
    """
    pytest.importorskip("transformers")
    from transformers import Qwen3Config
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3RotaryEmbedding

    torch.manual_seed(0)
    shape = dict(hidden_size=32, num_attention_heads=4, num_key_value_heads=n_kv_head, head_dim=12)
    config = Qwen3Config(**shape, attn_implementation="eager")
    theirs = Qwen3Attention(config, layer_idx=0).double().eval()
    switches = dict(n_kv_head=n_kv_head, head_dim=12, qk_norm_eps=config.rms_norm_eps)
    ours = CausalSelfAttention(32, 4, bias=False, **switches).double()
    with torch.no_grad():
        for norm in (theirs.q_norm, theirs.k_norm):
            norm.weight.uniform_(0.5, 1.5)
        projections = theirs.q_proj, theirs.k_proj, theirs.v_proj
        ours.c_attn.weight.copy_(torch.cat([layer.weight for layer in projections]))
        ours.c_proj.weight.copy_(theirs.o_proj.weight)
        ours.q_norm.weight.copy_(theirs.q_norm.weight)
        ours.k_norm.weight.copy_(theirs.k_norm.weight)
        x, positions = torch.randn(2, 20, 32, dtype=torch.float64), torch.arange(20) + 3
        mask = causal_mask(20, 20, window=window)
        additive = torch.zeros(20, 20, dtype=torch.float64).masked_fill(~mask, float("-inf"))[None, None]
        expected = theirs(x, Qwen3RotaryEmbedding(config)(x.float(), positions[None]), additive)[0]
        angles = rotary_angles(positions, 12, config.rope_parameters["rope_theta"])
        difference = (ours(x, mask=None if window is None else mask, rotary=angles) - expected).abs().max()
    assert difference < 1e-6, "float32 in their norms and in the angles"


def test_window_is_transformers_sliding_window():
    masking = pytest.importorskip("transformers.masking_utils")
    inside = masking.sliding_window_causal_mask_function(4)
    q, k = torch.arange(9)[:, None], torch.arange(9)[None]
    assert torch.equal(causal_mask(9, 9, window=4), inside(0, 0, q, k))
    assert torch.equal(causal_mask(3, 9, window=4), inside(0, 0, q, k)[-3:])


@pytest.mark.parametrize("T, S", [(1, 1), (1, 9), (3, 9), (9, 9)])
@pytest.mark.parametrize("shared", [1, 2, 4])
def test_fused_equals_open_attention(T, S, shared):
    g = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, T, 8, generator=g, dtype=torch.float64)
    k, v = torch.randn(2, 2, 4 // shared, S, 8, generator=g, dtype=torch.float64)
    expected = attention(q, k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1))[0]
    assert torch.allclose(fused_attention(q, k, v), expected, atol=1e-13)
    assert torch.allclose(fused_attention(q, k, v, causal_mask(T, S)), expected, atol=1e-13)


@pytest.mark.parametrize("T, S", [(1, 1), (1, 9), (3, 9), (9, 9)])
def test_fused_attention_without_a_batch(T, S):
    "Three dimensions: (H, T, D)."
    g = torch.Generator().manual_seed(0)
    q = torch.randn(4, T, 8, generator=g, dtype=torch.float64)
    k, v = torch.randn(2, 2, S, 8, generator=g, dtype=torch.float64)
    expected = attention(q, k.repeat_interleave(2, 0), v.repeat_interleave(2, 0))[0]
    assert torch.allclose(fused_attention(q, k, v), expected, atol=1e-13)
    assert torch.allclose(fused_attention(q, k, v, causal_mask(T, S)), expected, atol=1e-13)


def test_angles_have_the_dtype_asked_for():
    "In float64 right to float64's rounding, against Python's own numbers; float32 is off by 3e-5."
    scaling = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
    positions = torch.arange(1000)
    for options in ({}, {"scaling": scaling}):
        cos, sin = rotary_angles(positions, 16, **options, dtype=torch.float64)
        assert cos.dtype == sin.dtype == torch.float64
        single = rotary_angles(positions, 16, **options)
        assert single[0].dtype == torch.float32 and 1e-6 < (single[0] - cos).abs().max() < 1e-3
    cos, sin = rotary_angles(positions, 16, dtype=torch.float64)
    exact = [[math.cos(t * 10_000.0 ** (-2 * i / 16)) for i in range(8)] for t in range(1000)]
    assert torch.allclose(cos, torch.tensor(exact, dtype=torch.float64), atol=1e-12, rtol=0)


def test_rotation_keeps_the_dtype_of_its_input():
    x = torch.randn(1, 2, 5, 8)
    angles = rotary_angles(torch.arange(5), 8)
    assert rotate(x.bfloat16(), *angles).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        cache = KVCache(5)
        with torch.no_grad():
            out = CausalSelfAttention(16, 2, n_kv_head=1)(torch.randn(1, 5, 16), cache, rotary=angles)
        assert out.dtype == torch.bfloat16
        assert cache.keys.dtype == cache.values.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "shape, message",
    [
        (dict(n_head=3), "n_embd must be a multiple of n_head, .* got n_embd=16, n_head=3 and n_kv_head=3"),
        (dict(n_head=4, n_kv_head=3), "n_head of n_kv_head; got n_embd=16, n_head=4 and n_kv_head=3"),
    ],
)
def test_bad_shapes_are_named(shape, message):
    with pytest.raises(ValueError, match=message):
        CausalSelfAttention(16, **shape)


def test_a_head_dim_may_cut_any_width():
    assert CausalSelfAttention(16, n_head=3, head_dim=8)(torch.zeros(1, 2, 16)).shape == (1, 2, 16)


def test_odd_heads_cannot_turn():
    with pytest.raises(ValueError, match="head_dim must be even, got 3"):
        rotary_angles(torch.arange(4), 3)


def test_a_cache_serves_one_batch():
    cache, k = KVCache(4), torch.zeros(2, 1, 1, 4)
    cache.repeat(3)  # of nothing
    cache.extend(k, k)
    with pytest.raises(ValueError, match="the cache holds 2 sequences; 3 were given to it"):
        cache.extend(k[:1].expand(3, 1, 1, 4), k[:1].expand(3, 1, 1, 4))
    assert cache.length == 1
    cache.repeat(3)
    assert cache.extend(k.repeat(3, 1, 1, 1), k.repeat(3, 1, 1, 1))[0].shape == (6, 1, 2, 4)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("qk_norm_eps", [None, 1e-6])
def test_half_precision_without_a_warning(qk_norm_eps):
    "Under autocast, as on a GPU: bfloat16 has 8 bits, so outputs of size one agree to a few hundredths."
    torch.manual_seed(0)
    layer, x = CausalSelfAttention(32, 4, n_kv_head=2, qk_norm_eps=qk_norm_eps), torch.randn(2, 9, 32)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), layer(x), atol=0.05, rtol=0)


def test_angles_of_many_rows_are_not_taken_for_those_of_heads():
    "Two rows and two heads: each row turns by its own positions."
    x = torch.randn(2, 2, 3, 8, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[0, 1, 2], [5, 6, 7]])
    together = rotate(x, *rotary_angles(positions, 8))
    for row in range(2):
        assert torch.equal(together[row], rotate(x[row], *rotary_angles(positions[row], 8)))


@pytest.mark.parametrize("shape", [(5, 4), (3, 5, 4), (3, 2, 5, 4), (2, 3, 2, 5, 4)])
def test_fused_attention_takes_any_number_of_dimensions(shape):
    "1e-6 in float32, of sums in another order."
    q, k, v = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(fused_attention(q, k, v), attention(q, k, v)[0], atol=1e-6, rtol=1e-5)


def test_gradients_are_those_of_finite_differences():
    g, double = torch.Generator().manual_seed(8), torch.float64
    small = [torch.randn(1, 5, 3, generator=g, dtype=double, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v)[0], small)
    x = torch.randn(1, 5, 4, generator=g, dtype=double, requires_grad=True)
    assert torch.autograd.gradcheck(CausalSelfAttention(4, n_head=2).double(), x)
    hidden = torch.autograd.gradcheck(lambda q, k, v: attention(q, k.detach(), v)[0], small, raise_exception=False)
    assert not hidden, "the test notices a gradient that is missing"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_on_a_gpu_no_kernel_has_to_share_heads(dtype, masked, monkeypatch):
    "Keys are repeated, since some fused kernels take no shared heads. Tensors without numbers claim to be on a GPU."
    heads = []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, *_, **__: heads.append(k.shape[1]))
    with FakeTensorMode():
        q = torch.randn(2, 4, 16, 8, device="cuda", dtype=dtype)
        k = torch.randn(2, 2, 16, 8, device="cuda", dtype=dtype)
        fused_attention(q, k, k, causal_mask(16, 16, "cuda", window=4) if masked else None)
        fused_attention(q.narrow(2, 15, 1), k, k)
    assert heads == [4, 2], "one new token reads each key once: there sharing saves what counts"
