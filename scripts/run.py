"""Run notebooks from top to bottom in fresh kernels, each in an empty folder, and save them with their outputs.

    python scripts/run.py nbs/04_attention.ipynb nbs/tools/plot.ipynb

Cells that a reader need not see are folded (in JupyterLab and Colab): set-up, imports, and those that begin with
`#| echo: false`. Then `nbdev-clean` drops what a notebook need not remember. With --fold, nothing is run.
"""
import ast
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDED = ("#| default_exp", "#| hide", "#| echo: false")


def folded(source: str) -> bool:
    "Whether a reader need not see this code."
    if source.startswith(FOLDED):
        return True
    try:
        statements = ast.parse(source).body
    except SyntaxError:  # a cell with IPython's own commands
        return False
    return bool(statements) and all(isinstance(node, ast.Import | ast.ImportFrom) for node in statements)


def fold(cell: nbformat.NotebookNode):
    for key in ("jupyter", "cellView"):
        cell.metadata.pop(key, None)
    if folded(cell.source):
        cell.metadata.update(jupyter={"source_hidden": True}, cellView="form")


def execute(notebook: nbformat.NotebookNode):
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):  # GitHub shows no notebook that holds widgets
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)


def save(path: Path, run: bool):
    notebook = nbformat.read(path, 4)
    if run:
        execute(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            fold(cell)
    nbformat.write(notebook, path)
    subprocess.run([Path(sys.executable).parent / "nbdev-clean", "--fname", path], check=True)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        if not name.startswith("-"):
            start = time.perf_counter()
            save(Path(name), run="--fold" not in sys.argv)
            print(f"{name}: {time.perf_counter() - start:.0f} s")
