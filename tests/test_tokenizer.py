"""Any text goes in and comes back; bad input is named."""

import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
import time
import tracemalloc
from functools import cache
from hashlib import sha1
from importlib import import_module
from itertools import islice, repeat
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiktoken
from hypothesis import assume, example, given, settings, strategies as st
from tiktoken_ext import openai_public

from nanogpt import bpe
from nanogpt.bpe import train_bpe
from nanogpt.cuts import disputed_characters, safe_chunks
from nanogpt.files import cache_dir
from nanogpt.huggingface import _CHARACTERS, bpe_from_gpt2, to_huggingface, tokenizer_from_huggingface
from nanogpt.tokenizer import (
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    merge_pair,
    split_pieces,
    train_bpe_naively,
)
from nanogpt.vocab import TiktokenTokenizer, get_tokenizer, load_tokenizer, tokenizer_from_dict

prepare_module = import_module("nanogpt.prepare")  # nanogpt.prepare is the function


def gpt2():
    try:
        return get_tokenizer("gpt2")
    except OSError as error:
        pytest.skip(str(error))


@given(st.text(min_size=1))
def test_char_round_trip(text):
    tokenizer = CharTokenizer.from_text(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text())
def test_byte_round_trip(text):
    tokenizer = ByteTokenizer()
    assert tokenizer.encode(text) == list(text.encode("utf-8"))
    assert tokenizer.decode([*tokenizer.encode(text), tokenizer.eot]) == text


@given(st.text())
def test_gpt2_ids_are_tiktokens(text):
    tokenizer = gpt2()
    assert tokenizer.encode(text) == tiktoken.get_encoding("gpt2").encode_ordinary(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_unknown_characters_are_named():
    with pytest.raises(
        ValueError, match="not in the vocabulary of this CharTokenizer: 'x' 'é'; leave these out"
    ):
        CharTokenizer.from_text("abc").encode("axbé")


@pytest.mark.parametrize("tokenizer", [CharTokenizer.from_text("abc"), ByteTokenizer()])
@pytest.mark.parametrize("bad", [-1, 257, 1000])
def test_ids_outside_the_vocabulary_are_named(tokenizer, bad):
    with pytest.raises(ValueError, match=f"id {bad} is outside the vocabulary"):
        tokenizer.decode([0, bad])


def test_lone_surrogate_is_named():
    for tokenizer in (ByteTokenizer(), gpt2()):
        with pytest.raises(ValueError, match="character 2 .*surrogate"):
            tokenizer.encode("ab\ud800")


@pytest.mark.parametrize(
    "tokenizer", [CharTokenizer("\nabcé", eot="\n"), CharTokenizer("ab"), ByteTokenizer()]
)
def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = load_tokenizer(path)
        assert (loaded.fingerprint, loaded.eot, loaded.vocab_size) == (
            tokenizer.fingerprint,
            tokenizer.eot,
            tokenizer.vocab_size,
        )


def test_fingerprints_tell_tokenizers_apart():
    several = [CharTokenizer("ab"), CharTokenizer("ba"), CharTokenizer("ab", eot="a"), ByteTokenizer()]
    assert len({tokenizer.fingerprint for tokenizer in several}) == len(several)


def test_bad_definitions(tmp_path):
    with pytest.raises(FileNotFoundError, match="tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="damaged or of another kind"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="the tokenizer is damaged or of another kind"):
        tokenizer_from_dict({"type": "telepathy"})
    with pytest.raises(ValueError, match="unknown tokenizer 'chr'"):
        get_tokenizer("chr")
    with pytest.raises(ValueError, match="takes its vocabulary from a text"):
        get_tokenizer("char")
    with pytest.raises(ValueError, match="text is empty"):
        CharTokenizer.from_text("")
    with pytest.raises(ValueError, match="unknown tiktoken encoding"):
        TiktokenTokenizer("gpt3")


def test_gpt2_offline_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    with pytest.raises(OSError, match="could not be downloaded.*TIKTOKEN_CACHE_DIR") as caught:
        get_tokenizer("gpt2")
    assert "\n" not in str(caught.value)


# Small alphabets, in which pairs overlap and tie, and special tokens that overlap each other and the text.
TEXTS = st.one_of(
    *(
        st.text(alphabet, max_size=80)
        for alphabet in ("ab", "abc ", "ab\n <|>", "é日a ", "a' s0\t", "\x00\x85\u2028 a")
    ),
    st.text(),
)
SPECIALS = st.sampled_from(
    [
        [],
        ["<|endoftext|>"],
        ["a", "ab"],
        ["ab", "bca", "abc"],
        ["b a"],
        [" "],
        ["é", "日a"],
        ["<", "<|", "<|>"],
        ["\n\n"],
    ]
)
ADVERSARIAL = [
    "", "\x00", "\x00\x00\x00", "a" * 5000, " " * 5000, "x" + " " * 20_000 + "y", "\n" * 12_000 + "y",
    "\t \n\r\x0b\x0c\x1c\x85\xa0\u2028\u3000", "don't DON'T I'll'll 've",
    "<|endoftext|>", "<|endoftext|><|endoftext|>", "naïve café", "🐈‍⬛👩‍👩‍👧",
    "1234567890" * 50, "٣٤٥ ⅷ ½", "e\u0301\u0301\u0301", "\ufffe\uffff\ufeff",
    "if x:\n        return [y]\n",
    "\u0558a\u0558", "\U000323b0x", "a \U0001ccf0 1",  # letters and signs of several years' Unicode
]  # fmt: skip


def shakespeare() -> Path:
    path = cache_dir() / "tinyshakespeare.txt"
    if not path.exists():
        pytest.skip(f"no {path}; set NANOGPT_CACHE to a folder that has it")
    return path


@cache
def gpt2_files() -> tuple[Path, Path]:
    "The two files that tiktoken downloads for GPT-2, under the names of its cache."
    gpt2()
    folder = Path(
        os.environ.get("TIKTOKEN_CACHE_DIR")
        or os.environ.get("DATA_GYM_CACHE_DIR")
        or Path(tempfile.gettempdir()) / "data-gym-cache"
    )
    url = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/"
    files = [folder / sha1((url + name).encode()).hexdigest() for name in ("encoder.json", "vocab.bpe")]
    if not all(file.exists() for file in files):
        pytest.skip(f"tiktoken's cache {folder} lacks GPT-2's files")
    return tuple(files)


@cache
def our_gpt2() -> BPETokenizer:
    vocab_json, merges_txt = gpt2_files()
    merges = merges_txt.read_text(encoding="utf-8").split("\n")[1:]
    return bpe_from_gpt2(json.loads(vocab_json.read_text(encoding="utf-8")), merges, merges_txt)


@settings(max_examples=500)
@given(TEXTS, SPECIALS, st.integers(0, 40), TEXTS)
@example("aaaaaaa aaaaaa", [], 10, "aaaaa")
def test_fast_training_is_naive_training(text, special_tokens, room, other):
    size = 256 + len(special_tokens) + room
    try:
        naive = train_bpe_naively(text, size, special_tokens)
    except ValueError as error:
        with pytest.raises(ValueError, match=str(error)):
            train_bpe(text, size, special_tokens)
        return
    fast = train_bpe(text, size, special_tokens)
    assert (fast.merges, fast.vocab, fast.special_ids) == (naive.merges, naive.vocab, naive.special_ids)
    assert len(fast.merges) <= room and fast.vocab_size == 256 + len(fast.merges) + len(special_tokens)
    for sample in (text, other):
        assert fast.encode(sample) == fast.encode_slowly(sample)
        for allowed in ("none", "all", special_tokens[:1]):
            assert fast.decode(fast.encode(sample, allowed)) == sample


@given(TEXTS, st.integers(0, 40))
def test_encoding_repeats_what_training_did(text, room):
    assume(text)
    tokenizer = train_bpe(text, 256 + room)
    tokens = [[bytes([b]) for b in piece.encode()] for piece in split_pieces(text)]
    for merge in tokenizer.merges:
        tokens = [merge_pair(piece, merge) for piece in tokens]
    assert [token for piece in tokens for token in piece] == [
        tokenizer.vocab[i] for i in tokenizer.encode(text)
    ]


def test_ties_go_to_the_greatest_pair():
    assert train_bpe("ab ac", 259).merges == [(b"a", b"c"), (b"a", b"b"), (b" ", b"ac")]
    assert train_bpe("aa b aab", 258).merges == [(b"a", b"a"), (b"aa", b"b")]
    assert train_bpe("x\u00ff\u00ffx", 257).merges == [(b"\xc3", b"\xbf")]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=20), TEXTS)
def test_any_merges_encode_alike_slowly_and_fast(pairs, text):
    tokens, merges = [bytes([b]) for b in b"ab c\xc3\xa9"], []
    for left, right in pairs:  # merges that no training would give
        left, right = tokens[left % len(tokens)], tokens[right % len(tokens)]
        if left + right not in tokens:
            tokens.append(left + right)
            merges.append((left, right))
    tokenizer = BPETokenizer(merges)
    assert tokenizer.encode(text) == tokenizer.encode_slowly(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=300)
@given(st.text())
def test_our_gpt2_is_tiktokens(text):
    ids = tiktoken.get_encoding("gpt2").encode_ordinary(text) if gpt2() else None
    assert (
        our_gpt2().encode(text)
        == our_gpt2().encode_slowly(text)
        == our_gpt2().encoding.encode_ordinary(text)
        == ids
    )


@pytest.mark.parametrize("text", ADVERSARIAL, ids=range(len(ADVERSARIAL)))
def test_our_gpt2_is_tiktokens_on_hard_texts(text):
    reference = gpt2()
    assert our_gpt2().encode(text) == reference.encode(text)
    assert our_gpt2().decode(our_gpt2().encode(text)) == text
    assert our_gpt2().encode(text, allowed_special="all") == reference.encoding.encode(
        text, allowed_special="all"
    )
    if len(text) < 10_000:
        assert our_gpt2().encode_slowly(text) == reference.encode(text)


def test_our_gpt2_is_tiktokens_on_shakespeare():
    text = shakespeare().read_text(encoding="utf-8")
    assert our_gpt2().encode(text) == gpt2().encode(text)
    assert our_gpt2().encode_slowly(text[:50_000]) == our_gpt2().encode(text[:50_000])
    assert (our_gpt2().vocab_size, our_gpt2().special_ids) == (50_257, {"<|endoftext|>": our_gpt2().eot})


def test_every_character_is_cut_as_tiktoken_cuts_it():
    assert "".join(split_pieces(text := "".join(map(chr, range(0x3000))))) == text
    kinds = [
        tiktoken.Encoding(
            kind, pat_str=kind, mergeable_ranks={bytes([b]): b for b in range(256)}, special_tokens={}
        )
        for kind in (r"\p{L}", r"\p{N}", r"\s")
    ]
    disputed = [*disputed_characters()]  # by the `regex` and the tiktoken that are installed
    for character in [
        "a",
        "Z",
        "é",
        "日",
        "½",
        "٣",
        " ",
        "\n",
        "\x1c",
        "\x85",
        "!",
        *map(chr, disputed[:2000]),
    ]:
        letter, number, space = (bool(kind.encode_ordinary(character)) for kind in kinds)
        together = [len(split_pieces(other + character)) == 1 for other in "a1\t!"]
        assert together == [letter, number, space, not (letter or number or space)], hex(ord(character))


@pytest.mark.parametrize(
    "before, run, after",
    [("", " ", "x"), ("x", "\n", " x"), ("", "a", ""), ("", " ", ""), ("x \n", " \n", "\tx")],
)
def test_very_long_runs(before, run, after):
    tokenizer = train_bpe(before + run * 1000 + after, 280)
    long = before + run * 100_000 + after
    assert tokenizer.encode(long) == tokenizer.encoding.encode_ordinary(long)
    longer = before + run * 1_500_000 + after  # tiktoken alone overflows here
    assert tokenizer.decode(tokenizer.encode(longer)) == longer


def test_a_very_long_word_trains():
    "Half a million bytes in one piece: it would take hours if a merge cost the square of that."
    tokenizer = train_bpe("ab" * 250_000, 270)
    assert tokenizer.vocab_size == 270 and len(tokenizer.vocab[269]) == 2**14


@given(TEXTS, SPECIALS)
def test_the_first_and_longest_special_token_wins(text, special_tokens):
    tokenizer = BPETokenizer([], special_tokens)
    for allowed in ([], special_tokens[:1], special_tokens):
        expected, i = [], 0
        while i < len(text):  # by hand, without a pattern
            found = max((token for token in allowed if text.startswith(token, i)), key=len, default=None)
            expected += [256 + special_tokens.index(found)] if found else text[i].encode()
            i += len(found) if found else 1
        assert tokenizer.encode(text, allowed) == expected
    assert tokenizer.encode(text, "all") == expected and tokenizer.encode(text) == list(text.encode())


def test_special_tokens_do_not_merge():
    text = "the end<|endoftext|>the end<|endoftext|>" * 20
    tokenizer = train_bpe(text, 300, ["<|endoftext|>"])
    assert not [
        token
        for i, token in tokenizer.vocab.items()
        if b"|" in token and len(token) > 1 and i != tokenizer.eot
    ]
    assert (
        tokenizer.eot == tokenizer.vocab_size - 1
        and tokenizer.encode(text, allowed_special="all").count(tokenizer.eot) == 40
    )
    assert (
        tokenizer.eot not in tokenizer.encode(text) and tokenizer.decode([tokenizer.eot]) == "<|endoftext|>"
    )
    assert train_bpe("abc", 257).eot is None


def test_documents_are_apart():
    assert not train_bpe(["a", "b"] * 9, 300).merges and train_bpe(["ab"] * 9, 300).merges == [(b"a", b"b")]
    assert (
        train_bpe((word for word in ["low", "lower", "lowest"]), 260).merges
        == train_bpe("low", 256).merges + train_bpe(["low", "lower", "lowest"], 260).merges
    )


def test_a_path_is_a_file_and_a_string_is_text(tmp_path, monkeypatch):
    text = "\ufeffone\r\ntwo é\r\n" * 9
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert train_bpe(tmp_path / "a.txt", 300).fingerprint == train_bpe(text, 300).fingerprint
    assert b"\r\n" in train_bpe(tmp_path / "a.txt", 300).vocab.values()
    assert train_bpe("a.txt", 256).vocab_size == 256
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", str(tmp_path / "a.txt")):
        fix = f"{name!r} is a file; pass Path({name!r}), or [{name!r}]"
        with pytest.raises(ValueError, match=re.escape(fix)):
            train_bpe(name, 256)
    for text in ("a.txt\0", "a.txt\n", "./" * 100_000 + "a.txt", ["a.txt"]):
        assert train_bpe(text, 256).vocab_size == 256
    with pytest.raises(FileNotFoundError):
        train_bpe(tmp_path / "b.txt", 300)


@settings(max_examples=300)
@given(TEXTS, SPECIALS, st.integers(1, 12), st.integers(1, 12))
@example("a<|>b<|", ["<", "<|", "<|>"], 1, 1)
@example("a<|> b<|>", ["<|> ", "<|"], 3, 2)
@example("xb axb a", ["b a"], 2, 2)
@example("xb axb a", ["b a"], 2, 3)
def test_cutting_changes_no_count(text, special_tokens, block, step):
    blocks = [text[i : i + step] for i in range(0, len(text), step)]
    cut = list(safe_chunks(blocks, special_tokens))
    assert "".join(cut) == text
    assert bpe._count_batch(cut, special_tokens) == bpe._count_batch([text], special_tokens)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(bpe, "_BLOCK", block)
        patch.setattr(bpe, "_BATCH", 2 * block)
        (Path(folder) / "text").write_bytes(text.encode())
        for source in (text, Path(folder) / "text"):
            assert bpe._count_pieces(
                bpe._texts(source, special_tokens), special_tokens, 1
            ) == bpe._count_batch([text], special_tokens)


def test_cuts_come_often():
    cut = list(safe_chunks(["some words and"] * 100, ["<|endoftext|>"]))
    assert max(map(len, cut)) < 50


@pytest.mark.parametrize("kind", ["text", "path", "documents"])
def test_processes_count_the_same(kind, tmp_path, monkeypatch):
    text = "A tale of a fox, 12 foxes and naïve mice.<|end of text|>Once\n\nmore " * 500
    (tmp_path / "text").write_text(text, encoding="utf-8", newline="")
    source = {"text": text, "path": tmp_path / "text", "documents": [text[:9000], text[9000:]]}[kind]
    one = train_bpe(source, 400, ["<|end of text|>"], workers=1)
    monkeypatch.setattr(bpe, "_BLOCK", 1000)
    monkeypatch.setattr(bpe, "_BATCH", 2000)
    started = []
    pool = bpe.ProcessPoolExecutor
    monkeypatch.setattr(
        bpe,
        "ProcessPoolExecutor",
        lambda workers, **options: started.append(workers) or pool(workers, **options),
    )
    assert train_bpe(source, 400, ["<|end of text|>"], workers=2).fingerprint == one.fingerprint
    assert started == [2]


def test_batches_are_read_only_as_fast_as_they_are_counted(monkeypatch):
    asked, done = [], []

    class Pool:
        def __init__(self, workers, initializer, initargs):
            self.function = initargs[0]

        def submit(self, _, batch):
            return SimpleNamespace(result=lambda: done.append(1) or self.function(batch))

        def shutdown(self, cancel_futures):
            assert cancel_futures

    def documents():
        for number in range(50):
            asked.append(number)
            assert (
                len(asked) - len(done) <= 5 + 4
            )  # two for each worker and one more, and the four that decide for processes
            yield "some words"

    monkeypatch.setattr(bpe, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(bpe, "_BATCH", 5)
    assert train_bpe(documents(), 260, workers=2).vocab_size == 260
    assert len(asked) == len(done) == 50


def test_small_inputs_start_no_process(monkeypatch):
    monkeypatch.setattr(
        bpe, "ProcessPoolExecutor", lambda workers, **options: pytest.fail("a process was started")
    )
    train_bpe("some words " * 100_000, 260, workers=4)


def test_a_script_without_a_guard_is_told(tmp_path):
    start = "import multiprocessing\nmultiprocessing.set_start_method('spawn', force=True)\n"
    start += "from nanogpt import bpe\n"
    train = "bpe._BATCH = 10\nbpe.train_bpe(['some words and more'] * 20, 260, workers=2)\n"
    (tmp_path / "script.py").write_text(start + train, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, tmp_path / "script.py"], capture_output=True, encoding="utf-8", timeout=120
    )
    assert run.returncode == 1
    assert (
        "a worker process has died; start your script's work under `if __name__ == '__main__':`" in run.stderr
    )


def test_memory_follows_the_pieces_and_not_the_file(tmp_path, monkeypatch):
    (tmp_path / "text").write_text("the same few words again and again " * 60_000, encoding="utf-8")  # 2 MB
    monkeypatch.setattr(bpe, "_BLOCK", 1 << 12)
    monkeypatch.setattr(bpe, "_BATCH", 1 << 13)
    train_bpe("warm up", 256)
    tracemalloc.start()
    train_bpe(tmp_path / "text", 300, workers=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_smaller_vocabulary_is_no_error():
    tokenizer = train_bpe("aaaa", 5000, ["<|endoftext|>"])
    assert tokenizer.vocab_size == 256 + 2 + 1 and tokenizer.encode("aaaa") == [257]


@pytest.mark.parametrize("train", [train_bpe, train_bpe_naively])
def test_bad_training_is_named(train):
    with pytest.raises(
        ValueError, match="vocab_size 257 is too small: 256 bytes and 2 special tokens need at least 258"
    ):
        train("abc", 257, ["<a>", "<b>"])
    with pytest.raises(ValueError, match="special token '<a>' is there twice; give it once"):
        train("abc", 300, ["<a>", "<b>", "<a>"])
    with pytest.raises(ValueError, match="special_tokens is the text '<a>'; put it into a list"):
        train("abc", 300, "<a>")
    with pytest.raises(ValueError, match="special token '' is no text of one character or more"):
        train("abc", 300, [""])
    with pytest.raises(ValueError, match="character 3 of the text is .*surrogate"):
        train("abc\udc00", 300)
    with pytest.raises(ValueError, match="character 1 of the text is .*surrogate"):
        train("abc", 300, ["<\udc00>"])
    for empty in ("", "<a><a>"):
        with pytest.raises(ValueError, match="there is no text to train on"):
            train(empty, 300, ["<a>"])


def test_bad_sources_are_named(tmp_path):
    with pytest.raises(ValueError, match="there is no text to train on"):
        train_bpe([], 300)
    with pytest.raises(ValueError, match="text 1: character 0 of the text"):
        train_bpe(["good", "\ud800"], 300)
    with pytest.raises(TypeError, match="text 0 is of type int; train_bpe takes a text"):
        train_bpe(b"bytes", 300)
    with pytest.raises(ValueError, match="workers is 0; it takes at least 1"):
        train_bpe("abc", 300, workers=0)
    (tmp_path / "empty").write_text("")
    with pytest.raises(ValueError, match="there is no text to train on"):
        train_bpe(tmp_path / "empty", 300)


@pytest.mark.parametrize("before", [0, 1, 7, 8, 9, 1000])
@pytest.mark.parametrize("bad", [b"\xff", b"\x80", b"\xe2\x82", b"\xed\xa0\x80", b"\xc3"])
@pytest.mark.parametrize("end", [b"", b"(and more)"])
def test_the_byte_that_is_not_utf8_is_named(before, bad, end, tmp_path, monkeypatch):
    monkeypatch.setattr(bpe, "_BLOCK", 8)
    content = "é".encode() * (before // 2) + b"a" * (before % 2) + bad + end
    with pytest.raises(UnicodeDecodeError) as expected:
        content.decode()
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(
        ValueError, match=f"is not UTF-8: byte {expected.value.start} is 0x{bad[0]:02x}; convert the file"
    ) as caught:
        train_bpe(tmp_path / "text", 300)
    assert str(caught.value).startswith(str(tmp_path / "text"))


def test_lone_surrogates_do_not_encode():
    tokenizer = train_bpe("abc", 257, ["<a>"])
    for allowed in ("none", "all"):
        with pytest.raises(ValueError, match="character 5 of the text is .*surrogate"):
            tokenizer.encode("<a>ab\ud800", allowed)
    with pytest.raises(ValueError, match="character 5 of the text is .*surrogate"):
        tokenizer.encode_slowly("<a>ab\ud800")


def test_bytes_that_are_no_text_decode_to_fffd():
    tokenizer = train_bpe("é", 257)
    assert tokenizer.decode([0xC3]) == "\ufffd" and tokenizer.decode([97, 0xA9, 256]) == "a\ufffdé"
    with pytest.raises(ValueError, match="id 257 is outside the vocabulary"):
        tokenizer.decode([257])


def test_encode_iterable_is_lazy():
    assert list(islice(train_bpe("ab", 257).encode_iterable(repeat("ab c")), 4)) == [256, 32, 99, 256]


@cache
def small_tiktoken(name: str) -> TiktokenTokenizer:
    "OpenAI's pattern and special tokens, and a small vocabulary in which every pair of characters is a token."
    pairs = dict.fromkeys((a + b).encode() for a in PAIRED for b in PAIRED)
    ranks = {
        token: i for i, token in enumerate(dict.fromkeys([bytes([b]) for b in range(256)] + list(pairs)))
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: ranks)
        patch.setattr(tiktoken.registry, "ENCODINGS", {})
        definition = getattr(openai_public, name)() | {"explicit_n_vocab": None}
        tokens = ["<|endoftext|>", "<|endofprompt|>"]
        definition["special_tokens"] = {token: len(ranks) + i for i, token in enumerate(tokens)}
        patch.setattr(tiktoken, "get_encoding", lambda name: tiktoken.Encoding(**definition))
        return TiktokenTokenizer(name)


PAIRED = "ab1A!/ \n\r\t'sé日"
CUT_TEXTS = st.one_of(
    st.text(PAIRED, max_size=60),
    st.lists(st.sampled_from([*PAIRED, "<|endoftext|>", "<|endofprompt|>", "<|", "  ", "\n\n", "//"])).map(
        "".join
    ),
    TEXTS,
)


def chunks_of(text: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[start:end] for start, end in zip(places, places[1:])]


def every_kind(text: str, special_tokens: list[str]) -> list[Tokenizer]:
    return [
        CharTokenizer.from_text(text + "a"),
        ByteTokenizer(),
        train_bpe([text + "ab ab\n\n ab"], 300, special_tokens),
        our_gpt2(),
        gpt2(),
        *map(small_tiktoken, ["r50k_base", "cl100k_base", "o200k_base"]),
    ]


@settings(max_examples=300)
@given(CUT_TEXTS, st.lists(st.integers(0, 200), max_size=30), SPECIALS, st.sampled_from(["none", "all"]))
@example("a \n\nb", [1, 2, 3, 4], [], "none")
@example("a!\n\n/b", [1, 2, 3, 4, 5], [], "none")
@example("don't", [3, 4], [], "none")
@example("xb a", [3], ["b a"], "all")
@example("x<|endoftext|>  y", [*range(1, 17)], ["<|endoftext|>"], "all")
def test_the_same_ids_whatever_the_cuts(text, cuts, special_tokens, allowed):
    for tokenizer in every_kind(text, special_tokens):
        ids = list(tokenizer.encode_iterable(chunks_of(text, cuts), allowed))
        assert ids == tokenizer.encode(text, allowed), tokenizer
        assert list(tokenizer.encode_iterable(text, allowed)) == ids


@given(CUT_TEXTS, st.integers(1, 20))
@example("a!\n\n/b", 2)
@example("x" * 50, 7)
def test_pieces_of_a_long_document_have_the_ids_of_the_whole(text, longest):
    assume(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_module, "LONG", longest)
        for tokenizer in every_kind(text, []):
            pieces = list(prepare_module._pieces([(7, "val", text)], {"val": 0}, tokenizer.boundary))
            parts = [part for *_, part, _ in pieces]
            assert "".join(parts) == text and all(parts)
            assert [i for part in parts for i in tokenizer.encode(part)] == tokenizer.encode(text), tokenizer
            assert [last for *_, last in pieces] == [False] * (len(parts) - 1) + [True]
            if isinstance(tokenizer, CharTokenizer | ByteTokenizer):
                assert max(map(len, parts)) <= longest


def test_lines_of_a_file_are_the_file():
    text = Path(bpe.__file__).read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    for tokenizer in (gpt2(), train_bpe(text, 400)):
        assert list(tokenizer.encode_iterable(lines)) == tokenizer.encode(text)
        assert len(tokenizer.encode(text)) < sum(len(tokenizer.encode(line)) for line in lines)


@pytest.mark.parametrize("name", ["byte", "r50k_base", "cl100k_base"])
def test_memory_follows_what_cannot_be_decided(name):
    tokenizer = ByteTokenizer() if name == "byte" else small_tiktoken(name)
    longest = 0

    def chunks():
        for _ in range(20_000):
            yield "Some text, and\n    some more!\n"

    for part in safe_chunks(chunks(), boundary=tokenizer.boundary):
        longest = max(longest, len(part))
    assert longest < 100
    words = ["日本語。\n", "x!\n\n"]
    assert max(map(len, safe_chunks(words * 1000, boundary=tokenizer.boundary))) < 20


def test_a_long_piece_in_small_chunks_is_searched_once():
    start = time.perf_counter()
    assert list(safe_chunks(["a"] * 200_000)) == ["a" * 200_000]
    assert time.perf_counter() - start < 5  # a minute, if each chunk were searched from the start


@given(CUT_TEXTS, st.sampled_from(["all", "none", ["<|endoftext|>"], {"<|endofprompt|>"}, set()]))
def test_allowed_special_is_tiktokens(text, allowed):
    theirs = allowed if allowed == "all" else set() if allowed == "none" else set(allowed)
    for tokenizer in map(small_tiktoken, ["r50k_base", "cl100k_base", "o200k_base"]):
        reference = tokenizer.encoding.encode(text, allowed_special=theirs, disallowed_special=())
        assert tokenizer.encode(text, allowed) == reference
        assert list(tokenizer.encode_iterable(text, allowed)) == reference
    ours = train_bpe("ab ab", 262, ["<|endoftext|>", "<|endofprompt|>"])
    assert ours.encode(text, allowed) == ours.encoding.encode(
        text, allowed_special=theirs, disallowed_special=()
    )


@pytest.mark.parametrize("bad", ["<|endoftext|>", "some", ["<|end|>"], {"<|endoftext|>", "x"}])
def test_unknown_special_tokens_are_named(bad):
    for tokenizer in (train_bpe("ab", 258, ["<|endoftext|>"]), gpt2()):
        with pytest.raises(ValueError, match="it takes 'all', 'none' or some of .*endoftext"):
            tokenizer.encode("text", bad)
        with pytest.raises(ValueError, match="allowed_special is "):
            next(tokenizer.encode_iterable(["text"], bad))


def test_any_class_with_its_members_is_a_tokenizer():
    class Doubled(Tokenizer):
        vocab_size, eot = 128, None

        def encode_ordinary(self, text):
            return [ord(c) for c in text for _ in range(2)]

        def decode_bytes(self, ids):
            return bytes(list(ids)[::2])

        def to_dict(self):
            return {"type": "doubled"}

    tokenizer = Doubled()
    assert tokenizer.decode(tokenizer.encode("ab")) == "ab" and len(tokenizer.fingerprint) == 64
    assert list(tokenizer.encode_iterable(["a", "b"])) == tokenizer.encode("ab", "all") == [97, 97, 98, 98]


# Checkpoints and prepared data hold these.
FINGERPRINTS = {
    "char": "d46bebd9281880905c10ed0959f3a285e6346d77728d0fc075213d420d9b3a03",
    "char, no end": "bca3698581179ba5933cb7eb2a160018ba039516894fe211aa46ffbe7d8dda04",
    "byte": "46b1f52b27edb5572d7e847aac74b8a7ae63ed5ed354a00d25d44a24a7e646d7",
    "bpe": "383e33f2c19d67ca3fd8d6c164bc2a40062515e887e9e42737e1f3224b8a8bd2",
    "bytes": "f723e48ec278496401757f29ec23369037b6ef438559cba8a289c0c1a18c959d",
}


def test_old_definitions_load():
    byte_ids = [*range(1, 257)]
    old = {
        "type": "bpe",
        "bytes": byte_ids,
        "merges": [[98, 99], [257, 257]],
        "special_tokens": {"<s>": 0, "<|endoftext|>": 258},
    }
    tokenizer = tokenizer_from_dict(old)
    assert tokenizer.encode("<s>ababab<|endoftext|>", "all") == [0, 259, 257, 258] and tokenizer.eot == 258
    assert tokenizer.to_dict() == old and tokenizer.merges == [(b"a", b"b"), (b"ab", b"ab")]


def test_fingerprints_stay():
    text = "some text, some more text, naïve text\n" * 3
    tokenizers = [CharTokenizer("\nabcé", eot="\n"), CharTokenizer("ab"), ByteTokenizer()]
    tokenizers += [train_bpe(text, 290, ["<|endoftext|>", "<s>"]), train_bpe(text, 256)]
    assert [tokenizer.fingerprint for tokenizer in tokenizers] == list(FINGERPRINTS.values())
    assert gpt2().fingerprint == "4b80decc506214254028e0d0edd9b729636024439c0d5a8b9f6b42620ef65b19"
    assert our_gpt2().fingerprint == "bf51ea44d87f88e40887ac37af9eaf02254fef21290d1da69f102efa574cc3f0"


@pytest.mark.parametrize("merges, special_tokens, message", [
    ([(b"ab", b"c"), (b"a", b"b")], [], r"merge b'ab' \+ b'c' must make a new token of two before it"),
    ([(b"a", b"a"), (b"aa", b"a"), (b"a", b"aa")], [], r"merge b'a' \+ b'aa' must make a new token"),
    ([], {"<a>": 257}, r"clash or leave gaps"),
    ([], {"<a>": 97}, r"clash or leave gaps"),
    ([], {"<a>": 256, "<b>": 256}, r"clash or leave gaps"),
    ([], ["<a>", "<a>"], r"special token '<a>' is there twice"),
])  # fmt: skip
def test_bad_definitions_of_bpe_are_named(merges, special_tokens, message):
    with pytest.raises(ValueError, match=message):
        BPETokenizer(merges, special_tokens)


@pytest.mark.parametrize("special_tokens", [[], ["<|endoftext|>", "<s>"], ["a", "\n", "é"]])
def test_bpe_survives_files_and_processes(special_tokens, tmp_path):
    text = "some text, some more text, naïve text\n" * 3
    tokenizer = train_bpe(text, 290, special_tokens)
    tokenizer.encode("so")  # tiktoken's half is there now, and is not pickled
    tokenizer.save(tmp_path / "tokenizer.json")
    copies = [
        load_tokenizer(tmp_path),
        pickle.loads(pickle.dumps(tokenizer)),
        tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict()))),
    ]
    assert "encoding" in vars(tokenizer) and "encoding" not in vars(copies[1])
    for copy in copies:
        assert (
            copy.fingerprint == tokenizer.fingerprint
            and copy.vocab == tokenizer.vocab
            and copy.merges == tokenizer.merges
        )
        assert copy.special_ids == tokenizer.special_ids and copy.eot == tokenizer.eot
        assert copy.encode(text, "all") == tokenizer.encode(text, "all")
    assert len(pickle.dumps(tokenizer)) < 20_000
    assert tokenizer.fingerprint != train_bpe(text, 265, special_tokens).fingerprint


def test_gpt2_survives_files(tmp_path):
    our_gpt2().save(tmp_path / "tokenizer.json")
    assert (tmp_path / "tokenizer.json").stat().st_size < 1_000_000
    loaded = load_tokenizer(tmp_path)
    assert loaded.vocab == our_gpt2().vocab and loaded.fingerprint == our_gpt2().fingerprint


def test_a_broken_definition_is_named():
    good = train_bpe("abab", 258).to_dict()
    for broken in ({**good, "bytes": [1]}, {**good, "merges": [[97, 400]]}, {**good, "merges": None}):
        with pytest.raises(ValueError, match="not a |damaged or of another kind"):
            tokenizer_from_dict(broken)


def test_files_of_gpt2s_kind(tmp_path):
    characters = [_CHARACTERS[b] for b in range(256)]
    assert (
        len(set(characters)) == 256
        and "".join(characters[33:127]) == bytes(range(33, 127)).decode()
        and characters[32] == "Ġ"
        and characters[10] == "Ċ"
    )
    numbers = (
        {"<s>": 0} | {character: 1 + i for i, character in enumerate(characters)} | {"Ġa": 257, "<é>": 258}
    )
    (tmp_path / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\nĠ a\n", encoding="utf-8")
    tokenizer = tokenizer_from_huggingface(tmp_path)  # special tokens may come first, as in RoBERTa
    assert tokenizer.encode("<s> a<é>", allowed_special="all") == [0, 257, 258] and [
        *tokenizer.special_ids
    ] == ["<s>", "<é>"]
    assert tokenizer.encode("\x00b") == [1, 99] and tokenizer.decode([0, 257, 258]) == "<s> a<é>"
    assert tokenizer_from_dict(tokenizer.to_dict()).vocab == tokenizer.vocab
    assert tokenizer.fingerprint == "617423b11d81cc56e1b21bef1a96974b0eb2d2d4d94a592c826805be7c01cc0b"
    for line in ("Ġ a b", "Ġa", "Ġ \u4e00"):
        (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{line}\n", encoding="utf-8")
        with pytest.raises(ValueError, match=f"a merge is two tokens and a space, not '{line}'"):
            tokenizer_from_huggingface(tmp_path)
    (tmp_path / "merges.txt").write_text("", encoding="utf-8")
    for content in ("{", "[]", '{"a": 0}', '{"a": []}', '{"a": null}'):
        (tmp_path / "vocab.json").write_text(content, encoding="utf-8")
        with pytest.raises(ValueError):
            tokenizer_from_huggingface(tmp_path)


def test_numbers_that_no_merges_give_are_named():
    right = {character: i for i, character in enumerate(map(_CHARACTERS.get, range(256)))} | {
        "Ġa": 256,
        "Ġb": 257,
        "<é>": 258,
    }

    def read(numbers):
        return bpe_from_gpt2(numbers, ["Ġ a", "Ġ b"], "vocab.json")

    assert read(right | {"<é>": 257, "Ġb": 258}).encode(" a b<é>", "all") == [
        256,
        258,
        257,
    ]  # special tokens may be anywhere
    for wrong, message in (
        (right | {"Ġa": 257, "Ġb": 256}, "'Ġa' has the id 257, but by the merges it is 256"),
        (
            {token: i for token, i in right.items() if token != "Ġb"},
            "clash or leave gaps|'Ġb' has the id None",
        ),
        (
            {token: i for token, i in right.items() if token != "Ā"},
            "do not belong to the merges: KeyError",
        ),
        (right | {"<é>": 300}, "clash or leave gaps"),
        (right | {"<é>": 3}, "clash or leave gaps"),
    ):
        with pytest.raises(ValueError, match=message):
            read(wrong)


def huggingface(tokenizer: BPETokenizer, folder: Path):
    transformers = pytest.importorskip("transformers")
    (folder / "hf.json").write_text(json.dumps(to_huggingface(tokenizer)), encoding="utf-8")
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "hf.json"))


@settings(max_examples=60)
@given(
    TEXTS,
    st.sampled_from([[], ["<|endoftext|>"], ["<|", "<|endoftext|>", "|>", "ab a"]]),
    st.lists(TEXTS, min_size=3, max_size=3),
)
def test_hugging_face_gives_the_same_ids(text, special_tokens, samples):
    assume(text.strip("<|>"))
    tokenizer = train_bpe("x" + text, 290, special_tokens)
    with tempfile.TemporaryDirectory() as folder:
        theirs = huggingface(tokenizer, Path(folder))
    for sample in (text, *samples, "<|endoftext|> ab ab a<|>", "".join(special_tokens)):
        ids = tokenizer.encode(sample, allowed_special="all")
        assert theirs.encode(sample) == ids and theirs.decode(ids) == sample
    assert len(theirs) == tokenizer.vocab_size and theirs.all_special_tokens is not None


def test_hugging_face_reads_our_gpt2(tmp_path):
    theirs = huggingface(our_gpt2(), tmp_path)
    text = shakespeare().read_text(encoding="utf-8")
    assert theirs.encode(text) == our_gpt2().encode(text)
    for text in ADVERSARIAL:
        assert theirs.encode(text) == our_gpt2().encode(text, allowed_special="all"), text[:40]


def test_what_hugging_face_cannot_hold_is_named():
    with pytest.raises(ValueError, match="special token 'a' is written like an ordinary token"):
        to_huggingface(BPETokenizer([], ["a"]))
    merges = [(b"a", b"b"), (b"b", b"c"), (b"a", b"bc")]  # "abc" is cut as "ab", "c" before "bc" can form
    assert BPETokenizer(merges).encode("abc") == [258]
    with pytest.raises(ValueError, match="Hugging Face would never make b'abc' of b'a' \\+ b'bc'"):
        to_huggingface(BPETokenizer(merges))


def test_bpe_by_name(tmp_path):
    texts = ["the fox and the mole", "the river"]
    tokenizer = get_tokenizer("bpe-270", iter(texts), "\n")
    assert isinstance(tokenizer, BPETokenizer) and tokenizer.vocab_size == 270 and tokenizer.eot == 269
    assert tokenizer.fingerprint == train_bpe(texts, 270, ["<|endoftext|>"]).fingerprint
    with pytest.raises(ValueError, match="'bpe-270' tokenizer takes its vocabulary from a text"):
        get_tokenizer("bpe-270")
    with pytest.raises(ValueError, match="vocab_size 100 is too small"):
        get_tokenizer("bpe-100", texts)
    with pytest.raises(ValueError, match="unknown tokenizer 'bpe-'.*'bpe-512'"):
        get_tokenizer("bpe-", texts)


def trained_by_hugging_face(path: Path, vocab_size: int):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train(
        [str(path)],
        tokenizers.trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False),
    )
    return tokenizer


def test_training_compresses_as_hugging_face_does():
    path = shakespeare()
    text = path.read_text(encoding="utf-8")
    ours, theirs = train_bpe(path, 4096), trained_by_hugging_face(path, 4096)
    assert ours.vocab_size == theirs.get_vocab_size() == 4096
    ratio = len(ours.encode(text)) / len(theirs.encode(text).ids)
    assert abs(ratio - 1) < 0.005, "the same algorithm but for ties, and for the line where their reader cuts"


def test_training_equals_the_naive_version():
    text = shakespeare().read_text(encoding="utf-8")[:15_000]  # all of it takes minutes
    assert train_bpe(text, 512).merges == train_bpe_naively(text, 512).merges


def test_gpt2_survives_a_million_spaces():
    tokenizer = gpt2()
    text = "a" + " " * 1_000_000 + "b"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    long = "a" + " " * 20_000 + "b"
    assert tokenizer.encode(long) == tokenizer.encoding.encode_ordinary(long)
