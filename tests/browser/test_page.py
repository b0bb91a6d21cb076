"""The page of `nanogpt explain` in Chromium: its model is PyTorch's, and anybody can read and use it."""

import copy
import math
import random
import shutil

import pytest
import torch

from nanogpt.bpe import train_bpe
from nanogpt.config import GPTConfig
from nanogpt.corpus import tales
from nanogpt.explain import explain
from nanogpt.model import GPT
from nanogpt.sample import filter_logits, sample_text
from nanogpt.tales import parse, tale_level
from nanogpt.tokenizer import ByteTokenizer, CharTokenizer
from nanogpt.vocab import TiktokenTokenizer

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium")
expect = playwright.expect

SCALING = dict(factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
SHAPE = dict(block_size=32, vocab_size=257, n_layer=2, n_embd=16)
SHAPES = {
    "gpt2": GPTConfig(**SHAPE, n_head=2),
    "nanogpt": GPTConfig(**SHAPE, n_head=4, bias=False, mlp="gelu_exact", norm_eps=1e-3, n_inner=24, window=7),
    "llama": GPTConfig.llama(**SHAPE, n_head=4, n_kv_head=2, rope_scaling=SCALING, vocab_multiple=64),
    "speedrun": GPTConfig.speedrun(
        **SHAPE, n_head=2, head_dim=6, rope_theta=100.0, ngram_orders=(2, 4), ngram_rows=50, document_token=65
    ),
}
IDS = [256, *b"A fox met A hen by the mill; A!"]  # three documents for "speedrun", whose documents begin with "A"

# the worker's own code in another worker, with more to ask for
EXTRA = """
api.forget = () => { caches = {}; };
api.logits = (ids, off = []) => read(ids, off).streams.map(stream => Array.from(logits(stream.at(-1))));
api.filter = (scores, settings) => Array.from(filterLogits(scores, settings));
api.draw = (p, count) => Array.from({ length: count }, (_, seed) => sample(p, random(seed, seed % 7)));
"""
CALL = """async extra => {
  const worker = new Worker(URL.createObjectURL(new Blob([$("gpt").textContent, extra])));
  window.call = (...message) => new Promise((resolve, reject) => {
    worker.onmessage = ({ data: [, answer, error] }) => error ? reject(new Error(error)) : resolve(answer);
    worker.postMessage([0, ...message]);
  });
  await window.call("load", definition, $("weights").textContent);
}"""

# every text on the page against what is behind it, as colours on a canvas
CONTRASTS = """() => {
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const over = (colour, [r, g, b]) => {
    pen.fillStyle = `rgb(${r} ${g} ${b})`;
    pen.fillRect(0, 0, 1, 1);
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const behind = part =>
    part ? over(getComputedStyle(part).backgroundColor, behind(part.parentElement)) : [255, 255, 255];
  const light = rgb => rgb.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const found = [];
  for (const part of document.body.querySelectorAll("*")) {
    const texts = [...part.childNodes].filter(node => node.nodeType === 3 && node.data.trim());
    if (!texts.length || !part.checkVisibility() || part.closest("script, :disabled")) continue;
    const back = behind(part), [a, b] = [light(over(getComputedStyle(part).color, back)), light(back)].sort();
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push([part.tagName, part.className, texts[0].data.trim(), ratio]);
  }
  return found;
}"""


def make_model(config: GPTConfig) -> GPT:
    "A model whose every parameter matters, biases and n-grams included; in float16, then widened again."
    generator = torch.Generator().manual_seed(0)
    model = GPT(config, generator).eval()
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator) * 0.3
        p.data = (1 + noise if p.dim() == 1 and name.endswith("weight") else noise).half().float()
    return model


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, tmp_path):
    "Opens the page of a model. At the end, nothing was asked of a network, and the console holds no error."
    pages, asked, errors = [], [], []

    def visit(model, tokenizer=None, text="A fox", options=None, **others):
        address = explain(model, tokenizer or ByteTokenizer(), text, **others).save(tmp_path / "page.html").as_uri()
        page = browser.new_page(**options or {})
        pages.append(page)
        page.set_default_timeout(20_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(address)
        page.evaluate("started")
        expect(page.locator("#bars li")).to_have_count(8)
        page.evaluate(CALL, EXTRA)
        return page

    visit.errors = errors
    yield visit
    for page in pages:
        page.close()
    assert not errors
    assert not [address for address in asked if not address.startswith(("file:", "blob:", "data:"))]


def call(page, *message):
    return page.evaluate("message => call(...message)", [*message])


def distance(page, model, ids, off=()):
    with torch.no_grad():
        return (torch.tensor(call(page, "logits", ids, [*off])) - model(torch.tensor([ids]))[0][0]).abs().max().item()


@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_those_of_pytorch(visit, name):
    model = make_model(SHAPES[name])
    page = visit(model)
    assert distance(page, model, IDS) < 1e-4
    assert model(torch.tensor([IDS]))[0].std() > 0.5, "not all about 0"


def test_logits_of_other_weights_are_near(visit):
    model = GPT(GPTConfig(**{**SHAPE, "embd_std": 0.3, "init_std": 0.2}, n_head=2), torch.Generator().manual_seed(1))
    page = visit(model.eval())
    assert 1e-6 < distance(page, model, IDS) < 0.01, "float16 rounds the weights a little"


def test_the_cache_changes_nothing(visit):
    page = visit(make_model(SHAPES["speedrun"]))
    other = [*IDS[:9], *b"owl and"]
    whole = [call(page, "forget") or call(page, "logits", ids) for ids in (IDS, other)]
    call(page, "forget")
    parts = [call(page, "logits", ids) for ids in (IDS[:3], IDS[:20], IDS, other, IDS[:5])]
    assert parts[2] == whole[0] and parts[3] == whole[1] and parts[4] == whole[0][:5] and parts[1] == whole[0][:20]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_head_that_is_off_is_one_whose_outputs_are_zero(visit, name):
    model = make_model(SHAPES[name])
    page = visit(model)
    cut, D = copy.deepcopy(model), model.config.head_size
    cut.transformer.h[1].attn.c_proj.weight.data[:, D : 2 * D] = 0
    assert distance(page, cut, IDS, ["1.1"]) < 1e-4 and distance(page, model, IDS, ["1.1"]) > 0.01
    page.locator("#head-1\\.1").click()
    page.locator("#switch").click()
    effect = page.locator("#effect")
    ids = torch.tensor([[256, *b"A fox"]])
    losses = [one(ids[:, :-1], ids[:, 1:])[1].item() for one in (cut, model)]
    expect(effect).to_contain_text("is {:.3f} nats per token instead of {:.3f}".format(*losses))
    expect(page.locator("#ghost-key")).to_be_visible()
    page.locator("#all-on").click()
    expect(effect).to_contain_text("Switch a head off")


SETTINGS = [(1.0, None, 1.0), (0.7, 5, 1.0), (1.5, None, 0.6), (0.5, 40, 0.3), (0.0, None, 1.0)]


def test_tokens_are_drawn_from_the_distribution_of_the_sliders(visit):
    page = visit(make_model(SHAPES["gpt2"]))
    logits = torch.randn(60, generator=torch.Generator().manual_seed(0)) * 2
    for temperature, top_k, top_p in SETTINGS:
        settings = dict(temperature=temperature, top_k=top_k, top_p=top_p)
        p = torch.tensor(call(page, "filter", logits.tolist(), settings), dtype=torch.float32)
        expected = filter_logits(logits, temperature, top_k, top_p).softmax(-1)
        torch.testing.assert_close(p, expected, atol=1e-6, rtol=1e-5)
    p, count = filter_logits(logits, 1.0, 12, None).softmax(-1), 20_000
    drawn = torch.bincount(torch.tensor(call(page, "draw", p.tolist(), count)), minlength=60)
    assert drawn[p == 0].sum() == 0
    chi_square = ((drawn - count * p) ** 2 / (count * p))[p > 0].sum()
    assert chi_square < 31.3, "a value that 11 degrees of freedom exceed once in 1,000 times"


def test_a_seed_repeats_a_text_and_another_ending_differs(visit):
    page = visit(make_model(SHAPES["gpt2"]))
    page.evaluate("write(40)")
    first = page.evaluate("state.written")
    page.locator("#again").click()
    expect(page.locator("#tokens span").nth(20)).to_be_attached()
    page.locator("#write").click()  # Stop
    expect(page.locator("#write")).to_have_text("Write on")
    assert page.evaluate("state.written")[:10] != first[:10]
    page.evaluate("state.seed = 1; state.written = []; write(40)")
    assert page.evaluate("state.written") == first
    expect(page.locator("#tokens .forgotten").first).to_be_attached()  # the context of 32 tokens was full, and moved


def test_a_full_context_goes_on_with_its_newest_half_as_in_python(visit):
    model = make_model(SHAPES["gpt2"])
    page = visit(model, text="A fox")
    page.evaluate("$('temperature').value = 0; showSettings()")
    page.evaluate("write(70)")
    text = sample_text(model, ByteTokenizer(), "A fox", 1, 70, temperature=0)[0]
    assert page.evaluate("tokenizer.decode(ids())") == text


def test_the_keyboard_is_enough(visit):
    page = visit(make_model(SHAPES["llama"]), text="A fox met a hen")
    chosen = page.locator("#tokens .chosen")
    page.locator("#text").focus()
    reached = []
    for _ in range(24):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert {"write", "one", "tokens", "temperature", "top_k", "top_p", "head-0.0", "looked", "switch"} <= {*reached}
    page.locator("#tokens").focus()
    for key, text in (("ArrowLeft", "e"), ("ArrowLeft", "h"), ("Home", "start"), ("ArrowRight", "A"), ("End", "n")):
        page.keyboard.press(key)
        expect(chosen).to_have_text(text)
        expect(chosen).to_have_attribute("aria-selected", "true")
        assert page.locator("#tokens").get_attribute("aria-activedescendant") == chosen.get_attribute("id")
    page.locator("#one").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#tokens span")).to_have_count(17)
    expect(page.locator("#said")).to_contain_text("The model wrote")
    page.locator("#text").focus()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text("Hi")
    expect(page.locator("#tokens span")).to_have_count(3)
    page.locator("#looked").hover()
    unnamed = "button, input, textarea, canvas[role], [role=listbox]"
    names = page.locator(unnamed).evaluate_all("all => all.map(x => x.ariaLabel || x.labels?.[0] || x.textContent)")
    assert all(names), "a screen reader has something to say"


def test_pointing_at_a_token_shows_its_attention(visit):
    model = make_model(SHAPES["gpt2"])
    page = visit(model, text="A fox met")
    page.locator("#head-0\\.1").click()
    page.locator("#looked span").nth(4).hover()
    expect(page.locator("#look")).to_contain_text("Layer 1, head 2: “o” looks most at")
    weight = "all => all.map(chip => Number(chip.style.getPropertyValue('--weight')))"
    shades = page.locator("#looked span").evaluate_all(weight)
    ids, attn = torch.tensor([[256, *b"A fox met"]]), model.transformer.h[0].attn
    x = model.transformer.wte(ids) + model.transformer.wpe(torch.arange(ids.shape[1]))
    q, k, _ = attn.heads(model.transformer.h[0].ln_1(x))
    weights = (q[0, 1, 4] @ k[0, 1, :5].T / math.sqrt(8)).softmax(-1)
    torch.testing.assert_close(torch.tensor(shades[:5]), weights / weights.max(), atol=1e-3, rtol=1e-3)
    assert shades[5:] == [0] * 5, "nothing that comes later"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_every_text_is_legible_and_nothing_scrolls_sideways(visit, width, scheme):
    documents = list(tales(200).documents())
    tokenizer = train_bpe(documents, 300, ["<|endoftext|>"])
    config = GPTConfig(block_size=64, vocab_size=300, n_layer=3, n_head=8, n_embd=16)
    options = dict(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = visit(make_model(config), tokenizer, documents[0][:120], options, tales=True)
    page.locator("#head-0\\.1").click()
    page.locator("#switch").click()
    page.locator("#token-9").click()
    page.evaluate("$('top_k').value = 2; $('top_k').oninput()")
    expect(page.locator("#bars .out").first).to_be_attached()
    for text in (documents[0], documents[0].replace("the", "teh"), documents[0].replace(" she ", " he ")):
        page.locator("#text").fill(text)
        expect(page.locator("#verdict")).to_be_visible()
        assert page.evaluate(CONTRASTS) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def broken_tales(count: int) -> list[str]:
    "Tales, and what becomes of them by a letter, a word, or a sentence of another tale."
    rng, documents = random.Random(0), [text.rstrip("\n") for text in tales(count + 1).documents()]
    texts = []
    for text, other in zip(documents, documents[1:]):
        at, words, others = rng.randrange(len(text)), text.split(" "), other.split(" ")
        i, j = rng.randrange(len(words)), rng.randrange(len(others))
        texts += [text, text[:at], text[:at] + text[at + 1 :], text[:at] + "ö" + text[at:], text + " "]
        texts += [" ".join([*words[:i], others[j], *words[i + 1 :]]), " ".join([*words[:i], *others[i:]])]
        texts.append(text.replace(" she ", " he ").replace("three", "two"))
        values = parse(text).values
        texts.append(text.replace(values["helper"], values["kind"]))  # no hero meets its own kind
    return texts


def test_the_judge_says_what_pythons_says(visit):
    page = visit(make_model(SHAPES["gpt2"]), tales=True)
    texts = broken_tales(60)
    verdicts = page.evaluate(
        "texts => texts.map(text => taleLevel(text, definition.grammar))"
        ".map(({ level, complete }) => complete ? level : 'broken')", texts,
    )  # fmt: skip
    expected = [tale_level(text) for text in texts]
    assert verdicts == expected and min(map(expected.count, ("consistent", "well-formed", "broken"))) > 20
    page.locator("#text").fill(texts[0][:40])
    expect(page.locator("#verdict")).to_contain_text("consistent so far")


UNICODE = "aaa aa It's  the naïve café's 3½ ½ ЖЯ 漢字\t\n\n  x\u00a0y\u0085z \ufeff 👩‍🚀 end  "


@pytest.mark.parametrize("name", ["char", "byte", "bpe", "gpt2"])
def test_tokens_are_those_of_python(visit, name):
    if name == "gpt2":
        try:
            tokenizer = TiktokenTokenizer()
        except OSError as error:
            pytest.skip(str(error))
    else:
        made = {"char": CharTokenizer.from_text, "bpe": lambda text: train_bpe(text * 3, 330, ["<|endoftext|>"])}
        tokenizer = made[name](UNICODE + "\n") if name in made else ByteTokenizer()
    config = GPTConfig(block_size=32, vocab_size=tokenizer.vocab_size, n_layer=1, n_head=1, n_embd=4)
    page = visit(GPT(config), tokenizer, "It's")
    text = UNICODE + "aaaaaaa" * 3
    ids = page.evaluate("text => tokenizer.encode(text)", text)
    assert ids == tokenizer.encode(text) and page.evaluate("ids => tokenizer.decode(ids)", ids) == text
    page.locator("#text").fill("ж")
    expect(page.locator("#problem")).to_have_text(
        "This model has never seen the character “ж”." if name == "char" else ""
    )


@pytest.mark.parametrize("sandbox", ["", 'sandbox="allow-scripts" '])
def test_it_runs_in_the_frame_of_a_notebook(browser, tmp_path, sandbox):
    frame = explain(make_model(SHAPES["gpt2"]), ByteTokenizer(), "A fox")._repr_html_()
    (tmp_path / "notebook.html").write_text(frame.replace("<iframe ", f"<iframe {sandbox}"), encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "notebook.html").as_uri())
    expect(page.frame_locator("iframe").locator("#bars li")).to_have_count(8)
    page.close()


def test_the_page_may_not_reach_a_network(visit):
    page = visit(make_model(SHAPES["gpt2"]))
    assert page.evaluate("fetch('data:,x').then(() => 'reached', error => error.name)") == "TypeError"
    visit.errors.clear()  # the refusal
