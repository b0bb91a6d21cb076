"""Chapters in JupyterLab, in a real browser: Run All, an exercise, a slider, tokens under the mouse, Stop.

Three chapters are run here, and all of them by `make browser` (NANOGPT_BROWSER=all).
"""
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright.expect.set_options(timeout=60_000)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium")
nbs = Path(__file__).parent.parent.parent / "nbs"
ALL = sorted(path.stem for path in nbs.glob("[0-9]*.ipynb"))
CHAPTERS = ALL if os.environ.get("NANOGPT_BROWSER") == "all" else ["01_tokenizer", "04_attention", "10_checkpoint"]

# what JupyterLab knows of the notebook in front: cells that have not run yet, and errors
STATE = """() => {
  const cells = [...jupyterapp.shell.currentWidget.content.model.cells].map(cell => cell.toJSON());
  const code = cells.filter(cell => cell.cell_type === 'code' && [].concat(cell.source).join('').trim());
  const errors = code.flatMap(cell => cell.outputs.filter(output => output.output_type === 'error'));
  return {left: code.filter(cell => cell.execution_count === null).length,
          errors: errors.map(error => error.ename + ': ' + error.evalue)};
}"""
IDLE = "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
WIDE = """() => [...document.querySelectorAll('.jp-Notebook, .jp-RenderedHTMLCommon, .jp-OutputArea-output img')]
  .filter(part => part.scrollWidth > part.clientWidth + 1).length"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A browser, and the address of a JupyterLab whose folder holds the chapters without outputs."
    folder = tmp_path_factory.mktemp("lab")
    for name in CHAPTERS:
        notebook = nbformat.read(nbs / f"{name}.ipynb", 4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, folder / f"{name}.ipynb")
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3"}}
    own = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SLIDER)], metadata=kernel)
    nbformat.write(own, folder / "own.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--no-browser", "--allow-root", "--expose-app-in-browser", f"--port={port}", "--ServerApp.ip=127.0.0.1"]
    options += ["--IdentityProvider.token=", f"--ServerApp.root_dir={folder}", "--LabApp.news_url=None"]
    homes = ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    home = {name: str(folder / ".home") for name in homes}
    with open(folder / ".log", "wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], stdout=log, stderr=log, env={**os.environ, **home}
        )
    try:
        for _ in range(120):
            try:
                urlopen(f"http://127.0.0.1:{port}/api", timeout=5).close()
                break
            except (URLError, OSError):
                time.sleep(0.5)
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            yield browser, f"http://127.0.0.1:{port}/lab/tree"
            browser.close()
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def page(lab):
    page = lab[0].new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    yield page
    page.close()


def run_all(page, address: str):
    "Open a notebook, and choose Run All Cells in the menu."
    page.goto(f"{address}.ipynb?reset")
    page.wait_for_function(IDLE)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def wait_for_all(page, patience: int = 1800):
    "Wait until the last cell is done, longer than a busy machine needs. An error ends it at once."
    deadline = time.monotonic() + patience
    while (state := page.evaluate(STATE))["left"]:
        assert not state["errors"] and time.monotonic() < deadline, state
        page.wait_for_timeout(500)
    assert not state["errors"]


def cell_with(page, text: str):
    "The first cell whose code holds a text, scrolled into view."
    index = page.evaluate(
        "text => [...jupyterapp.shell.currentWidget.content.model.cells].findIndex("
        "cell => cell.type === 'code' && cell.sharedModel.getSource().includes(text))",
        text,
    )
    page.evaluate("index => { const list = jupyterapp.shell.currentWidget.content; "
                  "list.activeCellIndex = index; return list.scrollToItem(index); }", index)  # fmt: skip
    return page.locator(f".jp-Notebook [data-windowed-list-index='{index}']")


def type_into(page, cell, code: str):
    cell.locator(".cm-content").click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(code)
    page.keyboard.press("Control+Enter")


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_runs_from_top_to_bottom_and_its_exercises_answer(lab, page, name):
    run_all(page, f"{lab[1]}/{name}")
    wait_for_all(page)
    assert page.evaluate(WIDE) == 0, "nothing scrolls sideways on a page of 1,280 pixels"
    if name == "04_attention":
        cell = cell_with(page, "check.equal_scores(weight)")
        playwright.expect(cell).to_contain_text("equal_scores: to do")
        type_into(page, cell, "weight = 1 / 8\ncheck.equal_scores(weight)")
        playwright.expect(cell).to_contain_text("the fourth token cannot see those after it")
        type_into(page, cell, "weight = 1 / 4\ncheck.equal_scores(weight)")
        playwright.expect(cell).to_contain_text("✓ equal_scores: passed")


SLIDER = """import torch
from nanogpt.tokenizer import ByteTokenizer
from nanogpt.widgets import explore_sampling
explore_sampling(torch.arange(257.0) / 20, ByteTokenizer())"""
TRAINING = """from nanogpt import GPTConfig, TrainConfig, train
shape = GPTConfig(block_size=16, vocab_size=0, n_layer=1, n_head=1, n_embd=8)
config = TrainConfig(shape, max_iters=1_000_000, batch_size=2, eval_windows=2, device="cpu", compile=False)
print("ended by", train(config).stopped)"""
DASHBOARD = TRAINING.replace("compile=False", "compile=False, resume='auto'").replace(
    'print("ended by", train(config)',
    "from nanogpt.monitor import LivePlot\nplot = LivePlot()\n"
    'print("ended by", train(config, on_step=plot.on_step, logs=[plot], progress=False)',
)
MODEL = """import torch
from nanogpt import GPT, GPTConfig
from nanogpt.tokenizer import ByteTokenizer
from nanogpt.widgets import explore_attention, explore_next
shape = GPTConfig(block_size=32, vocab_size=257, n_layer=1, n_head=1, n_embd=16)
model = GPT(shape, torch.Generator().manual_seed(0)).eval()
"""


def test_a_slider_redraws_and_stop_saves(lab, page):
    run_all(page, f"{lab[1]}/own")
    cell = cell_with(page, "explore_sampling")
    figure = cell.locator("img")
    before = figure.get_attribute("src")
    cell.locator(".noUi-handle").first.press("ArrowRight")
    page.wait_for_function("([before]) => document.querySelector('.jp-Notebook img').src !== before", arg=[before])
    type_into(page, cell, TRAINING)
    playwright.expect(cell).to_contain_text("tokens per iteration")
    page.get_by_role("button", name="Interrupt the kernel").click()
    playwright.expect(cell).to_contain_text("ended by SIGINT")
    type_into(page, cell, DASHBOARD)
    playwright.expect(cell).to_contain_text("tokens per second")
    cell.get_by_role("button", name="Stop").click()
    playwright.expect(cell).to_contain_text("ended by SIGINT")


@pytest.fixture
def explorer(lab, page):
    "Runs a cell in a new kernel."
    page.goto(f"{lab[1]}/own.ipynb?reset")
    page.wait_for_function(IDLE)

    def run(code: str):
        cell = cell_with(page, "explore_sampling")
        type_into(page, cell, MODEL + code)
        return cell, cell.locator("span[style*='inline-block']")

    return run


def test_a_token_under_the_mouse_or_in_focus_shades_the_tokens_it_looks_at(explorer, page):
    cell, tokens = explorer("explore_attention(model, ByteTokenizer(), 'abcd')")
    playwright.expect(tokens).to_have_count(4)
    shades = lambda: tokens.evaluate_all("spans => spans.map(span => getComputedStyle(span).backgroundColor)")
    clear = lambda shade: shade.endswith(", 0)")
    resting = shades()
    assert not any(map(clear, resting)), "the last token looks at all"
    tokens.nth(1).hover()
    looking = shades()
    assert list(map(clear, looking)) == [False, False, True, True], "and not at what comes later"
    page.mouse.move(0, 0)
    assert shades() == resting
    tokens.nth(0).focus()
    page.keyboard.press("Tab")
    assert shades() == looking
    tokens.nth(3).hover()
    assert shades() == resting, "the mouse wins"


def test_next_appends_a_token_and_back_takes_it_away(explorer, page):
    cell, tokens = explorer("explore_next(model, ByteTokenizer(), 'ab')")
    playwright.expect(tokens).to_have_count(3)
    first = cell.locator("img").get_attribute("src")
    for button, count in (("next", 4), ("ten more", 14), ("back", 13)):
        cell.get_by_role("button", name=button).click()
        playwright.expect(tokens).to_have_count(count)
        playwright.expect(cell.locator("img")).not_to_have_attribute("src", first)
