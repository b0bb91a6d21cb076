"""Ways to train: compiled, in float16, with too little memory, and from weights that are there already."""

import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from conftest import assert_overflow_is_survived, replace
from torch.utils._python_dispatch import TorchDispatchMode

from nanogpt.checkpoint import load_checkpoint, save_checkpoint
from nanogpt.config import GPTConfig
from nanogpt.corpus import tales
from nanogpt.distributed import checkpoint_blocks
from nanogpt.hub import load, save_pretrained
from nanogpt.model import GPT
from nanogpt.prepare import prepare
from nanogpt.report import describe, evaluate_run, validation_batches
from nanogpt.start import Run, checkpoint_of, start_run
from nanogpt.step import train_step
from nanogpt.tokenizer import ByteTokenizer
from nanogpt.train import train
from nanogpt.vocab import load_tokenizer


@pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile on a CPU needs a C++ compiler",
)
def test_a_compiled_model_trains_the_same(tiny):
    "1e-4 in float32, where fused kernels round elsewhere."
    tiny = replace(tiny, n_layer=1, dropout=0.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="torch.compile failed")
        eager, compiled = (start_run(replace(tiny, compile=compile)) for compile in (False, True))
    assert eager.step_model is eager.model and compiled.step_model is not compiled.model
    assert re.search(r"; compiled in \d+ s\n", describe(compiled)) and "compiled in" not in describe(eager)
    losses = [(eager.step()[0], compiled.step()[0]) for _ in range(20)]
    assert max(abs(one - other) for one, other in losses) < 1e-4
    assert checkpoint_of(compiled)["model"].keys() == checkpoint_of(eager)["model"].keys(), (
        "no _orig_mod. in the names"
    )


def test_a_run_is_compiled_once(tiny, monkeypatch):
    "The trial step, the steps after it, aligned or not, and accumulation use one graph, and all evaluations another."
    graphs = []

    def counting(graph, _):
        graphs.append(graph)
        return graph.forward

    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile(model, backend=counting))
    run = start_run(
        replace(tiny, compile=True, gradient_accumulation_steps=2, sampling="epochs", aligned=True, eval_windows=3)
    )
    for _ in range(3):
        run.step()
    assert len(graphs) == 1
    batches = list(validation_batches(run))
    assert (batches[-1][1] < 0).all(dim=1).any(), "the last batch has fewer windows"
    for _ in range(2):
        evaluate_run(run)
    assert len(graphs) == 2


@pytest.mark.parametrize("changes", [{}, {"optimizer": "muon"}, {"dtype": "bfloat16"}, {"dtype": "float16"}])
def test_a_step_reads_numbers_once_at_its_end(tiny, monkeypatch, changes):
    "On a GPU every such read waits until all that was begun is done."
    run, read = start_run(replace(tiny, gradient_accumulation_steps=2, **changes)), []

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            if operation is torch.ops.aten._local_scalar_dense.default:
                read.append("inside")
            return operation(*args, **(kwargs or {}))

    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: read.append("at the end") or tolist(tensor))
    batches = [next(run.batches) for _ in range(2)]
    with Counting():
        train_step(run.step_model, run.optimizer, batches, 1.0, run.autocast, run.scaler)
    assert read == ["at the end"]


def test_a_compiler_that_fails_is_done_without(tiny, monkeypatch, tmp_path):
    def broken(model):
        def compiled(*args):
            torch.rand(3)  # a trial must leave dropout's generator where it was
            raise OSError("no compiler\nand more of it")

        return compiled

    eager = train(replace(tiny, compile=False, out_dir=str(tmp_path / "eager")), progress=False)
    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(
        UserWarning,
        match=r"^torch.compile failed \(OSError: no compiler\); training goes on without it, at a lower speed$",
    ) as seen:
        result = train(replace(tiny, compile=True), progress=False)
    assert len(seen) == 1
    assert [row["val_loss"] for row in result.metrics] == [row["val_loss"] for row in eager.metrics]


def test_float16_survives_an_overflow(tiny):
    run = start_run(replace(tiny, dtype="float16"))
    assert_overflow_is_survived(run)
    assert run.model.lm_head.weight.dtype == torch.float32


def test_float16_trains_and_keeps_its_scale(tiny):
    result = train(replace(tiny, dtype="float16"), progress=False)
    assert result.metrics[-1]["val_loss"] < result.metrics[0]["val_loss"]
    scale = load_checkpoint(Path(tiny.out_dir) / "ckpt.pt")["scaler"]["scale"]
    assert start_run(replace(tiny, dtype="float16", init_from="resume")).scaler.get_scale() == scale


def test_recomputed_activations_are_not_kept_and_change_nothing(tiny):
    def kept(
        checkpoint_activations: bool,
    ) -> tuple[int, float]:  # bytes between forward and backward; the gradient's norm
        model = GPT(
            GPTConfig(block_size=32, vocab_size=50, n_layer=4, n_head=2, n_embd=16, dropout=0.1),
            torch.Generator().manual_seed(0),
        ).train()
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        if checkpoint_activations:
            checkpoint_blocks(model)
        ids = torch.arange(32)[None]
        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(ids, ids)[1]
        loss.backward()
        return sum(storages.values()), torch.nn.utils.get_total_norm([p.grad for p in model.parameters()]).item()

    (all_of_them, norm), (inputs, same) = kept(False), kept(True)
    assert inputs < 0.5 * all_of_them and norm == same, "dropout draws the same again"


@pytest.mark.parametrize("what", ["unspecified launch failure", "uncorrectable ECC error encountered"])
def test_a_gpu_that_fails_is_explained_and_the_run_goes_on(tiny, what):
    "torch raises it wherever it next waits for the GPU, here between two evaluations."

    def fail(run):
        if run.iter_num == 15:
            raise torch.AcceleratorError(f"CUDA error: {what}\nCUDA kernel errors might be reported at some other call")

    with pytest.raises(RuntimeError) as raised:
        train(tiny, on_step=fail, progress=False)
    fix = "end this process, then start again with resume='auto'"
    assert str(raised.value) == f"the GPU failed (CUDA error: {what}): {fix}; the last checkpoint is in {tiny.out_dir}"
    resumed = train(replace(tiny, resume="auto"), progress=False)
    whole = train(replace(tiny, out_dir=f"{tiny.out_dir}-whole"), progress=False)
    assert [row["val_loss"] for row in resumed.metrics] == [row["val_loss"] for row in whole.metrics]


def test_running_out_of_memory_is_explained(tiny, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nand more of it")

    monkeypatch.setattr(Run, "step", full)
    with pytest.raises(MemoryError) as raised:
        train(tiny, progress=False)
    text = str(raised.value)
    assert text.startswith("out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.); ") and "\n" not in text
    assert "; the run needs about 0.0 GB; " in text
    for advice in ("lower batch_size", "loss_chunk=1024", "checkpoint_activations=True"):
        assert advice in text
    assert load_checkpoint(Path(tiny.out_dir) / "ckpt.pt")["iter_num"] == 0


def test_other_errors_of_torchs_stay_what_they_are(tiny, monkeypatch):
    def broken(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(Run, "step", broken)
    with pytest.raises(RuntimeError, match="^shapes do not match$"):
        train(tiny, progress=False)


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="this system does not say what memory is free")
def test_a_run_that_is_too_large_is_refused_before_it_begins(tiny):
    advice = r"lower batch_size .*, set loss_chunk=1024, or set checkpoint_activations=True"
    message = rf"^this run needs about [\d,.]+ GB, and [\d.]+ GB are free; {advice}$"
    with pytest.raises(MemoryError, match=message):
        train(replace(tiny, batch_size=1_000_000), progress=False)
    assert not Path(tiny.out_dir).exists()


@pytest.fixture
def folder(tiny, tmp_path) -> Path:
    """A model of 64 positions in Hugging Face's layout, with the tokenizer of the tales, and with the parts that a
    GPT-2 must have.
    """
    tokenizer = load_tokenizer(Path(tiny.data_dir))
    config = GPTConfig(block_size=64, vocab_size=tokenizer.vocab_size, n_layer=3, n_head=4, n_embd=24, bias=True)
    save_pretrained(GPT(config, torch.Generator().manual_seed(5)), tmp_path / "folder")
    return tmp_path / "folder"


def test_finetuning_takes_the_folders_weights_and_shape(tiny, folder):
    run = start_run(replace(tiny, init_from=str(folder), block_size=64))
    weights = load(folder)[0].state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in run.model.state_dict().items())
    shape = run.config.model
    assert (shape.n_layer, shape.n_head, shape.n_embd, shape.bias) == (3, 4, 24, True)
    assert run.model.config.dropout == tiny.model.dropout and run.model.training


def test_positions_are_cropped_or_refused(tiny, folder):
    run = start_run(replace(tiny, init_from=str(folder), block_size=16))
    assert (
        run.model.config.block_size == run.config.model.block_size == 16
        and len(run.model.transformer.wpe.weight) == 16
    )
    with pytest.raises(ValueError, match="block_size=65 exceeds the 64 positions of .*; lower it"):
        start_run(replace(tiny, init_from=str(folder), block_size=65))


def test_a_finetuned_run_goes_on_with_the_folders_shape(tiny, folder, tmp_path):
    config = replace(tiny, init_from=str(folder), resume="auto", lr_decay_iters=20)
    straight = train(replace(config, out_dir=str(tmp_path / "straight")), progress=False)
    train(replace(config, max_iters=10), progress=False)
    shutil.rmtree(folder)  # is not needed any more
    resumed = train(config, progress=False)
    assert [row["val_loss"] for row in resumed.metrics] == [row["val_loss"] for row in straight.metrics]
    assert resumed.model.config.n_embd == 24


def test_what_is_set_for_finetuning_is_honoured_or_refused(tiny, folder):
    changes = {"init_from": str(folder), "block_size": 64}
    run = start_run(replace(tiny, **changes, window=8, document_masking=True, vocab_multiple=64))
    shape = run.model.transformer.config
    assert shape.vocab_rows == len(run.model.lm_head.weight) == 64 > shape.vocab_size
    assert shape.window == 8 and shape.document_token == run.tokenizer.eot and run.config.model == shape
    with pytest.raises(ValueError, match="norm_eps is 1e-05 there and 0.001 here"):
        start_run(replace(tiny, **changes, norm_eps=1e-3))


@pytest.mark.parametrize("how", [{"resume": "auto"}, {"init_from": "resume"}])
def test_a_finetuned_llama_with_stretched_positions_resumes(tiny, tmp_path, how):
    scaling = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
    ids = load_tokenizer(Path(tiny.data_dir)).vocab_size
    shape = GPTConfig.llama(
        block_size=32, vocab_size=ids, n_layer=1, n_head=2, n_embd=16, rope_scaling=scaling, dropout=0.1
    )
    save_pretrained(GPT(shape, torch.Generator().manual_seed(5)), tmp_path / "llama")
    config = replace(tiny, init_from=str(tmp_path / "llama"), max_iters=5)
    first = train(config, progress=False)
    flags = dict(n_layer=1, norm="rms", mlp="swiglu", positions="rotary", tied=False, n_inner=shape.inner, n_kv_head=2)
    if how.get("init_from"):
        config = replace(config, **flags, head_dim=8, norm_eps=first.model.config.norm_eps)
    resumed = train(replace(config, max_iters=10, **how), progress=False)
    assert resumed.model.config.rope_scaling == scaling and resumed.metrics[-1]["iter"] == 10


def test_finetuning_a_run_and_a_nanogpt_checkpoint(tiny, tmp_path):
    result = train(tiny, progress=False)
    ours = train(
        replace(
            tiny, init_from=tiny.out_dir, out_dir=str(tmp_path / "ours"), max_iters=1, learning_rate=0.0, min_lr=0.0
        ),
        progress=False,
    )
    assert ours.metrics[0]["val_loss"] == pytest.approx(min(row["val_loss"] for row in result.metrics), abs=1e-6), (
        "best.pt is where it begins"
    )
    checkpoint = load_checkpoint(Path(tiny.out_dir) / "ckpt.pt")
    names = ("block_size", "vocab_size", "n_layer", "n_head", "n_embd", "dropout", "bias")
    theirs = {
        "model": {f"_orig_mod.{name}": tensor for name, tensor in checkpoint["model"].items()},
        "model_args": {name: checkpoint["model_args"][name] for name in names},
        "optimizer": {}, "iter_num": 20, "best_val_loss": 1.0, "config": {},
    }  # fmt: skip
    save_checkpoint(tmp_path / "theirs" / "ckpt.pt", theirs)
    run = start_run(replace(tiny, init_from=str(tmp_path / "theirs" / "ckpt.pt"), out_dir=str(tmp_path / "out2")))
    assert run.iter_num == 0 and run.config.model.mlp == "gelu_exact", (
        "nanoGPT's, which its checkpoints do not mention"
    )
    assert all(torch.equal(tensor, checkpoint["model"][name]) for name, tensor in run.model.state_dict().items())


def test_other_ids_are_refused(tiny, folder, tmp_path):
    train(tiny, progress=False)
    prepare(tales(60), ByteTokenizer(), tmp_path / "bytes", 0.2)
    other = replace(tiny, data_dir=str(tmp_path / "bytes"), out_dir=str(tmp_path / "other"))
    with pytest.raises(
        ValueError, match="the data has 257 ids and .* knows .*; prepare the data with the model's tokenizer"
    ):
        start_run(replace(other, init_from=str(folder)))
    checkpoint = load_checkpoint(Path(tiny.out_dir) / "ckpt.pt")
    shape = checkpoint["model_args"] | {"vocab_size": 300}  # room for the bytes, which mean other text
    save_checkpoint(
        tmp_path / "wide.pt", {**checkpoint, "model": GPT(GPTConfig(**shape)).state_dict(), "model_args": shape}
    )
    with pytest.raises(ValueError, match="trained with another tokenizer"):
        start_run(replace(other, init_from=str(tmp_path / "wide.pt")))


@pytest.mark.parametrize("name", ["gtp2", "nowhere/at-all.pt", "hf:../secrets", "hf:a/b/c"])
def test_a_source_that_is_not_there_is_named_in_one_line(tiny, name):
    with pytest.raises((ValueError, OSError), match=name.removeprefix("hf:").replace(".", r"\.")) as raised:
        train(replace(tiny, init_from=name), progress=False)
    assert "\n" not in str(raised.value) and not Path(tiny.out_dir).exists()
