"""Fail when the package is not what the notebooks export, a notebook is not clean, or a link names another repository."""
import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent
tool = Path(sys.executable).parent


def files_in(folder: Path, suffix: str) -> dict[str, Path]:
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob(f"*{suffix}")) if ".ipynb_checkpoints" not in path.parts}


def differences(ours: dict[str, Path], made: dict[str, Path]) -> list[str]:
    return [name for name in sorted(ours.keys() | made.keys()) if name not in ours or name not in made or not filecmp.cmp(ours[name], made[name], False)]


with tempfile.TemporaryDirectory() as folder:
    copy = Path(folder) / "copy"
    copy.mkdir()
    for name in ("nbs", "nanogpt"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("pyproject.toml", "settings.ini", "README.md"):
        shutil.copy(root / name, copy / name)
    for path in (copy / "nanogpt").glob("*.py"):
        if path.name != "__init__.py":
            path.unlink()
    for command in ("nbdev-export", "nbdev-clean"):
        subprocess.run([tool / command], cwd=copy, check=True)
    stale = differences(files_in(root / "nanogpt", ".py"), files_in(copy / "nanogpt", ".py"))
    unclean = differences(files_in(root / "nbs", ".ipynb"), files_in(copy / "nbs", ".ipynb"))

if stale:
    print(f"not what the notebooks export: {', '.join(stale)}; run nbdev-export")
if unclean:
    print(f"not clean: {', '.join(unclean)}; run nbdev-clean")
links = subprocess.run([sys.executable, root / "scripts" / "badges.py", "--check"]).returncode
sys.exit(1 if stale or unclean or links else 0)
