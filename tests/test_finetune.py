"""From a file of questions and answers to a model that answers: train, resume, chat, export, transformers."""

import json
import re

import pytest
import torch
from test_cli import failure

from nanogpt.adapters import save_adapter
from nanogpt.bpe import train_bpe
from nanogpt.chat import Chat, chat_dataset, encode_chat, read_chats, render
from nanogpt.config import GPTConfig
from nanogpt.corpus import tales
from nanogpt.data import Sampler, all_batches
from nanogpt.files import read_json, write_json
from nanogpt.hub import load, save_pretrained
from nanogpt.judge import question
from nanogpt.lora import LoRALinear, add_lora, lora_rank, merge_lora
from nanogpt.model import GPT
from nanogpt.recipe import TrainConfig
from nanogpt.reward import rewards_of
from nanogpt.step import evaluate
from nanogpt.tales import parse
from nanogpt.train import train

THINGS = {"fox": "red", "sky": "blue", "frog": "green", "sun": "yellow", "snow": "white"}


def chats(count: int = 30) -> list:
    "Questions of a few kinds about five things, each with its answer."
    ask = ["what colour has the {}?", "the {} is", "tell me of the {}"]
    return [
        [
            {"role": "user", "content": ask[n % 3].format(thing)},
            {"role": "assistant", "content": f"The {thing} is {THINGS[thing]}."},
        ]
        for n, thing in enumerate([*THINGS] * (count // 5))
    ]


@pytest.fixture
def base(tmp_path):
    "A GPT-2 that knows nothing, in Hugging Face's layout, and a file of chats beside it."
    texts = [" ".join(message["content"] for message in chat) for chat in chats()]
    tokenizer = train_bpe(["User: Assistant:\n", *texts], 320, ["<|endoftext|>"])
    config = GPTConfig(block_size=64, vocab_size=320, n_layer=2, n_head=2, n_embd=32)
    save_pretrained(GPT(config, torch.Generator().manual_seed(0)), tmp_path / "base", tokenizer)
    lines = [json.dumps({"messages": chat}) for chat in chats()]
    (tmp_path / "chats.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "base"


TRAIN = ["train", "--init-from", "base", "--corpus", "chats.jsonl", "--device", "cpu", "--eval-interval", 300]


def test_from_a_file_to_an_answer_and_to_transformers(base, nanogpt, tmp_path):
    done = nanogpt(*TRAIN, "--max-iters", 300, "--learning-rate", 1e-2, "--out-dir", "run")
    assert done.returncode == 0, done.stderr
    questions = "what colour has the sky?\n/again\n/clear\nthe frog is\n"
    told = nanogpt("sample", "run", "--chat", "--temperature", 0, input=questions).stdout
    assert re.findall(r"> (.*)", told)[:2] == ["The sky is blue."] * 2 and "The frog is green." in told
    assert "system" not in told

    assert nanogpt("export", "run", "exported").returncode == 0
    transformers = pytest.importorskip("transformers")
    writer = transformers.pipeline("text-generation", model=str(tmp_path / "exported"), device="cpu")
    messages = [{"role": "user", "content": "the frog is"}]
    answer = writer(messages, max_new_tokens=20, do_sample=False)[0]["generated_text"][-1]
    ours = "".join(Chat(*load(tmp_path / "run", "cpu"), temperature=0.0).ask(messages[0]["content"]))
    assert answer["role"] == "assistant" and answer["content"].strip() == ours == "The frog is green."
    exported = Chat(*load(tmp_path / "exported", "cpu"), temperature=0.0)
    assert "".join(exported.ask("the frog is")) == "The frog is green."


def description(tmp_path, **changes) -> TrainConfig:
    shared = dict(aligned=True, sampling="epochs", batch_size=4, eval_interval=5, warmup_iters=2, device="cpu")
    shared |= dict(corpus=str(tmp_path / "chats.jsonl"), init_from=str(tmp_path / "base"), lora_rank=4)
    return TrainConfig(GPTConfig(64, 0), **({"out_dir": str(tmp_path / "out")} | shared | changes))


def test_adapters_are_resumed_to_the_bit_and_leave_the_weights_alone(base, tmp_path):
    whole = train(description(tmp_path, max_iters=20, lr_decay_iters=20, out_dir=str(tmp_path / "whole")))
    train(description(tmp_path, max_iters=10, lr_decay_iters=20))
    rest = train(description(tmp_path, max_iters=20, lr_decay_iters=20, resume="auto"))
    assert [row["val_loss"] for row in rest.metrics] == [row["val_loss"] for row in whole.metrics]
    before, after = load(base, "cpu")[0].state_dict(), rest.model.state_dict()
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(after[name], weight)
        assert "lora" in name or torch.equal(weight, before[name])
    merged = load(tmp_path / "out", "cpu")[0]
    assert merged.state_dict().keys() == before.keys()
    x = torch.arange(20)[None]
    with torch.no_grad():  # the same numbers, added in another order
        torch.testing.assert_close(merged(x, x)[0], rest.model(x, x)[0], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="has adapters of rank 4, not 3; set lora_rank=4"):
        train(description(tmp_path, max_iters=30, lora_rank=3, resume="auto"))


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        out = model(torch.arange(30)[None])
    return out[0] if isinstance(out, tuple) else out.logits


def test_adapters_go_out_alone(base, nanogpt, tmp_path):
    train(description(tmp_path, max_iters=10, learning_rate=1e-2))
    done = nanogpt("export", "out", "adapter", "--adapter")
    assert done.returncode == 0, done.stderr
    written = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= written
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    ours, again = load(tmp_path / "out", "cpu"), load(tmp_path / "adapter", "cpu")
    assert again[1].chat_template == ours[1].chat_template and again[1].encode("the fox") == ours[1].encode("the fox")
    torch.testing.assert_close(logits_of(again[0]), logits_of(ours[0]), atol=1e-5, rtol=1e-5)
    assert (logits_of(again[0]) - logits_of(load(base, "cpu")[0])).abs().max() > 0.01

    (tmp_path / "adapter/tokenizer.json").unlink()  # as most have none: the base's
    assert load(tmp_path / "adapter", "cpu")[1].encode("the fox") == ours[1].encode("the fox")
    tuned = train(description(tmp_path, init_from=str(tmp_path / "adapter"), max_iters=1, out_dir=str(tmp_path / "b")))
    assert lora_rank(tuned.model) == 4
    assert "the model has no adapters; train it with" in failure(nanogpt("export", "base", "no", "--adapter"))

    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(base)
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter")
    torch.testing.assert_close(logits_of(theirs), logits_of(ours[0]), atol=1e-4, rtol=0)


LLAMA = dict(block_size=64, vocab_size=320, n_layer=2, n_head=4, n_kv_head=2, n_embd=32)
THEIRS = {
    "gpt2": (GPTConfig(64, 320, n_layer=2, n_head=2, n_embd=32), dict(target_modules=["c_attn", "c_proj"])),
    "llama": (GPTConfig.llama(**LLAMA), dict(target_modules=["q_proj", "v_proj", "down_proj"], use_rslora=True)),
    "qwen2": (GPTConfig.llama(**LLAMA, qkv_bias=True), dict(target_modules=["k_proj"], layers_to_transform=[1])),
}


@pytest.mark.parametrize("config, options", THEIRS.values(), ids=THEIRS)
def test_adapters_of_peft_come_in(config, options, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    save_pretrained(GPT(config, torch.Generator().manual_seed(0)), tmp_path / "base")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    plain = logits_of(theirs)
    theirs = peft.get_peft_model(theirs, peft.LoraConfig(r=4, lora_alpha=24, task_type="CAUSAL_LM", **options)).eval()
    for parameter in theirs.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
    theirs.save_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(logits_of(load(tmp_path / "adapter", "cpu")[0]), logits_of(theirs), atol=1e-4, rtol=0)
    assert (logits_of(theirs) - plain).abs().max() > 0.01


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"base_model_name_or_path": "wide"}, r"another model: .*lora_A.weight \(4, 32\) does not fit this one"),
        ({"base_model_name_or_path": None}, "adapter_config.json does not say which model it adapts; write its name"),
        ({"base_model_name_or_path": "adapter"}, "adapter adapts adapter, which is an adapter itself"),
        ({"use_dora": True}, "use_dora is True, which nanogpt does not compute; it adds plain LoRA"),
        ({"r": 3}, "is for another model"),
        ({"r": 0}, "adapter_config.json is damaged or of another kind .r: "),
    ],
    ids=str,
)
def test_bad_adapters_are_named(settings, said, base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = load(base, "cpu")[0]
    add_lora(model, 4)
    save_adapter(model, "adapter", "base")
    save_pretrained(GPT(GPTConfig(64, 320, n_layer=2, n_head=2, n_embd=48)), "wide")
    assert torch.equal(logits_of(load("adapter", "cpu")[0]), logits_of(load(base, "cpu")[0]))
    write_json("adapter/adapter_config.json", read_json("adapter/adapter_config.json") | settings)
    with pytest.raises(ValueError, match=said) as caught:
        load("adapter", "cpu")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="base holds .* and no adapter; name an empty folder, or a new one"):
        save_adapter(model, "base")


def test_adapters_are_those_of_peft(base):
    peft = pytest.importorskip("peft")
    ours, theirs = (load(base, "cpu")[0] for _ in range(2))
    add_lora(ours, 4, alpha=8, generator=torch.Generator().manual_seed(1))
    names = ["c_attn", "c_proj", "c_fc"]
    wrapped = peft.get_peft_model(theirs, peft.LoraConfig(r=4, lora_alpha=8, target_modules=names))
    mine = {name: weight for name, weight in ours.named_parameters() if weight.requires_grad}
    for name, weight in wrapped.named_parameters():
        if weight.requires_grad:
            mine[name.removeprefix("base_model.model.").replace(".default.weight", "")].data.normal_(0, 0.1)
            weight.data.copy_(mine[name.removeprefix("base_model.model.").replace(".default.weight", "")])
    x = torch.arange(30)[None]
    (logits, loss), (wanted, wanted_loss) = ours(x, x), theirs(x, x)
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-5)  # sums in another order
    loss.backward()
    wanted_loss.backward()
    for name, weight in mine.items():
        reference = wrapped.get_parameter(f"base_model.model.{name}.default.weight").grad
        torch.testing.assert_close(weight.grad, reference, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("rank", [1, 3, 32])
def test_merging_changes_rounding_only(base, rank):
    plain, adapted = (load(base, "cpu")[0] for _ in range(2))
    add_lora(adapted, rank, generator=torch.Generator().manual_seed(0))
    layers = [layer for layer in adapted.modules() if isinstance(layer, LoRALinear)]
    for layer in layers:
        layer.lora_B.data.normal_(0, 0.1)
    x = torch.arange(60).reshape(2, 30)
    logits, learnt = adapted(x)[0].detach(), dict(adapted.named_parameters())
    assert {name.split(".")[-1] for name, p in learnt.items() if p.requires_grad} == {"lora_A", "lora_B"}
    assert (logits - plain(x)[0]).abs().max() > 0.01 and lora_rank(adapted) == rank
    for layer in layers * 2:  # twice is once
        layer.merge()
    torch.testing.assert_close(adapted(x)[0], logits, rtol=1e-4, atol=1e-4)
    for layer in layers * 2:
        layer.merge(False)
    for name, p in plain.named_parameters():
        torch.testing.assert_close(learnt[name], p, rtol=1e-5, atol=1e-6)
    merge_lora(adapted)
    assert lora_rank(adapted) == 0 and adapted.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(adapted(x)[0], logits, rtol=1e-4, atol=1e-4)


def test_only_answers_are_predicted(base):
    tokenizer = load(base, "cpu")[1]
    data = chat_dataset(chats(), tokenizer, 64)
    for x, y in (next(Sampler(data, 30, 64, epochs=True, aligned=True)), next(Sampler(data, 8, 64, aligned=True))):
        for row, targets in zip(x, y):
            answers = tokenizer.decode(targets[targets >= 0].tolist()).split("<|endoftext|>")
            assert len(answers) > 1 and all(a.startswith(" The ") for a in answers[:-1])
            assert row[0] == tokenizer.eot and "User" not in "".join(answers)


def test_packed_chats_give_the_same_loss_in_fewer_windows(base):
    "With attention inside documents and rotary positions, a chat does not notice its neighbours."
    tokenizer = load(base, "cpu")[1]
    shape = dict(block_size=64, vocab_size=320, n_layer=2, n_head=2, n_embd=32)
    for token, same in ((tokenizer.eot, True), (None, False)):
        model = GPT(GPTConfig.llama(**shape, document_token=token, init_std=0.2), torch.Generator().manual_seed(0))
        losses, used = [], []
        for pack in (False, True):
            data = chat_dataset(chats(), tokenizer, 64, pack=pack, masked=same)
            batches = list(all_batches(data, 8, 64, aligned=True))
            losses.append(evaluate(model, batches))
            used.append((len(data) - 65) / sum(x.numel() for x, _ in batches))
            assert sum((y >= 0).sum() for _, y in batches) == data.mask.sum()
        assert (abs(losses[0] - losses[1]) < 1e-5) == same, losses
    print(f"tokens of windows that are a chat's: {used[0]:.0%} alone, {used[1]:.0%} packed")
    assert used[0] < 0.4 < 0.65 < used[1]
    with pytest.raises(ValueError, match="document_masking would cut it at the end-of-text token inside; leave it out"):
        chat_dataset([chats()[0] * 2], tokenizer, 64, masked=True)


def test_packed_chats_are_learnt(base, nanogpt):
    done = nanogpt(*TRAIN, "--max-iters", 3, "--packed", "--out-dir", "run")
    assert done.returncode == 0 and "packed=True" in done.stdout, done.stderr


def test_eval_counts_the_answers_that_obey(nanogpt, tmp_path):
    texts = [text.strip() for text in tales(30).documents()]
    asked = [{"role": "user", "content": question(parse(text).values)} for text in texts]
    pairs = [[ask, {"role": "assistant", "content": text}] for ask, text in zip(asked, texts)]
    tokenizer = train_bpe(["User: Assistant:\n", *texts, asked[0]["content"]], 320, ["<|endoftext|>"])
    config = GPTConfig(block_size=256, vocab_size=320, n_layer=1, n_head=2, n_embd=32)
    save_pretrained(GPT(config, torch.Generator().manual_seed(0)), tmp_path / "base", tokenizer)
    for name, lines in (("tales", pairs), ("others", [*pairs, *chats(5)])):
        content = "\n".join(json.dumps({"messages": chat}) for chat in lines)
        (tmp_path / f"{name}.jsonl").write_text(content, encoding="utf-8")
        run = ["--corpus", f"{name}.jsonl", "--init-from", "base", "--device", "cpu", "--out-dir", name]
        assert nanogpt("train", *run, "--max-iters", 2, "--eval-interval", 300).returncode == 0
        said = nanogpt("eval", name, "--split", "train", "--device", "cpu").stdout
        assert re.search(r"perplexity [\d.]+\n[\d.]+ bits/byte", said), said
        assert ("of 27 answers at temperature 0.5: 0% obey" in said) == (name == "tales"), said


NO_ROLE = '{"messages": [{"content": "hello"}, {"role": "assistant", "content": "hi"}]}'
LONG = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "the fox " * 99}]})


@pytest.mark.parametrize(
    "content, said",
    [
        (NO_ROLE, r"chats.jsonl, line 1: message 1 needs a role \(system, user, assistant\) and a content"),
        ('{"messages": "hello"}', "line 1: messages must be a list of at least one, got 'hello'"),
        ('{"messages": [{"role": "user", "content": "hello"}]}', "line 1: the last message must be the assistant's"),
        ('{"messages": [', "line 1 cannot be read as JSON"),
        ('{"messages": ' + "[" * 100_000, "line 1 cannot be read as JSON .maximum recursion depth"),
        ("\n".join([LONG] * 2), r"the chat that begins 'a': it has \d+ tokens, the model reads 64; shorten it"),
        (json.dumps({"messages": chats()[0]}), "chats.jsonl has 1 chats; give it two or more"),
    ],
)
def test_bad_chats_are_named(content, said, base, nanogpt, tmp_path):
    (tmp_path / "chats.jsonl").write_text(content, encoding="utf-8")
    assert re.search(said, failure(nanogpt(*TRAIN, "--out-dir", "run")))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "flags, said",
    [
        (["train", "--corpus", "chats.jsonl"], "name one with --init-from"),
        (["train", "demo", "--lora-rank", "4"], "--lora-rank 4 adapts a trained model"),
        ([*TRAIN, "--no-aligned"], "chats are learnt one by one: set --aligned and --sampling epochs"),
        ([*TRAIN, "--lora-rank", "4", "--optimizer", "muon"], "Muon is for nn.Linear layers"),
        (["sample", "base", "--system", "be brief"], "--system is for a chat: add --chat"),
    ],
)
def test_what_does_not_go_together_is_named(flags, said, base, nanogpt):
    assert said in failure(nanogpt(*flags))


def test_bad_templates_and_ranks_are_named(base):
    model, tokenizer = load(base, "cpu")
    with pytest.raises(ValueError, match="the rank of an adapter must be at least 1, got 0"):
        add_lora(model, 0)
    for template, said in (
        ("{% for %}", "the chat template fails: "),
        ("{{ raise_exception('no system message, please') }}", "fails: no system message, please"),
        ("{{ messages.append(1) }}", "the chat template fails: .*unsafe"),  # the sandbox
        ("{{ messages[-1]['content'] }}", "changes what it wrote before"),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "no token at which a model stops"),
    ):
        tokenizer.chat_template = template
        with pytest.raises(ValueError, match=said):
            encode_chat(chats()[0] * 2, tokenizer)


@pytest.mark.parametrize(
    "rewards, said",
    [
        ([1.0, float("nan")], "the reward of sample 1 is nan, of the text 'two'; it must be a finite number"),
        ([float("inf"), 0.0], "the reward of sample 0 is inf, of the text 'one'"),
        ([1.0], "must be one number per sample, in a list or a tensor .N,.; sample 1 has none"),
    ],
)
def test_rewards_that_are_no_numbers_are_named(rewards, said):
    with pytest.raises(ValueError, match=said):
        rewards_of(lambda texts: rewards, ["one", "two"])


def test_our_template_is_what_transformers_makes_of_it(base, tmp_path):
    transformers = pytest.importorskip("transformers")
    model, tokenizer = load(base, "cpu")
    each = "{% for m in messages %}<{{ m.role }}> {{ m.content | tojson }}\n{% endfor %}"
    tokenizer.chat_template = "{{ bos_token }}" + each
    save_pretrained(model, tmp_path / "again", tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    messages = [{"role": "system", "content": "d\u00e9j\u00e0 \"vu\""}, *chats()[0]]
    assert theirs.apply_chat_template(messages, tokenize=False) == render(messages, tokenizer)
    assert theirs.apply_chat_template(messages)["input_ids"] == tokenizer.encode(render(messages, tokenizer), "all")


def test_a_line_ends_only_at_a_newline(tmp_path):
    path, odd = tmp_path / "chats.jsonl", [{"role": "user", "content": "\u2028 \x85 \U0001f98a"}, chats()[0][1]]
    path.write_text(json.dumps({"messages": odd}, ensure_ascii=False), encoding="utf-8")
    assert read_chats(path) == [odd]


def test_blank_lines_and_several_turns_are_read(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text("\n" + json.dumps({"messages": [*chats()[0], *chats()[1]]}) + "\n\n", encoding="utf-8")
    assert [len(chat) for chat in read_chats(path)] == [4]
