"""Every exercise has a solution, and tells those who err where they err. The wrong answers are in `mutants`."""
import re
import sys
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
from mutants import MISTAKES

from nanogpt import check, tutor

root = Path(__file__).parent.parent
table = root / "tests" / "mutants" / "README.md"
names = sorted(path.stem for path in (root / "tests" / "mutants").glob("[a-z]*.py"))
for name in names:
    import_module(f"mutants.{name}")
strings = sorted({exercise.chapter for exercise in tutor.EXERCISES.values()})
projects = [string.removeprefix("project ") for string in strings if string.startswith("project ")]
chapters = [string for string in strings if not string.startswith("project ")]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def verdict_on(exercise, answer) -> tutor.Verdict:
    return exercise(*answer) if isinstance(answer, tuple) else exercise(answer)


@pytest.mark.parametrize("exercise, mistake, answer, words", MISTAKES, ids=lambda part: getattr(part, "name", None))
def test_a_wrong_answer_is_told_what_is_wrong(exercise, mistake, answer, words):
    verdict = verdict_on(exercise, answer)
    assert verdict.state == "wrong" and words in verdict.message, f"{mistake}: {verdict}"


@pytest.mark.parametrize("name", tutor.EXERCISES)
def test_an_exercise_is_complete(name):
    exercise = tutor.EXERCISES[name]
    ours = [mistake for mistake in MISTAKES if mistake[0].name == name]
    messages = [verdict_on(exercise, answer).message for _, _, answer, _ in ours]
    assert len(set(messages)) == len(ours) >= 3, "each mistake has a message of its own"
    assert len(exercise.hints) == len(set(exercise.hints)) == 3
    assert getattr(check, name) is exercise and exercise.__doc__
    assert exercise(...).state == "to do"


def code_of(path: Path) -> str:
    return "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code")


@pytest.mark.parametrize("chapter", chapters)
def test_a_chapter_has_five_exercises_and_their_solutions(chapter):
    ours = [name for name, exercise in tutor.EXERCISES.items() if exercise.chapter == chapter]
    assert len(ours) >= 5
    assert_asked_and_solved(ours, f"{chapter}.ipynb", f"{chapter}.ipynb")


@pytest.mark.parametrize("project", projects)
def test_a_project_has_four_checks_and_their_solutions(project):
    ours = [name for name, exercise in tutor.EXERCISES.items() if exercise.chapter == f"project {project}"]
    assert len(ours) >= 4
    assert_asked_and_solved(ours, f"projects/{project}.ipynb", f"project_{project}.ipynb")


def assert_asked_and_solved(ours: list[str], asked: str, solved: str):
    "Each once, in the same order, in the notebook and in its solution."
    assert re.findall(r"^check\.(\w+)\(\w", code_of(root / "nbs" / asked), re.M) == ours
    assert re.findall(r"^assert check\.(\w+)\(", code_of(root / "nbs" / "solutions" / solved), re.M) == ours


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python 3.14 words some errors otherwise")
def test_the_table_of_mistakes_is_up_to_date():
    assert table.read_text(encoding="utf-8") == mistakes_as_text(), "run python tests/test_exercises.py"


def mistakes_as_text() -> str:
    "A table to be read by a person: would this message have helped?"
    text = "# What each mistake is told\n\nWritten by `python tests/test_exercises.py`.\n"
    for name, exercise in sorted(tutor.EXERCISES.items(), key=lambda item: item[1].chapter):
        text += f"\n## {exercise.chapter}: {name}\n\n{exercise.__doc__}\n\n| mistake | message |\n| --- | --- |\n"
        for mistake, answer in [(mistake, answer) for other, mistake, answer, _ in MISTAKES if other is exercise]:
            message = verdict_on(exercise, answer).message.replace("|", r"\|")
            text += f"| {mistake} | {message} |\n"
    return text


if __name__ == "__main__":
    table.write_text(mistakes_as_text(), encoding="utf-8")
    tutor.PROGRESS.unlink()
