"""Ids on disk are what was put there; batches are what a loop would give."""
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.corpus import Corpus, tales
from nanogpt.data import TokenDataset, all_batches, dtype_for, prepare, random_batch, split_documents
from nanogpt.tokenizer import ByteTokenizer, CharTokenizer


def raw(path, ids) -> TokenDataset:
    "A raw nanoGPT file."
    np.array(ids, dtype=np.uint16).tofile(path)
    return TokenDataset(path)


@pytest.mark.parametrize("vocab_size, dtype", [(1, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")])
def test_dtype(vocab_size, dtype):
    assert dtype_for(vocab_size) == dtype


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=20), st.floats(0.01, 0.99))
def test_split_loses_nothing(documents, fraction):
    if sum(map(len, documents)) < 2:
        return
    train, val = split_documents(documents, fraction)
    assert train and val and "".join(train + val) == "".join(documents)
    if len(documents) > 1:
        assert train + val == documents


def test_prepare_and_read_back(tmp_path):
    corpus, tokenizer = tales(30), ByteTokenizer()
    meta = prepare(corpus, tokenizer, tmp_path)
    texts = []
    for split in ("train", "val"):
        data = TokenDataset(tmp_path / f"{split}.bin")
        data.verify()
        assert data.ids[0] == data.ids[-1] == tokenizer.eot
        assert len(data.document_starts) == meta["splits"][split]["documents"]
        texts += [tokenizer.decode(part) for part in np.split(data.ids, np.flatnonzero(data.ids == tokenizer.eot)) if len(part) > 1]
    assert texts == list(corpus.documents())
    assert meta["floor"] == corpus.floor and meta["dtype"] == "uint16" and meta["tokenizer"] == tokenizer.fingerprint


def test_characters_equal_tokens_for_characters(tmp_path):
    for corpus in (tales(20), Corpus("one", lambda: iter(["some text without an end " * 9]))):
        meta = prepare(corpus, CharTokenizer.from_text(corpus.documents(), corpus.end), tmp_path / corpus.name)
        assert all(info["tokens"] == info["characters"] for info in meta["splits"].values())


@pytest.mark.parametrize("aligned", [False, True])
@given(
    documents=st.lists(st.text("abc", min_size=1, max_size=12), min_size=2, max_size=12),
    batch_size=st.integers(1, 5), block_size=st.integers(1, 9),
)  # fmt: skip
def test_all_batches_predicts_every_token_once(tmp_path_factory, aligned, documents, batch_size, block_size):
    folder = tmp_path_factory.mktemp("data")
    prepare(Corpus("c", lambda: iter(documents)), CharTokenizer("\nabc", eot="\n"), folder, 0.5)
    data = TokenDataset(folder / "train.bin")
    if len(data) < block_size + 1:
        return
    targets = []
    for x, y in all_batches(data, batch_size, block_size, aligned):
        assert x.shape == y.shape and x.shape[1] == block_size and 1 <= len(x) <= batch_size
        assert (y[:, :-1][y[:, 1:] >= 0] >= 0).all(), "only the end of a window has nothing to predict"
        assert (x[:, 1:][y[:, :-1] >= 0] == y[:, :-1][y[:, :-1] >= 0]).all()
        targets += y[y >= 0].tolist()
    assert targets == data.ids[1:].tolist()


def test_aligned_windows_begin_at_documents(tmp_path):
    corpus = tales(40)
    prepare(corpus, CharTokenizer.from_text(corpus.documents(), corpus.end), tmp_path)
    data = TokenDataset(tmp_path / "train.bin")
    x, y = random_batch(data, 64, 100, torch.Generator().manual_seed(0), aligned=True)
    assert (x[:, 0] == data.eot).all() and (y[:, 0] != data.eot).all()
    for x, y in all_batches(data, 8, 400, aligned=True):
        assert (x[:, 0] == data.eot).all() and ((y == data.eot).sum(1) == 1).all()


def test_random_batches_cover_all_windows_and_repeat_from_their_state(tmp_path):
    data, generator = raw(tmp_path / "x.bin", range(12)), torch.Generator().manual_seed(0)
    x, y = random_batch(data, 1000, 4, generator)
    assert (y == x + 1).all() and set(x[:, 0].tolist()) == set(range(8)), "every start, the last one too"
    state = generator.get_state()
    first = random_batch(data, 5, 4, generator)[0]
    generator.set_state(state)
    assert torch.equal(first, random_batch(data, 5, 4, generator)[0])


def test_bad_data_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nanogpt prepare"):
        TokenDataset(tmp_path / "train.bin")
    data = raw(tmp_path / "short.bin", range(5))
    for read in (lambda: random_batch(data, 1, 5, torch.Generator()), lambda: next(all_batches(data, 1, 5))):
        with pytest.raises(ValueError, match=r"5 tokens, fewer than block_size \+ 1 = 6"):
            read()
    (tmp_path / "empty.bin").touch()
    with pytest.raises(ValueError, match="is empty"):
        TokenDataset(tmp_path / "empty.bin")
    (tmp_path / "odd.bin").write_bytes(b"123")
    with pytest.raises(ValueError, match="odd.bin"):
        TokenDataset(tmp_path / "odd.bin")
    with pytest.raises(ValueError, match="no text"):
        prepare(Corpus("none", lambda: iter(["", ""])), ByteTokenizer(), tmp_path / "none")
    with pytest.raises(ValueError, match="val_fraction"):
        prepare(tales(3), ByteTokenizer(), tmp_path / "none", val_fraction=1.0)


def test_damage_is_found(tmp_path):
    prepare(tales(20), ByteTokenizer(), tmp_path)
    path = tmp_path / "val.bin"
    good = path.read_bytes()
    path.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    with pytest.raises(ValueError, match="has changed since it was prepared"):
        TokenDataset(path).verify()
    path.write_bytes(good[:-2])
    with pytest.raises(ValueError, match="meta.json says"):
        TokenDataset(path)
    path.write_bytes(good)
    meta = json.loads((tmp_path / "meta.json").read_text(encoding="utf-8"))
    (tmp_path / "meta.json").write_text(json.dumps(meta | {"vocab_size": 100}), encoding="utf-8")
    with pytest.raises(ValueError, match="holds id 256, but the vocabulary has 100"):
        TokenDataset(path).verify()
