"""Links of every page lead somewhere, and the site's pages are those that its contents list.

`make docs` names the folder of the site that it built in NANOGPT_SITE; then the pages themselves are read too.
"""
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

root = Path(__file__).parent.parent
site = Path(os.environ.get("NANOGPT_SITE", "no site"))
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


def test_llms_txt_names_pages_of_the_site():
    links = re.findall(r"\]\(([^)]+)\.html\)", (root / "docs" / "llms.txt").read_text(encoding="utf-8"))
    assert len(links) > 9
    for link in links:
        sources = root / f"{link}.ipynb", root / f"{link}.md", root / "docs" / f"{link}.md"
        assert any(source.exists() for source in sources), link


class Reader(HTMLParser):
    "Collects the tags with their attributes, and the text inside links."

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.link = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, {name: value or "" for name, value in attributes}))
        if tag == "a":
            self.link = self.tags[-1][1]
            self.link["text"] = self.link.get("aria-label", "")
        elif self.link is not None:
            self.link["text"] += self.tags[-1][1].get("alt", "")

    def handle_endtag(self, tag):
        if tag == "a":
            self.link = None

    def handle_data(self, data):
        if self.link is not None:
            self.link["text"] += data


@pytest.mark.parametrize("path", sorted(site.rglob("*.html")), ids=lambda path: path.relative_to(site).as_posix())
def test_built_page_is_complete_and_asks_nobody(path):
    page = Reader(path.read_text(encoding="utf-8"))
    meta = {one.get("name", one.get("property")): one.get("content") for tag, one in page.tags if tag == "meta"}
    assert dict(page.tags)["html"]["lang"] == "en" and "title" in dict(page.tags) and meta["description"]
    for tag, one in page.tags:
        loaded = one["href"] if tag == "link" and one.get("rel") != "canonical" else one.get("src", "")
        assert not re.match("(https?:)?//", loaded), f"{loaded} comes from the net"
        if tag == "img":
            assert one.get("alt") and not one["alt"].endswith(".png"), f"{one['src']} has no alternative text"
        if tag == "a" and "href" in one:
            assert one["text"].strip(), f"the link to {one['href']} has no text"
            target = unquote(one["href"].partition("#")[0].partition("?")[0])
            assert re.match("[a-z]+:", target) or (path.parent / target).exists(), one["href"]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert path.stem == "search" or levels.count(1) == 1
    assert all(deeper <= level + 1 for level, deeper in zip(levels, levels[1:])), "a heading skips a level"
