"""Weights from transformers compute the same here, ours do so there, and what does not fit is named."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from conftest import Intruder
from safetensors.torch import load_file, save_file

from nanogpt.bpe import train_bpe
from nanogpt.checkpoint import save_checkpoint
from nanogpt.config import GPTConfig
from nanogpt.decode import Detokenizer
from nanogpt.hub import find_model, load, load_model, model_from_huggingface, save_pretrained, tokenizer_of
from nanogpt.huggingface import tokenizer_from_huggingface
from nanogpt.layouts import (
    PARTS,
    Piece,
    config_from_huggingface,
    config_to_huggingface,
    huggingface_layout,
)
from nanogpt.model import GPT
from nanogpt.sample import generate
from nanogpt.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer
from nanogpt.vocab import TiktokenTokenizer, load_tokenizer, tokenizer_from_dict

GPT2 = dict(model_type="gpt2", vocab_size=37, n_positions=16, n_embd=32, n_layer=3, n_head=4)
LLAMA = dict(
    model_type="llama", vocab_size=37, max_position_embeddings=16, hidden_size=32, intermediate_size=56,
    num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2,
)  # fmt: skip
STRETCHED = {
    "factor": 4.0,
    "low_freq_factor": 0.2,
    "high_freq_factor": 1.5,
    "original_max_position_embeddings": 8,
}
QWEN3 = {**LLAMA, "model_type": "qwen3", "head_dim": 12}
MODELS = {
    "gpt2": GPT2,
    "gpt2, untied": {**GPT2, "tie_word_embeddings": False},
    "gpt2, n_inner": {
        **GPT2,
        "n_inner": 40,
        "activation_function": "gelu_pytorch_tanh",
        "layer_norm_epsilon": 1e-3,
    },
    "gpt2, exact gelu": {**GPT2, "activation_function": "gelu"},
    "gpt2, upcast": {**GPT2, "reorder_and_upcast_attn": True},
    "llama, untied": {**LLAMA, "tie_word_embeddings": False},
    "llama, tied": {**LLAMA, "tie_word_embeddings": True, "rms_norm_eps": 1e-3},
    "llama, all heads": {**LLAMA, "num_key_value_heads": 4, "head_dim": 16},
    "llama, one head": {**LLAMA, "num_key_value_heads": 1, "rope_theta": 500.0},
    "llama 3": {**LLAMA, "rope_parameters": {"rope_type": "llama3", "rope_theta": 50.0, **STRETCHED}},
    "qwen2, untied": {**LLAMA, "model_type": "qwen2"},
    "qwen2, tied": {**LLAMA, "model_type": "qwen2", "tie_word_embeddings": True, "sliding_window": 5},
    "qwen3, untied": {**QWEN3, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    "qwen3, tied": {**QWEN3, "tie_word_embeddings": True},
    "mistral": {**LLAMA, "model_type": "mistral", "sliding_window": 5},
    "mistral, no window": {**LLAMA, "model_type": "mistral", "sliding_window": None},
}
every_model = pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)
SHAPE = dict(block_size=64, vocab_size=300, n_layer=2, n_head=4, n_embd=32)
OURS = {
    "gpt2": GPTConfig(**SHAPE),
    "gpt2, no bias": GPTConfig(**SHAPE, bias=False, n_inner=24, dropout=0.1),
    "gpt2, untied": GPTConfig(**SHAPE, tied=False, n_kv_head=4, head_dim=8, norm_eps=1e-3),
    "llama": GPTConfig.llama(**SHAPE, n_kv_head=2, rope_theta=500.0),
    "llama 3": GPTConfig.llama(**SHAPE, rope_scaling=STRETCHED, rope_theta=50.0),
    "llama, tied": GPTConfig.llama(**SHAPE, tied=True, head_dim=16, document_token=0, norm_eps=1e-3),
    "gpt2, some biases": GPTConfig(**SHAPE, bias=False, qkv_bias=True),
    "qwen2": GPTConfig.llama(**SHAPE, qkv_bias=True, n_kv_head=2),
    "qwen3": GPTConfig.llama(**SHAPE, qk_norm=True, n_kv_head=1, head_dim=12),
    "mistral": GPTConfig.llama(**SHAPE, n_kv_head=2, window=9),
    "padded": GPTConfig(**SHAPE, vocab_multiple=128),
    "padded, untied": GPTConfig.llama(**SHAPE, vocab_multiple=128),
}
TALE = "the fox and the mole went to the river. " * 20


@torch.no_grad()
def scatter(model):
    "Weights so large that every one of them shows in the logits: no bias is zero and no gain is one."
    for i, p in enumerate(model.parameters()):
        p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return model.eval()


def make_theirs(settings: dict):
    transformers = pytest.importorskip("transformers")
    settings = {"bos_token_id": None, "eos_token_id": None, **settings}
    config = transformers.AutoConfig.for_model(**settings)
    torch.manual_seed(0)
    return scatter(transformers.AutoModelForCausalLM.from_config(config))


def make_ours(config: GPTConfig) -> GPT:
    return scatter(GPT(config, torch.Generator().manual_seed(0)))


def ids_for(config: GPTConfig, length: int = 16) -> torch.Tensor:
    return torch.randint(config.vocab_size, (3, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def assert_same_logits(ours: GPT, theirs):
    "1e-4: float32 rounding; both add up the same numbers in another order."
    idx = ids_for(ours.config)
    logits = ours(idx)[0]
    assert logits.shape == (3, 16, ours.config.vocab_size)
    assert logits.std() > 0.1, "a comparison of zeros shows nothing"
    assert (logits - theirs(idx).logits).abs().max() <= 1e-4


# In


@every_model
def test_their_models_compute_the_same_here(settings, tmp_path):
    theirs = make_theirs(settings)
    theirs.save_pretrained(tmp_path)
    state = torch.get_rng_state()
    ours = model_from_huggingface(tmp_path)
    assert torch.equal(torch.get_rng_state(), state), "loading draws no random numbers"
    assert not ours.training and all(
        p.requires_grad and p.dtype == torch.float32 and p.device.type == "cpu" for p in ours.parameters()
    )
    assert ours.num_params() == theirs.num_parameters()
    assert_same_logits(ours, theirs)


def test_logits_equal_at_124m(tmp_path):
    "GPT-2's smallest shape, out and in: transformers reads ours, and we read what it writes."
    transformers = pytest.importorskip("transformers")
    config = GPTConfig.gpt2()
    ours = GPT(config, torch.Generator().manual_seed(0)).eval()
    save_pretrained(ours, tmp_path / "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    theirs.save_pretrained(tmp_path / "theirs")
    back = model_from_huggingface(str(tmp_path / "theirs"))
    idx = torch.randint(config.vocab_size, (2, 64), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits = ours(idx)[0]
        assert (logits - theirs(idx).logits).abs().max() <= 1e-4
        assert torch.equal(logits, back(idx)[0])
    assert back.num_params() == theirs.num_parameters() == 124_439_808


@every_model
def test_in_out_in_gives_identical_tensors(settings, tmp_path):
    make_theirs(settings).save_pretrained(tmp_path / "theirs")
    once = model_from_huggingface(tmp_path / "theirs")
    save_pretrained(once, tmp_path / "ours")
    twice = model_from_huggingface(tmp_path / "ours")
    assert once.state_dict().keys() == twice.state_dict().keys()
    assert all(torch.equal(tensor, twice.state_dict()[name]) for name, tensor in once.state_dict().items())
    theirs, ours = (
        load_file(tmp_path / "theirs" / "model.safetensors"),
        load_file(tmp_path / "ours" / "model.safetensors"),
    )
    assert theirs.keys() == ours.keys() and all(
        torch.equal(tensor, ours[name]) for name, tensor in theirs.items()
    )
    assert replace(once.config, head_dim=None, n_kv_head=None) == replace(
        twice.config, head_dim=None, n_kv_head=None
    )
    assert (once.config.head_size, once.config.kv_heads) == (twice.config.head_size, twice.config.kv_heads)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened(dtype, tmp_path):
    transformers = pytest.importorskip("transformers")
    make_theirs(LLAMA).to(dtype).save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ours = model_from_huggingface(tmp_path)
    assert ours.lm_head.weight.dtype == torch.float32 and torch.equal(
        ours.lm_head.weight, theirs.lm_head.weight
    )
    assert_same_logits(ours, theirs)
    narrow = model_from_huggingface(tmp_path, dtype=dtype).state_dict()
    assert all(torch.equal(tensor, ours.state_dict()[name].to(dtype)) for name, tensor in narrow.items())
    save_pretrained(ours.to(dtype), tmp_path / "out")
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["dtype"] == str(dtype)[6:]
    )
    out, expected = (
        load_file(tmp_path / "out" / "model.safetensors"),
        load_file(tmp_path / "model.safetensors"),
    )
    assert all(
        out[name].dtype == dtype and torch.equal(out[name], tensor) for name, tensor in expected.items()
    )


def test_shards_of_transformers(tmp_path):
    theirs = make_theirs(LLAMA)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    assert_same_logits(model_from_huggingface(tmp_path), theirs)
    shards[1].unlink()
    with pytest.raises(FileNotFoundError, match=shards[1].name):
        model_from_huggingface(tmp_path)


def rewrite(folder: Path, change, settings: dict = GPT2):
    "A folder of transformers whose tensors and config went through `change`."
    make_theirs(settings).save_pretrained(folder)
    tensors, config = (
        load_file(folder / "model.safetensors"),
        json.loads((folder / "config.json").read_text(encoding="utf-8")),
    )
    tensors = change(tensors, config) or tensors
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def test_files_as_the_hub_has_them(tmp_path):
    "GPT-2's has no prefix and stores its masks; others hold the tied output layer; old Llamas store angles."
    expected = make_theirs(GPT2)
    masks = {
        f"h.{i}.attn.{name}": torch.ones(1, 1, 16, 16) for i in range(3) for name in ("bias", "masked_bias")
    }
    rewrite(
        tmp_path / "a",
        lambda tensors, config: (
            {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()} | masks
        ),
    )
    assert_same_logits(model_from_huggingface(tmp_path / "a"), expected)
    rewrite(
        tmp_path / "b",
        lambda tensors, config: tensors | {"lm_head.weight": tensors["transformer.wte.weight"].clone()},
    )
    assert_same_logits(model_from_huggingface(tmp_path / "b"), expected)
    angles = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(3)}
    rewrite(tmp_path / "c", lambda tensors, config: tensors | angles, LLAMA)
    assert_same_logits(model_from_huggingface(tmp_path / "c"), make_theirs(LLAMA))
    with pytest.raises(
        ValueError,
        match="tie_word_embeddings is true in .*config.json, but lm_head.weight differs from transformer.wte",
    ):
        rewrite(
            tmp_path / "d",
            lambda tensors, config: tensors | {"lm_head.weight": tensors["transformer.wte.weight"] + 1},
        )
        model_from_huggingface(tmp_path / "d")


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda t, c: {n: x for n, x in t.items() if n != "transformer.h.1.ln_1.bias"},
            "1 missing: transformer.h.1.ln_1.bias$",
        ),
        (
            lambda t, c: {n: x for n, x in t.items() if "mlp" not in n},
            "12 missing: (transformer.h.[01].mlp.c_[a-z.]*, ){5}…$",
        ),
        (lambda t, c: t | {"score.weight": torch.zeros(2)}, "1 unexpected: score.weight$"),
        (
            lambda t, c: t | {"transformer.h.0.attn.biases": torch.zeros(2)},
            "1 unexpected: transformer.h.0.attn.biases$",
        ),
        (
            lambda t, c: t | {"transformer.h.3.ln_1.weight": torch.zeros(32)},
            "1 unexpected: transformer.h.3.ln_1.weight$",
        ),
        (
            lambda t, c: t | {"transformer.h.0.mlp.c_fc.weight": t["transformer.h.0.mlp.c_fc.weight"].t()},
            r"1 of another shape: transformer.h.0.mlp.c_fc.weight \(128, 32\) instead of \(32, 128\)$",
        ),
        (
            lambda t, c: c.update(vocab_size=38),
            r"1 of another shape: transformer.wte.weight \(37, 32\) instead of \(38, 32\)$",
        ),
        (lambda t, c: c.update(tie_word_embeddings=False), "1 missing: lm_head.weight$"),
        (
            lambda t, c: t | {"transformer.ln_f.bias": torch.zeros(32, dtype=torch.int8)},
            "1 of another type: transformer.ln_f.bias torch.int8$",
        ),
        (
            lambda t, c: (
                {n: x for n, x in t.items() if "ln_f.w" not in n} | {"transformer.ln_f.gain": torch.ones(32)}
            ),
            "; 1 missing: transformer.ln_f.weight; 1 unexpected: transformer.ln_f.gain$",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(change, message, tmp_path):
    rewrite(tmp_path, change)
    with pytest.raises(
        ValueError, match=f"the weights in .* do not fit its config.json; .*{message.lstrip('; ')}"
    ) as caught:
        model_from_huggingface(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"model_type": "mamba"},
            "model_type 'mamba' is of a layout that nanogpt does not know; it knows gpt2, llama, qwen2, qwen3, mistral",
        ),
        ({"model_type": "gemma3_text"}, "model_type 'gemma3_text' is of a layout that nanogpt does not know"),
        ({}, "model_type None is of a layout"),
        (
            {**GPT2, "activation_function": "relu"},
            "activation_function is 'relu', which nanogpt does not compute; it computes 'gelu_new' and",
        ),
        ({**GPT2, "scale_attn_weights": False}, "scale_attn_weights is False"),
        ({**GPT2, "scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({**GPT2, "add_cross_attention": True}, "add_cross_attention is True"),
        ({**GPT2, "quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}"),
        (
            {**LLAMA, "hidden_act": "gelu"},
            "hidden_act is 'gelu', which nanogpt does not compute; it computes 'silu'",
        ),
        ({**LLAMA, "attention_bias": True}, "attention_bias is True"),
        ({**LLAMA, "model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window is True"),
        ({**LLAMA, "mlp_bias": True}, "mlp_bias is True"),
        ({**LLAMA, "partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        (
            {**LLAMA, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            "rope_scaling must have factor, high_freq_factor, .*, got factor",
        ),
        ({**LLAMA, "rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
        ({**LLAMA, "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type is 'yarn'"),
        (
            {**LLAMA, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "rope_type is .default. with partial_rotary_factor=0.5, which",
        ),
        ({**QWEN3, "use_sliding_window": True}, "use_sliding_window is True"),
        (
            {**QWEN3, "layer_types": ["full_attention", "sliding_attention"]},
            "layer_types is 'sliding_attention', which",
        ),
        (
            {name: value for name, value in GPT2.items() if name != "n_embd"},
            "the config of a gpt2 model lacks 'n_embd'",
        ),
        (
            {name: value for name, value in QWEN3.items() if name != "hidden_size"},
            "the config of a qwen3 model lacks 'hidden_size'",
        ),
        ({**GPT2, "n_head": 5}, "n_embd must be a multiple of n_head"),
    ],
)
def test_what_we_do_not_compute_is_named(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        config_from_huggingface(settings)
    (tmp_path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ValueError, match=f"config.json: {message}") as caught:
        model_from_huggingface(tmp_path)
    assert "\n" not in str(caught.value)


def test_configs_of_both_versions_of_transformers():
    old, new = (
        {**LLAMA, "rope_theta": 5e5, "rope_scaling": None},
        {**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    )
    assert (
        config_from_huggingface(old) == config_from_huggingface(new)
        and config_from_huggingface(old).rope_theta == 5e5
    )
    stretched = {"rope_type": "llama3", **STRETCHED}
    old, new = (
        {**LLAMA, "rope_theta": 5e5, "rope_scaling": stretched},
        {**LLAMA, "rope_parameters": {**stretched, "rope_theta": 5e5}},
    )
    assert (
        config_from_huggingface(old) == config_from_huggingface(new)
        and config_from_huggingface(old).rope_scaling == STRETCHED
    )
    assert config_from_huggingface(LLAMA).rope_theta == 10_000 and not config_from_huggingface(LLAMA).tied
    assert config_from_huggingface({**QWEN3, "head_dim": None}).head_size == 8
    assert (
        config_from_huggingface(
            {name: value for name, value in QWEN3.items() if name != "head_dim"}
        ).head_size
        == 128
    )
    written = config_to_huggingface(config_from_huggingface(old))
    assert written["rope_theta"] == written["rope_parameters"]["rope_theta"] == 5e5


def test_files_that_are_not_there_or_not_whole_are_named(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("a path is no name on the hub")
    )
    absent = (
        "no/such/folder",
        tmp_path / "absent",
        "./absent",
        str(tmp_path / "absent"),
        "out/ckpt.pt",
        "absent",
    )
    for source in absent:
        with pytest.raises(
            FileNotFoundError, match="there is no folder .*; name one, or a model of the Hugging Face hub as"
        ):
            load(source)
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*ckpt.pt, and no model.safetensors"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="config.json"):
        model_from_huggingface(tmp_path)
    for content in ("{", '"é'):
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match="config.json is damaged"):
            model_from_huggingface(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(GPT2), encoding="utf-8")
    with pytest.raises(
        FileNotFoundError, match="there is no model.safetensors in .*, nor an index of shards"
    ):
        model_from_huggingface(tmp_path)


def test_truncation_is_named_at_every_length(tmp_path):
    save_pretrained(GPT(replace(OURS["llama"], vocab_size=5, n_layer=1)), tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for length in [*range(0, 200, 7), *range(200, len(whole), len(whole) // 40), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(
            ValueError, match="model.safetensors is damaged or cut short .*; fetch it again"
        ) as caught:
            model_from_huggingface(tmp_path)
        assert "\n" not in str(caught.value)
    for content in (whole + b"x", b"\xff" * len(whole), whole[:8] + b"[" + whole[9:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="model.safetensors is damaged or cut short"):
            model_from_huggingface(tmp_path)


def test_pickles_are_never_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(GPT2), encoding="utf-8")
    torch.save({"transformer.wte.weight": Intruder()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ValueError,
        match="pytorch_model.bin is a pickle, which can run code when it is read, so it is not read; convert",
    ):
        model_from_huggingface(tmp_path)
    torch.save(Intruder(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="model.safetensors is damaged"):
        model_from_huggingface(tmp_path)
    assert not (tmp_path / "intruded").exists()


def test_the_hub_gives_a_folder(tmp_path, monkeypatch):
    theirs, asked = make_theirs(GPT2), []
    theirs.save_pretrained(tmp_path)
    download = lambda name, **options: asked.append((name, options["revision"])) or str(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    for source in ("owner/some-model.v2@abc", "hf:owner/name", "hf:distilgpt2@v1", "gpt2"):
        assert_same_logits(load_model(source)[0], theirs)
    load("gpt2", "cpu")
    assert asked == [
        ("owner/some-model.v2", "abc"),
        ("owner/name", None),
        ("distilgpt2", "v1"),
        ("gpt2", None),
        ("gpt2", None),  # once, for the model and its tokenizer
    ]


@pytest.mark.parametrize(
    "environment",
    [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}],
    ids=["offline", "unreachable"],
)
def test_an_unreachable_hub_is_one_line(environment, tmp_path):
    pytest.importorskip("huggingface_hub")
    code = "from nanogpt.hub import load\ntry: load('owner/name')\nexcept OSError as error: print(error)"
    environment = os.environ | {"HF_HOME": str(tmp_path)} | environment
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8", timeout=120
    )
    assert (
        done.stdout.startswith("model owner/name could not be fetched from the hub (")
        and done.stdout.count("\n") == 1
    ), done
    page = "connect, check the name and its licence at https://huggingface.co/owner/name"
    assert done.stdout.endswith(f"); {page}, or download it elsewhere and name the folder\n")


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"gpt2 is not here.*pip install 'nanogpt\[hf\]'"):
        load("gpt2")


# One function for every source


def nanogpts_checkpoint(path: Path, model: GPT, **changes):
    "A file as nanoGPT writes it."
    names = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout")
    args = {name: getattr(model.config, name) for name in names}
    save_checkpoint(path, {"model": model.state_dict(), "model_args": args} | changes)


def test_a_path_that_exists_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("it is here"))
    for name in ("gpt2", "owner/name"):
        ours = make_ours(OURS["gpt2"])
        save_pretrained(ours, name, TOKENIZERS["bpe"])
        for source in (name, Path(name), f"{name}/model.safetensors"):
            model, tokenizer = load(source, device="cpu")
            assert torch.equal(model.lm_head.weight, ours.lm_head.weight) and not model.training
            assert tokenizer.fingerprint == TOKENIZERS["bpe"].fingerprint


def test_a_run_gives_its_best_checkpoint_and_tokenizer(tmp_path):
    best, last = make_ours(replace(OURS["gpt2"], mlp="gelu_exact")), GPT(OURS["gpt2"])
    nanogpts_checkpoint(tmp_path / "ckpt.pt", last, tokenizer=TOKENIZERS["char"].to_dict(), iter_num=7)
    assert find_model(tmp_path) == tmp_path / "ckpt.pt"
    model, checkpoint = load_model(tmp_path, dropout=0.3)
    assert model.config.dropout == 0.3 and not model.training and checkpoint["iter_num"] == 7
    assert tokenizer_of(tmp_path, checkpoint).fingerprint == TOKENIZERS["char"].fingerprint
    nanogpts_checkpoint(tmp_path / "best.pt", best)
    model, tokenizer = load(str(tmp_path), "cpu")
    assert torch.equal(model.lm_head.weight, best.lm_head.weight) and tokenizer is None
    assert load(tmp_path / "ckpt.pt", "cpu")[1].fingerprint == TOKENIZERS["char"].fingerprint


@pytest.mark.parametrize("kind", ["checkpoint", "folder"])
@pytest.mark.parametrize("dtype", [None, "bfloat16", torch.float64])
def test_device_and_dtype(kind, dtype, tmp_path):
    ours = make_ours(replace(OURS["gpt2"], mlp="gelu_exact"))
    save_pretrained(ours, tmp_path / "folder") if kind == "folder" else nanogpts_checkpoint(
        tmp_path / "checkpoint", ours
    )
    model, tokenizer = load(tmp_path / kind, device="cpu", dtype=dtype)
    expected = {None: torch.float32, "bfloat16": torch.bfloat16, torch.float64: torch.float64}[dtype]
    assert {p.dtype for p in model.parameters()} == {expected} and tokenizer is None
    assert (
        torch.equal(model.lm_head.weight, ours.lm_head.weight.to(expected))
        and model.config.mlp == "gelu_exact"
    )
    assert model.lm_head.weight is model.transformer.wte.weight, "still tied"
    assert load(tmp_path / kind)[0].lm_head.weight.device.type in ("cpu", "cuda", "mps")
    with pytest.raises(ValueError, match="device 'cuda:99' cannot be used here"):
        load(tmp_path / kind, device="cuda:99")


@pytest.mark.parametrize("model_args", [{}, {"width": 3, "n_layer": 2}], ids=str)
def test_a_model_of_another_class_is_not_guessed_at(model_args, tmp_path):
    nanogpts_checkpoint(tmp_path / "ckpt.pt", GPT(OURS["gpt2"]), model_args=model_args)
    with pytest.raises(
        ValueError, match="ckpt.pt holds a model of a class that is not nanogpt's .*build it yourself"
    ) as caught:
        load(tmp_path)
    assert "read_checkpoint('" in str(caught.value) and "\n" not in str(caught.value)


def test_a_tokenizer_that_cannot_be_read_is_none(tmp_path):
    save_pretrained(GPT(OURS["gpt2"]), tmp_path, TOKENIZERS["bpe"])
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8")) | {"decoder": {"type": "WordPiece"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | {"pre_tokenizer": QWENS_CUT}), encoding="utf-8")
    assert load(tmp_path, "cpu")[1] is None
    with pytest.raises(ValueError, match="model 'BPE' with decoder 'WordPiece' does not write bytes"):
        tokenizer_of(tmp_path, {})


# Out


@pytest.mark.parametrize("config", OURS.values(), ids=OURS)
@pytest.mark.parametrize("shard_bytes", [None, 20_000])
def test_our_models_compute_the_same_there(config, shard_bytes, tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = make_ours(config)
    save_pretrained(ours, tmp_path, shard_bytes=shard_bytes)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert theirs.dtype == torch.float32 and theirs.config.eos_token_id is None
    assert_same_logits(ours, theirs.eval())
    assert_same_logits(model_from_huggingface(tmp_path, vocab_multiple=7), theirs)
    shards = list(tmp_path.glob("*.safetensors"))
    assert (len(shards) > 3) == (shard_bytes is not None) and (tmp_path / "model.safetensors").exists() == (
        shard_bytes is None
    )
    largest = max(piece.numel() * 4 for shard in shards for piece in load_file(shard).values())
    assert all(
        sum(t.numel() * 4 for t in load_file(shard).values()) <= max(shard_bytes or 1 << 40, largest)
        for shard in shards
    )


def test_every_field_of_the_config_is_thought_of():
    "A new field must go into PARTS, where it changes the function, or into this list."
    free = {
        "block_size", "vocab_size", "n_layer", "n_head", "n_embd", "dropout", "init_std", "embd_std",
        "norm_eps", "n_inner", "rope_theta", "rope_scaling", "ngram_rows",
        "n_kv_head", "head_dim", "document_token", "tied", "vocab_multiple", "bias", "qk_norm",
    }  # fmt: skip
    assert {field.name for field in fields(GPTConfig)} == free | set(PARTS["gpt2"]) | set(PARTS["llama"])


@pytest.mark.parametrize(
    "config, message",
    [
        (
            GPTConfig.speedrun(**SHAPE, window=5),
            "has mlp='relu2', window=5 with .*; the nearest, qwen3, has mlp='swiglu', window=None",
        ),
        (
            GPTConfig(**SHAPE, mlp="relu2"),
            "has mlp='relu2' with the rest of this model; the nearest, gpt2, has mlp='gelu'",
        ),
        (GPTConfig(**SHAPE, window=5), "has window=5 .* gpt2, has window=None"),
        (GPTConfig(**SHAPE, ngram_orders=(2, 3)), r"has ngram_orders=\(2, 3\) .* gpt2, has ngram_orders=\(\)"),
        (GPTConfig(**SHAPE, n_kv_head=2), "has n_kv_head=2 .* gpt2, has n_kv_head=None"),
        (GPTConfig(**SHAPE, head_dim=12), "has head_dim=12 .* gpt2, has head_dim=None"),
        (GPTConfig(**SHAPE, qk_norm=True), "has qk_norm=True .* gpt2, has qk_norm=False"),
        (GPTConfig(**SHAPE, positions="rotary"), "has positions='rotary' .* gpt2, has positions='learned'"),
        (GPTConfig.llama(**SHAPE, bias=True), "has bias=True .* llama, has bias=False"),
        (GPTConfig.llama(**SHAPE, norm="layer"), "has norm='layer' .* llama, has norm='rms'"),
        (
            GPTConfig.llama(**SHAPE | {"n_head": 5, "head_dim": 8}),
            "wants n_embd to be a multiple of n_head, got n_embd=32 and n_head=5",
        ),
    ],
)
def test_what_transformers_has_not_is_named(config, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_pretrained(GPT(config), tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_biases_is_with_zero_biases(tmp_path):
    save_pretrained(make_ours(OURS["gpt2, no bias"]), tmp_path)
    biases = [
        tensor for name, tensor in load_file(tmp_path / "model.safetensors").items() if name.endswith("bias")
    ]
    assert len(biases) == 2 * 6 + 1 and not any(map(torch.count_nonzero, biases))
    assert model_from_huggingface(tmp_path).config.bias


def test_padded_rows_stay_at_home(tmp_path):
    padded = make_ours(OURS["padded"])
    assert padded.transformer.wte.weight.shape[0] == 384
    save_pretrained(padded, tmp_path)
    plain, again = (
        model_from_huggingface(tmp_path),
        model_from_huggingface(tmp_path, vocab_multiple=128, dropout=0.5),
    )
    assert (
        plain.transformer.wte.weight.shape[0] == 300
        and again.transformer.wte.weight.shape[0] == 384
        and again.config.dropout == 0.5
    )
    assert (
        torch.equal(again.transformer.wte.weight[:300], plain.transformer.wte.weight)
        and not again.transformer.wte.weight[300:].any()
    )
    assert again.lm_head.weight is again.transformer.wte.weight
    idx = ids_for(plain.config)
    with torch.no_grad():
        assert torch.equal(plain.hidden_states(idx), again.hidden_states(idx))
        assert torch.allclose(plain(idx)[0], again(idx)[0], atol=1e-5, rtol=0), (
            "another number of rows may be added up in another order"
        )
        again.loss_chunk = 7
        assert again(idx, idx)[1].item() == pytest.approx(plain(idx, idx)[1].item(), abs=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_cropped_model_goes_out(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = make_ours(OURS[name])
    idx = ids_for(ours.config, 20)
    with torch.no_grad():
        before = ours(idx)[0]
        ours.crop_block_size(20)
        save_pretrained(ours, tmp_path)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        assert torch.equal(ours(idx)[0], before) and (theirs(idx).logits - before).abs().max() <= 1e-4
    assert theirs.config.max_position_embeddings == model_from_huggingface(tmp_path).config.block_size == 20


def test_a_compiled_model_goes_out_and_one_being_trained(tmp_path):
    ours = make_ours(OURS["qwen3"])
    save_pretrained(torch.compile(ours), tmp_path)
    back = model_from_huggingface(tmp_path).train()
    assert torch.equal(back.lm_head.weight, ours.lm_head.weight)
    idx = ids_for(back.config)
    back(idx, idx)[1].backward()
    assert all(p.grad is not None for p in back.parameters())
    save_pretrained(back, tmp_path)
    assert model_from_huggingface(tmp_path).num_params() == ours.num_params()


def test_another_model_is_replaced_whole(tmp_path):
    save_pretrained(make_ours(OURS["gpt2"]), tmp_path)
    (tmp_path / "model.txt").write_text("mine", encoding="utf-8")
    for shard_bytes in (20_000, 50_000, None, 50_000):
        ours = make_ours(OURS["llama"])
        save_pretrained(ours, tmp_path, shard_bytes=shard_bytes)
        assert torch.equal(model_from_huggingface(tmp_path).lm_head.weight, ours.lm_head.weight)
        totals = {path.name[-17:] for path in tmp_path.glob("model-*.safetensors")}
        assert len(totals) == (shard_bytes is not None) and (tmp_path / "model.safetensors").exists() == (
            shard_bytes is None
        )
    assert (tmp_path / "model.txt").exists()


def test_a_crash_leaves_the_old_file(tmp_path):
    save_pretrained(make_ours(OURS["gpt2"]), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    broken = make_ours(OURS["gpt2"])
    broken.transformer.ln_f = broken.transformer.ln_f.to("meta")  # has no numbers to write
    with pytest.raises(NotImplementedError):
        save_pretrained(broken, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before and not list(
        tmp_path.glob("*.tmp")
    ) + list(tmp_path.glob(".*"))


def test_bad_options_are_named(tmp_path):
    model = make_ours(OURS["gpt2"])
    with pytest.raises(ValueError, match="shard_bytes must be positive, or None for one file; got 0"):
        save_pretrained(model, tmp_path, shard_bytes=0)
    with pytest.raises(ValueError, match="^vocab_multiple must be at least 1, got 0"):
        save_pretrained(model, tmp_path / "good")
        model_from_huggingface(tmp_path / "good", vocab_multiple=0)
    with pytest.raises(
        ValueError,
        match="the tokenizer has 301 ids, the model 300; save the tokenizer that it was trained with",
    ):
        save_pretrained(model, tmp_path / "no", CharTokenizer("".join(map(chr, range(1000, 1301)))))
    other = TiktokenTokenizer.__new__(TiktokenTokenizer)
    other.name, other.vocab_size, other.eot = "cl100k_base", 300, 0
    with pytest.raises(
        ValueError,
        match="tokenizer 'cl100k_base' cannot be written as a tokenizer.json; it can be characters, bytes",
    ):
        save_pretrained(model, tmp_path / "no", other)
    assert [path.name for path in tmp_path.iterdir()] == ["good"], "nothing was written"


def test_the_layout_covers_every_row_once():
    for config in OURS.values():
        with torch.device("meta"):
            state = GPT(config).state_dict()
        layout = huggingface_layout(config)
        names = [piece.name for pieces in layout.values() for piece in pieces]
        assert len(set(names)) == len(names) and set(state) - set(layout) == (
            {"lm_head.weight"} if config.tied else set()
        )
        for name, pieces in layout.items():
            assert all(
                isinstance(piece, Piece) and piece.stop - piece.start in piece.shape for piece in pieces
            )
            assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces[:-1])]
            assert pieces[-1].stop == (
                config.vocab_size
                if name in ("transformer.wte.weight", "lm_head.weight")
                else len(state[name])
            )


# Tokenizers

TOKENIZERS = {
    "char": CharTokenizer.from_text(TALE + "é☃\U0001f98a\n\x1c", "\x1c"),
    "char, no end": CharTokenizer.from_text(TALE),
    "char, newline": CharTokenizer.from_text(TALE + "\n", "\n"),
    "byte": ByteTokenizer(),
    "bpe": train_bpe(TALE, 290, ["<|endoftext|>"]),
    "bpe, two marks": train_bpe(TALE, 280, ["<|user|>", "<|endoftext|>"]),
    "bpe, no marks": train_bpe(TALE, 270),
}
HARD = ["the  fox's\n\nriver. ", "", " ", "é☃\U0001f98a e\u0301", "a\x1cb\x00\r\n\t", "123 don't 'll  x"]


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_pipeline_writes_what_generate_writes(name, tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = make_ours(replace(OURS[name], vocab_size=tokenizer.vocab_size))
    save_pretrained(ours, tmp_path, tokenizer=tokenizer)
    pipeline = transformers.pipeline("text-generation", model=str(tmp_path), device="cpu")
    prompt, options = "the fox ", dict(do_sample=False, max_new_tokens=24)
    idx = torch.tensor([tokenizer.encode(prompt)])
    new = generate(ours, idx, 24, temperature=0)[0, idx.shape[1] :].tolist()
    new = new[: new.index(tokenizer.eot) + 1] if tokenizer.eot in new else new
    assert pipeline(prompt, return_tensors=True, **options)[0]["generated_token_ids"] == idx[0].tolist() + new
    text = tokenizer.decode([i for i in new if i != tokenizer.eot])
    assert pipeline(prompt, return_full_text=False, **options)[0]["generated_text"] == text


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_their_tokenizer_gives_the_same_ids(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    save_pretrained(GPT(replace(OURS["gpt2"], vocab_size=300)), tmp_path, tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [TALE, *HARD]:
        try:
            ids = tokenizer.encode(text)
        except ValueError:  # a character that a CharTokenizer has never seen
            with pytest.raises(Exception, match="Missing"):
                theirs.encode(text)
            continue
        assert theirs.encode(text) == ids and theirs.decode(ids) == tokenizer.decode(ids) == text
    assert len(theirs) == tokenizer.vocab_size and theirs.eos_token_id == theirs.bos_token_id == tokenizer.eot
    back = tokenizer_from_huggingface(tmp_path)
    assert (
        back.fingerprint == tokenizer.fingerprint
        and back.eot == tokenizer.eot
        and type(back) is type(tokenizer)
    )
    theirs.save_pretrained(tmp_path / "theirs")
    assert tokenizer_from_huggingface(tmp_path / "theirs").fingerprint == tokenizer.fingerprint


def test_every_character_is_one_token(tmp_path):
    transformers = pytest.importorskip("transformers")
    characters = "".join(chr(i) for i in [*range(0xD800), *range(0xE000, 0x30000, 7)])
    tokenizer = CharTokenizer(characters)
    save_pretrained(
        GPT(GPTConfig(block_size=4, vocab_size=len(characters), n_layer=1, n_head=1, n_embd=1)),
        tmp_path,
        tokenizer,
    )
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (
        theirs.encode(characters) == list(range(len(characters)))
        and theirs.decode(theirs.encode(characters)) == characters
    )


def test_gpt2s_vocabulary_goes_out(tmp_path):
    transformers = pytest.importorskip("transformers")
    try:
        tokenizer = TiktokenTokenizer("gpt2")
    except OSError:
        pytest.skip("GPT-2's vocabulary is not here")
    save_pretrained(GPT(GPTConfig(block_size=8, n_layer=1, n_head=1, n_embd=1)), tmp_path, tokenizer)
    theirs, back = transformers.AutoTokenizer.from_pretrained(tmp_path), tokenizer_from_huggingface(tmp_path)
    source = Path(__file__).read_text(encoding="utf-8").replace("<|endoftext|>", "")
    for text in [*HARD, TALE, source]:
        assert theirs.encode(text) == tokenizer.encode(text) == back.encode(text)
    assert theirs.eos_token_id == tokenizer.eot == back.eot == 50256 and isinstance(back, BPETokenizer)
    (tmp_path / "tokenizer.json").rename(tmp_path / "old.json")
    content = json.loads((tmp_path / "old.json").read_text(encoding="utf-8"))
    (tmp_path / "vocab.json").write_text(json.dumps(content["model"]["vocab"]), encoding="utf-8")
    (tmp_path / "merges.txt").write_text(
        "\n".join(map(" ".join, content["model"]["merges"])), encoding="utf-8"
    )
    assert tokenizer_from_huggingface(tmp_path).fingerprint == back.fingerprint
    content["model"]["merges"] = list(
        map(" ".join, content["model"]["merges"])
    )  # as the hub's own files write them
    content["pre_tokenizer"].pop("use_regex")
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    assert tokenizer_from_huggingface(tmp_path).fingerprint == back.fingerprint


QWENS_CUT = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": r"\p{L}+"}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "use_regex": False, "add_prefix_space": False, "trim_offsets": True},
    ],
}
BEGINS = {  # as Llama 3's: a special token before every text
    "type": "TemplateProcessing", "pair": [],
    "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [280], "tokens": ["<|endoftext|>"]}},
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": QWENS_CUT}, {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "ByteLevel", "use_regex": False, "add_prefix_space": False, "trim_offsets": True}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}},
        {"normalizer": {"type": "NFC"}}, {"post_processor": BEGINS},
        {"added_tokens": [{"id": 280, "content": "<|endoftext|>", "special": True, "single_word": False,
                           "lstrip": True, "rstrip": False, "normalized": False}]},
    ],
    ids=str,
)  # fmt: skip
def test_tokenizers_that_cut_otherwise_are_read_by_their_library(change, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    save_pretrained(GPT(replace(OURS["gpt2"], vocab_size=281)), tmp_path, TOKENIZERS["bpe"])
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8")) | change
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    theirs, ours = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")), load(tmp_path, "cpu")[1]
    for text in ("The fox  wasn't\n\n here, 12 caf\u00e9 \U0001f98a", "one <|endoftext|> two", ""):
        assert ours.start_ids + ours.encode(text, "all") == theirs.encode(text).ids
    assert ours.eot == 280 not in ours.encode("one <|endoftext|> two") and ours.stop_ids == [280]
    for again in (pickle.loads(pickle.dumps(ours)), tokenizer_from_dict(ours.to_dict()), load_tokenizer(tmp_path)):
        assert again.fingerprint == ours.fingerprint and again.encode("The fox") == ours.encode("The fox")


def mistral():
    "A small tokenizer of sentencepiece's kind: spaces are ▁, one is put before a text, and bytes are the last resort."
    tokenizers = pytest.importorskip("tokenizers")
    words = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "t", "h", "e", "th", "the", "▁the"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    model = tokenizers.models.BPE(
        {word: i for i, word in enumerate(words)}, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True
    )
    core, decoders, normalizers = tokenizers.Tokenizer(model), tokenizers.decoders, tokenizers.normalizers
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    core.decoder = decoders.Sequence(parts)
    core.post_processor = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    core.add_special_tokens(["<s>", "</s>"])
    return core


def test_a_tokenizer_of_sentencepieces_kind(tmp_path):
    theirs = mistral()
    theirs.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "</s>"}}', encoding="utf-8")
    ours = tokenizer_from_huggingface(tmp_path)
    assert (ours.start_ids, ours.eot, ours.vocab_size) == ([1], 2, 266)
    for text in ("the the", "  caf\u00e9\n", "\U0001f98a the", ""):
        ids = ours.encode(text, "all")
        assert [1, *ids] == theirs.encode(text).ids and ours.decode(ids) == theirs.decode(ids) == text
    assert 2 not in ours.encode("a</s>") and 2 in ours.encode("a</s>", "all") and 2 in ours.encode("a</s>", ["</s>"])
    row = Detokenizer(ours, [])
    written = [row.add(i) for i in ours.encode("the the\u00e9")]
    assert "".join(written) + row.finish() == " the the\u00e9" and "\ufffd" not in "".join(written)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match="there is no tokenizer.json in .*, and no vocab.json; name a folder that holds one",
    ):
        tokenizer_from_huggingface(tmp_path)


def test_a_run_is_not_overwritten_and_an_int8_copy_is_not_saved(tmp_path):
    from nanogpt.decode import to_int8

    model = GPT(OURS["gpt2"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ckpt.pt").touch()
    with pytest.raises(
        ValueError, match="run holds ckpt.pt and no model of this layout; name an empty folder, or a new one"
    ):
        save_pretrained(model, tmp_path / "run")
    with pytest.raises(
        ValueError,
        match="the model has no weight .*; save the model itself, not a copy that was made for decoding",
    ):
        save_pretrained(to_int8(model), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
