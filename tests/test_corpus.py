"""The grammar's promises on many tales, and files that arrive whole or not at all."""
import hashlib
import random
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.corpus import (
    TALES, Grammar, ParseError, download, entries, generate_text, get_corpus, measure, parse, score_tales, shakespeare, tale_level, tales, text_files,
)  # fmt: skip


@given(st.integers(0, 2**32))
def test_every_tale_parses_to_its_own_probability(seed):
    text = generate_text(TALES, random.Random(seed))
    assert tale_level(text) == "consistent"
    assert 200 <= len(text) <= 500 and "\n" not in text
    stats = measure(TALES)
    assert stats.min_length <= len(text) <= stats.max_length
    assert abs(parse(text).nats - stats.entropy) < 5


@given(st.integers(0, 2**32), st.integers(0, 400), st.characters(codec="ascii"))
def test_one_changed_character_never_keeps_the_derivation(seed, position, character):
    text = generate_text(TALES, random.Random(seed))
    changed = text[: position % len(text)] + character + text[position % len(text) + 1 :]
    try:
        assert parse(changed).nats > 0 and tale_level(changed) == "consistent"
    except ParseError as error:
        assert changed != text and 0 <= error.position <= len(changed)


def test_probabilities_are_frequencies():
    "A small grammar: what it makes, how often, and the probabilities that parse gives agree and sum to one."
    grammar = Grammar({"s": ["{a} meets {b}.", "{a} and {b} and {a} {d}."], "d": ["rest", "go"]}, {"a": (t := entries("ox, cow, ant")), "b": t}, "s")
    draws = Counter(generate_text(grammar, random.Random(seed)) for seed in range(30_000))
    stats = measure(grammar)
    assert stats.count == len(draws) == 18
    import math

    probabilities = {text: math.exp(-parse(text, grammar).nats) for text in draws}
    assert math.isclose(sum(probabilities.values()), 1)
    assert math.isclose(stats.entropy, -sum(p * math.log(p) for p in probabilities.values()))
    assert math.isclose(stats.mean_length, sum(p * len(text) for text, p in probabilities.items()))
    chi2 = sum((draws[text] - 30_000 * p) ** 2 / (30_000 * p) for text, p in probabilities.items())
    assert chi2 < 40.8, "99.9 % quantile of chi-square with 17 degrees of freedom"


@pytest.mark.parametrize(
    "rules, variables, message",
    [
        ({"s": ["{x} runs."]}, {}, "neither a rule nor a form"),
        ({"s": ["a {v.big}."]}, {"v": entries("ox")}, "neither a rule nor a form"),
        ({"s": ["{v}."]}, {"v": entries("cat, catfish")}, "ambiguous"),
        ({"s": ["a {v}.", "a {v}."]}, {"v": entries("ox")}, "ambiguous"),
        ({"s": ["{v.sex} {v}."]}, {"v": entries("Ann/she, Eve/she", "sex")}, "does not tell its entries apart"),
        ({"s": ["{t} {v}."], "t": ["one {v}", "none"]}, {"v": entries("ox, cow")}, "same new variables"),
    ],
)
def test_bad_grammars_are_refused(rules, variables, message):
    with pytest.raises(ValueError, match=message):
        measure(Grammar(rules, variables, "s"))


def test_parse_says_where_and_why():
    text = generate_text(TALES, random.Random(0))
    with pytest.raises(ParseError, match="expected the end") as caught:
        parse(text + "!")
    assert caught.value.position == len(text)
    with pytest.raises(ParseError, match="rule 'opening'"):
        parse("hello")
    with pytest.raises(ValueError, match="no tales"):
        score_tales([])


def test_text_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        text_files(tmp_path / "absent")
    with pytest.raises(ValueError, match="no text at"):
        text_files(tmp_path)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ValueError, match="the file is empty"):
        text_files(tmp_path / "empty.txt")
    (tmp_path / "a.txt").write_bytes("\ufeffone\r\ntwo é".encode())
    assert list(text_files(tmp_path).documents()) == ["one\ntwo é"]
    (tmp_path / "b.txt").write_bytes(b"ab\xff")
    with pytest.raises(ValueError, match="byte 2 is 0xff"):
        list(text_files(tmp_path).documents())
    with pytest.raises(FileNotFoundError, match="unknown corpus 'tails'"):
        get_corpus("tails")
    with pytest.raises(ValueError, match="at least 1"):
        tales(0)


@pytest.fixture
def server():
    "A web server that answers each request with the next of its replies."

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = self.server.replies.pop(0)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def test_download_retries_checks_and_keeps_nothing_broken(server, tmp_path, monkeypatch):
    monkeypatch.setenv("NANOGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    url, good = f"http://127.0.0.1:{server.server_port}/f", hashlib.sha256(b"good").hexdigest()
    server.replies = [(503, b""), (200, b"good")]
    assert download(url, "f.txt", good).read_bytes() == b"good", "the second try counts"
    assert download(url, "f.txt", good).exists() and server.replies == [], "the third time no one asks the server"
    server.replies = [(200, b"bad")]
    with pytest.raises(ValueError, match="nothing was kept"):
        download(url, "g.txt", good)
    server.replies = [(503, b"")] * 3
    with pytest.raises(OSError, match="could not be downloaded.*put the file from"):
        download(url, "g.txt", good)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["f.txt"]
    (tmp_path / "cache" / "f.txt").write_bytes(b"rotten")
    server.replies = [(200, b"good")]
    assert download(url, "f.txt", good).read_bytes() == b"good", "a rotten file in the cache is fetched anew"


def test_shakespeare():
    try:
        corpus = shakespeare()
    except OSError as error:
        pytest.skip(str(error))
    (text,) = corpus.documents()
    assert len(text) == 1_115_394 and len(set(text)) == 65
