"""The site. `make docs` copies pages, notebooks and pictures to build/docs, and Sphinx turns them into build/site."""
import json
import os
import re
from configparser import ConfigParser
from html import escape
from pathlib import Path
from textwrap import shorten

from docutils.nodes import image, paragraph

import nanogpt

here, root = Path(__file__).parent, Path(nanogpt.__file__).parent.parent
settings = ConfigParser(delimiters=["="])
settings.read(root / "settings.ini", encoding="utf-8")
cfg = settings["DEFAULT"]
source = f"https://github.com/{cfg['user']}/{cfg['repo']}"

CARD = "The loss of a GPT falls, in a minute of training, to 0.003 above its exact floor."

project, author, release = cfg["lib_name"], cfg["author"], cfg["version"]
copyright = f"{author}, {cfg['license']} licence"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode",
              "sphinx-mathjax-offline"]
exclude_patterns = ["**/.ipynb_checkpoints", "README.md", "benchmarks/tables.md"]  # parts of other pages
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the committed outputs are the book; a page of docs/ may ask for more
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_render_markdown_format = "gfm"
nb_code_prompt_show, nb_code_prompt_hide = "Show the code", "Hide the code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False

html_theme, html_title, pygments_dark_style = "furo", "nanogpt", "github-dark"
html_baseurl = f"https://{cfg['user']}.github.io/{cfg['repo']}/"
html_theme_options = {
    "top_of_page_buttons": ["view"],
    "footer_icons": [{"name": "The code on GitHub", "url": source, "html": "GitHub", "class": ""}],
}
html_extra_path = ["llms.txt", "explain.html"]
html_static_path = ["static"]
html_css_files = ["site.css"]
html_favicon = "static/icon.svg"


def as_page(app, name, content):
    "Leaves out set-up cells, folds what JupyterLab folds, and sends links to what is no page (a folder) to GitHub."
    folder = (here / name).parent

    def link(match):
        path = match[1].partition("#")[0]
        target = folder / path
        if re.match(r"[a-z]+:|#", match[1]) or target.is_file():
            return match[0]
        return f"]({source}/blob/{cfg['branch']}/{os.path.relpath(target, here)})"

    text = re.sub(r"\]\(([^)\s]+)\)", link, content[0])
    if app.env.doc2path(name).suffix == ".ipynb":
        notebook = json.loads(text)
        for cell in notebook["cells"]:
            set_up = cell["cell_type"] == "code" and "".join(cell["source"]).startswith(("#| default_exp", "#| hide"))
            if "cellView" in cell["metadata"]:
                cell["metadata"]["tags"] = ["remove-cell" if set_up else "hide-input"]
        text = json.dumps(notebook)
    content[0] = text


def add_alternative_texts(app, doctree):
    "Figures get the texts that their notebook has for them, which myst-nb leaves out."
    path = Path(app.env.doc2path(app.env.docname))
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.suffix == ".ipynb" else []
    figures = [output for cell in cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    for node, figure in zip([node for node in doctree.findall(image) if not node.get("alt")], figures, strict=True):
        node["alt"] = figure["metadata"]["image/png"]["alt"]


def as_rst(app, what, name, thing, options, lines):
    "Docstrings are Markdown: code between single backticks, and stars and bars are themselves."
    pieces = "\n".join(lines).split("`")
    pieces[::2] = [re.sub(r"[*|\\]", r"\\\g<0>", piece) for piece in pieces[::2]]
    pieces[1::2] = [f"``{piece}``\\ " for piece in pieces[1::2]]
    text = "".join(pieces)
    lines[:] = re.sub(r"\n(Args|Returns):\n", r"\n\n\1:\n", text).split("\n")


def write_reference():
    "One page for each module, from its docstrings."
    (here / "reference").mkdir(exist_ok=True)
    for path in Path(nanogpt.__file__).parent.glob("[a-z]*.py"):
        page = f"# nanogpt.{path.stem}\n\n```{{eval-rst}}\n.. automodule:: nanogpt.{path.stem}\n   :members:\n```\n"
        (here / "reference" / f"{path.stem}.md").write_text(page, encoding="utf-8")


def describe(app, name, template, context, doctree):
    "A page's first paragraph and the card, for search engines and for links that somebody shares; and its source."
    first = doctree.next_node(paragraph) if doctree else None
    text = shorten(first.astext() if first else cfg["description"], 200, placeholder=" …")
    title = re.sub("<.*?>", "", str(context.get("title", project)))
    tags = {"title": title, "description": text, "type": "website", "url": context.get("pageurl") or html_baseurl,
            "site_name": project, "image": f"{html_baseurl}_static/card.png", "image:alt": CARD}
    metas = [f'property="og:{key}" content="{escape(value)}"' for key, value in tags.items()]
    metas += [f'name="description" content="{escape(text)}"', 'name="twitter:card" content="summary_large_image"']
    folder = "docs/" if (root / "docs" / f"{name}.md").exists() else ""  # here it is beside nbs/
    context["theme_source_view_link"] = f"{source}/blob/{cfg['branch']}/{folder}{{filename}}"
    if name.startswith("reference/"):
        context["page_source_suffix"] = ""  # no such file: the functions link to their sources
    context["metatags"] = context.get("metatags", "") + "".join(f"<meta {meta}>\n" for meta in metas)


def write_benchmarks():
    "The tables of benchmarks.md."
    lines = []
    for path in sorted((here / "benchmarks" / "results").glob("*.json")):
        results = json.loads(path.read_text(encoding="utf-8"))
        if "benchmarks" not in results:
            continue
        lines += [f"## {path.stem}", "", f"`{results.get('command', f'nanogpt bench {path.stem}')}`", ""]
        for benchmark in results["benchmarks"]:
            lines += [f"### {benchmark['title']}", ""]
            lines += [f"| | median, seconds | {benchmark['unit']} per second | ratio |", "| --- | ---: | ---: | ---: |"]
            for row in benchmark["rows"]:
                rate = f"{row['rate']:,.0f}" if row["rate"] > 1000 else f"{row['rate']:.3g}"
                lines.append(f"| {row['name']} | {row['seconds']:.3g} | {rate} | {row['ratio']:.3g} |")
            lines += ["", *(f"- {name}: {note}" for name, note in benchmark["notes"].items())]
            lines += ["", f"*{benchmark['machine']}*", ""]
    (here / "benchmarks" / "tables.md").write_text("\n".join(lines), encoding="utf-8")


def setup(app):
    write_reference()
    write_benchmarks()
    app.connect("source-read", as_page)
    app.connect("doctree-read", add_alternative_texts)
    app.connect("html-page-context", describe)
    app.connect("autodoc-process-docstring", as_rst, priority=0)  # before napoleon, which reads Args
