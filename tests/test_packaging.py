"""settings.ini is the one home of the metadata, and the runtime stands without the tools that make it."""
import re
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from importlib.metadata import metadata, requires
from pathlib import Path

root = Path(__file__).parent.parent
config = ConfigParser(delimiters=["="])
config.read(root / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_three_files_agree():
    assert project["project"]["name"] == settings["lib_name"] == metadata("nanogpt")["Name"]
    assert project["project"]["requires-python"] == f">={settings['min_python']}" == metadata("nanogpt")["Requires-Python"]
    assert metadata("nanogpt")["Version"] == settings["version"]
    assert metadata("nanogpt")["Summary"] == settings["description"]
    assert not {"version", "description", "dependencies", "optional-dependencies", "scripts"} - set(project["project"]["dynamic"])
    assert project["tool"]["nbdev"]["lib_path"] == settings["lib_name"]


def test_installed_requirements_are_those_of_settings():
    runtime = {need for need in requires("nanogpt") if "extra ==" not in need}
    assert runtime == set(settings["requirements"].split())
    assert not any("<" in need for need in runtime), "no upper bounds: constraints.txt pins what is tested"


def test_every_direct_requirement_is_pinned():
    pinned = {line.split("==")[0].lower() for line in (root / "constraints.txt").read_text(encoding="utf-8").splitlines() if "==" in line}
    needs = [need for key, value in settings.items() if key.endswith("requirements") for need in value.split()]
    assert {need.split(">=")[0].lower() for need in needs} <= pinned


def test_runtime_imports_no_tools():
    modules = [path.stem for path in (root / "nanogpt").glob("*.py") if not path.stem.startswith("_")]
    code = (
        f"import sys, importlib; [importlib.import_module('nanogpt.' + m) for m in {modules}]; "
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'nbdev', 'fastcore', 'transformers', 'datasets', 'IPython'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_modules_import_only_modules_above_them():
    order = [
        "files", "config", "plot", "monitor", "tokenizer", "corpus", "data", "attention", "model", "hub", "optim", "plan", "checkpoint", "distributed", "train",
        "sample", "bench", "widgets", "cli",
    ]  # fmt: skip
    for i, module in enumerate(order):
        source = (root / "nanogpt" / f"{module}.py").read_text(encoding="utf-8")
        imported = set(re.findall(r"^from (?:\.|nanogpt\.)(\w+) import", source, re.M))  # nbdev writes them as relative
        assert imported or module in ("files", "config", "plot", "attention", "optim")
        assert imported <= set(order[:i]), f"{module} imports {imported - set(order[:i])}"


def test_every_file_is_opened_as_utf8():
    "Path.read_text, open and json files take the locale's encoding on Windows unless they are told otherwise."
    for path in (root / "nanogpt").glob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for call in (".read_text(", ".write_text("):
                assert call not in line or 'encoding="utf-8"' in line, f"{path.name}:{number}"
            if " open(" in line:
                assert '"rb"' in line or "**text" in line, f"{path.name}:{number}"
