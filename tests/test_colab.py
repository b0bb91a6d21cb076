"""Chapters as on Colab: a notebook alone in a folder, and a Python that has nanogpt's requirements but not nanogpt.

The set-up cell installs it with its own command. Here git takes GitHub's address for a copy of this repository, and pip
asks no index, so that a requirement that settings.ini does not name is missed. Two short chapters are run, and all of
them by `make colab` (NANOGPT_COLAB=all).
"""
import os
import re
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import distribution, requires
from pathlib import Path

import nbformat
import pytest
from conftest import copy_clone, root
from packaging.requirements import Requirement

ALL = sorted(path.stem for path in (root / "nbs").glob("[0-9]*.ipynb"))
CHAPTERS = ALL if os.environ.get("NANOGPT_COLAB") == "all" else ["01_tokenizer", "03_data"]
RUN = "import sys; from nbclient.cli import main; sys.argv[1:] = ['--inplace', '--timeout=600', sys.argv[1]]; main()"
ADDRESS = re.compile(r'"git\+(https://[^"]+)"')
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs links")


def with_requirements(names: list[str]) -> set[str]:
    "The packages of these names, and what they require."
    left, found = [Requirement(name) for name in names], set()
    while left:
        need = left.pop()
        if need.name not in found and (not need.marker or need.marker.evaluate({"extra": ""})):
            found.add(need.name)
            left += map(Requirement, requires(need.name) or [])
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    "A Python with the requirements, and with what runs notebooks and builds packages."
    folder = tmp_path_factory.mktemp("colab") / "venv"
    venv.create(folder, symlinks=True)
    place = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    needs = [need for need in requires("nanogpt") if "extra ==" not in need]
    for name in with_requirements([*needs, "ipykernel", "nbclient", "pip", "setuptools", "wheel"]):
        for top in {file.parts[0] for file in distribution(name).files} - {"..", "__pycache__"}:
            if not (place / top).exists():
                (place / top).symlink_to(distribution(name).locate_file(top))
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    "In which git finds this repository, as it is in the folder, at GitHub's address."
    copy, git = tmp_path_factory.mktemp("github"), ["git", "-c", "user.name=x", "-c", "user.email=x"]
    copy_clone(copy)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], cwd=copy, check=True)
    address = ADDRESS.search((root / "nbs" / "01_tokenizer.ipynb").read_text(encoding="utf-8").replace("\\", ""))[1]
    key = f"url.{copy.as_uri()}.insteadOf"
    ours = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": key, "GIT_CONFIG_VALUE_0": address}
    ours |= {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}  # 0: builds with the setuptools that is there
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | ours


def test_nanogpt_is_absent_at_first(python, environment):
    missing = subprocess.run([python, "-c", "import nanogpt"], env=environment, cwd=python.parent, capture_output=True)
    assert b"No module named 'nanogpt'" in missing.stderr


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_installs_what_it_needs_and_runs(name, python, environment, tmp_path):
    notebook = nbformat.read(root / "nbs" / f"{name}.ipynb", 4)
    notebook.cells.append(nbformat.v4.new_code_cell("print(nanogpt.__file__)"))
    path = tmp_path / f"{name}.ipynb"
    nbformat.write(notebook, path)
    done = subprocess.run([python, "-c", RUN, path], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    printed = nbformat.read(path, 4).cells[-1].outputs[0].text
    assert Path(printed.strip()).is_relative_to(python.parent.parent)
