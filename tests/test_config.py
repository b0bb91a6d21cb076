"""Configuration files are read and never run, and a wrong one says where it is wrong."""

import json
import re
from dataclasses import asdict

import pytest
from hypothesis import given, strategies as st

from nanogpt.config import read_config
from nanogpt.recipe import PRESETS, TrainConfig, config_from_dict, from_nanogpt, read_run

SETTINGS = {"learning_rate": 1e-3, "max_iters": 600, "compile": False, "corpus": "tales", "lr_decay_iters": 0}
TEXTS = {
    "toml": "# a run\nlearning_rate = 1e-3\nmax_iters = 600\ncompile = false\ncorpus = 'tales'\nlr_decay_iters = 0\n",
    "json": '{"learning_rate": 1e-3, "max_iters": 600,\n"compile": false, "corpus": "tales", "lr_decay_iters": 0}',
    "yaml": "learning_rate: 1.0e-3\nmax_iters: 600\ncompile: false\ncorpus: tales\nlr_decay_iters: 0\n",
    "py": '"a run"\nlearning_rate = 1e-3\nmax_iters: int = 5 * 120\n'
    "compile = True\ncompile = False  # the later line wins\n"
    'corpus = "tales"\nlr_decay_iters = 3 - 6 // 2\n',
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    "Write a file into the folder where the test runs; returns its name."
    monkeypatch.chdir(tmp_path)

    def write(name: str, text: str | bytes) -> str:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return name

    return write


@pytest.mark.parametrize("suffix", ["toml", "json", "yaml", "yml", "py"])
@pytest.mark.parametrize("style", ["lines", "windows"])
def test_every_format_gives_the_same_settings(write, suffix, style):
    text = TEXTS["yaml" if suffix == "yml" else suffix]
    data = text.encode() if style == "lines" else b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()
    values = read_config(write(f"run.{suffix}", data))
    assert values == SETTINGS and [*map(type, values.values())] == [*map(type, SETTINGS.values())]


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.toml", "ngram_orders = [2, 5]"), ("a.json", '{"ngram_orders": [2, 5]}'),
        ("a.yaml", "ngram_orders: [2, 5]"), ("a.py", "ngram_orders = (2, 5)"), ("b.py", "ngram_orders = [2, 5]"),
    ],
)  # fmt: skip
def test_lists_become_tuples(write, name, text):
    config = read_run(write(name, text))
    assert config.model.ngram_orders == (2, 5)
    assert config_from_dict(json.loads(json.dumps(asdict(config)))) == config


def test_numbers_of_yaml(write):
    "YAML 1.1 takes 1e-3, which lacks a dot, for a string; a field that holds a number gets a number."
    text = "learning_rate: 1e-3\nmin_lr: 1e-5\nnorm_eps: 1e-6\nrun_name: 1e-3\n"
    config = config_from_dict(read_config(write("run.yaml", text)))
    assert (config.learning_rate, config.min_lr, config.model.norm_eps, config.run_name) == (1e-3, 1e-5, 1e-6, "1e-3")
    with pytest.raises(ValueError, match="run.yaml: learning_rate must be of type float, got 'fast'"):
        config_from_dict(read_config(write("run.yaml", "learning_rate: fast\n")), where="run.yaml")


def test_empty_files_set_nothing(write):
    assert [read_config(write(f"run.{suffix}", "# nothing\n")) for suffix in ("toml", "yaml", "py")] == [{}, {}, {}]


def test_python_is_never_run(write, tmp_path):
    "Every line would leave a file behind if it ran."
    leave = "open('ran', 'w')"
    for line in (
        f"{leave}.close()",
        f"x = {leave}",
        f'x = f"{{{leave}}}"',
        f"x = [{leave}]",
        f"x = 1 if {leave} else 2",
        f"x = 1 < {leave}",
        f"x = 1 + {leave}",
        f"if {leave}:\n    x = 1",
        f"def f(x={leave}):\n    pass",
        f"@{leave}\nclass A:\n    pass",
        f"with {leave} as x:\n    pass",
        f"x = (y := {leave})",
        f"x[{leave}] = 1",
        f"{leave}.y = 1",
        f"x = lambda y={leave}: y",
        f"x = {{{leave}: 1}}",
        f"x += {leave}",
    ):
        with pytest.raises(ValueError, match="nothing is run"):
            read_config(write("run.py", line + "\n"))
    path = write("run.py", f"x: {leave} = 1\n")
    assert read_config(path) == {"x": 1}, "an annotation is of no account"
    assert not (tmp_path / "ran").exists()
    exec(f"{leave}.close()", {})
    assert (tmp_path / "ran").exists(), "the lines do what this test says"


@pytest.mark.parametrize(
    "line",
    [
        "import time",
        "x",
        "x = y",
        "x = time.time()",
        "x = y.z",
        "x = f'{1}'",
        "x = 1 < 2",
        "if True: x = 1",
        "x = y = 1",
        "x, y = 1, 2",
        "x.y = 1",
        "x[0] = 1",
        "x: int",
        "x = 9 ** 9 ** 9",
        "x = 'a' * 9",
        "x = True + 1",
        "x = 1 / 0",
        "x = 1 % 2",
        "x = 1 << 9",
        "x = not 1",
        "x = {[]: 1}",
        "del x",
        "x += 1",
        "-(5 * 8)",
        "1",
    ],
)
def test_python_beyond_literals_is_named(write, line):
    with pytest.raises(ValueError) as caught:
        read_config(write("run.py", f"a = 1\n\n{line}\nb = 2\n"))
    assert (
        str(caught.value)
        == f"run.py, line 3: only `name = value` with a literal value is read, nothing is run; found: {line}"
    )


def test_the_line_is_that_of_an_editor(write):
    "A form feed ends no line."
    with pytest.raises(ValueError, match=r"line 2: .*found: x = f\(\)$"):
        read_config(write("run.py", "# \f\r\nx = f()\r\n"))


def test_arithmetic_of_literals(write):
    path = write(
        "run.py", "a = 5 * 8\nb = 2 + 3 * 4 - 6\nc = 1 / 4\nd = 7 // 2\ne = -1\nf = [1, 'b', None]\ng = (1, 2)\n"
    )
    assert read_config(path) == {"a": 40, "b": 8, "c": 0.25, "d": 3, "e": -1, "f": [1, "b", None], "g": (1, 2)}


@given(
    name=st.sampled_from("abc"),
    value=st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
)
def test_a_literal_is_read_as_it_was_written(tmp_path_factory, name, value):
    path = tmp_path_factory.mktemp("config") / "run.py"
    path.write_text(f"{name} = {value!r}\n", encoding="utf-8")
    assert read_config(path) == {name: value}


@pytest.mark.parametrize(
    "name, text, message",
    [
        (
            "run.ini",
            "a = 1",
            r"run\.ini: a configuration file ends in \.toml, \.json, \.yaml, \.yml, \.py; rename or convert it",
        ),
        ("run.toml", "a = 1\nb 2\n", r"run\.toml: Expected '=' .* \(at line 2, column \d+\)"),
        ("run.toml", "a = 1\na = 2\n", r"run\.toml: Cannot overwrite a value \(at line 2, column \d+\)"),
        ("run.json", '{"a": 1,\n"b" 2}', r"run\.json: Expecting ':' delimiter: line 2 column 5 \(char 13\)"),
        ("run.json", '{"a": 1, "a": 1}', "run.json: a is set twice; keep one of them"),
        ("run.json", "[1]", "run.json holds a list; write a table of names and values"),
        ("run.json", "[" * 100_000, "run.json is nested too deeply; write one name and one value for each setting"),
        ("run.yaml", "a: 1\nb: [\n", "run.yaml: while parsing .* line 3, column 1.*"),
        ("run.yaml", "a: 1\na: 2\n", "run.yaml: a is set twice; keep one of them"),
        ("run.yaml", "- 1\n", "run.yaml holds a list; write a table of names and values"),
        ("run.yaml", "a: \x01\n", "run.yaml: unacceptable character #x0001: .*"),
        ("run.yaml", "a: 2024-13-45\n", "run.yaml: month must be in 1..12.*"),
        ("run.py", "a = 1\nb = [\n", r"run\.py, line 2: .*\[.*"),
        ("run.py", "a = 1\0\n", "run.py, line 1: .*null bytes"),
        (
            "run.py",
            "a = " + "-" * 100_000 + "1",
            "run.py is nested too deeply; write one name and one value for each setting",
        ),
        ("run.py", b"a = '\xff'\n", "run.py is no UTF-8 text .*"),
        ("run.toml", b"a = '\xff'\n", "run.toml is no UTF-8 text .*"),
    ],
)
def test_wrong_files_are_named_in_one_line(write, name, text, message):
    with pytest.raises(ValueError) as caught:
        read_config(write(name, text))
    assert re.fullmatch(message, str(caught.value))


def test_yaml_makes_no_objects(write, tmp_path):
    with pytest.raises(ValueError, match="^run.yaml: could not determine a constructor .* line 2"):
        read_config(write("run.yaml", "a: 1\nb: !!python/object/apply:os.mkdir ['ran']\n"))
    assert not (tmp_path / "ran").exists()


def test_a_missing_file(write):
    with pytest.raises(FileNotFoundError, match="gone.toml"):
        read_config("gone.toml")


@pytest.mark.parametrize(
    "values, translated",
    [
        ({"dataset": "shakespeare_char"}, {"corpus": "shakespeare", "tokenizer": "char"}),
        ({"dataset": "shakespeare"}, {"corpus": "shakespeare", "tokenizer": "gpt2"}),
        ({"dataset": "openwebtext"}, {"corpus": "", "tokenizer": "gpt2", "data_dir": "data/openwebtext"}),
        ({"dataset": "mine"}, {"corpus": "", "tokenizer": "gpt2", "data_dir": "data/mine"}),
        ({"decay_lr": False}, {"schedule": "constant"}),
        ({"decay_lr": True}, {"schedule": "cosine"}),
        (
            {"wandb_log": True, "wandb_project": "p", "wandb_run_name": "r"},
            {"wandb": True, "wandb_project": "p", "run_name": "r"},
        ),
        (
            {"block_size": 64, "compile": False, "init_from": "gpt2"},
            {"block_size": 64, "compile": False, "init_from": "gpt2"},
        ),
        ({"tokenizer": "byte", "dataset": "shakespeare_char"}, {"corpus": "shakespeare", "tokenizer": "byte"}),
        (
            {"dataset": "shakespeare", "data_dir": "d"},
            {"corpus": "shakespeare", "tokenizer": "gpt2", "data_dir": "d"},
        ),
        ({"corpus": "tales", "dataset": "openwebtext"}, {"corpus": "tales", "tokenizer": "gpt2"}),
        ({"schedule": "wsd", "decay_lr": False}, {"schedule": "wsd"}),
    ],
)
def test_names_of_nanogpt(values, translated):
    before = dict(values)
    assert from_nanogpt(values) == (translated, [])
    assert values == before


def test_what_nanogpt_has_and_we_leave_out_is_told():
    out = ["eval_only", "log_interval", "always_save_checkpoint", "backend"]
    values, told = from_nanogpt({"n_layer": 2} | dict.fromkeys(out, 1))
    assert values == {"n_layer": 2}
    assert [line.split(":")[0] for line in told] == [f"left out {name}" for name in out] and not any(
        "\n" in line for line in told
    )


def test_a_file_in_the_style_of_nanogpt(write):
    path = write(
        "tiny.py",
        "# a tiny run\nout_dir = 'out-tiny'\nlog_interval = 5 # steps\ndataset = 'shakespeare_char'\n\n"
        "gradient_accumulation_steps = 2 * 3\nlearning_rate = 2e-3\n",
    )
    values, told = from_nanogpt(read_config(path))
    assert values == {
        "out_dir": "out-tiny",
        "corpus": "shakespeare",
        "tokenizer": "char",
        "gradient_accumulation_steps": 6,
        "learning_rate": 2e-3,
    }
    assert len(told) == 1 and told[0].startswith("left out log_interval")


def test_unknown_names_are_all_told_with_the_nearest():
    nested = {"learning_rate": 1e-3, "n_layer": 2, "model": {"n_head": 2, "n_embd": 8}}
    assert config_from_dict(nested).model.n_head == 2
    told = "learning_rat (did you mean learning_rate?), n_layers (did you mean n_layer?), zzz (remove it)"
    with pytest.raises(ValueError) as caught:
        config_from_dict({"learning_rat": 1, "n_layer": 2, "n_layers": 3, "zzz": 0}, where="run.toml")
    assert str(caught.value) == f"run.toml: unknown {told}"


def test_a_description_comes_back_from_its_own_table():
    for preset in PRESETS.values():
        assert config_from_dict(asdict(preset)) == preset == TrainConfig(**asdict(preset))


def test_a_value_of_another_kind_is_named(write):
    for text, message in (
        ("corpus = {a = 1}", "corpus must be of type str"),
        ("n_layer = 2.5", "n_layer must be of type int, got 2.5"),
        ("learning_rate = true", "learning_rate must be of type float, got True"),
    ):
        path = write("run.toml", text)
        with pytest.raises(ValueError, match=f"^run.toml: {message}"):
            config_from_dict(read_config(path), where=path)
