"""Links of every page lead somewhere, and the site's pages are those that its contents list."""

import json
import re
from pathlib import Path

import pytest

root = Path(__file__).parent.parent
PAGES = sorted(
    path
    for folder in ("", "docs", "speedrun", "tests/mutants", "nbs", "nbs/tools", "nbs/solutions", "nbs/projects")
    for kind in ("*.md", "*.ipynb")
    for path in (root / folder).glob(kind)
)


def prose(path: Path) -> str:
    "A page's Markdown, without its code."
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)


def anchor(heading: str) -> str:
    "As GitHub, JupyterLab and the site make it of a heading."
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(root).as_posix())
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match("[a-z]+:", link):
            continue
        page, _, place = link.partition("#")
        site = path.parent if (path.parent / page).exists() else root  # pages of docs/ are copied beside nbs/
        target = site / page if page else path
        assert target.exists(), link
        if place:
            headings = re.findall(r"^#+ (.*)$", prose(target), re.M)
            assert place.lower() in map(anchor, headings), link


def test_every_page_is_in_the_contents():
    contents = (root / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {path.stem for path in (root / "docs").glob("*.md")} - {"index"}
    assert not {page for page in pages if not re.search(rf"^{page}$", contents, re.M)}
