"""Every chapter has the parts that a chapter has. `make test` runs each of them in a folder of its own."""

import re
from pathlib import Path

import nbformat
import pytest

nbs = Path(__file__).parent.parent / "nbs"
chapters = sorted(nbs.glob("[0-9]*.ipynb"))
EXPORTS = {
    "02_corpus": "tales",
    "06_modern": "rotary",
    "08_train": "step",
    "12_run": "train",
    "14_finetune": "lora",
}  # others export a module of their own name


@pytest.mark.parametrize("path", chapters, ids=lambda path: path.stem)
def test_chapter_has_its_parts(path):
    cells = nbformat.read(path, 4).cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    lesson, _, exercises = prose.partition("\n## Exercises\n")
    code = [cell for cell in cells if cell.cell_type == "code"]
    outputs = [output for cell in code for output in cell.outputs]
    first = cells[0].source
    assert first.startswith(f"# {int(path.stem[:2])} · ") and "\n> " in first
    assert "**You need:**" in first and "**Time:**" in first
    assert ".svg" not in prose, "a badge is a picture from the net, and breaks offline"
    assert code[0].source == f"#| default_exp {EXPORTS.get(path.stem, path.stem[3:])}"
    assert code[1].source.startswith("#| hide") and "pip" in code[1].source
    assert "## What we built" in prose
    assert 1_500 <= len(lesson.split()) <= 4_000 and len(exercises.split()) <= 1_000
    assert bool(exercises) == (path.stem != "18_bench")
    assert any("whole_gpt(" in cell.source for cell in code), "you are here"
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert path.stat().st_size < 1_000_000


@pytest.mark.parametrize("path", chapters, ids=lambda path: path.stem)
def test_figures_have_alternative_text_and_a_caption(path):
    cells = nbformat.read(path, 4).cells
    figures = 0
    for cell, after in zip(cells, cells[1:]):
        images = [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
        figures += len(images)
        for output in images:
            assert output.metadata["image/png"]["alt"].removeprefix("Figure. "), cell.id
            assert after.cell_type == "markdown" and "*What to see:" in after.source, cell.id
    assert figures >= 5


@pytest.mark.parametrize("path", chapters, ids=lambda path: path.stem)
def test_answers_to_predictions_are_folded(path):
    predictions = [cell.source for cell in nbformat.read(path, 4).cells if "**Predict" in cell.source]
    assert predictions
    for source in predictions:
        assert source.count("**Predict:**") == len(re.findall("<details>\n?<summary>Answer</summary>\n\n", source))
        assert source.count("\n</details>") == source.count("<details>")


@pytest.mark.parametrize("number", range(len(chapters)), ids=lambda number: chapters[number].stem)
def test_chapters_link_to_their_neighbours(number):
    cells = nbformat.read(chapters[number], 4).cells
    for neighbour in chapters[max(0, number - 1) : number] + chapters[number + 1 : number + 2]:
        for cell in (cells[0], cells[-1]):
            assert f"]({neighbour.name})" in cell.source


def test_colab_and_kaggle_open_this_notebook():
    services = r"colab.research.google.com/github/", r"kaggle.com/kernels/welcome\?src=https://github.com/"
    for path in [*chapters, *nbs.glob("projects/*.ipynb"), nbs / "index.ipynb"]:
        cells = nbformat.read(path, 4).cells
        for cell in (cells[0], cells[-1]) if path in chapters else cells[:1]:
            for service in services:
                link = rf"\(https://{service}[\w./-]+/nbs/{path.relative_to(nbs).as_posix()}\)"
                assert re.search(link, cell.source), f"{path.name} has no link to {service}"


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
