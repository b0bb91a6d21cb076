"""Any text goes in and comes back; bad input is named."""
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from nanogpt.tokenizer import ByteTokenizer, CharTokenizer, TiktokenTokenizer, get_tokenizer, load_tokenizer, tokenizer_from_dict


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
    with pytest.raises(ValueError, match="not in the vocabulary of this CharTokenizer: 'x' 'é'; leave these out"):
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


@pytest.mark.parametrize("tokenizer", [CharTokenizer("\nabcé", eot="\n"), CharTokenizer("ab"), ByteTokenizer()])
def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = load_tokenizer(path)
        assert (loaded.fingerprint, loaded.eot, loaded.vocab_size) == (tokenizer.fingerprint, tokenizer.eot, tokenizer.vocab_size)


def test_fingerprints_tell_tokenizers_apart():
    several = [CharTokenizer("ab"), CharTokenizer("ba"), CharTokenizer("ab", eot="a"), ByteTokenizer()]
    assert len({tokenizer.fingerprint for tokenizer in several}) == len(several)


def test_bad_definitions(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer at"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="not a saved tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="not a tokenizer that this version"):
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
