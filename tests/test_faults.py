"""Faults around a run: other processes, folders of others, full disks, closed terminals, signals and launchers.

Each command is a process of its own, as a shell starts it.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from itertools import zip_longest
from pathlib import Path

import pytest
from conftest import TINY_FLAGS

from nanogpt.checkpoint import find_checkpoints, load_checkpoint
from nanogpt.corpus import tales

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and shells are POSIX")

MAIN = "import sys; from nanogpt.cli import main; sys.exit(main())"
MANY = """
import json, os, sys, tempfile
import torch
from nanogpt import cli, train, watch
torch.set_num_threads(1)
results = []
for args, environment in json.loads(sys.argv[1]):
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out, tempfile.TemporaryFile("w+", encoding="utf-8") as err:
        if not (child := os.fork()):
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os.environ.update(environment)
            sys.exit(cli.main(args))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        results.append([code, *(file.seek(0) or file.read() for file in (out, err))])
print("RESULTS" + json.dumps(results))
"""
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LAUNCHERS = (*LAUNCHED, "SLURM", "OMPI", "PMI", "PMIX", "TORCHELASTIC", "NANOGPT_DEBUG")
BASE = [*TINY_FLAGS, "--max-iters=6", "--eval-interval=3", "--device=cpu", "--dtype=float32", "--no-aligned"]
TRAIN = ["train", "demo", "--data-dir=data", "--tokenizer=char", "--out-dir=run", *BASE]
FOREVER = [*TRAIN, "--max-iters=1000000", "--eval-interval=20"]
SAMPLE = ["sample", "run", "--max-new-tokens=20", "--num-samples=2"]
KEPT = ("ckpt.pt", "best.pt", "metrics.jsonl", "config.json", "tokenizer.json")


def start(folder: Path, *args, code: str = MAIN, shell: str = "", **environment) -> subprocess.Popen:
    'Start a command. The shell may say more: `"$@" 2>&-`.'
    command = [sys.executable, "-c", code, *map(str, args)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    return subprocess.Popen(
        ["sh", "-c", shell, "sh", *command] if shell else command,
        cwd=folder, env=clean | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"} | environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", errors="replace",
    )  # fmt: skip


def end(*processes: subprocess.Popen, timeout: float = 90) -> list[subprocess.CompletedProcess]:
    "Wait for them all."
    try:
        said = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        subprocess.CompletedProcess(process.args[3:], process.returncode, *texts)
        for process, texts in zip(processes, said)
    ]


def run(folder: Path, *args, **options) -> subprocess.CompletedProcess:
    return end(start(folder, *args, **options))[0]


def each(folder: Path, *commands: list[str], environments=()) -> list[subprocess.CompletedProcess]:
    "Run commands one after the other, forked from one process: importing torch takes longer than most of them."
    jobs = list(zip_longest(commands, environments, fillvalue={}))
    done = run(folder, json.dumps(jobs), code=MANY)
    assert "RESULTS" in done.stdout, done.stderr
    results = json.loads(done.stdout.split("RESULTS")[1])
    return [subprocess.CompletedProcess(args, *result) for args, result in zip(commands, results)]


def error(done: subprocess.CompletedProcess, code: int = 1) -> str:
    "The one line that a failed command prints."
    assert done.returncode == code and "Traceback" not in done.stderr, (
        done.args,
        done.returncode,
        done.stderr,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("nanogpt: error: ")]
    assert len(lines) == 1 and "NANOGPT_DEBUG" not in lines[0], done.stderr
    return lines[0]


def assert_done(done: subprocess.CompletedProcess):
    assert done.returncode == 0 and "Traceback" not in done.stderr, (done.args, done.returncode, done.stderr)


def wait_for(condition, process: subprocess.Popen | None = None):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline and (process is None or process.poll() is None), (
            process and process.communicate()
        )
        time.sleep(0.01)


def steps(folder: Path) -> int:
    "The iteration of the latest checkpoint."
    while True:
        try:
            return load_checkpoint(find_checkpoints(folder)[0])["iter_num"]
        except (FileNotFoundError, IndexError):  # it was renamed in between
            pass


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A folder with data, a run and an exported model, which every test copies."
    folder = tmp_path_factory.mktemp("made")
    (folder / "text.txt").write_text("\n".join(tales(60).documents()), encoding="utf-8")
    for done in each(folder, ["prepare", "text.txt", "--out-dir=data"], TRAIN, ["export", "run", "hf"]):
        assert_done(done)
    return folder


@pytest.fixture
def home(made, tmp_path):
    "A copy of it."
    shutil.copytree(made, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def empty(made, tmp_path):
    "A copy without the run."
    shutil.copytree(made, tmp_path / "home", ignore=shutil.ignore_patterns("run", "hf"))
    return tmp_path / "home"


# A folder belongs to one run


def test_two_runs_never_share_a_folder(empty):
    first = start(empty, *FOREVER)
    wait_for((empty / "run" / "ckpt.pt").exists, first)
    for done in each(empty, TRAIN, [*TRAIN, "--resume=auto"], [*TRAIN, "--overwrite"]):
        line = error(done)
        assert "run" in line and "another process" in line
    first.terminate()
    assert end(first)[0].returncode == 143
    assert [row["iter"] for row in rows(empty / "run")] == sorted(
        {row["iter"] for row in rows(empty / "run")}
    )
    assert rows(empty / "run")[-1]["iter"] <= steps(empty / "run")
    again = start(empty, *FOREVER, "--resume=auto")
    reached = steps(empty / "run")
    wait_for(lambda: steps(empty / "run") > reached, again)
    again.kill()
    end(again)
    assert_done(run(empty, *TRAIN, "--overwrite"))
    assert steps(empty / "run") == 6


FILES = (
    "samples/mine.txt",
    "tensorboard/mine",
    "x.tmp",
    "best.pt",
    "config.json",
    "tokenizer.json",
    "metrics.jsonl",
)
FOLDERS = {"all": FILES, **{Path(name).parts[0]: (name,) for name in FILES}}


def test_a_folder_of_a_user_is_refused(empty):
    commands = []
    for name, files in FOLDERS.items():
        for path in (empty / f"proj-{name}" / file for file in files):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('{"mine": true}\n', encoding="utf-8")
        commands += [
            [*TRAIN, f"--out-dir=proj-{name}", *flags] for flags in ([], ["--overwrite"], ["--resume=auto"])
        ]
    before = contents(empty)
    for done in each(empty, *commands):
        assert "proj-" in error(done)
    assert contents(empty) == before


def test_an_empty_folder_is_taken(empty):
    (empty / "run").mkdir()
    assert_done(run(empty, *TRAIN))
    assert steps(empty / "run") == 6


def test_a_model_of_others_is_refused(home):
    before = contents(home)
    text = ["prepare", "text.txt", "--out-dir=hf"]
    flags = (["--overwrite"], ["--resume=auto"], [])
    for done in each(
        home, *[[*TRAIN, "--out-dir=hf", *more] for more in flags], text, [*text, "--overwrite"]
    ):
        assert "hf" in error(done)
    assert contents(home) == before


def test_export_replaces_only_exports(home):
    (home / "proj").mkdir()
    (home / "proj" / "config.json").write_text('{"mine": true}', encoding="utf-8")
    before = contents(home)
    refused, again = each(home, ["export", "run", "proj"], ["export", "run", "hf"])
    assert "proj" in error(refused)
    assert_done(again)
    assert contents(home) == before


def test_a_demo_replaces_only_demos(home):
    short = ["demo", "--max-iters=1", "--num-samples=1"]
    before = contents(home / "run")
    other, first, second = each(
        home, [*short, "--out-dir=run"], [*short, "--out-dir=d"], [*short, "--out-dir=d"]
    )
    assert "run" in error(other) and contents(home / "run") == before
    assert_done(first)
    assert_done(second)


def test_runs_of_earlier_versions_go_on(tmp_path):
    shutil.copytree(Path(__file__).parent / "data" / "old_run", tmp_path / "old")
    flags = ["--config=old/run/config.json", "--data-dir=old/data", "--out-dir=old/run", "--resume=auto"]
    assert_done(run(tmp_path, "train", *flags))
    assert steps(tmp_path / "old" / "run") == 20


# --overwrite


PATCHES = {  # what goes wrong: code before the command, flags, the exit code
    "the loss": ("", ["--init-std=1e38"], 1),
    "the context": ("", ["--block-size=1", "--n-head=16"], None),
    "the windows": ("", ["--block-size=1000000"], 1),
    "a full disk": ("import torch, errno\ndef save(*_, **__): raise OSError(errno.ENOSPC, 'No space left on device')\n"
                    "torch.save = save\n", [], 1),
    "a kill": ("import torch, os\ntorch.save = lambda *_, **__: os.kill(os.getpid(), 9)\n", [], -9),
}  # fmt: skip


@pytest.mark.parametrize("what", PATCHES)
def test_an_overwrite_that_fails_leaves_the_old_run(home, what):
    patch, flags, code = PATCHES[what]
    before = contents(home / "run")
    done = run(home, *TRAIN, "--overwrite", "--seed=5", *flags, code=patch + MAIN)
    if code is None and done.returncode == 0:
        return
    assert done.returncode == (code or 1), done.stderr
    if code == 1:
        error(done)
    after = contents(home / "run")
    assert [name for name in KEPT if after.get(name) != before[name]] == []


def test_an_overwrite_that_succeeds_leaves_nothing_of_the_old_run(home):
    for path in (home / "run").glob("ckpt*"):
        shutil.copy(path, path.with_name("ckpt-2.pt"))
    short = [*TRAIN, "--max-iters=1", "--seed=5"]
    before = contents(home / "run")
    for done in each(home, [*short, "--overwrite"], [*short, "--out-dir=fresh"]):
        assert_done(done)
    after, fresh = contents(home / "run"), contents(home / "fresh")
    assert after.keys() == fresh.keys()
    same = {name for name in after if after[name] == before.get(name)} - {".nanogpt-run", "tokenizer.json"}
    assert not same, "of the old run"
    assert [row["iter"] for row in rows(home / "run")] == [0, 1]


# Output that goes nowhere


@pytest.mark.parametrize("encoding", ["ascii", "cp1251", "cp437"])
def test_any_encoding_of_the_terminal_will_do(empty, encoding):
    done = run(empty, *TRAIN, PYTHONIOENCODING=encoding)
    assert_done(done)
    assert steps(empty / "run") == 6 and "val loss" in done.stdout


@pytest.mark.parametrize(
    "redirect",
    ["2>&-", ">&-", ">&- 2>&-", "| head -1", "2>&1 | head -1", ">/dev/full", "2>/dev/full",
     ">/dev/full 2>/dev/full"],
)  # fmt: skip
def test_training_needs_no_reader(empty, redirect):
    if "full" in redirect and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    done = run(empty, *TRAIN, shell=f'"$@" {redirect}')
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr
    assert (empty / "run" / "ckpt.pt").exists(), done.stderr
    assert steps(empty / "run") == 6
    if "&-" in redirect:
        assert done.returncode == 0, done.stderr


def test_samples_need_a_reader(home):
    pipe, full = start(home, *SAMPLE, shell='"$@" | head -c 1'), start(home, *SAMPLE, shell='"$@" >/dev/full')
    pipe, full = end(pipe, full)
    assert "Traceback" not in pipe.stderr and "Exception ignored" not in pipe.stderr, pipe.stderr
    assert len(pipe.stdout) == 1
    assert "Exception ignored" not in full.stderr
    assert "No space left on device" in error(full)


# Signals


@pytest.mark.parametrize("name, code", [("SIGHUP", 129), ("SIGTERM", 143), ("SIGINT", 130)])
def test_signals_save_and_end(empty, name, code):
    process = start(empty, *FOREVER)
    wait_for((empty / "run" / "ckpt.pt").exists, process)
    process.send_signal(getattr(signal, name))
    (done,) = end(process)
    assert done.returncode == code, (done.returncode, done.stderr)
    assert (
        f"stopped by {name} at iteration {steps(empty / 'run')}" in done.stdout
        and "Traceback" not in done.stderr
    )


def test_nohup_goes_on(empty):
    process = start(empty, *FOREVER, shell='trap "" HUP; exec "$@"')
    wait_for((empty / "run" / "ckpt.pt").exists, process)
    process.send_signal(signal.SIGHUP)
    reached = steps(empty / "run")
    wait_for(lambda: steps(empty / "run") > reached + 40, process)
    process.terminate()
    assert end(process)[0].returncode == 143


# Launchers


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


VARIABLES = {  # a launcher's names for rank, ranks and the rank on this machine
    "torch": ("RANK", "WORLD_SIZE"),
    "slurm": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "pmi": ("PMI_RANK", "PMI_SIZE"),
}


@pytest.mark.parametrize("launcher", VARIABLES)
def test_two_processes_make_one_run(empty, launcher):
    "Without MASTER_ADDR: they are on one machine."
    rank, size, *local = VARIABLES[launcher]
    port, flags = free_port(), ["--gradient-accumulation-steps=2", "--timeout=40"]
    processes = [
        start(
            empty,
            *TRAIN,
            *flags,
            MASTER_PORT=port,
            **{rank: str(i), size: "2", **dict.fromkeys(local, str(i))},
        )
        for i in range(2)
    ]
    first, second = end(*processes)
    assert_done(first)
    assert_done(second)
    assert "2 ranks" in first.stdout and "val loss" not in second.stdout
    assert [row["iter"] for row in rows(empty / "run")] == [0, 3, 6] and steps(empty / "run") == 6


ALONE = {
    "one rank": {"RANK": "0", "WORLD_SIZE": "1"},
    "a batch step of Slurm": {
        "SLURM_PROCID": "0",
        "SLURM_NTASKS": "4",
        "SLURM_LOCALID": "0",
        "SLURM_JOB_ID": "7",
    },
}
NONSENSE = {
    "rank too large": {"RANK": "2", "WORLD_SIZE": "2"},
    "negative": {"RANK": "-1", "WORLD_SIZE": "2"},
    "a word": {"RANK": "0", "WORLD_SIZE": "x"},
    "a word as rank": {"RANK": "x", "WORLD_SIZE": "2"},
    "no ranks": {"RANK": "0", "WORLD_SIZE": "0"},
    "a port": {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "x"},
    "a far port": {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "99999"},
    "slurm": {"SLURM_PROCID": "9", "SLURM_STEP_NUM_TASKS": "2"},
}


@pytest.mark.parametrize("what", ALONE)
def test_alone_by_its_variables(empty, what):
    done = run(empty, *TRAIN, **ALONE[what])
    assert_done(done)
    assert "1 rank " in done.stdout and steps(empty / "run") == 6


def test_nonsense_of_a_launcher_is_one_line(empty):
    port = {"MASTER_PORT": free_port()}
    commands = [[*TRAIN, "--timeout=5", f"--out-dir=run{i}"] for i in range(len(NONSENSE))]
    ended = each(empty, *commands, environments=[port | names for names in NONSENSE.values()])
    said = {what: (done.returncode, done.stderr[-300:]) for what, done in zip(NONSENSE, ended)}
    line = re.compile("(nanogpt: warning: .*\n)*nanogpt: error: (?!.*NANOGPT_DEBUG).+\n")
    assert {what: text for what, (code, text) in said.items() if code != 1 or not line.fullmatch(text)} == {}
    assert not list(empty.glob("run*"))


def test_ranks_wait_for_the_data_longer_than_for_each_other(empty):
    "Preparing takes 4 s, the timeout is 1.5 s. Both begin when both have imported all there is."
    code = f"""
import glob, os, sys, time
from importlib import import_module
from nanogpt import tokenizer, watch
encode, slept = tokenizer.CharTokenizer.encode, []
def slow(self, text, *args, **options):
    if os.environ["RANK"] == "0" and not slept:
        slept.append(time.sleep(4))
    return encode(self, text, *args, **options)
tokenizer.CharTokenizer.encode = slow
open("ready" + os.environ["RANK"], "w").close()
deadline = time.monotonic() + 60
while len(glob.glob("ready?")) < 2:
    assert time.monotonic() < deadline
    time.sleep(0.01)
{MAIN}"""
    flags = [
        "--corpus=text.txt",
        "--data-dir=new",
        "--timeout=1.5",
        "--gradient-accumulation-steps=2",
        "--no-aligned",
    ]
    port = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    processes = [start(empty, *TRAIN, *flags, code=code, RANK=str(rank), **port) for rank in range(2)]
    for done in end(*processes):
        assert_done(done)
    assert steps(empty / "run") == 6


@pytest.mark.parametrize("cut", [0, 100])
def test_a_shard_that_is_cut_under_a_run_is_one_line(empty, cut):
    process = start(empty, *FOREVER)
    wait_for((empty / "run" / "ckpt.pt").exists, process)
    os.truncate(empty / "data" / "train-00000.bin", cut)
    (done,) = end(process)
    assert "train-00000.bin" in error(done)
    assert steps(empty / "run") > 0 or rows(empty / "run")


def test_the_traceback_is_there_when_asked_for(tmp_path):
    plain, debug = end(
        start(tmp_path, "info", "absent"), start(tmp_path, "info", "absent", NANOGPT_DEBUG="1")
    )
    assert "absent" in error(plain) and len(plain.stderr.splitlines()) == 1
    assert debug.returncode == 1 and "Traceback" in debug.stderr
