"""Write what the chapters say about themselves into README.md and nbs/index.ipynb: their table and the glossary.

The table comes from each chapter's first cell. The glossary holds the sentence in which a chapter marks a term with
<dfn>…</dfn>. With --check, it only says what would change, and where a term is used before its definition.
"""
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

from badges import rewrite, root

chapters = sorted((root / "nbs").glob("[0-9]*.ipynb"))
OPTIONAL = ("06_modern", "11_distributed", "13_hub", "15_reward", "16_inside", "17_scaling", "18_bench")
FIRST = {
    "title (# N · Name)": r"^# ([^\n]+)",
    "promise (> …)": r"^> ([^\n]+)",
    "time (**Time:** … .)": r"\*\*Time:\*\* (?:about )?(.+?)\.",
    "link to Colab": r"\((https://colab[^)]+)\)",
}  # what a chapter's first cell must have
DFN = re.compile(r"<dfn>(.+?)</dfn>")
SENTENCE = re.compile(r"(?:(?<=[.!?])|(?<=[.!?]\)))(?<!\bal\.)(?<!\be\.g\.)\s+(?=[A-Z*<$`(\d])")


Sentence = tuple[str, tuple[int, int, int], str]  # chapter, place and text


class Term(NamedTuple):
    name: str
    chapter: str  # "04_attention"
    place: tuple[int, int, int]  # chapter, cell and sentence: the order in which a reader meets it
    sentence: str


def plain(text: str) -> str:
    "Prose without code, formulas, addresses and headings, in which a term may be used for the first time."
    text = re.sub(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)", " ", text, flags=re.S)
    return re.sub(r"^#.*$", "", text, flags=re.M)


def sentences(source: str) -> list[str]:
    "The sentences of a Markdown cell. A blank line and a new item of a list end one too."
    parts = re.split(r"\n\s*\n|\n(?=\s*(?:[-*|]|\d+\.)\s)", source)
    return [re.sub(r"^[-*]\s+", "", " ".join(s.split())) for part in parts for s in SENTENCE.split(part)]


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def prose() -> list[Sentence]:
    "Every sentence that a reader meets, except those in the first and the last cell of a chapter."
    return [
        (path.stem, (number, i, j), sentence)
        for number, path in enumerate(chapters)
        for i, cell in list(enumerate(cells(path)))[1:-1]
        if cell["cell_type"] == "markdown"
        for j, sentence in enumerate(sentences("".join(cell["source"])))
    ]


def marked(everything: list[Sentence]) -> list[Term]:
    "Every marked term, in the order of the alphabet."
    found = [
        Term(name, chapter, place, re.sub(r"</?dfn>", "", sentence))
        for chapter, place, sentence in everything
        for name in DFN.findall(sentence)
    ]
    return sorted(found, key=lambda term: term.name.lower())


def early_uses(terms: list[Term], everything: list[Sentence]) -> list[str]:
    "Terms that are marked twice, or used before their definition."
    problems, used = [], [(place, chapter, sentence, plain(sentence)) for chapter, place, sentence in everything]
    for one, two in zip(terms, terms[1:]):
        if one.name.lower() == two.name.lower():
            problems.append(f"{one.name}: defined in {one.chapter} and in {two.chapter}")
    for term in terms:
        word = re.compile(rf"(?<![\w-]){re.escape(term.name)}s?(?![\w-])", re.I)
        for place, chapter, sentence, words in used:
            if place < term.place and word.search(words):
                problems.append(f"{term.name}: defined in {term.chapter}, but used in {chapter}: {sentence[:100]}")
                break
    return problems


def glossary(terms: list[Term]) -> str:
    "A list with one line per term, and a link to the chapter."
    lines = []
    for name, chapter, _, sentence in terms:
        lines.append(f"- **{name[0].upper()}{name[1:]}** ([{int(chapter[:2])}]({chapter}.ipynb)): {sentence}")
    return "\n".join(lines)


def table(folder: str) -> str:
    "One row per chapter, with links that start from `folder`."
    lines = ["| chapter | what you do | time | |", "| --- | --- | --- | --- |"]
    for path in chapters:
        first = "".join(cells(path)[0]["source"])
        parts = {name: re.search(pattern, first, re.M | re.S) for name, pattern in FIRST.items()}
        if missing := [name for name, part in parts.items() if not part]:
            sys.exit(f"nbs/{path.name}: the first cell has no {', no '.join(missing)}")
        title, promise, time, colab = (" ".join(part[1].split()) for part in parts.values() if part)
        mark = "optional" if path.stem in OPTIONAL else "core"
        lines.append(
            f"| [{title}]({folder}{path.name}) | {promise} | {time} | {mark} · [Colab]({colab}) |"
        )
    return "\n".join(lines)


def between(text: str, name: str, new: str) -> str:
    "The text with what is between <!-- name --> and <!-- /name --> replaced."
    begin, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
    before, _, rest = text.partition(begin)
    return before + begin + new + end + rest.partition(end)[2]


def main() -> int:
    everything, readme, index = prose(), root / "README.md", root / "nbs" / "index.ipynb"
    terms = marked(everything)
    parts = {"chapters": table(""), "glossary": glossary(terms)}
    notebook = json.loads(index.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        for name, text in parts.items():
            source = "".join(cell["source"])
            if f"<!-- {name} -->" in source:
                cell["source"] = between(source, name, text).splitlines(keepends=True)
    new = {readme: between(readme.read_text(encoding="utf-8"), "chapters", table("nbs/"))}
    new[index] = json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    stale = rewrite(new, "not what the chapters say; run scripts/index.py")
    problems = early_uses(terms, everything)
    print("\n".join(problems))
    return 1 if problems or (stale and "--check" in sys.argv) else 0


if __name__ == "__main__":
    sys.exit(main())
