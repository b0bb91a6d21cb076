"""Hostile flags, files and folders: whatever they hold, a command ends well, or with one line that says why not.

Each case is a command in a process of its own, which a server forks: it has imported all there is. NANOGPT_FUZZ=20
makes up to twenty times as many cases; `make fuzz` does that.
"""

import copy
import gzip
import io
import json
import math
import os
import random
import re
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from conftest import TINY_FLAGS
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from nanogpt.cli import COMMANDS
from nanogpt.config import GPTConfig
from nanogpt.corpus import tales
from nanogpt.flags import GROUPS
from nanogpt.recipe import TrainConfig

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and limits memory")

SCALE = int(os.environ.get("NANOGPT_FUZZ", 1))
SECONDS = (
    10  # of the processor that a case may take; six times as long by the clock, for a machine may be busy
)
HANG = (-signal.SIGALRM, -signal.SIGXCPU, -signal.SIGKILL)
SERVER = """
import json, os, resource, signal, sys, traceback
from importlib import import_module
from importlib.util import find_spec
import torch
from nanogpt import cli, prepare, train, watch
torch.set_num_threads(1)
for name in ("datasets", "huggingface_hub", "pyarrow.parquet", "tensorboard", "yaml", "zstandard"):
    if find_spec(name.split(".")[0]):
        import_module(name)  # a case that imports one would seem to hang
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.alarm(job["wall"])
        resource.setrlimit(resource.RLIMIT_CPU, 2 * [job["seconds"]])
        pages = int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, 2 * [pages * os.sysconf("SC_PAGE_SIZE") + (6 << 30)])
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number, path in enumerate(["/dev/null", *job["streams"]]):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
        try:
            code = cli.main(job["args"])
            sys.stdout.flush()
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException:
            traceback.print_exc()
            code = 70
        sys.stderr.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        os.killpg(child, signal.SIGKILL)  # what it has started
    except ProcessLookupError:
        pass
    print(code, flush=True)
"""
ENVIRONMENT = {
    "COLUMNS": "200", "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", "NANOGPT_DEBUG": "",
    "HF_HUB_OFFLINE": "1", "https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9",
}  # fmt: skip
THEIRS = ("notes.txt", "mine.tmp", "samples/mine.txt", "tensorboard/mine")  # a user's files in our folders
SETTINGS = settings(
    deadline=None, derandomize=True, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck), max_examples=10 * SCALE,
)  # fmt: skip
TRAIN = [
    "train", "demo", "--data-dir=ids", "--tokenizer=char", "--out-dir=new", "--device=cpu",
    "--dtype=float32", "--no-aligned", *TINY_FLAGS, "--max-iters=1",
]  # fmt: skip
RESUME = [*TRAIN, "--out-dir=ours", "--max-iters=2", "--resume=auto"]
SAMPLE = ["--max-new-tokens=3", "--num-samples=1", "--device=cpu"]


def some(cases: Iterable, count: int) -> list:
    "About so many of the cases, from all over; with NANOGPT_FUZZ more."
    cases = list(cases)
    return random.Random(len(cases)).sample(cases, min(len(cases), count * SCALE // 2))


class Cases:
    "Runs commands in a folder, and collects what they do wrong."

    def __init__(self, server: subprocess.Popen, root: Path):
        self.server, self.root, self.folder, self.count, self.problems = server, root, root / "work", 0, []

    def files(self, ours: str = "") -> dict[str, Any]:
        "What a command may not change: everything but its own run or data in the folder `ours`."
        free, there = f"work/{ours}/" if ours else "\0", {}
        for path in self.root.rglob("*"):
            name = path.relative_to(self.root).as_posix()
            if not name.startswith(free) or name.removeprefix(free) in THEIRS:
                there[name] = path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes()
        return there

    def __call__(
        self, *args: str, ours: str = "", endless: bool = False, seconds: int = SECONDS, note: str = ""
    ):
        before, streams = (
            self.files(ours),
            [str(self.root.with_name(f"{self.root.name}.{n}")) for n in (1, 2)],
        )
        job = {"args": args, "seconds": seconds, "wall": 2 if endless else 6 * seconds, "streams": streams}
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        code = self.code = int(self.server.stdout.readline())
        self.count += 1
        out, err = (Path(path).read_text(encoding="utf-8", errors="replace") for path in streams)
        wrong = [] if endless and code in HANG else wrongs(code, out, err)
        after = self.files(ours)
        for name in (name for name in before if after.get(name) != before[name]):
            wrong.append(f"{name} has changed")
            if isinstance(before[name], bytes):
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                (self.root / name).write_bytes(before[name])
        for name in sorted(after.keys() - before.keys(), reverse=True):
            path = self.root / name
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        if wrong:
            last = (err.strip().splitlines() or [""])[-1]
            what = shlex.join(arg[:60] for arg in args if arg not in TRAIN).encode(errors="replace").decode()
            self.problems.append((f"{'; '.join(wrong)}: {last[:300]}", f"{args[0]} {what}  {note}"))

    def place(self, source: str, change=lambda folder: None, name: str = "ours"):
        "A fresh copy of a folder, changed."
        shutil.rmtree(self.folder / name, ignore_errors=True)
        shutil.copytree(self.folder / source, self.folder / name)
        change(self.folder / name)

    def verdict(self):
        "Fail with all the problems so far."
        problems, self.problems = self.problems, []
        for name in ("ours", "new"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        groups = {}
        for why, what in problems:
            groups.setdefault(re.sub(r"'\w+'|\w+\(\)|\d+", "…", why)[:90], []).append(f"{what}\n    {why}")
        if groups:
            text = "\n".join(f"({len(group)} times) {group[0]}" for group in groups.values())
            pytest.fail(f"{len(problems)} wrong, in {len(groups)} ways:\n{text}", pytrace=False)


def wrongs(code: int, out: str, err: str) -> list[str]:
    "What is wrong with the end of a command."
    if code < 0:
        return ["hang" if code in HANG else f"killed by {signal.Signals(-code).name}"]
    lines = [line.strip() for line in re.split(r"[\r\n]+", err) if line.strip()]
    errors = [line for line in lines if re.match("nanogpt: error: .", line)]
    wrong = [f"exit code {code}"] if code not in (0, 1, 2) else []
    if "Traceback" in out + err:
        wrong.append("a traceback")
    if "set NANOGPT_DEBUG" in err:
        wrong.append("an error that nobody expected")
    if code and errors != lines[-1:]:
        wrong.append(f"{len(errors)} lines of error")
    if not code and errors:
        wrong.append("an error, but exit code 0")
    return wrong


@pytest.fixture(scope="module")
def case(tmp_path_factory, pytestconfig):
    "A folder with data, a run, an exported model and files of a user; and the server that runs commands there."
    root = tmp_path_factory.mktemp("fuzz")
    folder = root / "work"
    (folder / "links").mkdir(parents=True)
    (folder / "links" / "dangling").symlink_to("nowhere")
    (folder / "links" / "self").symlink_to("self")
    (root / "outside.bin").write_bytes(bytes(13432))
    (folder / "text.txt").write_text("\n".join(tales(60).documents()), encoding="utf-8")
    environment = os.environ | ENVIRONMENT
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        environment.pop(name, None)
    demo = ["prepare", "tales", "--tokenizer=bpe-512"]  # its data: it takes seconds
    data = ["prepare", "text.txt", "--out-dir=ids"]
    commands = [demo, data, [*TRAIN, "--out-dir=run"], ["export", "run", "hf"]]
    code = f"from nanogpt.cli import main; assert not any([main(args) for args in {commands}])"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    (folder / "proj").mkdir()
    for name in ("best.pt", "tokenizer.json", "config.json", "meta.json", "metrics.jsonl", "train.bin"):
        (folder / "proj" / name).write_text('{"model_type": "bert", "mine": true}', encoding="utf-8")
    for path in (folder / place / name for place in ("ids", "run", "hf", "proj") for name in THEIRS):
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine", encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], cwd=folder, env=environment, encoding="utf-8",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as server:  # fmt: skip
        cases = Cases(server, root)
        yield cases
        server.stdin.close()
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{cases.count} cases")


def test_all_is_well_where_nothing_is_wrong(case):
    "Else the tests below would find nothing."
    for args in (
        TRAIN, ["plan", *TRAIN[1:]], ["prepare", "text.txt", "--out-dir=new"], ["sample", "run", *SAMPLE],
        ["eval", "run"],
        ["export", "run", "new"], ["info", "run"], ["info", "ids"], ["data", "verify", "ids"],
        ["sample", "hf", *SAMPLE],
        ["demo", "--out-dir=new", "--max-iters=1", "--num-samples=1"],
    ):  # fmt: skip
        case(*args)
        assert case.code == 0, (args, case.problems)
    case.place("run")
    case(*RESUME, ours="ours")
    assert case.code == 0 and not case.problems, case.problems
    case.verdict()


NUMBERS = [
    "0", "-1", "1000000000", "1" + "0" * 20, "nan", "inf", "-inf", "1e-320", "1e38", "9" * 400, "9" * 5000,
    str(2**31), str(2**63), str(2**64), "", "é", "\x1b[31mred", "１２", "1_0", "0x10", "\udcff",
]  # fmt: skip
WORDS = ["", "junk", "é", "None", "\udcff", "a b", "-", "--", "--no-tied", "x" * 5000]
PATHS = [
    "missing", "missing/deeper", "proj", "links", "text.txt", "text.txt/x", "links/dangling", "links/self",
    "links/self/x",
    "/dev/null", "/dev/null/x", "/proc/self/mem", "/proc/self/nothing", "", ".", "..", "~", "x" * 5000,
    "x/" * 2000, "\udcff",
    "[", "**", "é\n\x1b", "hf:", "hf:a/b", "a/b", "cuda:99999999999", "cuda:-1", "meta", "cpu:7", "xla",
    "text.txt=inf",
    "bpe-0", "bpe-1000000000", "bpe-" + "9" * 5000, "text.txt=1,missing=2", "run", "ids", "hf",
    "hf/config.json",
    "run/ckpt.pt", "ids/train-00000.bin", "hf/model.safetensors", "gpt2@x",
]  # fmt: skip
BASES = {  # a command that works, to which one more flag is added
    "train": TRAIN,
    "plan": ["plan", *TRAIN[1:]],
    "prepare": ["prepare", "text.txt", "--out-dir=new"],
    "sample": ["sample", "run", *SAMPLE],
    "eval": ["eval", "run", "--device=cpu"],
    "export": ["export", "run", "new"],
    "demo": ["demo", "--out-dir=new", "--max-iters=1", "--num-samples=1"],
}
ENDLESS = {
    "max_iters",
    "gradient_accumulation_steps",
    "num_samples",
    "max_new_tokens",
}  # a large number asks for it


def hints(command: str) -> dict[str, tuple]:
    "The flags of a command, and the types or choices that each may have."
    if command in ("train", "plan"):
        found = get_type_hints(TrainConfig) | get_type_hints(GPTConfig)
        found = {name: found[name] for names in GROUPS.values() for name in names.split()} | {"config": str}
    else:
        found = get_type_hints(COMMANDS[command])
    return {
        name: (hint, *get_args(hint), get_origin(hint))
        for name, hint in found.items()
        if name not in POSITIONAL
    }


POSITIONAL = ("corpus_", "run", "folder", "path", "action", "name", "shell")


def flag_cases(kinds: set, values: list[str]) -> list[tuple[str, str, str]]:
    "Command, flag and value, for all flags of such kinds."
    flags = [(command, name) for command in BASES for name, hint in hints(command).items() if kinds & {*hint}]
    flags = [
        flag for flag in flags if flag not in (("prepare", "corpus"), ("train", "wandb"), ("plan", "wandb"))
    ]
    return [(*flag, value) for flag, value in product(flags, values)]


@pytest.mark.parametrize(
    "kinds, values, count",
    [({int, float}, NUMBERS, 80), ({bool, Literal}, WORDS, 20), ({str}, PATHS, 60)],
    ids=["numbers", "choices", "paths"],
)
def test_flags(case, kinds, values, count):
    for command, name, value in some(flag_cases(kinds, values), count):
        large = name in ENDLESS and len(value) > 3
        flag = f"--{name.replace('_', '-')}={value}"
        case(*BASES[command], flag, endless=large, seconds=4 if name == "workers" else SECONDS)
    case.verdict()


def test_paths_that_are_no_flags(case):
    commands = (["prepare", ..., "--out-dir=new"], ["sample", ..., *SAMPLE], ["eval", ...],
        ["export", ..., "new"],
                ["export", "run", ...], ["info", ...], ["data", "verify", ...], ["train", ...], ["plan", ...],
                ["data", ...],
                ["bench", ...], ["completion", ...], [...])  # fmt: skip
    for args, value in some(product(commands, PATHS), 25):
        case(*(value if arg is ... else arg for arg in args))
    for flag in ("--megabytes=x", "--rounds=é", "--rounds=", "--json", "--tokenizer"):
        case("bench", "prepare", flag)
    case.verdict()


def test_a_text_without_end_is_shown_as_it_is_written(case):
    "A model that never stops, and more tokens than anyone can wait for."
    train = ["train", "demo", "--corpus=text.txt", "--tokenizer=char", "--no-aligned", "--out-dir=ours"]
    code = f"""from nanogpt.cli import main
main({[*train, *TINY_FLAGS, "--max-iters=1"]})
print("READY", flush=True)
main(["sample", "ours", "--max-new-tokens={10**20}", "--num-samples=1"])"""
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=case.folder, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE
    ) as process:
        try:
            while b"READY" not in (line := process.stdout.readline()):
                assert line, "training has failed"
            ready, _, _ = select.select([process.stdout], [], [], SECONDS)
            assert ready and process.stdout.read(20)
        finally:
            process.kill()
    shutil.rmtree(case.folder / "data" / "text-char")
    case.verdict()


FIELDS = sorted({*TrainConfig.__dataclass_fields__, *GPTConfig.__dataclass_fields__} - {"wandb"})
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(
    [10**9, 10**20, 10**400, -5, 0, 1, 1e300, math.nan, "nan", "1e400", "9" * 400, "auto", "resume"]
)  # fmt: skip
NAMES = st.sampled_from([*FIELDS, "dataset", "eval_iters", "decay_lr", "model", "x"])
VALUES = PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(NAMES, PLAIN, max_size=3)
TABLES = st.dictionaries(NAMES, VALUES, max_size=3)


@pytest.mark.parametrize("kind", ["json", "yaml", "py"])
def test_config_files_of_any_values(case, kind):
    yaml = pytest.importorskip("yaml")
    write = {
        "json": json.dumps,
        "yaml": yaml.safe_dump,
        "py": lambda table: "".join(f"{k} = {v!r}\n" for k, v in table.items()),
    }

    @SETTINGS
    @given(TABLES)
    def attempt(table):
        (case.folder / f"ours.{kind}").write_bytes(write[kind](table).encode(errors="surrogatepass"))
        case(
            "train", "demo", f"--config=ours.{kind}", *TRAIN[2:], "--init-from=scratch", note=str(table)[:200]
        )

    attempt()
    (case.folder / f"ours.{kind}").unlink()
    case.verdict()


LAUGHS = "a0: &a0 x\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(12))
CONFIGS = {  # ending: contents
    "json": [
        b"[" * 200_000, b'{"a":' * 100_000, b'{"model":' * 100_000, b"", b"null", b"[]", b"3", b'"x"', b"{",
        b"\xff\xfe{\x00}\x00",
        b"\xef\xbb\xbf{}", b'{"n_layer": NaN}', b'{"learning_rate": Infinity}', b'{"model": []}',
        b'{"model": {"model": {}}}',
        b'{"n_layer": 1, "n_layer": 2}', b'{"n_layer": "\\ud800"}', b'{"\\ud800": 1}', b'{"seed": 1e999}',
        bytes(range(256)),
        b'{"n_layer": ' + b"9" * 400 + b"}", b'{"learning_rate": ' + b"9" * 400 + b"}",
        b'{"n_layer": ' + b"9" * 5000 + b"}",
        b'{"learning_rate": "' + b"9" * 400 + b'"}', b'{"rope_scaling": {}}',
        b'{"rope_scaling": {"factor": 1}}',
        b'{"rope_scaling": {"factor": "x", "low_freq_factor": [], "high_freq_factor": null,'
        b' "original_max_position_embeddings": -1}, "positions": "rotary"}', b'{"document_token": 99999}',
    ],
    "toml": [
        b"a = " + b"[" * 200_000, b"[a" + b".a" * 20_000 + b"]", b"n_layer = 1\nn_layer = 2", b"", b"\xff",
        b"x", b"= 1",
        b"n_layer = " + b"9" * 400, b"n_layer = " + b"9" * 5000, b"learning_rate = nan",
        b"learning_rate = " + b"9" * 400,
        b"seed = 1979-05-27", b"[model]\nmodel = 1", b"model = 3", "seed = 1".encode("utf-16"),
        b"\xef\xbb\xbfseed = 1",
        b"[[model]]\nn_layer = 1", b"a.b.c = 1", bytes(range(256)), b'"" = 1', b"x = " + b"{a = " * 50_000,
    ],
    "yaml": [
        b"a: " + b"[" * 200_000, b"a: " + b"{a: " * 100_000, LAUGHS.encode(),
        b"n_layer: !!python/object/apply:os.system [ls]",
        b"n_layer: !!binary aaaa", b"n_layer: !!binary '*'", b"n_layer: &a [*a]", b"&a {model: *a}",
        b"model: &a {model: *a}",
        b"", b"- 1", b"1", b"x", b"a: 1\na: 2", b"? [1]\n: 2", b"? {a: 1}\n: 2", b"1: 2", b"null: 1",
        b"2001-01-01: 1",
        b"<<: 1", b"<<: {n_layer: 1}", b"<<: [1]", b"seed: 2001-01-01", b"seed: 99999-99-99",
        b"seed: 2001-99-99", b"seed: !!set {a}",
        b"seed: 1:2:3", b"seed: !!int x", b"seed: !!float x", b"seed: !!timestamp x", b"seed: !!bool x",
        b"seed: !!omap [a]",
        b"n_layer: " + b"9" * 400, b"n_layer: " + b"9" * 5000, b"learning_rate: .nan", b"\t",
        b"%YAML 9.9\n---\na: 1", b"--- 1\n--- 2",
        "seed: 1".encode("utf-16"), b"\xef\xbb\xbfseed: 1", bytes(range(256)),
        b"learning_rate: " + b"9" * 400, b"a: *b", b"seed: 0o9",
        b"seed: =", b"=: 1", b"seed: !!str {a: 1}", b"seed: !!int [1]", b"seed: !!float {}",
        b"!!set {n_layer}",
    ],
    "py": [
        b"a = " + b"[" * 200_000, b"a = " + b"-" * 100_000 + b"1", b"a = " + b"1+" * 100_000 + b"1",
        b"a = " + b"(" * 150 + b")" * 150,
        b"n_layer = " + b"9" * 5000, b"n_layer = " + b"9" * 400, b"learning_rate = 1e999",
        b"learning_rate = 1e999 - 1e999",
        b"n_layer = 1\nn_layer = 2", b"n_layer = 1 / 0", b"n_layer = 'a' * 9",
        b"n_layer = " + b"9" * 4000 + b"*" + b"9" * 4000,
        b"n_layer = " + b"*".join([b"9" * 4000] * 400), b"import os", b"\x00", b"\xff",
        "seed = 1".encode("utf-16"), b"\xef\xbb\xbfseed = 1",
        b"# -*- coding: latin-9 -*-\nseed = 1", b"seed = b'x'", b"seed = {1, 2}", b"seed = {}",
        b"seed = {[]: 1}", b"seed = 1j", b"seed = ...",
        b"dataset = 3", b"dataset = []", b"dataset = '../..'", b"eval_iters = 'x'",
        b"eval_iters = []\nbatch_size = []",
        b"eval_iters = 10\nbatch_size = 'x'", b"eval_iters = -1", b"eval_iters = 10 ** 10", b"init_from = []",
        b"init_from = 3",
        b"decay_lr = 'x'", b"seed = f'{1}'", b"seed: int", b"seed = seed", b"a = b = 1", b"a, b = 1, 2",
        bytes(range(1, 256)), b"", b"\x0c",
        b"model = 3", b"model = {'n_layer': []}", b"model = {1: 2}", b"seed = '\\N{x}'", b"seed = '\\ud800'",
        b"'x' 'y'", b"seed = 1\r\rbatch_size = x",
    ],
    "yml": [b"a: [", b""],
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_config_files(case, kind):
    path = case.folder / f"ours.{kind}"
    for command, content in product(("train", "plan"), some(CONFIGS[kind], 14)):
        if command == "train" or SCALE > 1:
            path.write_bytes(content)
            case(command, "demo", f"--config={path.name}", *TRAIN[2:], note=str(content[:80]))
    path.unlink()
    case.verdict()


def test_own_configs_alone(case):
    "Without a preset, and without flags that come after what the file says."
    for name, value in some(product(FIELDS, [None, -5, 1e300, math.nan, "x", "", [], {}, 10**20, True]), 25):
        (case.folder / "ours.json").write_text(json.dumps({name: value}), encoding="utf-8")
        flags = [flag for flag in TRAIN[2:] if flag.split("=")[0] != f"--{name.replace('_', '-')}"]
        endless = name in ENDLESS and isinstance(value, int)
        case("train", "--config=ours.json", *flags, note=f"{name}: {value!r}", endless=endless)
    (case.folder / "ours.json").unlink()
    case.verdict()


def packed(text: bytes) -> bytes:
    return gzip.compress(text, mtime=0)


def parquet(**columns) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    file = io.BytesIO()
    write_table(pyarrow.table(columns), file)
    return file.getvalue()


def corpora() -> Iterator[tuple[str, bytes]]:
    "Names and contents of files."
    zstandard = pytest.importorskip("zstandard")
    text, row = b"A small text. " * 300, json.dumps({"text": "A small row. " * 100}).encode() + b"\n"
    plain = [
        b"", b"\n", b"x", b"xy", b"\x00" * 5000, bytes(range(256)) * 9, b"\xef\xbb\xbf", b"\xff\xfe" + text,
        text + b"\x1c" + text, b"\x1c",
        text + b"<|endoftext|>" + text, b"<|endoftext|>", b"<|endoftext|>" * 999, b"\r" * 999,
        text + b"\xed\xa0\x80", text + b"\xc3",
        b"\x1c<|endoftext|>\x1c<|endoftext|>" * 99, "\u2028é\x85".encode() * 999,
    ]  # fmt: skip
    rows = [
        b"", b"\n\n", b"{", b"[]", b"null", b"3", b"{}", b'{"text": 3}', b'{"text": null}', b'{"text": ""}',
        b'{"text": []}', b'{"x": "y"}',
        b"[" * 200_000, b'{"text":' * 100_000, b'{"text": "\\ud800"}', b'{"text": "\x1c"}',
        b'{"text": "\\u001c"}\n' + row, b"\xff", row[:-9],
        row + b"x", row * 3 + b"[" * 200_000, b'{"text": ' + b"9" * 5000 + b"}", b'{"\\ud800": 1}',
        b'{"text": NaN}', row + b"\x00", b"\xef\xbb\xbf" + row,
        b'{"text": "a", "text": 3}', row.replace(b"\n", b"\r"), b'{"text": "' + b"[" * 99_999 + b'"}',
    ]  # fmt: skip
    for content in plain:
        yield from ((f"{name}", content) for name in ("ours.txt", "ours.md", "ours"))
    for content in rows:
        yield "ours.jsonl", content
    whole = {"ours.jsonl.gz": packed(row * 9), "ours.txt.gz": packed(text)}
    whole |= {"ours.jsonl.zst": zstandard.compress(row * 9), "ours.txt.zst": zstandard.compress(text)}
    whole |= {"ours.parquet": parquet(text=["A small row. " * 100] * 20)}
    for name, content in whole.items():
        middle = len(content) // 2
        yield from ((name, content[:cut]) for cut in (0, 1, 4, 12, middle, -8, -1))
        yield from (
            (name, content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
            for at in (0, 5, middle, -6, -1)
        )
        yield name, content + b"junk"
        yield name, content * 2
        yield name, text
    yield "ours.txt.gz", packed(bytes(50_000_000))
    yield "ours.parquet", parquet(text=[1, 2])
    yield "ours.parquet", parquet(text=[["a"], None])
    yield "ours.parquet", parquet(text=[None, None])
    yield "ours.parquet", parquet(text=[b"\xff" * 99])
    yield "ours.parquet", parquet(text=["\x1c" * 99, "x"])
    yield "ours.parquet", parquet(text=[{"a": "b"}])
    yield "ours.parquet", parquet(other=["a"])


def test_corpora(case):
    for (name, content), errors in some(product(corpora(), ("strict", "replace")), 40):
        path = case.folder / name
        path.write_bytes(content)
        case(
            "prepare",
            name,
            "--out-dir=new",
            f"--errors={errors}",
            note=f"{len(content)} bytes {content[:40]}",
        )
        path.unlink()
    case.verdict()


@pytest.mark.parametrize(
    "name", ["ours.txt", "ours.jsonl", "ours.jsonl.gz", "ours.jsonl.zst", "ours.parquet"]
)
def test_corpora_of_any_bytes(case, name):
    @settings(SETTINGS, max_examples=6 * SCALE)
    @given(st.binary(max_size=200), st.sampled_from(["char", "byte", "bpe-300"]))
    def attempt(content, tokenizer):
        (case.folder / name).write_bytes(content * 20)
        case("prepare", name, "--out-dir=new", f"--tokenizer={tokenizer}", note=str(content))

    attempt()
    (case.folder / name).unlink()
    case.verdict()


def test_large_and_winding_corpora(case):
    folder = case.folder / "ours"
    (folder / "deep").mkdir(parents=True)
    for name, target in (
        ("a.txt", "b.txt"),
        ("b.txt", "a.txt"),
        ("deep/up", ".."),
        ("deep/here", "."),
        ("gone.md", "nowhere"),
    ):
        (folder / name).symlink_to(target)
    for corpus in (
        "ours",
        "ours/**",
        "ours/**/*",
        "ours/**/*.txt",
        "ours/a.txt",
        "ours/deep/up",
        "ours/gone.md",
        "**",
        "ours=1,ours=2",
    ):
        case("prepare", corpus, "--out-dir=new", ours="ours")
        (folder / "deep" / "real.txt").write_text("A small text. " * 300, encoding="utf-8")
    shutil.rmtree(folder)
    line = b"A line of thirty million. " * 1_200_000
    for name, content in (
        ("ours.txt", line),
        ("ours.jsonl", b'{"text": "' + line + b'"}'),
        ("ours.jsonl", b"[" * 30_000_000),
    ):
        (case.folder / name).write_bytes(content)
        case("prepare", name, "--out-dir=new", seconds=60, note=f"{content[:20]}")
        (case.folder / name).unlink()
    case.verdict()


REMOVED = object()
NEW: dict[str, Any] = {  # what a part of a structure is replaced by
    "nothing": None, "-5": -5, "0": 0, "1e300": 1e300, "nan": math.nan, "x": "x", "[]": [], "{}": {},
    "10**9": 10**9, "10**20": 10**20,
    "true": True, "removed": REMOVED, "nested": [[{}]],
}  # fmt: skip
TENSORS: dict[str, Any] = {
    "three numbers": torch.zeros(3), "an int64 tensor": torch.tensor([[1, 2]]), "a scalar": torch.tensor(1.5),
    "no numbers": torch.zeros(0),
    "NaNs": lambda old: torch.full_like(old, math.nan) if isinstance(old,
    torch.Tensor) and old.is_floating_point() else math.nan,
    "another type": lambda old: old.to(torch.int8) if isinstance(old, torch.Tensor) else "x",
}  # fmt: skip


def places(value: Any, depth: int) -> Iterator[tuple]:
    "The keys that lead to each part of a structure; of a list to its first two and its last."
    keys = (
        value
        if isinstance(value, dict)
        else sorted({0, 1, len(value) - 1} & {*range(len(value))})
        if isinstance(value, list)
        else ()
    )
    for key in keys:
        yield (key,)
        if depth > 1:
            yield from ((key, *rest) for rest in places(value[key], depth - 1))


def changed(value: Any, place: tuple, new: Any) -> Any:
    "A copy with another part at a place."
    (key, *rest), result = place, copy.copy(value)
    if rest:
        result[key] = changed(value[key], tuple(rest), new)
    elif new is REMOVED:
        del result[key]
    else:
        result[key] = new(value[key]) if callable(new) else new
    return result


def test_checkpoints(case):
    "The newest checkpoint of a run, each of its parts replaced by something else."
    whole = torch.load(case.folder / "run" / "ckpt.pt", weights_only=True)
    commands = [
        RESUME, ["sample", "ours/ckpt.pt", *SAMPLE], ["eval", "ours/ckpt.pt"], ["info", "ours/ckpt.pt"],
        ["export", "ours/ckpt.pt", "new"],
        [*TRAIN, "--init-from=ours/ckpt.pt"],
    ]  # fmt: skip
    few = [place for place in places(whole, 3) if not re.search(r"h\.1|state', [1-9]", str(place))]
    for place, (name, new), args in some(product(few, (NEW | TENSORS).items(), commands), 35):
        case.place("run")
        torch.save(changed(whole, place, new), case.folder / "ours" / "ckpt.pt")
        case(*args, ours="ours", note=f"{'.'.join(map(str, place))}: {name}")
    case.verdict()


def test_checkpoints_that_are_no_dictionary(case):
    bare = [{"model": part, "model_args": part} for part in ({}, None)]
    contents = [None, 3, [], "x", torch.zeros(3), {}, {1: 2}, *bare]
    commands = (RESUME, ["sample", "ours", *SAMPLE], ["info", "ours"])
    for content, keep, args in some(product(contents, (True, False), commands), 12):
        case.place("run")
        torch.save(content, case.folder / "ours" / "ckpt.pt")
        for name in () if keep else ("best.pt", "ckpt-1.pt"):
            (case.folder / "ours" / name).unlink()
        case(*args, ours="ours", note=str(content)[:40])
    case.verdict()


STRINGS = {
    "a path": "../outside.bin",
    "/": "/etc/hostname",
    "long": "x" * 5000,
    "surrogate": "\ud800",
    "deep": [[[[[[]]]]]],
}


MODEL = [
    ["sample", "ours", "--prompt=Once", *SAMPLE], ["info", "ours"], ["eval", "ours", "--data-dir=ids"],
    ["export", "ours", "new"], [*TRAIN, "--init-from=ours"],
]  # fmt: skip
DATA = [
    ["data", "verify", "ours"], ["info", "ours"], [*TRAIN, "--data-dir=ours"], ["eval", "run", "--data-dir=ours"],
    ["plan", *TRAIN[1:], "--data-dir=ours"], ["prepare", "text.txt", "--out-dir=ours"],
    ["prepare", "text.txt", "--out-dir=ours", "--overwrite"],
]  # fmt: skip
TOKENIZER = [
    ["prepare", "text.txt", "--out-dir=new", "--tokenizer=ours/tokenizer.json"],
    ["sample", "run", "--tokenizer=ours", *SAMPLE], [*TRAIN, "--data-dir=ours"], ["data", "verify", "ours"],
]  # fmt: skip
CONFIGURED = ["--config=ours/config.json", "--out-dir=new", "--max-iters=1"]
CONFIG = [RESUME, ["train", *CONFIGURED], ["plan", *CONFIGURED]]


@pytest.mark.parametrize(
    "source, name, commands, count",
    [
        ("hf", "config.json", MODEL, 24), ("hf", "tokenizer.json", MODEL, 12), ("ids", "meta.json", DATA, 28),
        ("ids", "tokenizer.json", TOKENIZER, 12), ("run", "config.json", CONFIG, 12),
    ],
)  # fmt: skip
def test_json_files(case, source, name, commands, count):
    "Of a model, of data and of a run: each part replaced by something else, and the file by other files."
    whole = json.loads((case.folder / source / name).read_text(encoding="utf-8"))
    changes = [(f"{'.'.join(map(str, place))}: {what}",
    json.dumps(changed(whole, place, new)).encode(errors="surrogatepass"))
               for place, (what, new) in product(places(whole, 5), (NEW | STRINGS).items())]  # fmt: skip
    if source == "ids" and name == "meta.json":
        for tokens, dtype in product(
            (0, -1, 1, 13431, 10**18), ("uint8", "uint16", "float32", "object", "U1", "V0", "int8", ">u2")
        ):
            twisted = copy.deepcopy(whole | {"dtype": dtype})
            twisted["splits"]["train"]["shards"][0]["tokens"] = tokens
            changes.append((f"{tokens} tokens of {dtype}", json.dumps(twisted).encode()))
    others = [(str(content[:40]), content) for content in CONFIGS["json"]]
    picked = [*some(product(changes, commands), count), *some(product(others, commands), count // 4)]
    for (note, content), args in picked:
        case.place(source, lambda folder, content=content: (folder / name).write_bytes(content))
        long = "max_iters" in note or "accumulation" in note
        case(*args, ours="ours", note=f"{name}: {note}", endless=long)
    case.verdict()


def safetensors(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def test_safetensors(case):
    "Cut, flipped, with another header; and an index of files that are elsewhere or not there."
    whole = (case.folder / "hf" / "model.safetensors").read_bytes()
    length = 8 + struct.unpack("<Q", whole[:8])[0]
    header, body, rng = json.loads(whole[8:length]), whole[length:], random.Random(1)
    contents = [whole[:cut] for cut in (0, 4, 8, 20, length, len(whole) // 2, len(whole) - 1)]
    contents += [
        whole + b"x",
        struct.pack("<Q", 2**63) + whole[8:],
        safetensors(b"{"),
        safetensors({}),
        safetensors(b"[" * 100_000),
    ]
    for _ in range(10 * SCALE):
        at = rng.randrange(length if rng.random() < 0.7 else len(whole))
        contents.append(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
    contents += [
        safetensors(changed(header, place, new), body)
        for place, new in some(product(places(header, 3), (NEW | STRINGS).values()), 25)
    ]
    contents += [safetensors(header, struct.pack("<f", math.nan) * (len(body) // 4))]
    names = [
        "../outside.bin",
        "../../outside.bin",
        "missing.safetensors",
        "/dev/null",
        "",
        ".",
        "config.json",
        "links/self",
        3,
        None,
        [],
        "\ud800",
    ]
    indices = [{"weight_map": {"a": file}} for file in names] + [
        {},
        [],
        {"weight_map": []},
        {"weight_map": None},
        {"weight_map": {}},
        3,
    ]
    commands = [
        ["sample", "ours", *SAMPLE],
        ["info", "ours"],
        ["export", "ours", "new"],
        [*TRAIN, "--init-from=ours"],
    ]
    for (kind, content), args in some(
        product([*((0, c) for c in contents), *((1, i) for i in indices)], commands), 24
    ):
        case.place("hf")
        if kind:
            (case.folder / "ours" / "model.safetensors").rename(
                case.folder / "ours" / "model-00001.safetensors"
            )
            (case.folder / "ours" / "model.safetensors.index.json").write_text(
                json.dumps(content), encoding="utf-8"
            )
        else:
            (case.folder / "ours" / "model.safetensors").write_bytes(content)
        case(*args, ours="ours", note=str(content[:200] if isinstance(content, bytes) else content))
    case.verdict()


def test_files_of_bytes(case):
    "metrics.jsonl with rows of other kinds, shards cut or full of large ids, checkpoints cut or flipped."
    row = b'{"iter": 0, "val_loss": 4.5}\n'
    size = (case.folder / "ids" / "train-00000.bin").stat().st_size
    rows = [b"[]\n", b"3\n", b"{}\n", b"null\n", b'"x"\n', b'{"iter": "x"}\n', b'{"iter": null}\n',
        b'{"iter": NaN}\n', b'{"iter": 1e400}\n',
            b"\xff\n", b"[" * 200_000, b'{"iter": 10' + b"0" * 400 + b"}\n", b"9" * 5000, b'{"iter": 0}\n',
            b'{"iter": -1, "val_loss": "x"}\n',
            b'{"iter": 1, "val_loss": []}\n', b'{"iter": 0, "well_formed": 3, "val_loss": 1}\n', b"\x00", b"",
            b'{"iter": [0]}\n']  # fmt: skip
    cases = [("run", "metrics.jsonl", before + content, RESUME) for content in rows for before in (b"", row)]
    for command in (
        [*TRAIN, "--data-dir=ours"],
        ["data", "verify", "ours"],
        ["info", "ours"],
        ["eval", "run", "--data-dir=ours", "--split=train"],
    ):
        for content in (b"", b"\x00", b"\xff" * size, b"\xff" * (size - 1), b"\x30" * size, bytes(20_000)):
            cases.append(("ids", "train-00000.bin", content, command))
    for name, command in product(
        ("ckpt.pt", "best.pt"),
        (RESUME, ["info", "ours"], ["sample", "ours", *SAMPLE], ["export", "ours", "new"]),
    ):
        whole, rng = (case.folder / "run" / name).read_bytes(), random.Random(2)
        for cut in (0, 1, 100, len(whole) // 2, -1):
            cases.append(("run", name, whole[:cut], command))
        for at in (rng.randrange(len(whole)) for _ in range(4)):
            cases.append(("run", name, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], command))
        cases += [
            ("run", name, content, command)
            for content in (b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x80\x02}q\x00.")
        ]
    for source, name, content, args in some(cases, 20):
        case.place(source, lambda folder, name=name, content=content: (folder / name).write_bytes(content))
        case(*args, ours="ours", note=f"{name} {content[:60]}")
    case.verdict()


def test_folders_of_others(case):
    "Commands that write, pointed at what is not theirs: it stays as it is, with --overwrite too."
    into = [
        TRAIN[:-1], [*TRAIN, "--overwrite"], [*TRAIN, "--resume=auto"], [*TRAIN, "--init-from=resume"],
        [*TRAIN, "--tensorboard"],
        ["prepare", "text.txt"], ["prepare", "text.txt", "--overwrite"],
        ["demo", "--max-iters=1", "--num-samples=1"],
        ["export", "run"], ["export", "hf"],
    ]  # fmt: skip
    places = [
        "proj",
        "hf",
        "ids",
        "run",
        "links",
        "text.txt",
        "links/self",
        "links/dangling",
        "/dev/null",
        ".",
    ]
    for args, place in some(product(into, places), 20):
        if (args[0], place) == ("prepare", "ids") or args[0] in ("train", "demo") and place == "run":
            continue  # its own
        case(
            *args,
            place if args[0] == "export" else f"--out-dir={place}",
            ours=place if (args[0], place) == ("export", "hf") else "",
        )
    for change in (["--overwrite"], ["--resume=auto", "--max-iters=2"], ["--overwrite", "--tensorboard"], []):
        case.place("run")
        case(*TRAIN, "--out-dir=ours", *change, ours="ours")
    for change in ([], ["--overwrite"]):
        case.place("ids")
        case("prepare", "text.txt", "--out-dir=ours", *change, ours="ours")
    case.verdict()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folders_that_cannot_be_written(case):
    for name in ("ours", "new"):
        case.place("run", name=name)
    for path in (case.folder / "ours", case.folder / "new"):
        path.chmod(0o500)
    for args in (
        RESUME,
        [*TRAIN, "--out-dir=ours/x"],
        ["prepare", "text.txt", "--out-dir=ours"],
        ["export", "run", "ours"],
    ):
        case(*args, ours="ours")
    for path in (case.folder / "ours", case.folder / "new"):
        path.chmod(0o700)
    case.verdict()
