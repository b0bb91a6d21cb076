"""Install each of these wheels, sdists and clones (editable) in a new environment, and use it from an empty folder.

    python scripts/install_trials.py dist/* .          with all it requires, from the index
    python scripts/install_trials.py --here dist/*     with the packages of this Python: offline, and in seconds
"""
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from tempfile import TemporaryDirectory

root = Path(__file__).resolve().parent.parent
environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
COMMANDS = """
--help
train --corpus tales --tokenizer char --data-dir data --out-dir run --device cpu --max-iters 3 --eval-windows 8
    --n-layer 1 --n-head 2 --n-embd 16 --block-size 32 --batch-size 4
sample run --max-new-tokens 20
explain run --out page.html
course mine --no-lab
""".strip().replace("\n    ", " ").splitlines()


def trial(what: Path, folder: Path, here: bool):
    "Raises CalledProcessError for the first command that fails, after it has printed why."
    venv.create(folder / "venv", with_pip=not here)
    paths = sysconfig.get_paths("venv", {"base": str(folder / "venv"), "platbase": str(folder / "venv")})
    if here:
        Path(paths["purelib"], "here.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    work = folder / "empty"
    work.mkdir()

    def run(name: str, *arguments: str) -> str:
        command = [str(Path(paths["scripts"], name)), *arguments]
        print(*command, flush=True)
        done = subprocess.run(command, cwd=work, env=environment, stdout=subprocess.PIPE, text=True, encoding="utf-8")
        done.check_returncode()
        return done.stdout

    offline = ["--no-deps", "--no-index", "--no-build-isolation"] if here else []
    editable = ["--editable"] if what.is_dir() else []
    run("python", "-m", "pip", "install", "--quiet", *offline, *editable, str(what))
    run("python", "-m", "pip", "check")
    home = Path(run("python", "-c", "import nanogpt; print(nanogpt.__file__)").strip()).parent
    assert home == (what if editable else Path(paths["purelib"])) / "nanogpt", home
    for command in COMMANDS:
        run("nanogpt", *command.split())
    assert "attention" in (work / "page.html").read_text(encoding="utf-8")
    ours, theirs = ({path.name for path in place.rglob("[!.]*.ipynb")} for place in (root / "nbs", work / "mine"))
    assert ours == theirs, ours ^ theirs


for name in sys.argv[1:]:
    if name != "--here":
        with TemporaryDirectory() as folder:
            trial(Path(name).resolve(), Path(folder).resolve(), "--here" in sys.argv)
        print(f"{name}: installs and works, in Python {sys.version.split()[0]}")
