"""Ids on disk are what was put there, whatever interrupts; batches are what a loop would give."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import warnings
from importlib import import_module
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from nanogpt.bpe import train_bpe
from nanogpt.corpus import Corpus, tales
from nanogpt.data import (
    Prefetcher,
    Sampler,
    TokenDataset,
    all_batches,
    document_ids,
    dtype_for,
)
from nanogpt.manifest import SPLITS, is_prepared
from nanogpt.prepare import prepare, split_of, verify
from nanogpt.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer
from nanogpt.vocab import get_tokenizer

prepare_module = import_module("nanogpt.prepare")  # nanogpt.prepare is the function
pytestmark = pytest.mark.filterwarnings("ignore:validation has only")  # most corpora here are tiny


def raw(folder, ids, split="train") -> TokenDataset:
    "A raw nanoGPT file."
    np.array(ids, dtype=np.uint16).tofile(folder / f"{split}.bin")
    return TokenDataset(folder, split)


def all_ids(data: TokenDataset) -> np.ndarray:
    return data.read([0], len(data))[0]


def words(count: int, seed: int = 0) -> Corpus:
    "Documents of very different lengths."
    rng = random.Random(seed)
    texts = [
        " ".join(rng.choices(["blue", "bird", "é", "x9", "\n"], k=rng.randint(1, 200))) for _ in range(count)
    ]
    return Corpus("words", lambda: iter(texts), end="\x1c")


def same_files(one, two) -> bool:
    return {p.name: p.read_bytes() for p in one.iterdir()} == {p.name: p.read_bytes() for p in two.iterdir()}


@pytest.mark.parametrize(
    "vocab_size, dtype", [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")]
)
def test_dtype(vocab_size, dtype):
    assert dtype_for(vocab_size) == dtype


def documents_of(folder, split) -> list[str]:
    "The documents of a split, read back with the byte tokenizer."
    ids = all_ids(TokenDataset(folder, split))
    return [
        ByteTokenizer().decode(part) for part in np.split(ids, np.flatnonzero(ids == 256)) if len(part) > 1
    ]


def test_prepare_and_read_back(tmp_path):
    corpus, tokenizer = tales(300), ByteTokenizer()
    meta = prepare(corpus, tokenizer, tmp_path)
    texts = {split: documents_of(tmp_path, split) for split in SPLITS}
    for split in SPLITS:
        data, info = TokenDataset(tmp_path, split), meta["splits"][split]
        ids = all_ids(data)
        assert ids[0] == ids[-1] == tokenizer.eot and len(ids) == info["tokens"] == info["characters"]
        assert len(data.document_starts) == len(texts[split]) == info["documents"]
        assert texts[split] == [text for text in corpus.documents() if split_of(text, 0.1) == split], (
            "in the order of the corpus"
        )
    assert 10 < len(texts["val"]) < 60
    assert (
        meta["floor"] == corpus.floor
        and meta["dtype"] == "uint16"
        and meta["tokenizer"] == tokenizer.fingerprint
    )
    assert meta["source"] == corpus.source and verify(tmp_path) == [] and is_prepared(tmp_path)


def test_the_split_does_not_depend_on_the_order(tmp_path):
    texts = list(tales(300).documents())
    for name, order in (("one", texts), ("two", texts[::-1])):
        prepare(Corpus("c", lambda order=order: iter(order)), ByteTokenizer(), tmp_path / name)
    for split in SPLITS:
        assert sorted(documents_of(tmp_path / "one", split)) == sorted(documents_of(tmp_path / "two", split))


def test_few_documents_are_cut_at_their_ends(tmp_path):
    texts = ["abcdefghij" * 10, "z", "0123456789"]
    prepare(Corpus("few", lambda: iter(texts)), ByteTokenizer(), tmp_path)
    assert documents_of(tmp_path, "train") == ["abcdefghij" * 9, "z", "012345678"]
    assert documents_of(tmp_path, "val") == ["abcdefghij", "9"]


def test_characters_equal_tokens_for_characters(tmp_path):
    for corpus in (tales(200), Corpus("one", lambda: iter(["some text without an end " * 9]))):
        meta = prepare(
            corpus, CharTokenizer.from_text(corpus.documents(), corpus.end), tmp_path / corpus.name
        )
        assert all(info["tokens"] == info["characters"] for info in meta["splits"].values())


def test_one_long_document_equals_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "LONG", 100)
    text = "one long document, ab ab\n\n  ab'a of 11 words " * 50
    tokenizer = train_bpe("ab ab  ab a b b\n\n ba'a .. . 1 11  é字é 字 " * 20, 400)
    prepare(Corpus("long", lambda: iter([text])), tokenizer, tmp_path, shard_tokens=64)
    ids = [i for split in SPLITS for i in all_ids(TokenDataset(tmp_path, split)).tolist()]
    cut = int(len(text) * 0.9)
    assert ids == tokenizer.encode(text[:cut]) + tokenizer.encode(text[cut:])


@pytest.mark.parametrize("name", ["char", "byte", "bpe-300", "gpt2"])
def test_what_ends_documents_is_in_none(tmp_path, monkeypatch, name):
    monkeypatch.setattr(prepare_module, "LONG", 100)
    texts = [f"tale {i} <|endoftext|> goes on " + "and on " * (i % 90) for i in range(200)]
    lasts = ("", "a\x1ctale " + "a tale " * 90)
    corpora = [Corpus("c", lambda last=last: iter([*texts, last]), "\x1c") for last in lasts]
    try:
        tokenizer = get_tokenizer(name, texts, "\x1c")
    except OSError as error:
        pytest.skip(str(error))
    for corpus in corpora[: 1 if name == "char" else 2]:
        meta = prepare(corpus, tokenizer, tmp_path, overwrite=True)
        for split in SPLITS:
            ends = (all_ids(TokenDataset(tmp_path, split)) == tokenizer.eot).sum()
            assert ends == meta["splits"][split]["documents"] + 1
    if name == "char":
        with pytest.raises(ValueError, match=r"document 200: holds '\\x1c', which ends documents; remove it"):
            prepare(corpora[1], tokenizer, tmp_path / "bad")


@pytest.mark.parametrize("workers", [1, 2])
def test_processes_and_shards_change_nothing(tmp_path, monkeypatch, workers):
    monkeypatch.setattr(prepare_module, "LONG", 2_000)
    corpus = words(300)
    tokenizer = CharTokenizer.from_text(corpus.documents(), corpus.end)
    prepare(corpus, tokenizer, tmp_path / "one", workers=1)
    meta = prepare(corpus, tokenizer, tmp_path / "many", workers=workers, shard_tokens=5_000)
    assert len(meta["splits"]["train"]["shards"]) > 5
    for split in SPLITS:
        one, many = TokenDataset(tmp_path / "one", split), TokenDataset(tmp_path / "many", split)
        assert (all_ids(one) == all_ids(many)).all() and (one.document_starts == many.document_starts).all()
        for (x, y), (v, w) in zip(all_batches(one, 3, 100), all_batches(many, 3, 100), strict=True):
            assert torch.equal(x, v) and torch.equal(y, w), "windows reach over the ends of shards"


SLOW_PREPARE = """
import sys, time
from importlib import import_module
from pathlib import Path
prepare = import_module("nanogpt.prepare")
from nanogpt.corpus import Corpus, tales
from nanogpt.tokenizer import ByteTokenizer
prepare.LONG = 5_000
def documents():
    for i, text in enumerate(tales(1500).documents()):
        if i % 10 == 0:
            time.sleep(0.005)
        yield text
corpus, workers = Corpus("slow", documents), int(sys.argv[2])
prepare.prepare(corpus, ByteTokenizer(), sys.argv[1], workers=workers, shard_tokens=10_000)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_ten_moments_the_bytes_are_the_same(tmp_path, workers):
    command = [sys.executable, "-c", SLOW_PREPARE]
    subprocess.run([*command, tmp_path / "whole", "1"], check=True, timeout=300)
    rng, kills = random.Random(0), 0
    for _ in range(60):
        process = subprocess.Popen([*command, tmp_path / "killed", str(workers)])
        while kills < 5 and not list(tmp_path.glob("killed/*.bin")) and process.poll() is None:
            time.sleep(0.01)
        try:
            process.wait(rng.uniform(0.02, 0.4) if kills < 10 else 300)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        if process.returncode == 0:
            break
    assert kills >= 5 and same_files(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no file size limit")
def test_a_full_disk_loses_nothing(tmp_path):
    corpus, tokenizer = tales(400), ByteTokenizer()
    prepare(corpus, tokenizer, tmp_path / "whole", shard_tokens=10_000)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, before[1]))
        with pytest.raises(OSError, match="train-00000.bin"):
            prepare(corpus, tokenizer, tmp_path / "full", shard_tokens=10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not is_prepared(tmp_path / "full") and not list(tmp_path.glob("full/.*.tmp"))
    prepare(corpus, tokenizer, tmp_path / "full", shard_tokens=10_000)
    assert same_files(tmp_path / "whole", tmp_path / "full")


def test_other_data_is_not_replaced_unasked(tmp_path):
    prepare(tales(200), ByteTokenizer(), tmp_path, shard_tokens=10_000)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    prepare(tales(200), ByteTokenizer(), tmp_path, shard_tokens=10_000)
    assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}, (
        "the same data is left as it is"
    )
    with pytest.raises(
        ValueError, match="prepared with another source; choose another out_dir, or set overwrite"
    ):
        prepare(tales(201), ByteTokenizer(), tmp_path)
    assert verify(tmp_path) == []
    meta = prepare(tales(150), get_tokenizer("char", tales(150).documents(), "\n"), tmp_path, overwrite=True)
    names = {shard["file"] for split in meta["splits"].values() for shard in split["shards"]}
    others = {".nanogpt-data", "meta.json", "tokenizer.json"}
    assert {path.name for path in tmp_path.iterdir()} == names | others and verify(tmp_path) == []


def test_a_lost_shard_is_made_again(tmp_path):
    for name in ("whole", "mended"):
        prepare(tales(200), ByteTokenizer(), tmp_path / name, shard_tokens=10_000)
    (tmp_path / "mended" / "train-00002.bin").unlink()
    (tmp_path / "mended" / "val-00000.bin").write_bytes(b"ab")
    (tmp_path / "mended" / ".train-00003.bin.17.tmp").touch()
    (tmp_path / "mended" / "tokenizer.json").unlink()
    prepare(tales(200), ByteTokenizer(), tmp_path / "mended", shard_tokens=10_000)
    assert same_files(tmp_path / "whole", tmp_path / "mended")


class Liar(Tokenizer):
    "Says that it has 200 ids, and gives 300."

    vocab_size, eot = 200, None

    def encode(self, text):
        return [300]

    def to_dict(self):
        return {"type": "liar"}


def test_bad_input_is_named(tmp_path):
    for texts in ([], ["", ""]):
        with pytest.raises(ValueError, match="the corpus 'none' has no text"):
            prepare(Corpus("none", lambda texts=texts: iter(texts)), ByteTokenizer(), tmp_path / "none")
    for name, value in (("val_fraction", 1.0), ("val_fraction", 0.0), ("workers", 0), ("shard_tokens", 0)):
        with pytest.raises(ValueError, match=f"{name} must .* got {value}"):
            prepare(tales(3), ByteTokenizer(), tmp_path / "none", **{name: value})
    with pytest.raises(ValueError, match="document 0: the tokenizer gave id 300, but its vocab_size is 200"):
        prepare(tales(3), Liar(), tmp_path / "liar")
    for workers in (1, 2):
        with pytest.raises(ValueError, match="document 1: character 2 of the text is .*surrogate"):
            prepare(
                Corpus("half", lambda: iter(["fine", "ab\ud800"])),
                ByteTokenizer(),
                tmp_path / "half",
                workers=workers,
            )
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        prepare(tales(3), ByteTokenizer(), tmp_path / "file")


def test_bad_data_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nanogpt prepare"):
        TokenDataset(tmp_path)
    data = raw(tmp_path, range(5))
    for read in (lambda: Sampler(data, 1, 5), lambda: next(all_batches(data, 1, 5))):
        with pytest.raises(ValueError, match=r"5 train tokens, fewer than block_size \+ 1 = 6"):
            read()
    with pytest.raises(ValueError, match="aligned windows need two documents"):
        Sampler(data, 1, 2, aligned=True)
    (tmp_path / "val.bin").touch()
    with pytest.raises(ValueError, match="is empty"):
        TokenDataset(tmp_path, "val")
    (tmp_path / "val.bin").write_bytes(b"123")
    with pytest.raises(ValueError, match="val.bin has 3 bytes"):
        TokenDataset(tmp_path, "val")
    with pytest.raises(ValueError, match="holds id 4, but the vocabulary has 4"):
        next(Sampler(TokenDataset(tmp_path, vocab_size=4), 8, 4))
    with pytest.raises(FileNotFoundError, match="nothing to verify"):
        verify(tmp_path)


def test_damage_is_found(tmp_path):
    prepare(tales(200), ByteTokenizer(), tmp_path, shard_tokens=20_000)
    path, manifest = tmp_path / "train-00001.bin", tmp_path / "meta.json"
    good, meta = path.read_bytes(), json.loads(manifest.read_text(encoding="utf-8"))
    for position in (0, 100, len(good) - 1):
        path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        assert (
            len(verify(tmp_path)) == 1
            and "train-00001.bin has changed since it was prepared" in verify(tmp_path)[0]
        )
    path.write_bytes(good[:-2])
    assert "train-00001.bin has" in verify(tmp_path)[0]
    with pytest.raises(ValueError, match="meta.json says"):
        TokenDataset(tmp_path)
    path.unlink()
    assert verify(tmp_path) == ["train-00001.bin is missing"]
    with pytest.raises(FileNotFoundError, match="train-00001.bin.*a shard is missing"):
        TokenDataset(tmp_path)
    path.write_bytes(good)
    manifest.write_text(json.dumps(meta | {"vocab_size": 100}), encoding="utf-8")
    assert any("holds id 256, but the vocabulary has 100 ids" in line for line in verify(tmp_path))
    for change, message in (({"format": 1}, "format: input should be 2"), ({"complete": False}, "was cut short")):
        manifest.write_text(json.dumps(meta | change), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            TokenDataset(tmp_path)
    manifest.write_text(json.dumps(meta)[:-50], encoding="utf-8")
    with pytest.raises(ValueError, match="meta.json is damaged"):
        TokenDataset(tmp_path)
    manifest.write_text(json.dumps(meta), encoding="utf-8")
    CharTokenizer("ab").save(tmp_path / "tokenizer.json")
    assert "another tokenizer" in verify(tmp_path)[0]


@pytest.mark.parametrize("aligned", [False, True])
@given(
    documents=st.lists(st.text("abc", min_size=1, max_size=12), min_size=2, max_size=12),
    batch_size=st.integers(1, 5), block_size=st.integers(1, 9), shard_tokens=st.integers(1, 30),
)  # fmt: skip
def test_all_batches_predicts_every_token_once(
    tmp_path_factory, aligned, documents, batch_size, block_size, shard_tokens
):
    folder = tmp_path_factory.mktemp("data")
    prepare(
        Corpus("c", lambda: iter([*documents, "abab"])),
        CharTokenizer("\nabc", eot="\n"),
        folder,
        0.5,
        shard_tokens=shard_tokens,
    )
    data = TokenDataset(folder)
    if len(data) < block_size + 1:
        return
    targets = []
    for x, y in all_batches(data, batch_size, block_size, aligned):
        assert x.shape == y.shape and x.shape[1] == block_size and 1 <= len(x) <= batch_size
        assert (y[:, :-1][y[:, 1:] >= 0] >= 0).all(), "only the end of a window has nothing to predict"
        assert (x[:, 1:][y[:, :-1] >= 0] == y[:, :-1][y[:, :-1] >= 0]).all()
        targets += y[y >= 0].tolist()
    assert targets == all_ids(data)[1:].tolist()


@pytest.fixture(scope="module")
def some_tales(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tales")
    prepare(tales(120), ByteTokenizer(), folder, shard_tokens=5_000)
    return TokenDataset(folder)


def test_aligned_windows_begin_at_documents(some_tales):
    x, y = next(Sampler(some_tales, 64, 100, aligned=True))
    assert (x[:, 0] == some_tales.eot).all() and (y[:, 0] != some_tales.eot).all()
    for x, y in [
        *all_batches(some_tales, 8, 400, aligned=True),
        next(Sampler(some_tales, 64, 400, epochs=True, aligned=True)),
    ]:
        assert (x[:, 0] == some_tales.eot).all() and ((y == some_tales.eot).sum(1) == 1).all()


def test_random_windows_are_any_windows(tmp_path):
    x, y = next(Sampler(raw(tmp_path, range(12)), 1000, 4))
    assert (y == x + 1).all() and set(x[:, 0].tolist()) == set(range(8)), "every start, the last one too"
    counts = np.bincount(x[:, 0], minlength=8)
    assert ((counts - 125) ** 2 / 125).sum() < 24.3, (
        "chi-square with 7 degrees of freedom: 1 in 1,000 seeds is above"
    )


@pytest.mark.parametrize("length, block_size", [(1000, 7), (50, 7), (9, 8), (8, 7), (15, 7), (16, 7)])
def test_an_epoch_has_every_target_once(tmp_path, length, block_size):
    data = raw(tmp_path, range(length))
    sampler = Sampler(data, 1, block_size, seed=3, epochs=True)
    orders = []
    for _ in range(3):
        targets = torch.cat([next(sampler)[1].flatten() for _ in range(sampler.count)])
        assert len(targets.unique()) == len(targets) > length - 2 * block_size
        orders.append(targets.tolist())
    assert len(data) < 3 * block_size or len({tuple(order) for order in orders}) == 3, "shuffled anew"


def test_an_aligned_epoch_has_every_target_once(some_tales):
    sampler = Sampler(some_tales, 1, 100, epochs=True, aligned=True)
    for _ in range(2):
        targets = torch.cat([next(sampler)[1].flatten() for _ in range(sampler.count)])
        assert sorted(targets[targets >= 0].tolist()) == sorted(all_ids(some_tales)[1:].tolist())


@pytest.mark.parametrize("epochs", [False, True])
@pytest.mark.parametrize("aligned", [False, True])
def test_ranks_deal_the_windows_of_one(some_tales, epochs, aligned):
    one = Sampler(some_tales, 8, 50, 5, epochs, aligned)
    ranks = [Sampler(some_tales, 2, 50, 5, epochs, aligned, rank, 4) for rank in range(4)]
    for x, y in islice(one, 200):
        batches = [next(rank) for rank in ranks]
        assert torch.equal(x, torch.cat([x for x, _ in batches])) and torch.equal(
            y, torch.cat([y for _, y in batches])
        )


@pytest.mark.parametrize("epochs", [False, True])
def test_the_state_is_where_the_reader_is(some_tales, epochs):
    "The prefetching thread is one batch ahead; the saved state is not."
    make = lambda seed=1: Prefetcher(Sampler(some_tales, 7, 30, seed, epochs))
    batches = make()
    seen = [(next(batches), json.loads(json.dumps(batches.state_dict()))) for _ in range(100)]
    for i in (0, 41, 98):
        again = make()
        next(again)
        again.load_state_dict(seen[i][1])
        assert torch.equal(next(again)[0], seen[i + 1][0][0])
    assert not torch.equal(next(make(seed=2))[0], seen[0][0][0])


def test_an_error_in_the_thread_reaches_the_reader(tmp_path):
    raw(tmp_path, range(50))
    with pytest.raises(ValueError, match="holds id"):
        next(Prefetcher(Sampler(TokenDataset(tmp_path, vocab_size=10), 64, 8)))


def test_document_ids_follow_the_ends(some_tales):
    x, _ = next(Sampler(some_tales, 16, 500))
    ids = document_ids(x, some_tales.eot)
    for row, numbers in zip(x.tolist(), ids.tolist()):
        number = 0
        for token, document in zip(row, numbers):
            number += token == some_tales.eot
            assert document == number


def test_a_second_preparation_waits(tmp_path):
    "Two that began together leave what one leaves, and neither fails."
    command = [sys.executable, "-c", SLOW_PREPARE]
    both = [subprocess.Popen([*command, tmp_path / "shared", "1"]) for _ in range(2)]
    subprocess.run([*command, tmp_path / "alone", "1"], check=True, timeout=300)
    assert [process.wait(300) for process in both] == [0, 0]
    assert same_files(tmp_path / "alone", tmp_path / "shared")


def test_a_sampler_state_that_is_none_is_refused(some_tales):
    with pytest.raises(KeyError, match="drawn"):
        Prefetcher(Sampler(some_tales, 4, 30)).load_state_dict({})


@pytest.mark.parametrize("kind", [np.array, lambda ids: np.array(ids, np.uint8), torch.tensor, list])
def test_ids_in_memory_are_a_data_set(tmp_path, kind):
    "Every consumer gives what it gives for the same ids on disk."
    ids = np.random.default_rng(0).integers(0, 9, 500)
    ids[::50] = 9
    np.array(ids, np.uint16).tofile(tmp_path / "train.bin")
    ours, file = TokenDataset(kind(ids.tolist()), vocab_size=10, eot=9), TokenDataset(tmp_path, eot=9)
    assert len(ours) == 500 and (all_ids(ours) == ids).all()
    assert ours.document_starts.tolist() == list(range(0, 500, 50))
    for aligned in (False, True):
        for epochs in (False, True):
            for options in ({"rank": 0}, {"rank": 1, "world_size": 3}):
                pairs = [Sampler(data, 4, 20, 3, epochs, aligned, **options) for data in (ours, file)]
                for (x, y), (v, w) in islice(zip(*map(Prefetcher, pairs)), 50):
                    assert torch.equal(x, v) and torch.equal(y, w) and x.dtype == torch.int64
        batches = [list(all_batches(data, 7, 30, aligned)) for data in (ours, file)]
        assert all(torch.equal(x, v) and torch.equal(y, w) for (x, y), (v, w) in zip(*batches, strict=True))


def test_raw_files_of_any_width_are_read(tmp_path):
    ids = np.array([1, 70_000, 3, 100_000])
    ids.astype(np.uint32).tofile(tmp_path / "train.bin")
    for data in (
        TokenDataset(tmp_path, dtype="uint32"),
        TokenDataset(tmp_path / "train.bin", dtype=np.uint32),
    ):
        assert (all_ids(data) == ids).all() and data.dtype == np.uint32
    assert len(TokenDataset(tmp_path)) == 8, "two bytes an id, where nothing else is said"
    with pytest.raises(ValueError, match="holds id 100000, but the vocabulary has 80000 ids"):
        TokenDataset(tmp_path, dtype="uint32", vocab_size=80_000).read([0], 4)
    with pytest.raises(ValueError, match="ids are integers, got the type float32"):
        TokenDataset(tmp_path, dtype="float32")
    with pytest.raises(TypeError, match="tokens"):
        TokenDataset(tmp_path, dtype="tokens")
    prepare(tales(200), ByteTokenizer(), tmp_path / "prepared")
    (shard, *_) = (tmp_path / "prepared").glob("train-*.bin")
    one = TokenDataset(shard)
    assert (all_ids(one) == all_ids(TokenDataset(tmp_path / "prepared"))).all(), (
        "the manifest beside it is heeded"
    )
    assert one.eot == 256 and one.vocab_size == 257 and one.info == {}


@pytest.mark.parametrize(
    "ids, message",
    [
        ([], "ids must be one row that is not empty, got the shape .0,."),
        ([[1, 2], [3, 4]], "got the shape .2, 2."),
        (3, "got the shape .."),
        ([0.0, 1.0], "ids are integers, got the type float64"),
        ([True, False], "ids are integers, got the type bool"),
        (["a", "b"], "ids are integers, got the type <U1"),
        ([1, -2, 3], "the array holds id -2; ids are 0 or more"),
        ([1, 2, 10], "the array holds id 10, but the vocabulary has 10 ids"),
        ([1, 2], r"the array has 2 train tokens, fewer than block_size \+ 1 = 3"),
    ],
)
def test_what_is_no_row_of_ids_is_named(ids, message):
    with pytest.raises(ValueError, match=message):
        next(Sampler(TokenDataset(ids, vocab_size=10), 8, 2))


def test_anything_that_gives_batches_is_prefetched():
    pairs = [(torch.full((2, 3), i), torch.full((2, 3), i + 1)) for i in range(5)]
    loader = torch.utils.data.DataLoader(pairs, batch_size=None)
    for source in (pairs, iter(pairs), (pair for pair in pairs), loader):
        batches = Prefetcher(source)
        for x, y in pairs:
            one, two = next(batches)
            assert torch.equal(one, x) and torch.equal(two, y) and batches.state_dict() == {}
        if source in (pairs, loader):
            assert torch.equal(next(batches)[0], pairs[0][0]), "it begins again"
        else:
            with pytest.raises(ValueError, match="no batches left; give one that can be iterated again"):
                next(batches)
    batches = Prefetcher(pairs)
    next(batches)
    batches.load_state_dict({})
    assert torch.equal(next(batches)[0], pairs[1][0]), "a source without a state is left where it is"


def test_a_step_finds_all_its_batches_drawn():
    "With as many drawn ahead as a step takes, the thread draws while the step computes."
    drawn, handed_out = [], threading.Event()

    def source():
        while True:
            drawn.append(len(drawn))
            if len(drawn) == 5:
                handed_out.wait(10)
            yield torch.tensor([[len(drawn)]]), torch.tensor([[0]])

    batches = Prefetcher(source(), depth=4)
    deadline = time.monotonic() + 10
    while len(drawn) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert drawn == [0, 1, 2, 3], "before anyone has asked"
    assert [next(batches)[0].item() for _ in range(4)] == [1, 2, 3, 4]
    handed_out.set()
    assert next(batches)[0].item() == 5


def test_a_shard_that_is_cut_short_while_in_use_is_an_error(tmp_path):
    prepare(tales(100), ByteTokenizer(), tmp_path)
    data = TokenDataset(tmp_path)
    with open(tmp_path / "train-00000.bin", "r+b") as file:
        file.truncate(100)
    with pytest.raises(ValueError, match="train-00000.bin has changed while it was in use"):
        data.read(np.array([5000]), 10)


def test_the_state_of_any_source_is_that_of_the_reader():
    class Counter:
        "A loader whose state is where its next iterator begins."

        begin = 0

        def __iter__(self):
            while True:
                self.begin += 1
                yield torch.tensor([[self.begin]]), torch.tensor([[-self.begin]])

        def state_dict(self):
            return {"begin": self.begin}

        def load_state_dict(self, state):
            self.begin = state["begin"]

    batches = Prefetcher(Counter())
    assert [next(batches)[0].item() for _ in range(3)] == [1, 2, 3] and batches.state_dict() == {"begin": 3}
    batches.load_state_dict({"begin": 40})
    assert batches.state_dict() == {"begin": 40} and next(batches)[0].item() == 41


def test_too_little_validation_is_said(tmp_path):
    with pytest.warns(
        UserWarning, match="validation has only 26 tokens, .*more text, or a val_fraction above 0.1"
    ):
        meta = prepare(
            Corpus("note", lambda: iter(["a line of text\n" * 16])), ByteTokenizer(), tmp_path / "note"
        )
    assert meta["splits"]["val"]["tokens"] == 26 and is_prepared(tmp_path / "note")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(tales(200), ByteTokenizer(), tmp_path / "tales")
    with pytest.raises(
        ValueError, match="has no text for the split 'val'; use more text or another val_fraction"
    ):
        prepare(Corpus("letter", lambda: iter(["a"])), ByteTokenizer(), tmp_path / "letter")
