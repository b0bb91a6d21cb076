"""What `nanogpt.inside` sees is what others see in the same weights, and what it changes is changed only meanwhile."""
from importlib.util import find_spec

import pytest
import torch

from nanogpt.bpe import train_bpe
from nanogpt.config import GPTConfig
from nanogpt.hub import load, save_pretrained
from nanogpt.inside import ablate, direct_logits, logit_lens, mentions, patch, record
from nanogpt.model import GPT
from nanogpt.sample import generate

V = 260
SHAPE = dict(block_size=32, vocab_size=V, n_layer=2, n_head=4, n_embd=32, embd_std=0.5, init_std=0.2)
CONFIGS = {
    "gpt2": GPTConfig(**SHAPE),
    "llama": GPTConfig.llama(**SHAPE, n_kv_head=2),
    "qwen": GPTConfig.llama(**SHAPE, n_kv_head=2, qk_norm=True, head_dim=16),
    "modern": GPTConfig(**SHAPE, positions="rotary", mlp="relu2", window=9, ngram_orders=(2, 3), tied=False),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@pytest.fixture(scope="module")
def ids():
    return torch.randint(V, (3, 20), generator=torch.Generator().manual_seed(1))


def model_of(config):
    return GPT(config, torch.Generator().manual_seed(0)).eval()


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def saved(request, tmp_path_factory):
    "A model as `load` gives it, and the folder."
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = train_bpe(["the cat sat on the mat"] * 5, V, ["<|endoftext|>"])
    save_pretrained(model_of(CONFIGS[request.param]), folder, tokenizer)
    return load(folder)[0], folder


def assert_same(ours, theirs):
    torch.testing.assert_close(ours, theirs.view_as(ours), atol=1e-4, rtol=0)


THEIRS = {"resid_pre": "hook_resid_pre", "resid_mid": "hook_resid_mid", "resid_post": "hook_resid_post",
          "attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out", "mlp_hidden": "mlp.hook_post",
          "z": "attn.hook_z", "pattern": "attn.hook_pattern"}


@pytest.mark.skipif(not find_spec("transformer_lens"), reason="pip install transformer_lens, to compare with it")
def test_activations_are_those_of_transformer_lens(saved, ids):
    from transformer_lens.model_bridge import TransformerBridge

    model, folder = saved
    logits, cache = TransformerBridge.boot_transformers(str(folder)).run_with_cache(ids)
    inside = record(model, ids)
    assert_same(inside["logits"], logits)
    assert_same(inside["ln_f"], cache["ln_final.hook_out"])
    for ours, theirs in THEIRS.items():
        for i in range(2):
            assert_same(inside[f"{ours}.{i}"], cache[f"blocks.{i}.{theirs}"])


def test_streams_and_patterns_are_those_of_transformers(saved, ids):
    transformers = pytest.importorskip("transformers")
    model, folder = saved
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    out = theirs.eval()(ids, output_hidden_states=True, output_attentions=True)
    inside = record(model, ids)
    for i in range(2):
        assert_same(inside[f"resid_pre.{i}"], out.hidden_states[i])
        assert_same(inside[f"pattern.{i}"], out.attentions[i])
    assert_same(inside["ln_f"], out.hidden_states[2])
    assert_same(inside["logits"], out.logits)


@each_config
def test_what_is_recorded_fits_together(config, ids):
    model = model_of(config)
    inside = record(model, ids)
    assert torch.equal(inside["logits"], model(ids)[0])
    for i in range(2):
        v = inside[f"v.{i}"].repeat_interleave(config.n_head // inside[f"v.{i}"].shape[1], dim=1)
        z = (inside[f"pattern.{i}"] @ v).transpose(1, 2)
        torch.testing.assert_close(z, inside[f"z.{i}"], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(inside[f"resid_mid.{i}"] + inside[f"mlp_out.{i}"], inside[f"resid_post.{i}"])
    torch.testing.assert_close(logit_lens(model, inside["resid_post.1"]), inside["logits"])


@each_config
def test_direct_contributions_add_up_to_the_logit(config, ids):
    model = model_of(config)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2))  # biases that are not zero
    inside = record(model, ids)
    direction = model.lm_head.weight[7] - model.lm_head.weight[8]
    said = direct_logits(model, inside, direction)
    assert len(said) == 1 + 2 * (config.n_head + 1) + 1
    expected = inside["logits"][..., 7] - inside["logits"][..., 8]
    torch.testing.assert_close(sum(said.values()), expected, atol=1e-3, rtol=1e-3)


@each_config
def test_a_head_that_is_off_is_a_head_without_weights(config, ids):
    model, cut = model_of(config), model_of(config)
    size = config.head_size
    with torch.no_grad():
        cut.transformer.h[1].attn.c_proj.weight[:, 2 * size : 3 * size] = 0
        expected = cut(ids)[0]
        with ablate(model, [(1, 2)], "zero"):
            torch.testing.assert_close(model(ids)[0], expected)
        assert not torch.allclose(model(ids)[0], expected), "it is on again"


@each_config
def test_patching_the_stream_carries_the_rest_of_the_run(config, ids):
    model, other = model_of(config), ids.flip(0)
    theirs = record(model, other)
    for name in ("resid_pre.0", "resid_post.1", "ln_f"):
        with torch.no_grad(), patch(model, name, theirs[name]):
            torch.testing.assert_close(model(ids)[0], theirs["logits"])
    at = (slice(None), 5)
    with patch(model, "resid_pre.1", theirs["resid_pre.1"][at], at):
        inside = record(model, ids)
    plain = record(model, ids)
    assert torch.equal(inside["logits"][:, :5], plain["logits"][:, :5]), "no earlier position sees it"
    assert torch.equal(inside["resid_post.0"], plain["resid_post.0"])
    assert not torch.allclose(inside["logits"][0, 5], plain["logits"][0, 5])


def test_mean_and_resampled_heads_say_what_they_said_elsewhere(ids):
    model = model_of(CONFIGS["llama"])
    reference = record(model, ids)
    seen = reference["z.0"][..., 1, :].flatten(0, 1)
    with ablate(model, [(0, 1)], "mean", reference):
        mean = record(model, ids)["z.0"]
    assert torch.allclose(mean[..., 1, :], seen.mean(0)) and torch.equal(mean[..., 0, :], reference["z.0"][..., 0, :])
    with ablate(model, [(0, 1), (1, "mlp")], "resample", reference, torch.Generator().manual_seed(0)):
        inside = record(model, ids)
    assert (inside["z.0"][..., 1, :].flatten(0, 1)[:, None] == seen[None]).all(-1).any(1).all()
    assert not torch.allclose(inside["z.0"][..., 1, :], reference["z.0"][..., 1, :])
    known = reference["mlp_out.1"].flatten(0, 1)
    assert (inside["mlp_out.1"].flatten(0, 1)[:, None] == known[None]).all(-1).any(1).all()


def test_it_also_changes_what_is_written_with_a_cache(ids):
    model = model_of(CONFIGS["modern"])
    with ablate(model, [(0, "mlp"), (1, "mlp")], "zero"), torch.no_grad():
        written = generate(model, ids[:1, :4], 8, temperature=0.0)
        for t in range(4, 12):
            assert written[0, t] == model(written[:, :t])[0][0, -1].argmax()
    assert not torch.equal(written, generate(model, ids[:1, :4], 8, temperature=0.0))


def test_nothing_stays_after_an_error(ids):
    model = model_of(CONFIGS["gpt2"]).train()
    with pytest.raises(RuntimeError):
        with patch(model, "resid_pre.0", torch.zeros(7)):
            model(ids)
    with pytest.raises(ValueError, match="block_size"):
        record(model, torch.zeros(1, 99, dtype=torch.long))
    assert model.training and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_is_asked_wrongly():
    model = model_of(CONFIGS["gpt2"])
    with pytest.raises(ValueError, match="'z.2' is no place to patch; choose from resid_pre.0, "):
        with patch(model, "z.2", torch.zeros(1)):
            pass
    for part in ((2, 0), (0, 4), (0, "attn"), (-1, 0)):
        with pytest.raises(ValueError, match="not in a model with 2 × 4 heads"):
            with ablate(model, [part], "zero"):
                pass
    with pytest.raises(ValueError, match="needs a reference: record"):
        with ablate(model, [(0, 0)]):
            pass


def test_mentions_of_a_tale():
    tale = ("Once a shy fox named Ruby lived in a tent. One warm day, she lost her green kite in the park. She packed "
            "seven plums. Near the gate, she met a wise mole. Ruby gave it one and kept six. They found the green kite "
            "in a nest! The fox and the mole ran home.")
    tokenizer = train_bpe([tale] * 3, 600, ["<|endoftext|>"])
    words = ["", *(tokenizer.decode([i]).strip() for i in tokenizer.encode(tale))]
    found = {fact: (words[at], [words[i] for i in sources]) for fact, at, sources in mentions(tale, tokenizer)}
    assert found == {fact: (word, [word]) for fact, word in
                     dict(hero="Ruby", kind="fox", colour="green", thing="kite", helper="mole").items()
                     } | {"count": ("six", ["seven"])}
    with pytest.raises(ValueError, match="not one token"):
        mentions(tale, train_bpe(["a b"], 258, ["<|endoftext|>"]))
