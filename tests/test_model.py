"""Our GPT against transformers' GPT-2, and against its own promises."""
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import torch.utils._python_dispatch
from conftest import larger_weights
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nanogpt.attention import CausalSelfAttention, KVCache
from nanogpt.budget import count_params, flops_per_token, kv_cache_bytes
from nanogpt.config import GPT2_SIZES, GPTConfig
from nanogpt.loss import chunked_cross_entropy, cross_entropy
from nanogpt.model import Cache, GPT
from nanogpt.ngrams import hash_ngrams

SMALL = GPTConfig(block_size=16, vocab_size=37, n_layer=3, n_head=4, n_embd=32)
SHAPE = dict(block_size=16, vocab_size=37, n_layer=3, n_head=4, n_embd=32)
SCALING = dict(factor=4.0, low_freq_factor=0.2, high_freq_factor=1.5, original_max_position_embeddings=8)
SWITCHES = {
    "gpt2": SMALL,
    "no bias": replace(SMALL, bias=False),
    "rms": replace(SMALL, norm="rms"),
    "rotary": replace(SMALL, positions="rotary"),
    "exact gelu": replace(SMALL, mlp="gelu_exact"),
    "stretched": replace(SMALL, positions="rotary", rope_scaling=SCALING),
    "relu2": replace(SMALL, mlp="relu2"),
    "swiglu": replace(SMALL, mlp="swiglu"),
    "grouped-query": replace(SMALL, n_kv_head=2),
    "multi-query": replace(SMALL, n_kv_head=1),
    "head_dim": replace(SMALL, head_dim=12),
    "qkv_bias": replace(SMALL, bias=False, qkv_bias=True),
    "qk_norm": replace(SMALL, qk_norm=True),
    "window": replace(SMALL, window=5),
    "documents": replace(SMALL, document_token=3),
    "n-grams": replace(SMALL, ngram_orders=(2, 3, 5), ngram_rows=50),
    "untied": replace(SMALL, tied=False),
    "padded vocabulary": replace(SMALL, vocab_multiple=64),
    "llama": GPTConfig.llama(**SHAPE, n_kv_head=2),
    "speedrun": GPTConfig.speedrun(**SHAPE, window=7, document_token=0),
    "n-grams, masked": GPTConfig.llama(**SHAPE, ngram_orders=(2, 4), ngram_rows=50, window=7, document_token=3),
    "llama, masked": GPTConfig.llama(**SHAPE, n_kv_head=2, window=7, document_token=0),
    "qwen, masked": GPTConfig.llama(**SHAPE, n_kv_head=1, window=7, qk_norm=True),
    "grouped-query, masked": replace(SMALL, n_kv_head=2, window=7),
}  # fmt: skip
every_switch = pytest.mark.parametrize("config", SWITCHES.values(), ids=SWITCHES)


def transformers_gpt2(config: GPTConfig):
    "A GPT2LMHeadModel of the same shape, with random weights."
    transformers = pytest.importorskip("transformers")
    shape = {name: getattr(config, name) for name in ("vocab_size", "n_embd", "n_layer", "n_head")}
    others = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0)
    theirs = transformers.GPT2Config(n_positions=config.block_size, **shape, **others)
    return transformers.GPT2LMHeadModel(theirs).eval()


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
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    gradients = ours_as_theirs(gradients | {"lm_head.weight": ours.lm_head.weight.grad}, theirs)
    for name, p in theirs.named_parameters():
        assert torch.allclose(gradients[name], p.grad, atol=1e-12), name


PUBLISHED = dict(zip(GPT2_SIZES, (124_439_808, 354_823_168, 774_030_080, 1_557_611_200)))


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes(size):
    assert sum(count_params(GPTConfig.gpt2(size)).values()) == PUBLISHED[size]


@every_switch
def test_count_params_is_what_is_built(config):
    assert sum(count_params(config).values()) == GPT(config).num_params()


@every_switch
@pytest.mark.parametrize("length", [16, 9])
def test_flops_are_those_that_torch_counts(config, length):
    "To the last operation, with the kernel that torch can count; norms and biases it does not count."
    model = GPT(config)
    idx = torch.zeros(2, length, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(idx, idx)[1].backward()
    vectors = 6 * sum(p.numel() for p in model.parameters() if p.dim() == 1)
    assert counter.get_total_flops() == (flops_per_token(config, length) - vectors) * idx.numel()


class Watch(torch.utils._python_dispatch.TorchDispatchMode):
    "The most rows of V = 37 logits (or of anything of that shape) together; and the shapes of all products."

    def __init__(self, model: GPT):
        super().__init__()
        self.weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.rows, self.most, self.products = {}, 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm_.default):
            self.products.append(tuple(out.shape))
        if isinstance(out, torch.Tensor) and out.shape[-1:] == (37,) and out.is_floating_point():
            storage = out.untyped_storage()
            rows = 0 if storage.data_ptr() in self.weights else out.numel() // 37
            self.rows[storage.data_ptr()] = StorageWeakRef(storage), rows
            self.most = max(self.most, sum(rows for ref, rows in self.rows.values() if not ref.expired()))
        return out


def test_chunked_loss_in_float16_cannot_overflow_and_casts_the_weight_once():
    "A row of the weight's gradient sums to more than float16 holds; 1 % is its precision."
    hidden, weight = torch.full((3000, 8), 60.0), torch.zeros(6, 8)
    targets, gradients, casts = torch.full((3000,), 3), {}, []

    class Counting(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            if operation is torch.ops.aten._to_copy.default and args[0].shape == (5, 8):
                casts.append(kwargs["dtype"])
            return operation(*args, **(kwargs or {}))

    for half in (False, True):
        leaf = weight.clone().requires_grad_()
        with torch.autocast("cpu", torch.float16, enabled=half), Counting():
            loss = chunked_cross_entropy(hidden, leaf[:5], targets, 2000)
        gradients[half] = torch.autograd.grad(loss, leaf)[0]
    assert 2000 * gradients[False].abs().max() > torch.finfo(torch.float16).max
    torch.testing.assert_close(gradients[True], gradients[False], rtol=0.01, atol=0.0)
    assert casts == [torch.float16]


@pytest.mark.parametrize("loss_chunk", [1, 7, 20])
def test_chunked_loss_holds_the_logits_of_one_chunk(loss_chunk):
    model = GPT(SMALL)
    idx = torch.randint(37, (3, 16))
    with Watch(model) as whole:
        model(idx, idx)[1].backward()
    model.loss_chunk = loss_chunk
    with Watch(model) as chunked:
        model(idx, idx)[1].backward()
    assert chunked.most == loss_chunk and whole.most >= 2 * 48


def test_chunked_loss_makes_no_gradients_where_none_are_wanted():
    model = GPT(SMALL)
    model.loss_chunk = 7
    idx = torch.randint(37, (3, 16))
    with torch.no_grad(), Watch(model) as evaluating:
        loss = model(idx, idx)[1]
    with Watch(model) as training:
        assert torch.equal(model(idx, idx)[1], loss)
    gradient = (37, 32)  # of the output layer, once a chunk
    assert training.products.count(gradient) == 7 and gradient not in evaluating.products


@every_switch
def test_kv_cache_bytes_are_those_of_a_cache(config):
    for batch_size, capacity in ((1, None), (3, 12)):
        cache = Cache(config, capacity)
        with torch.no_grad():
            GPT(config).hidden_states(torch.zeros(batch_size, 4, dtype=torch.long), cache)
        held = sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))
        assert held == kv_cache_bytes(config, batch_size, capacity)
        assert held == 2 * kv_cache_bytes(config, batch_size, capacity, bytes_each=2)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_embd": 30}, "n_embd must be a multiple of n_head, got n_embd=30 and n_head=4; try n_embd=32"),
        ({"n_layer": 0}, "n_layer must be at least 1 and at most 1000, got 0"),
        ({"n_head": -1}, "n_head must be at least 1, got -1"),
        ({"block_size": 0}, "block_size must be"),
        ({"vocab_size": 1.5}, "vocab_size must be"),
        ({"n_embd": True}, "n_embd must be"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"dropout": float("nan")}, "dropout must be at least 0"),
        ({"norm": "batch"}, "norm must be one of layer, rms, got 'batch'"),
        ({"mlp": "relu"}, "mlp must be one of gelu, gelu_exact, relu2, swiglu, got 'relu'"),
        ({"positions": "sine"}, "positions must be one of learned, rotary, got 'sine'"),
        ({"n_kv_head": 3}, "n_kv_head must divide n_head=4, got n_kv_head=3"),
        ({"n_kv_head": 0}, "n_kv_head must be at least 1, got 0"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"head_dim": 5, "positions": "rotary"}, "even width, got 5; set head_dim"),
        ({"document_token": 37}, "document_token 37 is beyond vocab_size 37"),
        ({"rope_theta": 0}, "rope_theta must be above 0, got 0"),
        ({"rope_scaling": {"factor": 2.0}}, "rope_scaling must have factor, high_freq.* got factor$"),
        ({"ngram_orders": (1, 2)}, r"ngram_orders must be at least 2 and at most 16, got \(1, 2\)"),
        ({"ngram_orders": (2, 17)}, r"ngram_orders must be at least 2 and at most 16, got \(2, 17\)"),
        ({"ngram_orders": ["2"]}, r"ngram_orders must be of type int, got \('2',\)"),
        ({"ngram_orders": 2}, "ngram_orders must be a list, got 2"),
        ({"ngram_orders": (3, 2, 3)}, r"ngram_orders must increase, got \(3, 2, 3\); write \(2, 3\)"),
        ({"ngram_rows": 0}, "ngram_rows must be at least 1, got 0"),
        ({"vocab_multiple": 0}, "vocab_multiple must be at least 1, got 0"),
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
    with pytest.raises(ValueError, match="^vocab_size is 0: a run takes it from its tokenizer; set it$"):
        GPT(replace(SMALL, vocab_size=0))
    with pytest.raises(ValueError, match="multiple of n_head"):
        CausalSelfAttention(10, 3)
    with pytest.raises(ValueError, match="the cache holds 2 positions; 3 were asked"):
        CausalSelfAttention(8, 2)(torch.zeros(1, 3, 8), KVCache(2))


@every_switch
@pytest.mark.parametrize("chunks", [[16], [1] * 16, [5, 1, 10], [15, 1]], ids=str)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_cached_logits_equal_uncached(config, chunks, batch_size):
    "1e-5: the same sums in another order, in float32."
    model = larger_weights(config)
    idx = torch.randint(config.vocab_size, (batch_size, 16), generator=torch.Generator().manual_seed(1))
    idx[:, 6] = 3  # a document begins here
    cache = Cache(config)
    with torch.no_grad():
        parts = [model.logits(model.hidden_states(part, cache)) for part in idx.split(chunks, dim=1)]
        assert torch.allclose(torch.cat(parts, 1), model(idx)[0], atol=1e-5)


@every_switch
def test_padded_rows_give_the_logits_of_each_alone(config):
    "Prompts of 4, 9 and 12 ids in one batch, read at once and then token by token; 1e-5 as above."
    model = larger_weights(config)
    rows = [torch.randint(37, (n,), generator=torch.Generator().manual_seed(n)) for n in (4, 9, 12)]
    padding = torch.tensor([12 - len(row) for row in rows])
    batch = torch.stack([torch.cat([row.new_zeros(12 - len(row)), row]) for row in rows])
    cache = Cache(config, padding=padding)
    more = torch.randint(config.vocab_size, (3, 4), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        hidden = [model.hidden_states(batch, cache)[:, -1:]]
        hidden += [model.hidden_states(more[:, i : i + 1], cache) for i in range(4)]
        together = model.logits(torch.cat(hidden, 1))
        for i, row in enumerate(rows):
            alone = model(torch.cat([row, more[i]])[None])[0][0, len(row) - 1 :]
            assert torch.allclose(together[i], alone, atol=1e-5)


def test_a_shared_prompt_is_read_once():
    model = larger_weights(SWITCHES["llama"])
    idx = torch.randint(37, (2, 9), generator=torch.Generator().manual_seed(1))
    cache = Cache(model.config)
    with torch.no_grad():
        model.hidden_states(idx[:, :8], cache)
        cache.repeat(3)
        continued = model.logits(model.hidden_states(idx[:, 8:].repeat_interleave(3, 0), cache))
        assert torch.allclose(continued, model(idx.repeat_interleave(3, 0))[0][:, -1:], atol=1e-5)


def test_document_masking_keeps_documents_apart_bit_for_bit():
    idx = torch.randint(1, 37, (1, 16), generator=torch.Generator().manual_seed(1))
    idx[:, [0, 7]] = 0  # two documents, at 0 and 7
    other = idx.clone()
    other[:, 3] = (idx[:, 3] % 36) + 1
    for document_token, same in ((0, True), (None, False)):
        for shape in ({}, dict(positions="rotary", n_kv_head=2, window=6)):
            config = replace(SMALL, document_token=document_token, **shape)
            model = larger_weights(config)
            with torch.no_grad():
                before, after = model(idx)[0], model(other)[0]
            assert torch.equal(before[:, 7:], after[:, 7:]) is same
            assert not torch.equal(before[:, 3:7], after[:, 3:7])


def rows_by_counting(config: GPTConfig, ids: list[int], numbers: dict) -> torch.Tensor:
    """For each position and order, a number for the n-gram that ends there: 0, 1, … as they are met.
    Args:
        numbers: n-gram -> its number; -1 in an n-gram is before the beginning"""
    begins, rows = 0, []
    for t, i in enumerate(ids):
        begins = t if i == config.document_token else begins
        ngrams = [tuple(ids[s] if s >= begins else -1 for s in range(t - n + 1, t + 1)) for n in config.ngram_orders]
        rows.append([numbers.setdefault(ngram, len(numbers)) for ngram in ngrams])
    return torch.tensor(rows)


@pytest.mark.parametrize("document_token", [None, 0])
def test_ngrams_are_told_apart_as_by_a_dictionary(document_token):
    "A table so large that 1,200 n-grams do not collide: equal rows for equal n-grams, and for no others."
    config = GPTConfig(vocab_size=5, ngram_orders=(2, 3, 7), ngram_rows=2**30, document_token=document_token)
    ids = torch.randint(5, (4, 100), generator=torch.Generator().manual_seed(1))
    numbers: dict = {}
    expected = torch.stack([rows_by_counting(config, row, numbers) for row in ids.tolist()])
    rows = hash_ngrams(config, ids, 100)
    pairs = torch.stack([rows.flatten(), expected.flatten()]).unique(dim=1)
    assert len(pairs[0].unique()) == len(pairs[1].unique()) == pairs.shape[1] == len(numbers) > 300


def test_rows_of_ngrams_are_those_that_weights_were_trained_with():
    "Another hash would turn every saved table into noise."
    config = GPTConfig(ngram_orders=(2, 3, 4, 5))
    ids = torch.tensor([[18, 47, 56, 57, 58], [50256, 0, 1, 2, 3]])
    assert hash_ngrams(config, ids, 2).tolist() == [
        [[2373, 3137, 6337, 10343], [2519, 3675, 6667, 8622]],
        [[1542, 4092, 8159, 9175], [1043, 3863, 7149, 8733]],
    ]


def test_tables_of_ngrams_begin_as_nothing_and_learn_where_ngrams_occur():
    config = SWITCHES["n-grams"]
    model, without = (GPT(c, torch.Generator().manual_seed(0)) for c in (config, replace(config, ngram_orders=())))
    idx = torch.randint(37, (2, 8), generator=torch.Generator().manual_seed(1))
    assert torch.equal(model(idx)[0], without(idx)[0])
    model(idx, idx)[1].backward()
    reached = model.transformer.ngrams.weight.grad.abs().sum(1).nonzero().flatten()
    assert torch.equal(reached, hash_ngrams(config, idx, 8).unique())


def test_documents_have_ngrams_of_their_own():
    model = larger_weights(SWITCHES["n-grams, masked"])
    idx = torch.randint(4, 37, (1, 16), generator=torch.Generator().manual_seed(1))
    idx[:, [0, 7]] = 3
    with torch.no_grad():
        together, alone = model(idx)[0][:, 7:], model(idx[:, 7:])[0]
    assert torch.allclose(together, alone, atol=1e-5), "1e-5: other angles"


def test_a_window_is_what_its_name_says():
    "One layer: a change five positions back is seen through a window of 6 and not through one of 5."
    idx = torch.randint(37, (1, 16), generator=torch.Generator().manual_seed(1))
    other = idx.clone()
    other[:, 4] = (idx[:, 4] + 1) % 37
    for window, changed in ((5, list(range(4, 9))), (6, list(range(4, 10))), (None, list(range(4, 16)))):
        config = replace(SMALL, n_layer=1, window=window)
        model = larger_weights(config)
        with torch.no_grad():
            moved = (model(idx)[0] - model(other)[0]).abs().amax((0, 2)) > 0
        assert moved.nonzero().flatten().tolist() == changed


def test_rotary_models_see_distances_only():
    "Without a table of positions, a shifted sequence gives the same logits: 1e-5, since angles differ."
    model = larger_weights(replace(SMALL, positions="rotary"))
    idx = torch.randint(37, (1, 8), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        shifted = Cache(model.config, padding=torch.tensor([-5]))  # positions 5, 6, …
        assert torch.allclose(model.logits(model.hidden_states(idx, shifted)), model(idx)[0], atol=1e-5)


def test_cross_entropy_is_torchs_and_ignores_every_negative_target():
    "nanoGPT's -1 bit for bit; -100, and any other negative number, leaves out the same positions."
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 7, generator=g, requires_grad=True)
    targets = torch.randint(7, (3, 5), generator=g)
    hidden, weight = torch.randn(15, 4, generator=g), torch.randn(7, 4, generator=g)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert torch.equal(cross_entropy(logits, targets), expected)
    assert torch.equal(cross_entropy(logits[0], targets[0]), F.cross_entropy(logits[0], targets[0]))
    left_out = torch.rand(3, 5, generator=g) < 0.4
    losses = []
    for mark in (-1, -100, -5):
        marked = targets.masked_fill(left_out, mark)
        loss = cross_entropy(logits, marked)
        assert torch.equal(loss, F.cross_entropy(logits.flatten(0, 1), marked.flatten(), ignore_index=mark))
        chunked = chunked_cross_entropy(hidden, weight, marked.flatten(), 4)
        assert torch.allclose(chunked, cross_entropy(hidden @ weight.T, marked.flatten()), atol=1e-5, rtol=0)
        losses.append((loss.item(), torch.autograd.grad(loss, logits)[0].tolist(), chunked.item()))
    assert losses[0] == losses[1] == losses[2]
    assert cross_entropy(logits, torch.full_like(targets, -100)).isnan(), "the mean of nothing"


@every_switch
@pytest.mark.parametrize("chunk", [1, 7, 48, 100])
def test_chunked_loss_equals_cross_entropy(config, chunk):
    "Value and every gradient, in float64."
    model = larger_weights(config).double()
    idx, targets = torch.randint(37, (2, 3, 16), generator=torch.Generator().manual_seed(1))
    targets[0, 4:7], targets[1, :2] = -1, -100
    gradients = []
    for model.loss_chunk in (0, chunk):
        model.zero_grad()
        logits, loss = model(idx, targets)
        assert (logits is None) is (model.loss_chunk > 0)
        loss.backward()
        gradients.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    for one, other in zip(*gradients):
        assert torch.allclose(one, other, atol=1e-12)


def test_chunked_loss_equals_the_slope():
    """Central differences in float64.

    Not `gradcheck`, which goes backward twice: the gradients are scaled in place, so torch refuses that.
    """
    g = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 4, generator=g, dtype=torch.float64, requires_grad=True) for n in (5, 7))
    targets = torch.tensor([1, 6, -1, 0, 3])
    loss = 3 * chunked_cross_entropy(hidden, weight, targets, 2)
    gradients = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    with torch.no_grad():
        for tensor, gradient in zip((hidden, weight), gradients):
            for number, slope in zip(tensor.view(-1).split(1), gradient.flatten()):
                number += 1e-5
                above = chunked_cross_entropy(hidden, weight, targets, 2)
                number -= 2e-5
                below = chunked_cross_entropy(hidden, weight, targets, 2)
                number += 1e-5
                assert abs(3 * (above - below) / 2e-5 - slope) < 1e-8
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_crop_block_size():
    for config in (SMALL, SWITCHES["llama"]):
        model = GPT(config, torch.Generator().manual_seed(0)).eval()
        idx = torch.randint(37, (1, 8), generator=torch.Generator().manual_seed(1))
        before = model(idx)[0]
        model.crop_block_size(8)
        assert torch.equal(model(idx)[0], before)
        assert model.num_params() == sum(count_params(model.config).values())
        with pytest.raises(ValueError, match="9 tokens is longer than block_size 8"):
            model(torch.zeros(1, 9, dtype=torch.long))
        with pytest.raises(ValueError, match="between 1 and 8, got 16"):
            model.crop_block_size(16)


def test_a_float64_model_has_float64_angles():
    model = GPT(replace(SMALL, positions="rotary", block_size=512)).double()
    idx = torch.randint(37, (1, 512), generator=torch.Generator().manual_seed(1))
    angles = []
    model.transformer.h[0].attn.register_forward_pre_hook(lambda module, args: angles.append(args[3]))
    with torch.no_grad():
        model(idx)
    speeds = 10_000.0 ** (-torch.arange(0, 8, 2).double() / 8)
    expected = (torch.arange(512)[:, None] * speeds).cos()
    assert torch.allclose(angles[0][0], expected, atol=1e-12, rtol=0)


def test_initial_weights_come_from_the_generator():
    one, same, other = (GPT(SMALL, torch.Generator().manual_seed(seed)).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["transformer.wte.weight"], other["transformer.wte.weight"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_chunked_loss_of_a_model_in_half_precision(dtype):
    "Weights in half precision, no autocast: within the rounding of 8 bits, relative to the largest gradient."
    model = GPT(SMALL, torch.Generator().manual_seed(0)).to(dtype)
    idx = torch.randint(37, (2, 16), generator=torch.Generator().manual_seed(1))
    gradients = []
    for model.loss_chunk in (0, 5):
        model.zero_grad()
        loss = model(idx, idx)[1]
        loss.backward()
        gradients.append(model.lm_head.weight.grad.float())
    assert model.lm_head.weight.grad.dtype == dtype and loss.dtype == torch.float32
    assert (gradients[0] - gradients[1]).abs().max() <= 0.02 * gradients[0].abs().max()
