"""The command line: what it does, and what it says when it can't."""

import json
import math
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass

import pytest
from conftest import TINY_FLAGS

from nanogpt.budget import human_time
from nanogpt.cli import COMMANDS, main
from nanogpt.config import GPTConfig
from nanogpt.flags import GROUPS, comments, in_flags, parse_run
from nanogpt.recipe import TrainConfig
from nanogpt.report import read_metrics

OFFLINE = {
    "NANOGPT_CACHE": "absent",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
}


TRAIN = [
    "train", "demo", "--corpus", "text.txt", "--tokenizer", "char", "--no-aligned", "--out-dir", "run",
    *TINY_FLAGS,
]


@pytest.fixture
def trained(nanogpt, tmp_path):
    "A tiny run on a text file, made by the command itself."
    (tmp_path / "text.txt").write_text(
        "Once there was a small text about a small model. " * 60, encoding="utf-8"
    )
    done = nanogpt(*TRAIN)
    assert done.returncode == 0, done.stderr
    return done


def failure(done) -> str:
    "The one line that a failed command prints."
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if "error" in line]
    assert len(lines) == 1 and lines[0].startswith("nanogpt: error: ")
    return lines[0]


def test_help_and_version(capsys):
    for args in ([], ["--help"]):
        assert main(args) == 0
        printed = capsys.readouterr().out
        assert all(f"  {name}" in printed for name in COMMANDS)
    assert main(["--version"]) == 0 and re.fullmatch(r"nanogpt \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_shows_it_at_once(command):
    "Torch takes seconds to import; whoever asks for help should not wait for it."
    code = (
        f"import sys; from nanogpt.cli import main\ntry: main([{command!r}, '--help'])\n"
        "except SystemExit as ended: assert not ended.code\n"
        "slow = {'torch', 'numpy', 'matplotlib', 'tiktoken', 'tqdm'} & sys.modules.keys()\n"
        "assert not slow, slow"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert (
        f"usage: nanogpt {command}" in done.stdout
        and f"Example: nanogpt {command}" in done.stdout.replace('eval "$(', "")
    )


@pytest.mark.parametrize("module", ["nanogpt", "nanogpt.cli"])
def test_python_m(module, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", module, "--version"], cwd=tmp_path, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0 and done.stdout.startswith("nanogpt ")


def test_help_of_train_has_groups_ranges_and_a_line_for_each_flag(nanogpt):
    printed = nanogpt("train", "demo", "--help").stdout
    titles = re.findall(r"─ (\w+) options ─", printed)
    assert titles == ["data", "model", "optimisation", "machine", "logging"]
    for words in (
        "--n-layer INT≥1,≤1000",
        "--dropout FLOAT≥0,<1",
        "--norm {layer,rms}",
        "--data-dir FOLDER",
        "--config FILE",
    ):
        assert words in printed
    assert re.search(r"--n-layer INT≥1,≤1000 +blocks \(default: 3\)", printed), "the demo's"
    notes = comments(TrainConfig) | comments(GPTConfig)
    assert [name for names in GROUPS.values() for name in names.split() if not notes[name]] == [], "no help"


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_completion_of_commands_and_flags(nanogpt, tmp_path):
    script = nanogpt("completion", "bash").stdout
    cases = {
        "nanogpt sam": "sample",
        "nanogpt train --n-l": "--n-layer",
        "nanogpt sample --temp": "--temperature",
    }
    for line, full in cases.items():
        words = line.split()
        ask = f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _tyro_nanogpt"
        code = f'{script}\n{ask}\necho "${{COMPREPLY[@]}}"'
        (tmp_path / "complete.sh").write_text(code, encoding="utf-8")
        done = subprocess.run(["bash", "complete.sh"], cwd=tmp_path, capture_output=True, encoding="utf-8")
        assert done.stdout.split() == [full], done.stderr


def test_hints_are_flags():
    known = {"resume", "compile", "n_embd", "out_dir"}
    assert in_flags("go on with resume='auto'", known) == "go on with --resume auto"
    assert in_flags("set compile=False, or n_embd=132.", known) == "set --no-compile, or --n-embd 132."
    assert in_flags("out_dir='my run'; x='auto' a=1", known) == "--out-dir 'my run'; x='auto' a=1"


def test_warnings_are_one_line(monkeypatch, capsys):
    @dataclass
    class Odd:
        def __call__(self):
            warnings.warn("too\nlittle text; set resume='auto'", stacklevel=1)

    monkeypatch.setitem(COMMANDS, "info", Odd)
    before = warnings.showwarning
    assert main(["info"]) == 0 and warnings.showwarning is before
    assert capsys.readouterr().err == "nanogpt: warning: too little text; set --resume auto\n"


def test_unexpected_errors_are_one_line_too(monkeypatch, capsys):
    @dataclass
    class Odd:
        def __call__(self):
            raise TypeError("a bug\nof two lines")

    monkeypatch.setitem(COMMANDS, "info", Odd)
    monkeypatch.delenv("NANOGPT_DEBUG", raising=False)
    assert main(["info"]) == 1
    line = "nanogpt: error: TypeError: a bug of two lines (set NANOGPT_DEBUG=1 for the traceback)\n"
    assert capsys.readouterr().err == line
    monkeypatch.setenv("NANOGPT_DEBUG", "1")
    with pytest.raises(TypeError, match="a bug"):
        main(["info"])


def test_times_are_for_people():
    hours = {
        929_000: "106 years",
        100: "4.2 days",
        48: "2.0 days",
        47: "47 hours",
        0.5: "30 minutes",
        1e-5: "0.0 seconds",
    }
    assert {number: human_time(number) for number in hours} == hours


def test_prepare_train_sample_eval_info(trained, nanogpt, tmp_path):
    assert re.search(r"4 windows × 32 context × 1 accumulation × 1 rank = 128", trained.stdout)
    assert (tmp_path / "run" / "losses.png").read_bytes().startswith(b"\x89PNG")

    text = nanogpt("sample", "run", "--prompt", "Once", "--num-samples", 2, "--max-new-tokens", 40)
    assert text.returncode == 0 and text.stdout.count("Once") >= 2
    assert (
        nanogpt("sample", "run", "--prompt", "Once", "--num-samples", 2, "--max-new-tokens", 40).stdout
        == text.stdout
    ), "same seed"
    assert nanogpt("sample", "run", "--seed", 2).stdout != nanogpt("sample", "run").stdout

    printed = nanogpt("eval", "run").stdout
    assert "nats/token" in printed and "nats/char" in printed
    per_byte, per_character = (re.search(rf"([\d.]+) bits/{unit}", printed)[1] for unit in ("byte", "char"))
    assert per_byte == per_character, "the text is ASCII"
    best = min(row["val_loss"] for row in read_metrics(tmp_path / "run"))
    assert abs(float(re.search(r"val loss ([\d.]+)", printed)[1]) - best) < 0.2, (
        "a few batches against the whole split"
    )
    assert "parameters" in nanogpt("info", "run").stdout
    assert re.search(r"'val'\): [\d,]+ tokens in 1 shard, uint8", nanogpt("info", "data/text-char").stdout)
    assert "presets" in nanogpt("info").stdout
    assert re.search(r"^window or documents, shared heads *float32 *flash$", nanogpt("info", "--kernels").stdout, re.M)


def test_ways_to_sample(trained, nanogpt, tmp_path):
    in_16_bits = nanogpt("sample", "run", "--dtype", "bfloat16", "--num-samples", 1, "--max-new-tokens", 20)
    assert in_16_bits.returncode == 0 and in_16_bits.stdout
    assert "nats/token" in nanogpt("eval", "run", "--dtype", "bfloat16").stdout
    (tmp_path / "story.txt").write_text("Once there was", encoding="utf-8")
    from_file = nanogpt("sample", "run", "--prompt-file", "story.txt", "--max-new-tokens", 20)
    assert (
        from_file.returncode == 0
        and from_file.stdout
        == nanogpt("sample", "run", "--prompt", "Once there was", "--max-new-tokens", 20).stdout
    )
    greedy = [
        "sample", "run", "--prompt", "Once", "--temperature", 0, "--num-samples", 1, "--max-new-tokens", 20,
    ]
    for flags in (["--top-p", 0.001], ["--min-p", 1], ["--top-k", 1]):
        drawn = nanogpt(*[1 if flag == 0 else flag for flag in greedy], *flags)
        assert drawn.stdout == nanogpt(*greedy).stdout, "these leave the best token only"
    assert nanogpt(*greedy, "--repetition-penalty", 5).stdout != nanogpt(*greedy).stdout
    whole = nanogpt(*greedy).stdout
    stop = whole[9:12]
    before = whole[: whole.index(stop, len("Once"))]
    assert nanogpt(*greedy, "--stop", stop).stdout.startswith(before + "\n---"), "it ends before the stop string"
    assert nanogpt(*greedy, "--int8").returncode == 0


def test_chat_takes_turns(trained, nanogpt):
    done = nanogpt(
        "sample", "run", "--chat", "--max-new-tokens", 15, "--temperature", 0,
        input="Once there\n\n was\n" + "a small text " * 10 + "\n",
    )
    assert done.returncode == 0, done.stderr
    odd = nanogpt("sample", "run", "--chat", "--max-new-tokens", 5, input="Once \u00fc\nOnce\n")
    assert odd.returncode == 0 and "not in the vocabulary" in odd.stdout and odd.stdout.count("\n> ") == 3, (
        "a bad line is told and left out"
    )
    turns = done.stdout.split("\n> ")
    assert len(turns) == 6 and all(len(turn) == 15 for turn in turns[1:5]), (
        "an empty line goes on; a long text is cropped"
    )


def test_export_and_back(trained, nanogpt, tmp_path):
    done = nanogpt("export", "run", "theirs")
    assert done.returncode == 0 and "AutoModelForCausalLM" in done.stdout
    flags = ["--prompt", "Once", "--temperature", 0, "--num-samples", 1, "--max-new-tokens", 30]
    ours = nanogpt("sample", "run", *flags)
    assert nanogpt("sample", "theirs", *flags).stdout == ours.stdout, nanogpt(
        "sample", "theirs", *flags
    ).stderr
    assert "parameters" in nanogpt("info", "theirs").stdout
    assert (
        nanogpt("eval", "theirs", "--data-dir", "data/text-char").stdout.split()[2]
        == nanogpt("eval", "run").stdout.split()[2]
    )
    assert "give --data-dir" in failure(nanogpt("eval", "theirs"))
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    write = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
    text = write("Once", max_new_tokens=20, do_sample=False)[0]["generated_text"]
    assert ours.stdout.startswith(text[:20])


def test_nanogpts_own_checkpoint(nanogpt, tmp_path):
    "As its training script writes it: no tokenizer, foreign settings, compiled names."
    import torch

    from nanogpt.config import GPTConfig
    from nanogpt.model import GPT

    shape = dict(block_size=32, vocab_size=257, n_layer=1, n_head=2, n_embd=16, bias=False, dropout=0.0)
    weights = {f"_orig_mod.{name}": tensor for name, tensor in GPT(GPTConfig(**shape)).state_dict().items()}
    saved = {
        "model": weights,
        "optimizer": {},
        "model_args": shape,
        "iter_num": 7,
        "best_val_loss": torch.tensor(2.5),
        "config": {"out_dir": "out", "wandb_log": False},
    }
    torch.save(saved, tmp_path / "ckpt.pt")
    assert nanogpt("sample", "ckpt.pt", "--tokenizer", "byte", "--max-new-tokens", 5).returncode == 0
    assert "name it, such as --tokenizer gpt2" in failure(nanogpt("sample", "ckpt.pt"))
    assert "iteration 7, best validation loss 2.5" in nanogpt("info", "ckpt.pt").stdout
    assert nanogpt("export", "ckpt.pt", "theirs", "--tokenizer", "byte").returncode == 0


def test_prepare_and_verify(nanogpt, tmp_path):
    (tmp_path / "notes").mkdir()
    for i in range(30):
        (tmp_path / "notes" / f"{i}.txt").write_text(f"note {i} says caf\u00e9 " * 20, encoding="utf-8")
    rows = [json.dumps({"body": f"row {i} of the table"}) for i in range(300)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    for corpus, flags in (
        ("notes", ["--tokenizer", "bpe-300"]),
        ("rows.jsonl", ["--column", "body"]),
        ("notes=0.5,tales=0.5", []),
    ):
        done = nanogpt("prepare", corpus, "--out-dir", "d", "--overwrite", *flags)
        assert done.returncode == 0 and re.search(
            r"^d train: [\d,]+ documents, [\d,]+ characters, [\d,]+ tokens, 1 shard$", done.stdout, re.M
        )
        assert "tokens/s" in done.stderr and nanogpt("data", "verify", "d").returncode == 0
    shard = tmp_path / "d" / "val-00000.bin"
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    done = nanogpt("data", "verify", "d")
    assert (
        "d is not what was prepared" in failure(done)
        and "val-00000.bin has changed since it was prepared" in done.stderr
    )
    assert "prepared with another corpus" in failure(nanogpt("prepare", "notes", "--out-dir", "d"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 and more text")
    assert "--errors replace" in failure(nanogpt("prepare", "latin.txt"))
    assert nanogpt("prepare", "latin.txt", "--errors", "replace").returncode == 0


def test_own_text_in_one_command(nanogpt, tmp_path):
    "No preset, no configuration: `--corpus` is enough, and `prepare` says how to go on."
    (tmp_path / "my_texts").mkdir()
    for i in range(3):
        text = " ".join(f"note {(i + n) % 7} of {n % 11} is small." for n in range(200))
        (tmp_path / "my_texts" / f"{i}.txt").write_text(text, encoding="utf-8")
    short = ["--max-iters", 2, "--n-layer", 1, "--n-embd", 16, "--n-head", 2]
    done = nanogpt("train", "--corpus", "my_texts/", *short)
    assert done.returncode == 0, done.stderr
    assert "corpus='my_texts/'" in done.stdout and "from reference" not in done.stdout
    described = json.loads((tmp_path / "out" / "own" / "config.json").read_text(encoding="utf-8"))
    assert (
        not described["aligned"] and described["model"]["n_layer"] == 1 and described["tokenizer"] == "char"
    )
    done = nanogpt("prepare", "my_texts", "--tokenizer", "byte", "--out-dir", "my data")
    following = re.search(r"^next: nanogpt (train .*)$", done.stdout, re.M)
    assert following and following[1] == "train --corpus my_texts --tokenizer byte --data-dir 'my data'"
    flags = [
        "train", "--corpus", "my_texts", "--tokenizer", "byte", "--data-dir", "my data", "--out-dir", "other",
    ]
    assert nanogpt(*flags, *short).returncode == 0


def test_resume_from_the_command_line(trained, nanogpt):
    done = nanogpt(*TRAIN, "--init-from", "resume", "--max-iters", 30)
    assert done.returncode == 0 and "iter     30" in done.stdout


def test_demo_in_short(nanogpt, tmp_path):
    done = nanogpt("demo", "--max-iters", 3, "--num-samples", 4)
    assert done.returncode == 0, done.stderr
    for words in (
        "final validation loss",
        "floor (exact entropy)",
        "well-formed tales",
        "consistent tales",
        "Three tales",
        "explain.html: open it in a browser",
    ):
        assert words in done.stdout
    assert (tmp_path / "out/demo/explain.html").stat().st_size < 5_000_000
    assert nanogpt("demo", "--max-iters", 2, "--num-samples", 4).returncode == 0, "the demo may be run again"


@pytest.mark.parametrize(
    "args, message",
    [
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["train"], "name a preset: demo"),
        (["train", "dmeo"], "unknown preset 'dmeo'; did you mean 'demo'?"),
        (["train", "gpt2-124m"], "no data at data/openwebtext"),
        (["train", "demo", "--n-embd", "131"], "n_embd must be a multiple of n_head"),
        (["train", "demo", "--n-layer", "0"], "n_layer must be at least 1 and at most 1000, got 0"),
        (["train", "demo", "--n-head", "-4"], "n_head must be at least 1, got -4"),
        (["train", "own"], "nanogpt train --corpus my_texts/"),
        (["train", "demo", "--init-from", "resmue"], "there is no resmue to start from; did you mean 'resume'?"),
        (["train", "--corpus", "short.txt"], "too few to learn from"),
        (["train", "--config=run.toml", "demo"], "the preset comes first: nanogpt train demo"),
        (["train", "demo", "--init-from", "resume"], "no checkpoint at"),
        (["prepare", "absent.txt"], "unknown corpus 'absent.txt'"),
        (["prepare", "empty.txt"], "the file is empty"),
        (["prepare", "latin.txt"], "is not UTF-8: byte 2 is 0xe9"),
        (["prepare", "short.txt", "--tokenizer", "chra"], "unknown tokenizer 'chra'"),
        (["prepare", "short.txt", "--tokenizer", "bpe-100"], "vocab_size"),
        (["prepare", "short.txt", "--out-dir", "empty.txt/data"], "empty.txt"),
        (["data", "verify", "absent"], "no meta.json in absent"),
        (["bench", "batches", "--megabytes", "5"], "bench batches takes no --megabytes"),
        (["bench", "time-to-loss", "--nanogpt-dir", "absent"], "there is no train.py in absent; clone"),
        (["train", "demo", "--corpus", "short.txt", "--tokenizer", "char"], "fewer than block_size"),
        (["sample", "absent"], "there is no folder absent and no such checkpoint"),
        (["sample", "short.txt"], "short.txt"),
        (["eval", "absent"], "there is no folder absent and no such checkpoint"),
        (["info", "absent"], "there is no folder absent and no such checkpoint"),
        (["export", "absent", "there"], "there is no folder absent and no such checkpoint"),
        (["info", "theirs"], "pickle"),
        (["sample", "short.safetensors"], "config.json: No such file"),
        (["sample", "hf:no such name"], "there is no folder no such name"),
    ],
)
def test_errors_are_one_line(args, message, nanogpt, tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "run.toml").write_text("n_layer = 1", encoding="utf-8")
    (tmp_path / "short.safetensors").touch()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text(
        '{"model_type": "gpt2", "vocab_size": 9, "n_positions": 9, "n_layer": 1, "n_head": 1, "n_embd": 8}',
        encoding="utf-8",
    )
    (tmp_path / "theirs" / "pytorch_model.bin").touch()
    (tmp_path / "short.txt").write_text("too short to train on", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1").replace(b"c", b""))
    assert message in failure(nanogpt(*args))


def test_offline_download_is_one_line(nanogpt):
    line = failure(nanogpt("prepare", "shakespeare", env=OFFLINE))
    assert "could not be downloaded" in line and "tinyshakespeare.txt" in line


@pytest.mark.parametrize(
    "args, message",
    [
        (["--temperature", "-1"], "temperature must be at least 0, got -1.0"),
        (["--temperature", "nan"], "temperature must be at least 0 and at most 1e"),
        (["--top-k", "0"], "top_k must be at least 1"),
        (["--max-new-tokens", "0"], "max_new_tokens must be at least 1"),
        (["--num-samples", "0"], "num_samples must be at least 1"),
        (["--prompt", "über"], "not in the vocabulary of this CharTokenizer: 'ü'"),
        (["--device", "cuda:9"], "device 'cuda:9' cannot be used here"),
        (["--top-p", "0"], "top_p must be above 0 and at most 1"),
        (["--min-p", "2"], "min_p must be at least 0 and at most 1"),
        (["--repetition-penalty", "0"], "repetition_penalty must be above 0"),
        (["--prompt", "Once", "--chat"], "give one of --prompt, --prompt-file and --chat"),
        (["--prompt-file", "absent.txt"], "absent.txt"),
        (
            ["--prompt", "small " * 10],
            "a prompt of 60 tokens is longer than the model's context of 32; keep its last 32",
        ),
    ],
)
def test_sampling_errors_are_one_line(args, message, trained, nanogpt):
    assert message in failure(nanogpt("sample", "run", *args))


def test_a_cut_checkpoint_is_named(trained, nanogpt, tmp_path):
    path = tmp_path / "run" / "best.pt"
    path.write_bytes(path.read_bytes()[:5000])
    assert "damaged or cut short" in failure(nanogpt("sample", "run"))


@pytest.mark.parametrize(
    "args, message",
    [
        (["train", "demo", "--lerning-rate", "1"], "--lerning-rate, 1; did you mean --learning-rate?"),
        (["train", "demo", "--n-layer", "four"], "--n-layer: invalid literal for int() with base 10: 'four'"),
        (
            ["train", "demo", "--norm", "lyer"],
            "invalid choice 'lyer' for argument '--norm'. Expected one of ('layer', 'rms')",
        ),
        (["train", "demo", "--config"], "Missing value for argument '--config'"),
        (["sample"], "Missing from nanogpt sample: RUN"),
        (["sample", "run", "--temprature", "1"], "did you mean --temperature?"),
        (["completion", "tcsh"], "('bash', 'zsh', 'fish')"),
    ],
)
def test_mistakes_in_flags_are_one_line(args, message, nanogpt):
    for encoding in ("utf-8", "ascii"):  # tyro draws its box of what the terminal can show
        done = nanogpt(*args, env={"PYTHONIOENCODING": encoding})
        assert done.returncode == 2 and done.stdout == ""
        assert re.fullmatch(r"nanogpt: error: .+\n", done.stderr) and message in done.stderr, done.stderr
        assert "--help;" not in done.stderr and "---" not in done.stderr, "a rule of the box"


def test_a_configuration_file(trained, nanogpt, tmp_path):
    "The file's fields come after the preset's and before the flags'; what is saved reproduces the run."
    (tmp_path / "run.toml").write_text(
        'n_layer = 1\nmax_iters = 5\nout_dir = "from-file"\n'
        'corpus = "text.txt"\ntokenizer = "char"\naligned = false\n',
        encoding="utf-8",
    )
    flags = [flag for flag in TINY_FLAGS if flag != "--n-layer"][:2] + [
        "--n-embd", "16", "--n-head", "2", "--batch-size", "4", "--eval-windows", "4",
    ]
    done = nanogpt("train", "demo", "--config", "run.toml", *flags, "--max-iters", 3)
    assert done.returncode == 0, done.stderr
    assert "n_layer=1" in done.stdout.replace("\n     ", " ") and "max_iters=3" in done.stdout.replace(
        "\n     ", " "
    )
    saved = tmp_path / "from-file" / "config.json"
    again = nanogpt("train", f"--config={saved}", "--out-dir", "again")
    assert again.returncode == 0, again.stderr
    losses = [[row["val_loss"] for row in read_metrics(tmp_path / name)] for name in ("from-file", "again")]
    assert losses[0] == losses[1]


def test_a_configuration_of_nanogpt_is_read_and_not_run(trained, nanogpt, tmp_path):
    (tmp_path / "small.py").write_text(
        "# as nanoGPT's\nout_dir = 'theirs'\ndataset = 'text'\ngradient_accumulation_steps = 2 * 2\n"
        "batch_size = 2\nblock_size = 16\nn_layer = 1\nn_head = 1\nn_embd = 8\nmax_iters = 2\n"
        "eval_iters = 1\nlog_interval = 1\ncompile = False\nwarmup_iters = 0\n", encoding="utf-8",
    )  # fmt: skip
    done = nanogpt(
        "train", "--config", "small.py", "--data-dir", "data/text-char", "--tokenizer", "char", "--device",
        "cpu",
    )
    assert done.returncode == 0, done.stderr
    assert (
        "left out log_interval" in done.stdout
        and "2 windows × 16 context × 4 accumulation" in done.stdout
        and "mlp='gelu_exact'" in done.stdout
    )
    (tmp_path / "evil.py").write_text("batch_size = 2\nopen('ran', 'w')\n", encoding="utf-8")
    assert "evil.py, line 2: only `name = value`" in failure(nanogpt("train", "--config", "evil.py"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.toml", "learning_rat = 0.1", "a.toml: unknown learning_rat (did you mean learning_rate?)"),
        ("a.json", '{"batch_size": "four"}', "batch_size must be of type int, got 'four'"),
        ("a.json", '{"batch_size": true}', "batch_size must be of type int, got True"),
        ("a.yaml", "min_lr: 1.0", "min_lr must not exceed learning_rate"),
        ("a.ini", "x = 1", "a.ini"),
    ],
)
def test_bad_configuration_files_are_one_line(name, text, message, nanogpt, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert message in failure(nanogpt("train", "demo", "--config", name))


def test_batch_size_auto_may_be_said_twice():
    assert parse_run(["demo", *["--batch-size", "auto"] * 2, "--max-iters", "7"], "train").auto_batch


def test_batch_size_auto_keeps_the_windows_of_an_iteration(trained, nanogpt):
    done = nanogpt(
        *TRAIN, "--out-dir", "auto", "--max-iters", 2, "--batch-size", 3, "--gradient-accumulation-steps", 4,
        "--batch-size=auto",
    )
    assert done.returncode == 0, done.stderr
    assert "12 windows × 32 context × 1 accumulation × 1 rank = 384" in done.stdout


def test_samples_and_logs_on_the_way(trained, nanogpt, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert sorted(path.name for path in (tmp_path / "run" / "samples").iterdir()) == [
        f"{i:07}.txt" for i in (0, 5, 10, 15, 20)
    ]
    done = nanogpt(
        *TRAIN, "--out-dir", "logged", "--tensorboard", "--wandb",
        env={"WANDB_MODE": "offline", "WANDB_SILENT": "true"},
    )
    assert done.returncode == 0, done.stderr
    events = EventAccumulator(str(tmp_path / "logged" / "tensorboard")).Reload()
    rows = read_metrics(tmp_path / "logged")
    assert [event.step for event in events.Scalars("val_loss")] == [row["iter"] for row in rows]
    assert [event.value for event in events.Scalars("val_loss")] == pytest.approx(
        [row["val_loss"] for row in rows]
    )
    assert list((tmp_path / "logged" / "wandb").glob("offline-run-*/*.wandb"))


def test_plan(nanogpt):
    done = nanogpt("plan", "demo", "--n-layer", 1, "--n-embd", 16, "--block-size", 32)
    assert done.returncode == 0, done.stderr
    rows = [
        line.split()
        for line in done.stdout.splitlines()
        if "GB" in line[:16] or line.startswith("this machine")
    ]
    assert (
        [row[0] for row in rows] == ["T4", "L4", "RTX", "A100", "A100", "H100", "H200", "B200", "this"]
        and rows[0][3] == "float16"
        and rows[1][3] == "bfloat16"
    )
    assert all("8" in row for row in rows), "eight windows at once"
    assert done.stderr == "measuring steps of this model on cpu …\n"


def test_finetuning_from_a_folder(trained, nanogpt, tmp_path):
    assert nanogpt("export", "run", "exported").returncode == 0
    flags = [
        *TRAIN, "--init-from", "exported", "--out-dir", "tuned", "--n-layer", "7", "--max-iters", "4",
        "--warmup-iters", "0",
    ]
    done = nanogpt(*flags)
    assert done.returncode == 0, done.stderr
    first = read_metrics(tmp_path / "tuned")[0]
    best = min(row["val_loss"] for row in read_metrics(tmp_path / "run"))
    assert first["val_loss"] == pytest.approx(best, abs=1e-5), (
        "it begins with the weights of best.pt, and with their two layers"
    )
    assert (
        json.loads((tmp_path / "tuned" / "config.json").read_text(encoding="utf-8"))["model"]["n_layer"] == 2
    )
    assert nanogpt(*flags, "--resume", "auto", "--max-iters", 6).returncode == 0
    assert "there is no folder nowhere and no such checkpoint" in failure(
        nanogpt(*TRAIN, "--init-from", "nowhere", "--out-dir", "other")
    )
    assert "did you mean 'resume'?" in failure(nanogpt(*TRAIN, "--init-from", "resmue", "--out-dir", "other"))


def test_a_model_that_learnt_chats_is_judged_on_its_answers(nanogpt, tmp_path):
    import torch

    from nanogpt.bpe import train_bpe
    from nanogpt.chat import encode_chat
    from nanogpt.hub import load, save_pretrained
    from nanogpt.model import GPT

    tokenizer = train_bpe("User: where is the fox? Assistant: in the tree\n" * 9, 300, ["<|endoftext|>"])
    model = GPT(GPTConfig(block_size=64, vocab_size=300, n_layer=1, n_head=2, n_embd=16))
    save_pretrained(model, tmp_path / "base", tokenizer)
    chats = [
        [{"role": "user", "content": f"where is fox {i}?"}, {"role": "assistant", "content": "in the tree" * i}]
        for i in (1, 2)
    ]
    text = "\n".join(json.dumps({"messages": chat}) for chat in chats)
    (tmp_path / "chats.jsonl").write_text(text, encoding="utf-8")
    flags = ["--init-from", "base", "--corpus", "chats.jsonl", "--out-dir", "taught", "--max-iters", 1]
    done = nanogpt("train", *flags)
    assert done.returncode == 0, done.stderr
    printed = nanogpt("eval", "taught").stdout
    ids, answers = map(torch.tensor, encode_chat(chats[1], tokenizer))
    model, _ = load(tmp_path / "taught", "cpu")
    loss = model(ids[None, :-1], ids[1:].where(answers[1:], -1)[None])[1].item()
    told = r"val loss ([\d.]+) nats/token over (\d+) tokens; perplexity [\d.]+\n([\d.]+) bits/byte\n"
    found, text = re.fullmatch(told, printed), " " + chats[1][1]["content"]
    assert float(found[1]) == pytest.approx(loss, abs=0.01) and int(found[2]) == answers.sum()
    assert float(found[3]) == pytest.approx(loss * int(found[2]) / len(text) / math.log(2), rel=0.01)
