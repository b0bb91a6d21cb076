"""Every exercise has a solution, and tells those who err where they err. The wrong answers are in `mutants`."""
import re
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
everything = sorted({exercise.chapter for exercise in tutor.EXERCISES.values()})
projects = [chapter for chapter in everything if chapter.startswith("project ")]
chapters = [chapter for chapter in everything if chapter not in projects]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def message_of(exercise, answer) -> str:
    return exercise(*answer).message if isinstance(answer, tuple) else exercise(answer).message


@pytest.mark.parametrize("exercise, mistake, answer, words", MISTAKES, ids=lambda part: getattr(part, "name", None))
def test_a_wrong_answer_is_told_what_is_wrong(exercise, mistake, answer, words):
    verdict = exercise(*answer) if isinstance(answer, tuple) else exercise(answer)
    assert verdict.state == "wrong" and words in verdict.message, f"{mistake}: {verdict}"


@pytest.mark.parametrize("name", tutor.EXERCISES)
def test_an_exercise_is_complete(name):
    exercise = tutor.EXERCISES[name]
    ours = [mistake for mistake in MISTAKES if mistake[0].name == name]
    messages = [message_of(exercise, answer) for _, _, answer, _ in ours]
    assert len(set(messages)) == len(ours) >= 3, "each mistake has a message of its own"
    assert len(exercise.hints) == len(set(exercise.hints)) == 3
    assert getattr(check, name) is exercise and exercise.__doc__
    assert exercise(...).state == "to do"


def code_of(path: Path) -> str:
    return "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code")


def asked_and_solved(chapter: str, asked: str, solved: str) -> list[str]:
    "The exercises of a chapter, which two notebooks must have in the same order."
    ours = [name for name, exercise in tutor.EXERCISES.items() if exercise.chapter == chapter]
    assert re.findall(r"^check\.(\w+)\(\w", code_of(root / "nbs" / asked), re.M) == ours, "each once"
    assert re.findall(r"^assert check\.(\w+)\(", code_of(root / "nbs" / solved), re.M) == ours
    return ours


@pytest.mark.parametrize("chapter", chapters)
def test_a_chapter_has_five_exercises_and_their_solutions(chapter):
    assert len(asked_and_solved(chapter, f"{chapter}.ipynb", f"solutions/{chapter}.ipynb")) >= 5


@pytest.mark.parametrize("project", projects)
def test_a_project_has_four_exercises_and_their_solutions(project):
    name = project.removeprefix("project ")
    assert len(asked_and_solved(project, f"projects/{name}.ipynb", f"solutions/project_{name}.ipynb")) >= 4


def test_the_table_of_mistakes_is_up_to_date():
    assert table.read_text(encoding="utf-8") == mistakes_as_text(), "run python tests/test_exercises.py"


def mistakes_as_text() -> str:
    "A table to be read by a person: would this message have helped?"
    text = "# What each mistake is told\n\nWritten by `python tests/test_exercises.py`.\n"
    for name, exercise in sorted(tutor.EXERCISES.items(), key=lambda item: item[1].chapter):
        text += f"\n## {exercise.chapter}: {name}\n\n{exercise.__doc__}\n\n| mistake | message |\n| --- | --- |\n"
        rows = [(mistake, message_of(exercise, answer)) for other, mistake, answer, _ in MISTAKES if other is exercise]
        text += "".join(f"| {mistake} | {message.replace('|', chr(92) + '|')} |\n" for mistake, message in rows)
    return text


if __name__ == "__main__":
    table.write_text(mistakes_as_text(), encoding="utf-8")
    tutor.PROGRESS.unlink()
