"""Check the house rules, and print a line for each problem.

The package is what the notebooks export, notebooks are clean, links are right, and nothing is too large.
"""
import filecmp
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from run import folded

root = Path(__file__).resolve().parent.parent
tool = Path(sys.executable).parent
BY_HAND = ("__init__.py", "__main__.py", "_docstrings.py")  # in the package, but from no notebook
CHAPTER, MODULE, CELL = 250, 450, 30  # exported lines of a chapter; lines of a module; lines of a chapter's cell
WIDTH, CHAPTER_WIDTH = 120, 110  # characters of a line of code: JupyterLab shows 108 on a page of 1,280 pixels


def files_in(folder: Path, suffix: str) -> dict[str, Path]:
    found = (path for path in sorted(folder.rglob(f"*{suffix}")) if ".ipynb_checkpoints" not in path.parts)
    return {path.relative_to(folder).as_posix(): path for path in found}


def differences(ours: dict[str, Path], made: dict[str, Path]) -> list[str]:
    changed = {name for name in ours.keys() & made.keys() if not filecmp.cmp(ours[name], made[name], False)}
    return sorted((ours.keys() ^ made.keys()) | changed)


def stale_files() -> list[str]:
    "Export and clean a copy, and say what differs from it."
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        junk = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        for name in ("nbs", "nanogpt"):
            shutil.copytree(root / name, copy / name, ignore=junk)
        for name in ("pyproject.toml", "settings.ini", "README.md"):
            shutil.copy(root / name, copy / name)
        for path in (copy / "nanogpt").rglob("*.py"):
            if path.name not in BY_HAND:
                path.unlink()
        for command in ("nbdev-export", "nbdev-clean"):
            subprocess.run([tool / command], cwd=copy, check=True)
        stale = differences(files_in(root / "nanogpt", ".py"), files_in(copy / "nanogpt", ".py"))
        unclean = differences(files_in(root / "nbs", ".ipynb"), files_in(copy / "nbs", ".ipynb"))
    return [f"nanogpt/{name}: not what the notebooks export; run nbdev-export" for name in stale] + [
        f"nbs/{name}: not clean; run nbdev-clean" for name in unclean
    ]


def wide_lines(source: str, place: str, width: int = WIDTH) -> list[str]:
    wide = [(number, len(line)) for number, line in enumerate(source.splitlines(), 1) if len(line) > width]
    return [f"{place}:{number}: {length} characters (at most {width})" for number, length in wide]


def large_notebook(path: Path) -> list[str]:
    "Lines that are too wide; in a chapter also what it exports, and cells, unless they are a class."
    place, exported, problems = path.relative_to(root).as_posix(), 0, []
    chapter = path.parent == root / "nbs" and path.name[0].isdigit()
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        source, name = "".join(cell["source"]), f"{place}, cell {cell['id']}"
        lines = len(source.splitlines())
        problems += wide_lines(source, name, CHAPTER_WIDTH if chapter else WIDTH)
        if folded(source) != ("cellView" in cell["metadata"]):
            problems.append(f"{name}: set-up, imports and figures are folded, and nothing else; run scripts/run.py")
        exported += lines * source.startswith("#| export")
        whole = len(re.findall("^class ", source, re.M)) == 1 or "\ndef train(\n" in source  # not cut in pieces
        if chapter and lines > CELL and not whole:
            problems.append(f"{name}: {lines} lines (at most {CELL} unless it is a class, or `train`)")
    if chapter and exported > CHAPTER:
        problems.append(f"{place}: exports {exported} lines (a chapter is one idea: at most {CHAPTER})")
    return problems


def large_module(path: Path) -> list[str]:
    source, place = path.read_text(encoding="utf-8"), path.relative_to(root).as_posix()
    lines = len(source.splitlines())
    too_long = [f"{place}: {lines} lines (at most {MODULE})"] if lines > MODULE else []
    return too_long + wide_lines(source, place)


problems = stale_files()
for path in files_in(root / "nbs", ".ipynb").values():
    problems += large_notebook(path)
for path in sorted((root / "nanogpt").rglob("*.py")):
    if path.name != "_modidx.py":
        problems += large_module(path)
others = [subprocess.run([sys.executable, root / "scripts" / name, "--check"]) for name in ("badges.py", "index.py")]
print("\n".join(problems) or "the package, the notebooks and their sizes are as they should be")
sys.exit(1 if problems or any(other.returncode for other in others) else 0)
