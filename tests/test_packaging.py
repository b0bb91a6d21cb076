"""settings.ini is the one home of the metadata, and the runtime stands without the tools that make it."""
import ast
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


ORDER = """
    files config plot cuts tokenizer bpe vocab tales corpus data prepare rotary attention loss model budget optim device ranks step decode sample
    checkpoint layouts hub distributed sharded recipe report start monitor train bench widgets cli
""".split()


def imports_of(source: str) -> set[str]:
    "The package's modules that a module imports, at its top or inside a function."
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "nanogpt"):
            module = (node.module or "").removeprefix("nanogpt").strip(".")
            found |= {module} if module else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("nanogpt.")}
    return found


def test_modules_import_only_modules_above_them():
    modules = {path.stem for path in (root / "nanogpt").glob("*.py") if not path.stem.startswith("_")}
    assert modules == set(ORDER)
    for i, module in enumerate(ORDER):
        imported = imports_of((root / "nanogpt" / f"{module}.py").read_text(encoding="utf-8"))
        assert imported <= set(ORDER[:i]), f"{module} imports {imported - set(ORDER[:i])}"


def test_imports_inside_functions_are_found():
    assert imports_of("def f():\n    from nanogpt.hub import load") == imports_of("from .hub import (\n    load,\n)") == {"hub"}
    assert imports_of("from . import hub") == imports_of("import nanogpt.hub") == {"hub"}


def test_every_file_is_opened_as_utf8():
    "Path.read_text, open and json files take the locale's encoding on Windows unless they are told otherwise."
    for path in (root / "nanogpt").glob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for call in (".read_text(", ".write_text("):
                assert call not in line or 'encoding="utf-8"' in line, f"{path.name}:{number}"
            if " open(" in line:
                assert '"rb"' in line or "**text" in line, f"{path.name}:{number}"
