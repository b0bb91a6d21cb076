"""settings.ini is the one home of the metadata; the package is light, documented, and needs none of its tools."""
import ast
import inspect
import pickle
import re
import subprocess
import sys
import tarfile
import tomllib
from configparser import ConfigParser
from importlib import import_module
from importlib.metadata import metadata, requires

import pytest
from conftest import copy_clone, root

import nanogpt
from nanogpt._docstrings import PRAGMA, documented, public_functions, without_docstrings

config = ConfigParser(delimiters=["="])
config.read(root / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_files_agree():
    assert project["project"]["name"] == settings["lib_name"] == metadata("nanogpt")["Name"]
    python = f">={settings['min_python']}"
    assert project["project"]["requires-python"] == python == metadata("nanogpt")["Requires-Python"]
    assert metadata("nanogpt")["Version"] == settings["version"]
    assert metadata("nanogpt")["Summary"] == settings["description"]
    dynamic = {"version", "description", "dependencies", "optional-dependencies", "scripts"}
    assert dynamic <= set(project["project"]["dynamic"])
    assert project["tool"]["nbdev"]["lib_path"] == settings["lib_name"]
    version = re.escape(settings["version"])
    assert re.search(rf"^version: {version}$", (root / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    newest = re.search(r"^## .+", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert newest and re.fullmatch(rf"## {version}, \d{{4}}-\d\d-\d\d|## Unreleased \({version}\)", newest[0])


def test_installed_requirements_are_those_of_settings():
    runtime = {need for need in requires("nanogpt") if "extra ==" not in need}
    assert runtime == set(settings["requirements"].split())
    assert not any("<" in need for need in runtime), "no upper bounds: constraints.txt pins what is tested"


def test_every_direct_requirement_is_pinned():
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0].lower() for line in lines if "==" in line}
    keys = [key for key in settings if key.endswith("requirements")]
    needs = [need for key in keys for need in settings[key].split()]
    assert {re.split(r"\[|>=", need)[0].lower() for need in needs} <= pinned


def in_a_process(code: str) -> str:
    "What a fresh Python prints."
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_runtime_imports_no_tools():
    code = (
        f"import sys, importlib; [importlib.import_module('nanogpt.' + m) for m in {ORDER} if m != 'harness']; "
        "tools = {'nbdev', 'fastcore', 'transformers', 'datasets', 'IPython'}; "
        "print(sorted({m.split('.')[0] for m in sys.modules} & tools))"
    )
    assert in_a_process(code) == "[]"


ORDER = """
    files config plot diagram schematics cuts ambiguity tokenizer bpe huggingface vocab tales corpus manifest
    data prepare rotary ngrams attention loss model lora ranks device recipe budget optim step distributed
    decode sample explain chat judge reward inside checkpoint sharded layouts adapters hub inputs start report
    monitor train bench profiling speedrun ladder scaling grid crawl benchmarks widgets lens chatbox watch flags
    course inference serve harness cli tutor exercises.tokenizer exercises.corpus exercises.data
    exercises.attention exercises.model exercises.modern exercises.optim exercises.train exercises.sample
    exercises.checkpoint exercises.distributed exercises.run exercises.hub exercises.finetune exercises.reward
    exercises.inside exercises.scaling exercises.adder exercises.broken_runs exercises.own_text
    exercises.repeated_data check
""".split()


def imports_of(source: str) -> set[str]:
    "The package's modules that a module imports, at its top or inside a function."
    found = set()
    for node in ast.walk(ast.parse(source)):
        name = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        if isinstance(node, ast.ImportFrom) and (node.level or name.split(".")[0] == "nanogpt"):
            module = name.removeprefix("nanogpt").strip(".")
            found |= {module} if module else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("nanogpt.")}
    return found


def test_modules_import_only_modules_above_them():
    paths = (path.relative_to(root / "nanogpt") for path in (root / "nanogpt").rglob("[a-z]*.py"))
    assert {".".join(path.with_suffix("").parts) for path in paths} == set(ORDER)
    for i, module in enumerate(ORDER):
        path = root / "nanogpt" / f"{module.replace('.', '/')}.py"
        imported = imports_of(path.read_text(encoding="utf-8"))
        assert imported <= set(ORDER[:i]), f"{module} imports {imported - set(ORDER[:i])}"


def test_imports_inside_functions_are_found():
    assert imports_of("def f():\n    from nanogpt.hub import load") == {"hub"}
    assert imports_of("from .hub import (\n    load,\n)") == {"hub"}
    assert imports_of("from . import hub") == imports_of("import nanogpt.hub") == {"hub"}


def test_import_is_light():
    code = """if True:
        import sys, time
        start = time.perf_counter()
        import nanogpt
        print(time.perf_counter() - start, *{"torch", "numpy"} & {*sys.modules})
    """
    seconds = [float(in_a_process(code)) for _ in range(3)]  # prints the seconds alone: torch is not loaded
    assert min(seconds) < 0.05
    assert nanogpt.__version__ == settings["version"] and {*nanogpt.__all__} < {*dir(nanogpt)}
    with pytest.raises(AttributeError, match="module 'nanogpt' has no attribute 'GTP'"):
        _ = nanogpt.GTP


@pytest.mark.parametrize("name", sorted({*nanogpt.__all__} - {"__version__"}))
def test_each_name_leads_to_its_home(name):
    found = getattr(nanogpt, name)
    assert found.__name__ == name and pickle.loads(pickle.dumps(found)) is found
    assert f"from .{nanogpt._HOMES[name]} import" in inspect.getsource(nanogpt), "for type checkers"
    assert found.__module__ == f"nanogpt.{nanogpt._HOMES[name]}"


@pytest.mark.parametrize("first", ["", "import nanogpt.prepare, nanogpt.train", "from nanogpt.cli import main"])
def test_functions_are_not_hidden_by_modules_of_their_name(first):
    code = f"""if True:
        {first}
        from nanogpt import prepare, train
        import nanogpt.train, nanogpt.prepare
        from nanogpt.train import train as same
        from nanogpt.prepare import prepare as too
        print(train is nanogpt.train is same, prepare is nanogpt.prepare is too)
    """
    assert in_a_process(code) == "True True"


SIGNATURES = r'''
@decorate(key="#no")
def f(
    a: str = "# no comment, (",  # a "string" \ and """ too
    b: tuple = (
        1,  # first,
        2,  # second
    ), *rest: int,  # both
    c=lambda x: x,
    # a line of its own: (B, T)
    **options,
) -> dict[str, int]:  # a name: its count
    "Quoted \"summary\"."
    def inner(
        x,  # stays
    ):
        return x

class A:
    async def g(self, x, /, y: int = 3, *, z=(1,)):  # what it gives
        # a remark
        return 1

    @property
    def noted(self) -> "Foo":  # noqa: F821
        return Foo()

    def _private(
        self,
        x,  # stays
    ): ...

    def stub(self) -> int: ...  # stays

    def paragraphs(
        self, a,
        x: "Foo",  # noqa: F821
        y: Callable[[int, int, int], tuple[int, int, int]] = some_function_of_the_module_with_a_long_name,  # why
    ):
        r"""One \d.

        Two.
        """

def bare(a,
    b): pass
'''
DOCUMENTED = r'''
@decorate(key="#no")
def f(a: str = "# no comment, (", b: tuple = (1, 2,), *rest: int, c=lambda x: x, **options) -> dict[str, int]:
    """Quoted "summary".
    Args:
        a: a "string" \\ and \"\"\" too
        b: first, second
        *rest: both
        **options: a line of its own: (B, T)
    Returns:
        a name: its count"""
    def inner(
        x,  # stays
    ):
        return x

class A:
    async def g(self, x, /, y: int = 3, *, z=(1,)):
        """Returns: what it gives"""
        # a remark
        return 1

    @property
    def noted(self) -> "Foo":  # noqa: F821
        return Foo()

    def _private(
        self,
        x,  # stays
    ): ...

    def stub(self) -> int: ...  # stays

    def paragraphs(
        self, a,
        x: "Foo",
        y: Callable[[int, int, int], tuple[int, int, int]] = some_function_of_the_module_with_a_long_name,
    ):  # noqa: F821
        """One \\d.

        Two.
        Args:
            y: why"""

def bare(a,
    b): pass
'''


def test_comments_of_signatures_become_docstrings():
    assert documented(SIGNATURES) == DOCUMENTED == documented(DOCUMENTED)
    assert without_docstrings(SIGNATURES) == without_docstrings(DOCUMENTED)


def test_the_package_has_docstrings_and_one_style_of_imports():
    assert "Args:\n" in inspect.getdoc(nanogpt.generate) and "Returns:\n" in inspect.getdoc(nanogpt.generate)
    for path in (root / "nanogpt").rglob("[a-z]*.py"):
        source = path.read_text(encoding="utf-8")
        assert documented(source) == source and "from ." not in source, path.name
        for node in public_functions(ast.parse(source)):
            signature = source.split("\n")[node.lineno - 1 : node.body[0].lineno - 1]
            comments = [line for line in signature if "  # " in line and not PRAGMA.search(line)]
            assert not comments, f"{path.name}: {node.name} has a signature that the export cannot read"


def test_the_sdist_has_all_and_its_wheel_works_elsewhere(tmp_path):
    names, dist = copy_clone(tmp_path / "clone"), tmp_path / "dist"
    build = ["-m", "build", "--no-isolation", "--outdir", dist, tmp_path / "clone"]  # the sdist, and from it the wheel
    subprocess.run([sys.executable, *build], check=True, capture_output=True)
    [sdist], [wheel] = dist.glob("*.tar.gz"), dist.glob("*.whl")
    packed = {name.partition("/")[2] for name in tarfile.open(sdist).getnames()}
    assert not [name for name in names - packed if not name.startswith((".github/", ".ci/"))]
    trial = [sys.executable, root / "scripts/install_trials.py", "--here", wheel]
    done = subprocess.run(trial, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0 and "installs and works" in done.stdout, done.stdout + done.stderr


def test_readme_imports_what_is_there():
    blocks = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(encoding="utf-8"), re.S)
    imports = [node for block in blocks for node in ast.parse(block).body if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if node.module and node.module.startswith("nanogpt")]
    for node in ours:
        for alias in node.names:
            assert hasattr(import_module(node.module), alias.name), f"{node.module} has no {alias.name}"
    assert len(blocks) == 3 and len(ours) > 5


def test_readme_commands_are_there():
    from nanogpt.cli import COMMANDS

    readme = (root / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^(?:torchrun .* -m )?nanogpt (\w+)", readme, re.M))
    assert named == {*COMMANDS}
