"""What Windows and macOS have: fresh processes instead of forked ones, another encoding, and other rules for files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TINY_FLAGS
from like_windows import ILLEGAL
from test_packaging import ORDER

from nanogpt.profiling import output_of
from nanogpt.recipe import TrainConfig, data_path

TEXT = "Ein Fuchs läuft – größer als 狐 🦊 – durch ein “Łódź” × 3. "
NARROW = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict"}


def python(code: str, folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess:
    "Run a program in a folder, with our test modules at hand."
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=300)


COMMANDS = [
    ["--help"], ["train", "--help"], ["info"],
    ["prepare", "texts", "--tokenizer", "bpe-300", "--out-dir", "data", "--workers", "2", "--shard-tokens", "999"],
    ["data", "verify", "data"],
    ["prepare", "texts", "--tokenizer", "char", "--out-dir", "data", "--overwrite"],
    ["train", "--corpus", "texts", "--data-dir", "data", "--out-dir", "run", "--tensorboard", *TINY_FLAGS],
    ["train", "--corpus", "texts", "--data-dir", "data", "--out-dir", "run", "--overwrite", *TINY_FLAGS],
    ["train", "--config", "run/config.json", "--resume", "auto", "--max-iters", "30"],
    ["info", "run"], ["info", "data"], ["eval", "run"],
    ["sample", "run", "--num-samples", "1", "--max-new-tokens", "100", "--prompt", "Ein Fuchs läuft – größer als 狐"],
    ["plan", "demo", *TINY_FLAGS], ["course", "mine", "--no-lab"],
    ["train", "gpt2-124m", "--data-dir", "absent", "--out-dir", "empty"],
]  # fmt: skip


def test_commands_where_files_processes_and_encodings_are_those_of_windows(tmp_path):
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.md"):
        (tmp_path / "texts" / name).write_text(TEXT * 200, encoding="utf-8")
    code = f"""if True:
        import os, sys, like_windows
        like_windows.begin({ORDER})
        from nanogpt.cli import main
        for args in {COMMANDS!a}:
            try:
                status = main(args)
            except SystemExit as ended:
                status = ended.code
            print("STATUS", args[0], status or 0, flush=True)
            assert not os.path.exists("run") or ".nanogpt-run" in os.listdir("run"), "the mark is still there"
    """
    done = python(code, tmp_path, "-X", "warn_default_encoding", **NARROW)
    out, err = done.stdout.decode("ascii"), done.stderr.decode("ascii", "replace")
    status = [line.split()[1:] for line in out.splitlines() if line.startswith("STATUS")]
    assert status == [[args[0], "1" if "absent" in args else "0"] for args in COMMANDS], out[-2000:] + err
    assert "\\u72d0" in out, "what the console cannot show is written as its number"
    assert "nanogpt: error: no data at absent" in err and not (tmp_path / "empty").exists()


def test_worker_processes_that_are_not_forked_are_given_what_they_can_import(tmp_path):
    code = """if True:
        import multiprocessing
        multiprocessing.set_start_method("spawn")
        from nanogpt.bpe import in_processes
        def mine(x):
            return abs(x)
        for function in abs, mine, lambda x: abs(x):
            try:
                print(*in_processes(function, [-1, 2], 2))
            except (OSError, ValueError) as error:
                print(type(error).__name__, error)
    """  # as in a notebook, `mine` is in no file
    works, dies, refused = python(code, tmp_path).stdout.decode().splitlines()
    assert works == "1 2"
    assert dies.startswith("OSError a worker process has died; import your own functions and classes from a .py file")
    assert refused.startswith("ValueError worker processes cannot be given your code") and ".py file" in refused


@pytest.mark.parametrize("corpus", ["hf:owner/name", "tales=0.7,notes=0.3", "c:texts/*.txt", 'a<b>c|"d".md', "nul.txt"])
@pytest.mark.parametrize("tokenizer", ["char", "../vocabularies/own.json", "a:b"])
def test_data_has_a_folder_whose_name_windows_takes(corpus, tokenizer):
    name = data_path(TrainConfig(corpus=corpus, tokenizer=tokenizer)).name
    assert ILLEGAL.search("a:b") and ILLEGAL.search("nul.txt") and not ILLEGAL.search(name)


def test_the_complaint_of_another_program_may_be_in_any_encoding():
    code = "import sys; sys.stderr.buffer.write('3 × 4'.encode('cp1252')); sys.exit(1)"
    with pytest.raises(OSError, match="the program failed [(]3 \ufffd 4[)]"):
        output_of([sys.executable, "-X", "utf8", "-c", code], "the program")
