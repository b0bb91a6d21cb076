"""A step of `nbdev-export`: comments beside parameters move into docstrings, for `help()` and editors.

pyproject.toml names `exported` (`export_procs`). Only the export needs this module. It imports nothing of the
package, so that a broken module can be exported anew.
"""
import ast
import io
import re
import textwrap
import tokenize

from nbdev import maker

WIDTH = 110
PRAGMA = re.compile(r"#\s*(noqa|fmt:|type:|pragma|pyright:)")

# nbdev wraps the list of names to 120 characters, and then puts `__all__ = ` before it.
maker.TextWrapper = lambda width, **options: textwrap.TextWrapper(width - len("__all__ = "), **options)


def exported(cell):
    "nbdev calls it for each cell, before it writes the module."
    if cell.cell_type == "markdown" and cell.source.startswith("# "):
        cell.source = wrapped_promise(cell.source)
    elif cell.cell_type == "code" and "export" in cell.directives_:
        cell.source = documented(cell.source)
        vars(cell)["import2relative"] = lambda _: None  # imports stay as they are written


def wrapped_promise(source: str) -> str:
    "The quotation under a notebook's title, which becomes the module's docstring, in lines that fit."
    wrap = lambda line: "\n".join(textwrap.wrap(line, WIDTH, subsequent_indent="> "))
    return "\n".join(wrap(line) if line.startswith("> ") else line for line in source.split("\n"))


def documented(source: str) -> str:
    "The source with the comments in signatures of public functions moved into their docstrings."
    for number in range(len(public_functions(ast.parse(source)))):
        changed = with_docstring(source, public_functions(ast.parse(source))[number])
        if without_docstrings(changed) == without_docstrings(source):  # a signature too odd for us stays as it is
            source = changed
    return source


def public_functions(scope: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    "Functions and methods, but not functions inside functions."
    found = []
    for node in ast.iter_child_nodes(scope):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found += public_functions(node)
        elif not node.name.startswith("_") or node.name.endswith("__"):
            found.append(node)
    return found


def without_docstrings(source: str) -> str | None:
    "The syntax tree as text, docstrings of functions left out; None where there is none."
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def with_docstring(source: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    "The source with one function changed, if comments belong to its parameters or its return."
    lines = source.split("\n")
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.start[0] >= node.lineno]
    last = next(t.start[0] for t in tokens if t.type == tokenize.NEWLINE)  # where the signature ends
    comments = {t.start[0]: t for t in tokens if t.type == tokenize.COMMENT and t.start[0] <= last}
    spec, body = node.args, node.body[0]
    parameters = [p for p in (*spec.posonlyargs, *spec.args, spec.vararg, *spec.kwonlyargs, spec.kwarg) if p]
    stars = {spec.vararg: "*", spec.kwarg: "**"}
    texts, pragmas = {}, ""
    for row, comment in comments.items():
        above, below = [p for p in parameters if p.lineno < row], [p for p in parameters if p.lineno > row]
        alone = lines[row - 1].lstrip().startswith("#")  # then it speaks of the next parameter
        beside = [p for p in parameters if p.lineno == row] or (below[:1] if alone else above[-1:])
        name = "" if row == last else ", ".join(stars.get(p, "") + p.arg for p in beside)
        if PRAGMA.match(comment.string):
            pragmas += f"  {comment.string}"
        elif name or row == last:
            texts[name] = f"{texts.get(name, '')} {comment.string.lstrip('# ')}".strip()
        else:
            return source
    if not texts or body.lineno <= last:
        return source

    indent, returns = " " * (node.col_offset + 4), texts.pop("", None)
    summary = ast.get_docstring(node, clean=False)
    text = [(summary or "").rstrip()]
    if texts:
        text += [f"{indent}Args:", *(f"{indent}    {name}: {note}" for name, note in texts.items())]
    if returns:
        text += [f"{indent}Returns:", f"{indent}    {returns}"]
    doc = f"Returns: {returns}" if summary is None and not texts else "\n".join(text)
    doc = doc.replace("\\", "\\\\").replace('"""', r"\"\"\"") + (f"\n{indent}" if doc.endswith('"') else "")
    start, end = (last, last) if summary is None else (body.lineno - 1, body.end_lineno)
    lines[start:end] = f'{indent}"""{doc}"""'.split("\n")

    for row, comment in comments.items():
        lines[row - 1] = lines[row - 1][: comment.start[1]]
    rows = [line.rstrip() for line in lines[node.lineno - 1 : last] if line.strip()]
    lines[node.lineno - 1 : last] = wrapped(rows, pragmas)
    return "\n".join(lines)


def wrapped(rows: list[str], pragmas: str) -> list[str]:
    "A signature on one line where it fits, else its parameters on one, else as it was."
    if len(rows) > 2 and rows[0].endswith("(") and rows[-1].lstrip().startswith(")"):
        inner = rows[1]
        for row in rows[2:-1]:
            inner += ("" if inner[-1] in "([{" or row.lstrip()[0] in ")]}" else " ") + row.lstrip()
        inner = inner.rstrip(",")
        one = f"{rows[0]}{inner.lstrip()}{rows[-1].lstrip()}{pragmas}"
        if len(one) <= WIDTH:
            return [one]
        if len(inner) <= WIDTH:
            rows = [rows[0], inner, rows[-1]]
    return [*rows[:-1], rows[-1] + pragmas]
