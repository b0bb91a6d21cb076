"""Wrong answers to the exercises of chapter 1."""
import re

from nanogpt import check
from nanogpt.tokenizer import CharTokenizer, Tokenizer

from . import mistake

mistake(check.merge_order, "the longest token", "does not look for long tokens", ["f", "a", "the", "r"])
mistake(check.merge_order, "the second merge first", "comes first in the list", ["f", "a", "t", "he", "r"])
mistake(check.merge_order, "a token that no merge makes", "no merge makes ['th']", ["f", "a", "th", "er"])
mistake(check.merge_order, "one token", "no merge makes ['father']", ["father"])
mistake(check.merge_order, "letters only", "nothing was merged", list("father"))
mistake(check.merge_order, "a letter left out", "spell 'fathr'", ["f", "a", "th", "r"])
mistake(check.merge_order, "how many tokens", "not a list of strings", 5)


@mistake(check.joined_documents, "joined as text", "was ended by it")
def _(tokenizer, documents):
    return tokenizer.encode("".join(document + "<|endoftext|>" for document in documents), "all")


@mistake(check.joined_documents, "end only between", "the last document has no end")
def _(tokenizer, documents):
    return tokenizer.encode("<|endoftext|>".join(documents), "all")


@mistake(check.joined_documents, "special token not allowed", "is spelt out")
def _(tokenizer, documents):
    return tokenizer.encode("".join(document + "<|endoftext|>" for document in documents))


@mistake(check.joined_documents, "no end at all", "nothing shows where")
def _(tokenizer, documents):
    return [i for document in documents for i in tokenizer.encode(document)]


@mistake(check.joined_documents, "end before each", "comes after each")
def _(tokenizer, documents):
    return [i for document in documents for i in [tokenizer.eot, *tokenizer.encode(document)]]


@mistake(check.joined_documents, "a list for each", "values of type list")
def _(tokenizer, documents):
    return [[*tokenizer.encode(document), tokenizer.eot] for document in documents]


@mistake(check.joined_documents, "spelling deleted", "was something taken out")
def _(tokenizer, documents):
    clean = [document.replace("<|endoftext|>", "") for document in documents]
    return [i for document in clean for i in [*tokenizer.encode(document), tokenizer.eot]]


@mistake(check.joined_documents, "every end is spelt alike", "the `eot` of this tokenizer is 256")
def _(tokenizer, documents):
    return [i for text in documents for i in tokenizer.encode(text) + tokenizer.encode("<|endoftext|>", "all")]


@mistake(check.joined_documents, "a number of one's own", "ends with 256, but")
def _(tokenizer, documents):
    return [i for document in documents for i in [*tokenizer.encode(document), 256]]


@mistake(check.joined_documents, "empty documents skipped", "an empty document needs")
def _(tokenizer, documents):
    return [i for document in documents if document for i in [*tokenizer.encode(document), tokenizer.eot]]


@mistake(check.joined_documents, "nothing", "the ids are []")
def _(tokenizer, documents):
    return []


def cut(pattern):
    return lambda text: re.findall(pattern, text)


mistake(check.single_digits, "digit last", "take them first", cut(r" ?\w+| ?[^\w\s]+|\s+| ?\d"))
mistake(check.single_digits, "split at spaces", "were lost: [' ', ", str.split)
mistake(check.single_digits, "digit first, words as before", "[' fox2'", cut(r" ?\d| ?\w+| ?[^\w\s]+|\s+"))
mistake(check.single_digits, "Latin letters", "['_']. Each", cut(r" ?\d| ?[A-Za-z]+| ?[^\w\s]+|\s+"))
mistake(check.single_digits, "spaces alone", "the pieces [' ', ", cut(r"\d|[^\W\d]+|[^\w\s]+|\s+"))
mistake(check.single_digits, "digits left out", "were lost: ['1', ", cut(r" ?[^\W\d]+| ?[^\w\s]+|\s+"))
mistake(check.single_digits, "groups", "holds tuples", cut(r"( ?\d)|( ?[^\W\d]+)|( ?[^\w\s]+)|(\s+)"))
mistake(check.single_digits, "an optional digit", "matches nothing", cut(r" ?\d?| ?[^\W\d]+| ?[^\w\s]+|\s+"))
mistake(check.single_digits, "no Greek", "'Греция' was lost", cut(r" ?\d| ?[a-zA-Z_\u00e9]+| ?[^\w\s]+|\s+"))

mistake(check.unused_tokens, "how many are used", "so many learnt tokens do occur", 237)
mistake(check.unused_tokens, "with single bytes", "that includes single bytes", 510)
mistake(check.unused_tokens, "different ids", "different ids occur", 258)
mistake(check.unused_tokens, "rare ones", "fewer than ten times", 284)
mistake(check.unused_tokens, "a share", "that is the share", 0.537)
mistake(check.unused_tokens, "in per cent", "53.7: that is the share", 53.7)
mistake(check.unused_tokens, "in whole per cent", "54: that is the share", 54)
mistake(check.unused_tokens, "all that occur subtracted", "also single bytes", 254)
mistake(check.unused_tokens, "which ones", "how many, not which ones", [*range(256, 531)])
mistake(check.unused_tokens, "as text", "'275'; write a number", "275")
mistake(check.unused_tokens, "none", "may have swallowed", 0)
mistake(check.unused_tokens, "off by one", "276 is not how many", 276)


def cumulative(tokenizer, ids):
    return [tokenizer.decode(ids[: n + 1]) for n in range(len(ids))]


mistake(check.streamed_text, "text, not a list", "of type str", lambda tokenizer, ids: tokenizer.decode(ids))
mistake(check.streamed_text, "characters, not ids", "there are 5", lambda tokenizer, ids: [*tokenizer.decode(ids)])


@mistake(check.streamed_text, "each id alone", "ids at positions 1, 2, 3, ")
def _(tokenizer, ids):
    return [tokenizer.decode([i]) for i in ids]


@mistake(check.streamed_text, "bytes ignored", "join to 'a!'")
def _(tokenizer, ids):
    return [tokenizer.decode_bytes([i]).decode(errors="ignore") for i in ids]


@mistake(check.streamed_text, "all at the end", "nothing is shown before the last id")
def _(tokenizer, ids):
    return [""] * (len(ids) - 1) + [tokenizer.decode(ids)]


@mistake(check.streamed_text, "everything again", "it repeats what was shown")
def _(tokenizer, ids):
    return [text if "\ufffd" not in text else "" for text in cumulative(tokenizer, ids)]


@mistake(check.streamed_text, "one id late", "but '' is shown")
def _(tokenizer, ids):
    texts = [text.rstrip("\ufffd") for text in cumulative(tokenizer, ids)]
    late = ["", *texts[:-2], texts[-1]]
    return [text[len(old) :] for old, text in zip(["", *late], late)]


@mistake(check.streamed_text, "an id taken for a byte", "bytes must be in range")
def _(tokenizer, ids):
    texts = [bytes(ids[: n + 1]).decode(errors="ignore") for n in range(len(ids))]
    return [text[len(old) :] for old, text in zip(["", *texts], texts)]


@mistake(check.streamed_text, "the last id forgotten", "is the last id used?")
def _(tokenizer, ids):
    texts = ["" if text.endswith("\ufffd") else text for text in cumulative(tokenizer, ids)]
    whole = ["", *(max(texts[: n + 1], key=len) for n in range(len(ids) - 1))]
    return ["", *(text[len(old) :] for old, text in zip(whole, whole[1:]))]


@mistake(check.streamed_text, "only complete bytes", "is shown as ['', '', '']")
def _(tokenizer, ids):
    held, texts = b"", []
    for i in ids:
        held += tokenizer.decode_bytes([i])
        try:
            texts.append(held.decode())
            held = b""
        except UnicodeDecodeError:
            texts.append("")
    return texts


class Good(Tokenizer):
    def __init__(self, characters):
        self.characters, self.vocab_size, self.n = characters, len(characters) + 256, len(characters)

    def encode_ordinary(self, text):
        spelt = [[self.characters.find(c)] if c in self.characters else [self.n + b for b in c.encode()] for c in text]
        return [i for ids in spelt for i in ids]

    def decode_bytes(self, ids):
        return b"".join(self.characters[i].encode() if i < self.n else bytes([i - self.n]) for i in ids)

    def to_dict(self):
        return {"type": "mine"}


@mistake(check.byte_fallback, "bytes without their own ids", "mean known characters and also bytes")
class _(Good):
    def encode_ordinary(self, text):
        return [i if i < self.n else i - self.n for i in Good.encode_ordinary(self, text)]


@mistake(check.byte_fallback, "code points", "became 2 ids")
class _(Good):
    def encode_ordinary(self, text):
        return [self.characters.find(c) if c in self.characters else self.n + ord(c) for c in text]


@mistake(check.byte_fallback, "unknown ones left out", "unknown characters are lost")
class _(Good):
    def encode_ordinary(self, text):
        return [self.characters.find(c) for c in text if c in self.characters]


@mistake(check.byte_fallback, "nested lists", "it should be a flat list")
class _(Good):
    def encode_ordinary(self, text):
        return [[self.n + b for b in c.encode()] for c in text]


@mistake(check.byte_fallback, "no bytes in the size", "`vocab_size` is 7; there")
class _(Good):
    def __init__(self, characters):
        Good.__init__(self, characters)
        self.vocab_size = len(characters)


@mistake(check.byte_fallback, "bytes looked up as characters", "'é' is in `characters`, but it became 2 ids")
class _(Good):
    def encode_ordinary(self, text):
        return [self.characters.find(chr(b)) if chr(b) in self.characters else self.n + b for b in text.encode()]


@mistake(check.byte_fallback, "an id for the end", "`vocab_size` is 264, more than")
class _(Good):
    def __init__(self, characters):
        Good.__init__(self, characters)
        self.vocab_size = len(characters) + 257


@mistake(check.byte_fallback, "code points as bytes", "'é猫ñ\\x00' comes back as")
class _(Good):
    def decode_bytes(self, ids):
        return b"".join(bytes([ord(self.characters[i]) % 256 if i < self.n else i - self.n]) for i in ids)


@mistake(check.byte_fallback, "Latin-1", "UnicodeEncodeError in your line")
class _(Good):
    def decode_bytes(self, ids):
        return b"".join(self.characters[i].encode("latin-1") if i < self.n else bytes([i - self.n]) for i in ids)


@mistake(check.byte_fallback, "byte 0 taken for a character", "IndexError in your line")
class _(Good):
    def decode_bytes(self, ids):
        return b"".join(self.characters[i].encode() if i <= self.n else bytes([i - self.n]) for i in ids)


@mistake(check.byte_fallback, "bytes from 256 on", "id 496 is outside the vocabulary")
class _(Good):
    def encode_ordinary(self, text):
        return [i if i < self.n else i - self.n + 256 for i in Good.encode_ordinary(self, text)]


@mistake(check.byte_fallback, "all characters as bytes when one is unknown", "between two equal ids")
class _(Good):
    def encode_ordinary(self, text):
        known = Good.encode_ordinary(self, text)
        return known if max(known) < self.n else [self.n + b for b in text.encode()]


@mistake(check.byte_fallback, "text, not bytes", "`decode_bytes` returns str")
class _(Good):
    def decode_bytes(self, ids):
        return Good.decode_bytes(self, ids).decode()


@mistake(check.byte_fallback, "each byte decoded alone", "comes back as 'caf")
class _(Good):
    def decode_bytes(self, ids):
        return "".join(self.characters[i] if i < self.n else chr(i - self.n) for i in ids).encode()


@mistake(check.byte_fallback, "index of what is not there", "ValueError in your line")
class _(Good):
    def encode_ordinary(self, text):
        return [self.characters.index(c) for c in text]


mistake(check.byte_fallback, "characters only", "`encode_ordinary` is not yours", CharTokenizer)
mistake(check.byte_fallback, "a tokenizer, not its class", "the class itself", Good("abc"))
