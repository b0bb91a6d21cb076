"""The grammar's promises on many tales, files that arrive whole or not at all, and text from any kind of file."""

import gzip
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
import tracemalloc
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import example, given, strategies as st

from nanogpt.corpus import (
    Corpus,
    END_OF_TEXT,
    _decode,
    _split_documents,
    download,
    get_corpus,
    hf_dataset,
    mix,
    python_stdlib,
    shakespeare,
    tales,
    text_files,
)
from nanogpt.tales import (
    Grammar,
    ParseError,
    TALES,
    entries,
    generate_text,
    measure,
    parse,
    score_tales,
    tale_level,
)


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
    grammar = Grammar(
        {"s": ["{a} meets {b}.", "{a} and {b} and {a} {d}."], "d": ["rest", "go"]},
        {"a": (t := entries("ox, cow, ant")), "b": t},
        "s",
    )
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
        (
            {"s": ["{v.sex} {v}."]},
            {"v": entries("Ann/she, Eve/she", "sex")},
            "does not tell its entries apart",
        ),
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
    assert download(url, "f.txt", good).exists() and server.replies == [], (
        "the third time no one asks the server"
    )
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


def cut(data, size):
    "Bytes or text in pieces of `size`."
    return [data[i : i + size] for i in range(0, len(data), size)]


@given(
    st.lists(st.sampled_from(["a", "é", "€", "𝄞", "\r", "\n", "\r\n", "\ufeff"])),
    st.booleans(),
    st.integers(1, 9),
)
def test_decoding_in_pieces_is_decoding_at_once(parts, mark, size):
    data = b"\xef\xbb\xbf" * mark + "".join(parts).encode()
    assert "".join(_decode(cut(data, size), Path("f"), "strict")) == data.decode("utf-8-sig").replace(
        "\r\n", "\n"
    )


@given(st.binary(), st.booleans(), st.integers(1, 9))
@example(b"\xef", False, 1)  # the beginning of a byte order mark, and no more
@example(b"\xef\xbb", False, 9)
def test_the_offset_is_that_of_the_first_bad_byte(data, mark, size):
    data = b"\xef\xbb\xbf" * mark + data
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        with pytest.raises(
            ValueError,
            match=f"f is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}; .*--errors replace",
        ):
            list(_decode(cut(data, size), Path("f"), "strict"))
    replaced = "".join(_decode(cut(data, size), Path("f"), "replace"))
    assert replaced == data.decode("utf-8-sig", "replace").replace("\r\n", "\n")


@given(st.lists(st.sampled_from(["a", "\n", "<|", "endoftext", "|>", END_OF_TEXT])), st.integers(1, 40))
def test_documents_are_split_where_the_text_says_so(parts, size):
    text = "".join(parts)
    expected = (
        [document.strip("\n") for document in text.split(END_OF_TEXT)] if END_OF_TEXT in text else [text]
    )
    assert list(_split_documents(cut(text, size))) == expected


@given(st.lists(st.sampled_from(["a", "bc" * 15, "\n"]), min_size=5), st.integers(1, 30), st.integers(1, 20))
def test_long_documents_are_cut_at_line_ends_and_nothing_is_lost(parts, size, limit):
    text = "".join(parts)
    documents = list(_split_documents(cut(text, size), limit))
    assert "".join(documents) == text
    assert all(len(document) <= limit for document in documents[:-1]) and len(documents[-1]) <= limit + len(
        END_OF_TEXT
    )
    assert all(document.endswith("\n") or "\n" not in document for document in documents[:-1])


ROWS = [{"id": i, "text": f'Zeile {i}: ü\u2028 "𝄞"\nzwei', "body": f"body {i}"} for i in range(2000)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "The same rows in every format, each written by a library that we did not write."
    import pyarrow
    import zstandard
    from pyarrow import parquet

    folder = tmp_path_factory.mktemp("rows")
    lines = "".join(json.dumps(row, ensure_ascii=row["id"] % 2) + "\n" for row in ROWS).encode()
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines[:5000]) + gzip.compress(lines[5000:]))
    (folder / "c.jsonl.zst").write_bytes(zstandard.compress(lines[:5000]) + zstandard.compress(lines[5000:]))
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "d.parquet", row_group_size=300)
    return folder


@pytest.mark.parametrize("name", ["a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet"])
def test_rows_come_back_from_every_format(folder, name):
    corpus = text_files(folder / name)
    assert list(corpus.documents()) == list(corpus.documents()) == [row["text"] for row in ROWS]
    assert list(text_files(folder / name, column="body").documents()) == [row["body"] for row in ROWS]
    assert (
        corpus.end == "\x1c"
        and corpus.size is None
        and corpus.source["files"][0][:2] == [name, (folder / name).stat().st_size]
    )
    with pytest.raises(
        ValueError, match=rf"{name}.* has no column 'words'; the columns are 'id', 'text', 'body'"
    ):
        list(text_files(folder / name, column="words").documents())
    with pytest.raises(ValueError, match=rf"{name}.*column 'id' holds (int, not|no) text"):
        list(text_files(folder / name, column="id").documents())


def test_our_rows_are_those_of_datasets(folder):
    "The same files through Hugging Face's own loader."
    from datasets import load_dataset

    for kind, name in (
        ("json", "a.jsonl"),
        ("json", "b.jsonl.gz"),
        ("json", "c.jsonl.zst"),
        ("parquet", "d.parquet"),
    ):
        rows = load_dataset(kind, data_files=str(folder / name), split="train", streaming=True)
        assert [row["text"] for row in rows] == list(text_files(folder / name).documents()), name


@pytest.mark.parametrize("name", ["b.jsonl.gz", "c.jsonl.zst", "d.parquet"])
@pytest.mark.parametrize("kept", [0.3, 0.9, -1])
def test_a_file_that_was_cut_short_is_named(folder, tmp_path, name, kept):
    data = (folder / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * kept)] if kept > 0 else data[:-1])
    with pytest.raises(
        ValueError, match=f"{name} is (damaged or cut short|no whole Parquet file) .*get the file again"
    ) as caught:
        list(text_files(tmp_path / name).documents())
    assert "\n" not in str(caught.value)
    (tmp_path / name).write_bytes(b"this is none of these formats")
    with pytest.raises(ValueError, match=f"{name} is (damaged or cut short|no whole Parquet file)"):
        list(text_files(tmp_path / name).documents())


@pytest.mark.parametrize(
    "line, message",
    [
        (
            b'{"text": "no end"',
            r"line 3 cannot be read as JSON \(Expecting ',' delimiter: column 18 .*; mend the line",
        ),
        (b'{"text": "no e', r"line 3 cannot be read as JSON \(Unterminated string starting at: column 10 "),
        (b"[" * 200_000, r"f.jsonl, line 3 cannot be read as JSON \((maximum recursion depth exceeded|Stack overflow)"),
        (b'{"n": ' + b"9" * 5000 + b"}", "line 3 cannot be read as JSON .Exceeds the limit .*; mend the"),
        (b'{"text": ' + b"9" * 400 + b"}", "line 3: column 'text' holds int, not text; name another column"),
        (b'["text"]', "line 3 is a list, no object with columns"),
        (b'{"body": "x"}', "line 3 has no column 'text'; the columns are 'body'"),
        (b'{"text": ["x"]}', "line 3: column 'text' holds list, not text; name another column"),
        (b'{"text": "\xe9"}', "is not UTF-8: byte 42 is 0xe9"),
        (b'{"text": "\\ud83d!"}', r"line 3: '\\ud83d' is half a surrogate pair"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    (tmp_path / "f.jsonl").write_bytes(
        b"\xef\xbb\xbf" + b'{"text": "\\ud83d\\ude00 ok"}' + b"\n\n" + line + b"\n" + b'{"text": null}'
    )
    documents = text_files(tmp_path / "f.jsonl").documents()
    assert next(documents) == "😀 ok"
    with pytest.raises(ValueError, match=message):
        next(documents)


def test_a_long_line_is_put_together_once(tmp_path, monkeypatch):
    text = "a tale without end " * 200_000
    (tmp_path / "f.jsonl").write_text(f'{{"text": "{text}"}}\n' * 2, encoding="utf-8")
    monkeypatch.setattr("nanogpt.corpus._read_bytes", lambda path: cut(path.read_bytes(), 100))
    start = time.perf_counter()
    assert list(text_files(tmp_path / "f.jsonl").documents()) == [text, text]
    assert time.perf_counter() - start < 5  # a minute, if each piece were added to all that came before it


def test_replace_puts_the_replacement_character(tmp_path):
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "f.jsonl").write_bytes(b'{"text": "a\xffb"}\n{"text": "\\ud83d!"}\n')
    (tmp_path / "f.txt").write_bytes(b"a\xffb")
    bad = pyarrow.StringArray.from_buffers(
        1, pyarrow.py_buffer(b"\x00\0\0\0\x03\0\0\0"), pyarrow.py_buffer(b"a\xffb")
    )
    parquet.write_table(pyarrow.table({"text": bad}), tmp_path / "f.parquet")
    for name in ("f.jsonl", "f.txt", "f.parquet"):
        with pytest.raises(ValueError, match=f"{name}.* is not UTF-8.*errors='replace'"):
            list(text_files(tmp_path / name).documents())
    assert list(get_corpus(str(tmp_path), errors="replace").documents()) == [
        "a\ufffdb",
        "\ufffd!",
        "a\ufffdb",
        "a\ufffdb",
    ]
    with pytest.raises(ValueError, match="errors must be 'strict' or 'replace', got 'ignore'"):
        text_files(tmp_path, errors="ignore")


def test_the_offset_counts_from_the_beginning_of_the_file(tmp_path):
    data = b"0123456789 abcdef\r\n" * 100_000
    (tmp_path / "f.txt").write_bytes(data + b"\xe9")
    (tmp_path / "g.txt.gz").write_bytes(gzip.compress(data + b"\xe9"))
    for name in ("f.txt", "g.txt.gz"):
        with pytest.raises(ValueError, match=f"byte {len(data)} is 0xe9"):
            list(text_files(tmp_path / name).documents())


def test_files_folders_and_globs(tmp_path):
    for name in (
        "b.txt",
        "a/z.md",
        "a/y.jsonl",
        "a/b/x.TXT",
        "a/code.py",
        "picture.png",
        "data/part=1/p.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(
            json.dumps({"text": name}) if name.endswith("jsonl") else name, encoding="utf-8"
        )
    assert list(text_files(tmp_path).documents()) == [
        "a/b/x.TXT",
        "a/y.jsonl",
        "a/z.md",
        "b.txt",
        "data/part=1/p.txt",
    ]
    assert text_files(tmp_path / "a").name == "a" and text_files(tmp_path / "b.txt").end is None
    assert list(get_corpus(f"{tmp_path}/**/*.py").documents()) == ["a/code.py"], (
        "what a glob names is read as text, whatever its name"
    )
    assert list(get_corpus(f"{tmp_path}/data/part=1/*").documents()) == ["data/part=1/p.txt"], (
        "an equals sign does not make a mix"
    )
    assert list(text_files(tmp_path / "a" / "code.py").documents()) == ["a/code.py"]
    with pytest.raises(FileNotFoundError, match=r"no file matches .*\*\.rst"):
        get_corpus(f"{tmp_path}/*.rst")
    (tmp_path / "blank.jsonl").write_text('{"text": ""}\n{"text": null}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="no text at .*blank.jsonl: every document is empty"):
        list(text_files(tmp_path / "blank.jsonl").documents())
    with pytest.raises(ValueError, match="no text at .*blank.txt.gz: every document is empty"):
        (tmp_path / "blank.txt.gz").write_bytes(gzip.compress(b""))
        list(text_files(tmp_path / "blank.txt.gz").documents())


@pytest.mark.parametrize("relative", [False, True])
def test_globs_follow_no_links_into_a_circle_and_find_no_hidden_names(tmp_path, monkeypatch, relative):
    for name in ("a.txt", "b/c.txt", ".hidden.txt", "b/.git/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    (tmp_path / "b" / "link").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b" / "e.txt").symlink_to(tmp_path / "a.txt")
    monkeypatch.chdir(tmp_path)
    found = {
        "**/*.txt": ["a.txt", "b/c.txt", "a.txt"],
        "**": ["a.txt", "b/c.txt", "a.txt"],
        "b/**/c.txt": ["b/c.txt"],
        "b/link/*.txt": ["a.txt"],
        "**/.git/*": ["b/.git/d.txt"],
        ".*": [".hidden.txt"],
        "": [".hidden.txt", "a.txt", "b/.git/d.txt", "b/c.txt", "a.txt"],  # a folder is read whole
    }
    for pattern, texts in found.items():
        corpus = get_corpus((pattern or ".") if relative else f"{tmp_path}/{pattern}")
        assert list(corpus.documents()) == texts, pattern


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    for path in (tmp_path / "pipe.txt", tmp_path / "p*", "/dev/zero"):
        found = f"no text at {path}: the file is empty or no regular file"
        with pytest.raises(ValueError, match=re.escape(found)):
            get_corpus(str(path))
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    assert list(get_corpus(str(tmp_path)).documents()) == ["a"]


def test_a_path_with_a_nul_is_named():
    for path in ("a\0b", "a\0*", "*/\0"):
        for read in (get_corpus, text_files):
            with pytest.raises(FileNotFoundError, match=re.escape(repr(path))):
                read(path)


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="closed"):
        text_files(tmp_path)


def test_the_source_is_the_same_for_a_copy_and_another_for_other_text(tmp_path):
    one, two = tmp_path / "one", tmp_path / "elsewhere" / "two"
    one.mkdir()
    (one / "a.txt").write_bytes(b"x" * 200_000)
    (one / "b.txt").write_bytes(b"b")
    shutil.copytree(one, two)
    (two / "a.txt").touch()
    source = text_files(one).source
    assert source == text_files(two).source == json.loads(json.dumps(source)) and str(
        tmp_path
    ) not in json.dumps(source)
    assert text_files(one).size == 200_001
    for change in (b"y" + b"x" * 199_999, b"x" * 199_999 + b"y", b"x" * 200_001):
        (two / "a.txt").write_bytes(change)
        assert text_files(two).source != source
    assert tales(10).source == tales(10).source != tales(10, seed=1).source != tales(11, seed=1).source
    assert abs(sum(len(text) for text in tales(2000).documents()) / tales(2000).size - 1) < 0.01


def test_documents_are_lazy_and_a_long_file_takes_little_memory(tmp_path):
    (tmp_path / "a.txt").write_text("first", encoding="utf-8")
    (tmp_path / "b.txt").write_bytes(b"\xff")
    documents = text_files(tmp_path).documents()
    assert next(documents) == "first", "the second file is not read yet"
    with pytest.raises(ValueError, match="b.txt is not UTF-8"):
        next(documents)
    story = "Once upon a time.\n" * 50
    (tmp_path / "stories.txt").write_text(f"{story}<|endoftext|>\n\n" * 20_000, encoding="utf-8")  # 18 MB
    tracemalloc.start()
    corpus = text_files(tmp_path / "stories.txt")
    assert sum(text == story.strip("\n") for text in corpus.documents()) == 20_000 and corpus.end == "\x1c"
    assert tracemalloc.get_traced_memory()[1] < 4e6
    tracemalloc.stop()


def test_a_file_beyond_16_mib_comes_in_pieces(tmp_path):
    line = "0123456789 " * 93 + "\n"  # 1,024 characters
    (tmp_path / "long.txt").write_text(line * 20_000, encoding="utf-8")
    corpus = text_files(tmp_path / "long.txt")
    assert [len(text) for text in corpus.documents()] == [
        1 << 24,
        20_000 * 1024 - (1 << 24),
    ] and corpus.end is None


def test_the_standard_library_is_a_corpus():
    corpus, root = python_stdlib(), Path(sysconfig.get_paths()["stdlib"])
    documents = list(corpus.documents())
    assert documents == list(get_corpus("python-stdlib").documents()), "the same every time"
    for name in ("json/decoder.py", "this.py", "asyncio/events.py"):
        assert (root / name).read_text(encoding="utf-8") in documents
    assert (
        3e6 < sum(map(len, documents)) <= corpus.size
        and all(documents)
        and not any(corpus.end in text for text in documents)
    )
    assert corpus.source["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_standard_library_leaves_out_packages_tests_and_other_encodings(tmp_path, monkeypatch):
    files = {
        "b.py": b"b",
        "a/c.py": b"c",
        "site-packages/x.py": b"x",
        "a/tests/t.py": b"t",
        "latin.py": b"\xe9",
        "e.py": b"",
        "n.txt": b"n",
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    assert list(python_stdlib().documents()) == ["c", "b"]
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path / "python311.zip")})
    with pytest.raises(
        FileNotFoundError, match="keeps no .py files of its standard library at .*name another corpus"
    ):
        python_stdlib()


def test_data_sets_are_streamed(folder, tmp_path):
    "The real loader, on local repositories."
    for name in ("a.jsonl", "d.parquet"):
        (tmp_path / name[0]).mkdir()
        shutil.copy(folder / name, tmp_path / name[0] / f"train{Path(name).suffix}")
        corpus = get_corpus(f"hf:{tmp_path / name[0]}")
        assert list(corpus.documents()) == list(corpus.documents()) == [row["text"] for row in ROWS]
        assert next(hf_dataset(str(tmp_path / name[0]), column="body").documents()) == "body 0"
        with pytest.raises(
            ValueError,
            match="row 0 of data set .* has no column 'words'; the columns are 'id', 'text', 'body'",
        ):
            next(hf_dataset(str(tmp_path / name[0]), column="words").documents())
        with pytest.raises(
            ValueError,
            match=r"data set .*: ValueError: Bad split: test. Available splits: \['train'\].*--subset",
        ):
            next(hf_dataset(str(tmp_path / name[0]), split="test").documents())
        with pytest.raises(ValueError, match="data set .*: ValueError: BuilderConfig 'big' not found"):
            next(hf_dataset(str(tmp_path / name[0]), subset="big").documents())


def test_named_data_sets_ask_for_the_right_repository(monkeypatch):
    calls = []

    def load(name, config, **options):
        calls.append((name, config, options))
        return [{"text": "one", "raw": "ein"}, {"text": None, "raw": "zwei"}]

    monkeypatch.setattr("datasets.load_dataset", load)
    for name in ("openwebtext", "fineweb-edu", "tinystories", "hf:me/mine@abc123"):
        assert list(get_corpus(name).documents()) == ["one"], "a null is no document"
    assert list(get_corpus("tinystories", column="raw", split="validation", subset="small").documents()) == [
        "ein",
        "zwei",
    ]
    train = {"split": "train", "revision": None, "streaming": True}
    assert calls == [
        ("Skylion007/openwebtext", None, train),
        ("HuggingFaceFW/fineweb-edu", "sample-10BT", train),
        ("roneneldan/TinyStories", None, train),
        ("me/mine", None, train | {"revision": "abc123"}),
        ("roneneldan/TinyStories", "small", train | {"split": "validation"}),
    ]  # fmt: skip
    assert get_corpus("fineweb-edu").source == {
        "kind": "hub", "repo": "HuggingFaceFW/fineweb-edu", "config": "sample-10BT", "split": "train",
        "column": "text", "revision": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "error, kind, message",
    [
        (
            ConnectionError("Couldn't reach 'me/mine' on the Hub\nsecond line"),
            OSError,
            "could not be read .ConnectionError.*connect, check the name",
        ),
        (
            RuntimeError("Dataset scripts are no longer supported, but found mine.py"),
            ValueError,
            "made by a script.*hf:me/mine@refs/convert/parquet",
        ),
        (Exception(), OSError, "no reason given"),
    ],
)
def test_what_the_hub_says_comes_out_as_one_line(monkeypatch, error, kind, message):
    def load(*_, **__):
        raise error

    monkeypatch.setattr("datasets.load_dataset", load)
    corpus = get_corpus("hf:me/mine")
    with pytest.raises(kind, match=message) as caught:
        next(corpus.documents())
    assert "\n" not in str(caught.value)


def test_offline_the_real_loader_gives_one_line():
    code = "from nanogpt.corpus import get_corpus; next(get_corpus('tinystories').documents())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        encoding="utf-8",
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith(
        "OSError: data set roneneldan/TinyStories could not be read (ConnectionError"
    ), done.stderr
    where = "https://huggingface.co/datasets/roneneldan/TinyStories"
    assert f"connect, check the name at {where}, or name a local file or folder" in last


@pytest.mark.parametrize(
    "library, name", [("datasets", None), ("zstandard", "c.jsonl.zst"), ("pyarrow", "d.parquet")]
)
def test_a_missing_library_is_named_with_its_fix(folder, monkeypatch, library, name):
    monkeypatch.setitem(sys.modules, library, None)
    corpus = text_files(folder / name) if name else get_corpus("tinystories")
    with pytest.raises(ImportError, match=rf"{library}.*; run `pip install 'nanogpt\[hf\]'`"):
        next(corpus.documents())


def letters(letter, sizes, end="\n"):
    return Corpus(
        letter, lambda: (letter * size for size in sizes), end, source={"kind": letter}, size=sum(sizes)
    )


@given(
    st.lists(st.integers(1, 50), min_size=50, max_size=99),
    st.lists(st.integers(1, 50), min_size=50, max_size=99),
    st.floats(0.1, 10),
)
def test_a_mix_keeps_its_shares_at_every_moment(one, two, weight):
    corpus = mix([(letters("a", one), weight), (letters("b", two), 1)])
    documents = list(corpus.documents())
    assert documents == list(corpus.documents()), "no randomness"
    a = b = 0
    for text in documents:
        a, b = a + text.count("a"), b + text.count("b")
        assert abs(a / weight - b) <= max(50 / weight, 50), "never more than one document off"
    drawn = [[len(text) for text in documents if letter in text] for letter in "ab"]
    assert drawn == [one[: len(drawn[0])], two[: len(drawn[1])]], "in order"
    assert drawn[0] == one or drawn[1] == two, "it goes on until one is used up"


def test_mix():
    three = mix([(letters("a", [1] * 100), 2), (letters("b", [1] * 100), 1), (letters("c", [1] * 100), 1)])
    assert "".join(three.documents()).startswith("abcaabca") and three.name == "a+b+c" and three.size == 200
    assert Counter("".join(three.documents())) == Counter(a=100, b=50, c=50)
    assert three.source["parts"][1] == {"name": "b", "weight": 1, "source": {"kind": "b"}}
    assert three.end == "\n" and mix([(letters("a", [1]), 1), (letters("b", [1], None), 1)]).end == "\x1c"
    with pytest.raises(ValueError, match="a mix needs at least one corpus"):
        mix([])
    for weight in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="the weight of a must be a positive number"):
            mix([(letters("a", [1]), weight)])


def test_a_mix_by_name(tmp_path):
    (tmp_path / "a,b.txt").write_text("note\n" * 100, encoding="utf-8")
    corpus = get_corpus(f"tales=0.75,{tmp_path}/a,b.txt=.25")
    assert corpus.name == "tales+a,b" and corpus.end == "\x1c"
    texts = list(corpus.documents())
    assert [tale_level(text) for text in texts] == ["consistent", "broken"] + ["consistent"] * (
        len(texts) - 2
    )
    with pytest.raises(ValueError, match="the weight of tales must be a number, got 'much'"):
        get_corpus("tales=much")
    with pytest.raises(
        FileNotFoundError, match="unknown corpus 'tales=0.5,shakespeare'.*'tales=0.7,./notes=0.3'"
    ):
        get_corpus("tales=0.5,shakespeare")
