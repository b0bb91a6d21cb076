"""Every chapter is whole: it stands alone, in an empty folder, and has the parts that a chapter has."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

nbs = Path(__file__).parent.parent / "nbs"
chapters = sorted(nbs.glob("[0-9]*.ipynb"))
EXPORTS = {
    "02_corpus": "tales",
    "06_modern": "rotary",
    "08_train": "step",
    "12_run": "train",
}  # others export a module of their own name


@pytest.mark.parametrize("path", chapters, ids=lambda path: path.stem)
def test_chapter_runs_alone(path, tmp_path):
    notebook = nbformat.read(path, 4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert not [
        output for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "error"
    ]


@pytest.mark.parametrize("path", chapters, ids=lambda path: path.stem)
def test_chapter_has_its_parts(path):
    cells = nbformat.read(path, 4).cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    code = [cell for cell in cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    assert cells[0].source.startswith(f"# {int(path.stem[:2])} · ") and "\n> " in cells[0].source
    assert f"/nbs/{path.name})" in cells[0].source, "the badge opens this chapter"
    assert code[0].source == f"#| default_exp {EXPORTS.get(path.stem, path.stem[3:])}"
    assert code[1].source.startswith("#| hide") and "pip" in code[1].source
    assert "## What we built" in prose
    assert 1_500 <= len(prose.split()) <= 4_500
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
    assert len(re.findall(r"\*\*Predict before you run", prose)) >= 1
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert path.stat().st_size < 1_000_000


def test_badges_name_chapters_that_exist():
    for path in [*chapters, nbs.parent / "README.md"]:
        for name in re.findall(r"/blob/[\w.-]+/nbs/([\w/.-]+\.ipynb)", path.read_text(encoding="utf-8")):
            assert (nbs / name).exists(), f"{path.name} links to {name}"


@pytest.mark.parametrize("path", sorted(nbs.rglob("*.ipynb")), ids=lambda path: path.stem)
def test_no_widget_state_is_committed(path):
    """GitHub does not show a notebook whose widgets it cannot find; clear the sliders' output, the figure under
    them stays.
    """
    notebook = nbformat.read(path, 4)
    assert "widgets" not in notebook.metadata
    kinds = {kind for cell in notebook.cells for output in cell.get("outputs", []) for kind in output.get("data", {})}
    assert not [kind for kind in kinds if kind.startswith("application/vnd.jupyter.widget")]
