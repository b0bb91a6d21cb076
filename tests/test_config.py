"""Configuration files are read and never run, and a wrong one says where it is wrong."""
import builtins
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.config import check_names, read_config
from nanogpt.recipe import from_nanogpt

SETTINGS = {"learning_rate": 1e-3, "max_iters": 600, "compile": False, "corpus": "tales", "lr_decay_iters": 0}
TEXTS = {
    "toml": "# a run\nlearning_rate = 1e-3\nmax_iters = 600\ncompile = false\ncorpus = 'tales'\nlr_decay_iters = 0\n",
    "json": '{"learning_rate": 1e-3, "max_iters": 600,\n"compile": false, "corpus": "tales", "lr_decay_iters": 0}',
    "yaml": "learning_rate: 1e-3  # a number here, whatever YAML 1.1 says\nmax_iters: 600\ncompile: false\ncorpus: tales\nlr_decay_iters: 0\n",
    "py": '"a run"\nlearning_rate = 1e-3\nmax_iters: int = 5 * 120\ncompile = True\ncompile = False  # the later line wins\n'
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


def test_numbers_of_yaml(write):
    path = write("run.yaml", "a: 1e-3\nb: -2E+4\nc: .5e1\nd: '1e-3'\ne: 1e5x\nf: 10\n")
    assert read_config(path) == {"a": 1e-3, "b": -2e4, "c": 5.0, "d": "1e-3", "e": "1e5x", "f": 10}


def test_empty_files_set_nothing(write):
    assert [read_config(write(f"run.{suffix}", "# nothing\n")) for suffix in ("toml", "yaml", "py")] == [{}, {}, {}]


def test_python_is_never_run(write, tmp_path):
    "Every line would leave a file behind if it ran."
    leave = "open('ran', 'w')"
    for line in (
        f"{leave}.close()", f"x = {leave}", f'x = f"{{{leave}}}"', f"x = [{leave}]", f"x = 1 if {leave} else 2", f"x = 1 < {leave}",
        f"x = 1 + {leave}", f"if {leave}:\n    x = 1", f"def f(x={leave}):\n    pass", f"@{leave}\nclass A:\n    pass",
        f"with {leave} as x:\n    pass", f"x = (y := {leave})", f"x[{leave}] = 1", f"{leave}.y = 1", f"x = lambda y={leave}: y",
        f"x = {{{leave}: 1}}", f"x += {leave}",
    ):  # fmt: skip
        with pytest.raises(ValueError, match="nothing is run"):
            read_config(write("run.py", line + "\n"))
    path = write("run.py", f"x: {leave} = 1\n")
    assert read_config(path) == {"x": 1}, "an annotation is of no account"
    assert not (tmp_path / "ran").exists()
    exec((tmp_path / path).read_text(encoding="utf-8"), {})
    assert (tmp_path / "ran").exists(), "the lines do what this test says"


@pytest.mark.parametrize("line", [
    "import time", "x", "x = y", "x = time.time()", "x = y.z", "x = f'{1}'", "x = 1 < 2", "if True: x = 1", "x = y = 1", "x, y = 1, 2",
    "x.y = 1", "x[0] = 1", "x: int", "x = 9 ** 9 ** 9", "x = 'a' * 9", "x = True + 1", "x = 1 / 0", "x = 1 % 2", "x = 1 << 9",
    "x = not 1", "x = {[]: 1}", "del x", "x += 1", "-(5 * 8)", "1",
])  # fmt: skip
def test_python_beyond_literals_is_named(write, line):
    with pytest.raises(ValueError) as caught:
        read_config(write("run.py", f"a = 1\n\n{line}\nb = 2\n"))
    assert str(caught.value) == f"run.py, line 3: only `name = value` with a literal value is read, nothing is run; found: {line}"


def test_the_line_is_that_of_an_editor(write):
    "A form feed ends no line."
    with pytest.raises(ValueError, match=r"line 2: .*found: x = f\(\)$"):
        read_config(write("run.py", "# \f\r\nx = f()\r\n"))


def test_arithmetic_of_literals(write):
    path = write("run.py", "a = 5 * 8\nb = 2 + 3 * 4 - 6\nc = 1 / 4\nd = 7 // 2\ne = -1\nf = [1, 'b', None]\ng = (1, 2)\n")
    assert read_config(path) == {"a": 40, "b": 8, "c": 0.25, "d": 3, "e": -1, "f": [1, "b", None], "g": (1, 2)}


@given(name=st.sampled_from("abc"), value=st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text())
def test_a_literal_is_read_as_it_was_written(tmp_path_factory, name, value):
    path = tmp_path_factory.mktemp("config") / "run.py"
    path.write_text(f"{name} = {value!r}\n", encoding="utf-8")
    assert read_config(path) == {name: value}


@pytest.mark.parametrize("name, text, message", [
    ("run.ini", "a = 1", r"run\.ini: a configuration file ends in \.toml, \.json, \.yaml \(\.yml\) or \.py; rename or convert it"),
    ("run.toml", "a = 1\nb 2\n", r"run\.toml: Expected '=' .* \(at line 2, column \d+\)"),
    ("run.toml", "a = 1\na = 2\n", r"run\.toml: Cannot overwrite a value \(at line 2, column \d+\)"),
    ("run.toml", "[model]\nn_layer = 1\n", "run.toml: model is a table; move its settings to the top level"),
    ("run.toml", "[[models]]\nn_layer = 1\n", "run.toml: models is a table; move its settings to the top level"),
    ("run.json", '{"a": 1,\n"b" 2}', r"run\.json: Expecting ':' delimiter: line 2 column 5 \(char 13\)"),
    ("run.json", '{"a": 1, "a": 1}', "run.json: a is set twice; keep one of them"),
    ("run.json", '{"a": {"b": 1}}', "run.json: a is a table; move its settings to the top level"),
    ("run.json", "[1]", "run.json holds a list; write a table of names and values"),
    ("run.json", "[" * 100_000, "run.json is nested too deeply; write one name and one value a setting"),
    ("run.yaml", "a: 1\nb: [\n", "run.yaml, line 3: expected .*"),
    ("run.yaml", "a: 1\na: 2\n", "run.yaml: a is set twice; keep one of them"),
    ("run.yml", "a:\n  b: 1\n", "run.yml: a is a table; move its settings to the top level"),
    ("run.yaml", "on: 1\n", "run.yaml: the name True is not a string; put it in quotes"),
    ("run.yaml", "- 1\n", "run.yaml holds a list; write a table of names and values"),
    ("run.yaml", "a: \x01\n", 'run.yaml: unacceptable character #x0001: .*'),
    ("run.yaml", "a: 2024-13-45\n", "run.yaml: month must be in 1..12"),
    ("run.py", "a = 1\nb = [\n", r"run\.py, line 2: .*\[.*"),
    ("run.py", "a = 1\0\n", "run.py, line 1: .*null bytes"),
    ("run.py", "a = {'b': 1}\n", "run.py: a is a table; move its settings to the top level"),
    ("run.py", "a = " + "-" * 100_000 + "1", "run.py is nested too deeply; write one name and one value a setting"),
    ("run.py", b"a = '\xff'\n", "run.py is not UTF-8 text; save it as UTF-8"),
    ("run.toml", b"a = '\xff'\n", "run.toml is not UTF-8 text; save it as UTF-8"),
])  # fmt: skip
def test_wrong_files_are_named_in_one_line(write, name, text, message):
    with pytest.raises(ValueError) as caught:
        read_config(write(name, text))
    assert re.fullmatch(message, str(caught.value))


def test_yaml_makes_no_objects(write, tmp_path):
    with pytest.raises(ValueError, match="^run.yaml, line 2: could not determine a constructor"):
        read_config(write("run.yaml", "a: 1\nb: !!python/object/apply:os.mkdir ['ran']\n"))
    assert not (tmp_path / "ran").exists()


def test_a_missing_file_and_a_missing_pyyaml(write, monkeypatch):
    with pytest.raises(FileNotFoundError, match="^no configuration file at gone.toml$"):
        read_config("gone.toml")
    import_ = builtins.__import__

    def without_yaml(name, *args, **options):
        if name == "yaml":
            raise ModuleNotFoundError("No module named 'yaml'", name="yaml")
        return import_(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_yaml)
    with pytest.raises(ImportError, match="pip install pyyaml"):
        read_config(write("run.yaml", "a: 1\n"))
    assert read_config(write("run.toml", "a = 1\n")) == {"a": 1}


@pytest.mark.parametrize("values, translated", [
    ({"dataset": "shakespeare_char"}, {"corpus": "shakespeare", "tokenizer": "char"}),
    ({"dataset": "shakespeare"}, {"corpus": "shakespeare", "tokenizer": "gpt2"}),
    ({"dataset": "openwebtext"}, {"corpus": "", "tokenizer": "gpt2", "data_dir": "data/openwebtext"}),
    ({"dataset": "mine"}, {"corpus": "", "tokenizer": "gpt2", "data_dir": "data/mine"}),
    ({"decay_lr": False}, {"schedule": "constant"}),
    ({"decay_lr": True}, {"schedule": "cosine"}),
    ({"wandb_log": True, "wandb_project": "p", "wandb_run_name": "r"}, {"wandb": True, "wandb_project": "p", "run_name": "r"}),
    ({"block_size": 64, "compile": False, "init_from": "gpt2"}, {"block_size": 64, "compile": False, "init_from": "gpt2"}),
    ({"tokenizer": "byte", "dataset": "shakespeare_char"}, {"corpus": "shakespeare", "tokenizer": "byte"}),
    ({"dataset": "shakespeare", "data_dir": "d"}, {"corpus": "shakespeare", "tokenizer": "gpt2", "data_dir": "d"}),
    ({"corpus": "tales", "dataset": "openwebtext"}, {"corpus": "tales", "tokenizer": "gpt2"}),
    ({"schedule": "wsd", "decay_lr": False}, {"schedule": "wsd"}),
])  # fmt: skip
def test_names_of_nanogpt(values, translated):
    before = dict(values)
    assert from_nanogpt(values) == (translated, [])
    assert values == before


def test_what_nanogpt_has_and_we_leave_out_is_told():
    out = ["eval_only", "log_interval", "always_save_checkpoint", "backend"]
    values, told = from_nanogpt({"n_layer": 2} | dict.fromkeys(out, 1))
    assert values == {"n_layer": 2}
    assert [line.split(":")[0] for line in told] == [f"left out {name}" for name in out] and not any("\n" in line for line in told)


def test_a_file_in_the_style_of_nanogpt(write):
    path = write(
        "tiny.py",
        "# a tiny run\nout_dir = 'out-tiny'\nlog_interval = 5 # steps\ndataset = 'shakespeare_char'\n\n"
        "gradient_accumulation_steps = 2 * 3\nlearning_rate = 2e-3\n",
    )
    values, told = from_nanogpt(read_config(path))
    assert values == {"out_dir": "out-tiny", "corpus": "shakespeare", "tokenizer": "char", "gradient_accumulation_steps": 6, "learning_rate": 2e-3}
    assert len(told) == 1 and told[0].startswith("left out log_interval")


def test_unknown_names_are_all_told_with_the_nearest():
    known = ["learning_rate", "batch_size", "n_layer"]
    check_names({"learning_rate": 1, "n_layer": 2}, known, "run.toml")
    check_names({}, [], "run.toml")
    with pytest.raises(ValueError) as caught:
        check_names({"learning_rat": 1, "n_layer": 2, "n_layers": 3, "zzz": 0}, iter(known), "run.toml")
    assert str(caught.value) == "run.toml: unknown learning_rat (did you mean learning_rate?), n_layers (did you mean n_layer?), zzz (remove it)"
