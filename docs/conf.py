"""The site. `make docs` copies pages, notebooks and their pictures to build/docs, and Sphinx turns them into build/site."""
import json
import os
import re
from configparser import ConfigParser
from html import escape
from pathlib import Path
from textwrap import shorten

from docutils.nodes import paragraph

import nanogpt

here = Path(__file__).parent
settings = ConfigParser(delimiters=["="])
settings.read(Path(nanogpt.__file__).parent.parent / "settings.ini", encoding="utf-8")
cfg = settings["DEFAULT"]
source = f"https://github.com/{cfg['user']}/{cfg['repo']}"

CARD = "The loss of a GPT falls, in a minute of training, to 0.003 above its exact floor."

project, author, release = cfg["lib_name"], cfg["author"], cfg["version"]
copyright = f"{author}, {cfg['license']} licence"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode",
              "sphinx-mathjax-offline"]
exclude_patterns = ["**/.ipynb_checkpoints", "README.md"]  # whose parts are in index.md and library.md
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

html_theme, html_title = "furo", "nanogpt"
html_baseurl = f"https://{cfg['user']}.github.io/{cfg['repo']}/"
html_theme_options = {"source_repository": source, "source_branch": cfg["branch"], "source_directory": "docs/"}
html_extra_path = ["llms.txt", "explain.html"]
html_static_path = ["static"]
html_css_files = ["site.css"]


def as_page(app, name, content):
    "Leaves out set-up cells, folds the cells that JupyterLab folds, and sends links to what is no page, such as a folder, to GitHub."
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
    "A page's first paragraph and the card, for search engines and for links that somebody shares."
    first = doctree.next_node(paragraph) if doctree else None
    text = shorten(first.astext() if first else cfg["description"], 200, placeholder=" …")
    title = re.sub("<.*?>", "", str(context.get("title", project)))
    tags = {"title": title, "description": text, "type": "website", "url": context.get("pageurl") or html_baseurl,
            "site_name": project, "image": f"{html_baseurl}_static/card.png", "image:alt": CARD}
    metas = [f'property="og:{key}" content="{escape(value)}"' for key, value in tags.items()]
    metas += [f'name="description" content="{escape(text)}"', 'name="twitter:card" content="summary_large_image"']
    context["metatags"] = context.get("metatags", "") + "".join(f"<meta {meta}>\n" for meta in metas)


def setup(app):
    write_reference()
    app.connect("source-read", as_page)
    app.connect("html-page-context", describe)
    app.connect("autodoc-process-docstring", as_rst, priority=0)  # before napoleon, which reads Args
