"""Wrong answers to the project on your own text."""
import re
import unicodedata
from collections import Counter
from difflib import SequenceMatcher
from math import log

from nanogpt import check
from nanogpt.exercises.own_text import _letter, _tales

from . import mistake

MARKS = b"\xff\xfe", b"\xfe\xff"


def decoded(data, *, fallback="cp1252", errors="replace", first="utf-8-sig", marks=MARKS, crlf="\n"):
    "The text of a file, and ways to get it wrong."
    try:
        text = data.decode("utf-16" if data[:2] in marks else first)
    except UnicodeDecodeError:
        text = data.decode(fallback, errors)
    return text.replace("\r\n", crlf)


mistake(check.decoded_bytes, "Latin-1 for all", "Which encoding can tell", lambda data: data.decode("latin-1"))
mistake(check.decoded_bytes, "not decoded", "bytes; it should be a string", lambda data: data)
mistake(check.decoded_bytes, "spaces lost", "of a file in UTF-8", lambda data: decoded(data).strip())
mistake(check.decoded_bytes, "the mark stays", "byte order mark is still", lambda data: decoded(data, first="utf-8"))
mistake(check.decoded_bytes, "no UTF-16", "UTF-16 gives 'ÿþD", lambda data: decoded(data, marks=()).replace("\0", ""))
mistake(check.decoded_bytes, "zero bytes", "a zero byte after each", lambda data: decoded(data, marks=()))
mistake(check.decoded_bytes, "little only", "can begin with FE FF", lambda data: decoded(data, marks=(b"\xff\xfe",)))
mistake(check.decoded_bytes, "replaced", "so letters are lost", lambda data: decoded(data, fallback="utf-8"))
mistake(check.decoded_bytes, "left out", "become Zo", lambda data: decoded(data, fallback="utf-8", errors="ignore"))
mistake(check.decoded_bytes, "Latin-1 for the rest", "the euro sign", lambda data: decoded(data, fallback="latin-1"))
mistake(check.decoded_bytes, "Greek", "of a file in cp1252, you", lambda data: decoded(data, fallback="cp1253"))
mistake(check.decoded_bytes, "strict to the end", "UnicodeDecodeError", lambda data: decoded(data, errors="strict"))
mistake(check.decoded_bytes, "ends of Windows", "line ends of Windows are", lambda data: decoded(data, crlf="\r\n"))
mistake(check.decoded_bytes, "two newlines", "line ends of Windows, utf-8", lambda data: decoded(data, crlf="\n\n"))


def plain(texts, *, per_text=set, least=0.5, blank=True, strip=str.strip, join="\n", end=str.strip):
    "The texts without boilerplate, and ways to get it wrong."
    counts = Counter(line for text in texts for line in per_text([strip(line) for line in text.splitlines()]))

    def keeps(line):
        return blank and not line.strip() or counts[strip(line)] <= least * len(texts)

    return [end(join.join(filter(keeps, text.splitlines()))) for text in texts]


mistake(check.without_boilerplate, "nothing done", "is in all six texts, and still", lambda texts: [*texts])
mistake(check.without_boilerplate, "a generator", "should be a list of texts", lambda texts: (text for text in texts))
mistake(check.without_boilerplate, "lines", "each text is a string", lambda t: [text.splitlines() for text in t])
mistake(check.without_boilerplate, "one text", "6 texts went in and 1", lambda texts: ["\n".join(texts)])
mistake(check.without_boilerplate, "spaces count", "strip a line before", lambda texts: plain(texts, strip=str))
mistake(check.without_boilerplate, "in all texts", "more than half, and", lambda texts: plain(texts, least=0.99))
mistake(check.without_boilerplate, "half is enough", "exactly half of the", lambda texts: plain(texts, least=0.49))
mistake(check.without_boilerplate, "occurrences", "five times in one text", lambda texts: plain(texts, per_text=list))
mistake(check.without_boilerplate, "no paragraphs", "but they are the paragraphs", lambda t: plain(t, blank=False))
mistake(check.without_boilerplate, "in one line", "of none of the texts", lambda texts: plain(texts, join=" "))
mistake(check.without_boilerplate, "ends not stripped", "blank space at an end", lambda texts: plain(texts, end=str))
mistake(
    check.without_boilerplate, "small letters", "['dear ann,']", lambda texts: [t.lower() for t in plain(texts)]
)


@mistake(check.without_boilerplate, "inside lines", "that only quotes")
def _(texts):
    return [text.replace("Saved by X.", "").replace("Page 1", "").strip() for text in texts]


@mistake(check.without_boilerplate, "in place", "the list that was given")
def _(texts):
    texts[:] = plain(texts)
    return texts


def runs(text, cut=str.split, n=5):
    words = cut(text)
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def unique(texts, share, *, runs=runs, empty=True, of=lambda a, b: len(a & b) / len(a), together=False, fits=None):
    "The texts without copies, and ways to get it wrong."
    kept, found = [], []
    for text in texts:
        mine = runs(text)
        others = [set().union(*found)] if together else found
        fits = fits or (lambda value: value < share)
        if all(fits(of(mine, other)) for other in others if mine and other) and (mine or empty):
            kept.append(text)
            found.append(mine)
    return kept


def bags(text):
    return {(word,) for word in text.split()}


mistake(check.without_copies, "a set", "should be a list", lambda t, s: {*t})
mistake(check.without_copies, "the last copy", "keep the first", lambda t, s: unique(t[::-1], s)[::-1])
mistake(check.without_copies, "all kept", "and a copy of one", lambda t, s: [*t])
mistake(check.without_copies, "none kept", "0 were kept", lambda t, s: [])
mistake(check.without_copies, "exact copies", "another greeting", lambda t, s: unique(t, 0.99))
mistake(check.without_copies, "in another order", "compare runs", lambda t, s: unique(t, s, runs=bags))
mistake(check.without_copies, "from all texts", "of two others", lambda t, s: unique(t, s, together=True))
mistake(check.without_copies, "share ignored", "are allowed", lambda t, s: unique(t, 0.5))
mistake(check.without_copies, "short texts go", "nothing speaks against", lambda t, s: unique(t, s, empty=False))


@mistake(check.without_copies, "cut at spaces", "compare words")
def _(texts, share):
    return unique(texts, share, runs=lambda text: runs(text, cut=lambda text: text.split(" ")), fits=lambda v: v < 0.9)


@mistake(check.without_copies, "the runs of both", "a part of a text")
def _(texts, share):
    return unique(texts, share, of=lambda a, b: len(a & b) / len(a | b))


@mistake(check.without_copies, "the runs of the other", "goes on is lost")
def _(texts, share):
    return unique(texts, share, of=lambda a, b: len(a & b) / min(len(a), len(b)))


@mistake(check.without_copies, "more than the share", "allows *fewer*")
def _(texts, share):
    return unique(texts, share, fits=lambda value: value <= share)


def common(texts, least, *, form="NFC", count=set, again=False, gap="", late=False):
    "The texts with a small alphabet, and ways to get it wrong."
    composed = [unicodedata.normalize(form, text) for text in texts]
    counts = Counter(c for text in (texts if late else composed) for c in count(text))
    return ["".join(c if counts[c] >= least + again else gap for c in text) for text in composed]


mistake(check.common_characters, "not composed", "in NFC, it is 3", lambda t, n: common(t, n, form="NFD"))
mistake(check.common_characters, "occurrences", "count texts", lambda t, n: common(t, n, count=list))
mistake(check.common_characters, "changed by NFKC", "normalise with NFC", lambda t, n: common(t, n, form="NFKC"))
mistake(check.common_characters, "three more", "has become empty", lambda t, n: common(t, n, again=3))
mistake(check.common_characters, "a gap", "put nothing there", lambda t, n: common(t, n, gap="?"))
mistake(check.common_characters, "one less", "of two texts is still", lambda t, n: common(t, n, again=-1))
mistake(check.common_characters, "counted too early", "normalise before", lambda t, n: common(t, n, late=True))
mistake(check.common_characters, "one string", "str; it should be a list", lambda t, n: "".join(common(t, n)))


@mistake(check.common_characters, "ASCII", "'Zoe'")
def _(texts, least):
    return [unicodedata.normalize("NFD", text).encode("ascii", "ignore").decode() for text in texts]


@mistake(check.common_characters, "spaces lost", "spaces or newlines are gone")
def _(texts, least):
    return [re.sub(r"\s", "", text) for text in common(texts, least)]


@mistake(check.common_characters, "small letters are the same", "even if `a` stays")
def _(texts, least):
    counts = Counter(c for text in common(texts, 0) for c in set(text.lower()))
    return ["".join(c for c in text if counts[c.lower()] >= least) for text in common(texts, 0)]


own = [_letter(tale, number, False) for number, tale in enumerate(_tales())]
letters = [re.sub("[🦊→½♫☂Ж]", "", letter) for letter in own]


def changed(change, every=12):
    return [change(letter) if number % every == 1 else letter for number, letter in enumerate(letters)]


mistake(check.clean_letters, "bytes", "each text is a string", [letter.encode() for letter in letters])
mistake(check.clean_letters, "one string", "should be a list", "\n".join(letters))
mistake(check.clean_letters, "byte order marks", "byte order marks", changed(lambda text: "\ufeff" + text))
mistake(check.clean_letters, "UTF-16", "zero bytes", changed(lambda text: text.encode("utf-16-le").decode("latin-1")))
mistake(check.clean_letters, "replaced", "U+FFFD", changed(lambda text: re.sub("[ëéö]", "\ufffd", text)))
mistake(check.clean_letters, "twice encoded", "still have Ã", changed(lambda text: text.encode().decode("cp1252")))
mistake(check.clean_letters, "ends of Windows", "line ends of", changed(lambda text: text.replace("\n", "\r\n")))
mistake(check.clean_letters, "accents", "of their own", [unicodedata.normalize("NFD", letter) for letter in letters])
mistake(check.clean_letters, "boilerplate", "MailKeep", [_letter(tale, n) for n, tale in enumerate(_tales())])
mistake(check.clean_letters, "copies", "5 letters are there twice", letters + letters[:5])
mistake(check.clean_letters, "letters lost", "3 of 160 letters are lost", letters[3:])
mistake(check.clean_letters, "a stranger", "there are 161 texts", [*letters, "Dear me!"])
mistake(check.clean_letters, "rare characters", "is in one letter only", own)
mistake(check.clean_letters, "names cut", "lost the name", changed(lambda text: re.sub("[ëéö]", "", text)))


def longest(text, source):
    best, start = "", 0
    while start + len(best) < len(text):
        span = text[start : start + len(best) + 1]
        best, start = (span, start) if span in source else (best, start + 1)
    return best


@mistake(check.longest_copy, "from the beginning only", "there is a longer one")
def _(text, source):
    return next((text[:n] for n in range(len(text), 0, -1) if text[:n] in source), "")


@mistake(check.longest_copy, "whole words", "spaces count too")
def _(text, source):
    return longest(text, source).strip()


@mistake(check.longest_copy, "letters in common", "is not in the text")
def _(text, source):
    return "".join(sorted({*text} & {*source}))


@mistake(check.longest_copy, "difflib with its junk", "but there is one of")
def _(text, source):
    match = SequenceMatcher(None, text, source).find_longest_match()
    return text[match.a : match.a + match.size]


@mistake(check.longest_copy, "it goes on after each span", "you find a span of")
def _(text, source):
    best, start = "", 0
    while start < len(text):
        end = start
        while end < len(text) and text[start : end + 1] in source:
            end += 1
        best = max(best, text[start:end], key=len)
        start = max(end, start + 1)
    return best


mistake(check.longest_copy, "its length", "return the span itself", lambda text, source: len(longest(text, source)))
mistake(check.longest_copy, "None for nothing", "NoneType", lambda text, source: longest(text, source)[:0] or None)
mistake(check.longest_copy, "the text", "is not in the source", lambda text, source: text)
mistake(check.longest_copy, "a space for nothing", "no character in common give ' '", lambda a, b: longest(a, b) or " ")


def size(texts):
    return sum(len(text.encode()) for text in texts)


mistake(check.fair_bits, "nats", "is in nats", lambda nats, n, t: nats * n / size(t))
mistake(check.fair_bits, "not divided", "all four bytes together", lambda nats, n, t: nats * n / log(2))
mistake(check.fair_bits, "divided twice", "divides twice", lambda nats, n, t: nats / log(2) / size(t))
mistake(check.fair_bits, "times ln 2", "a nat is more", lambda nats, n, t: nats * log(2) * n / size(t))
mistake(check.fair_bits, "bits per token", "half the tokens", lambda nats, n, t: nats / log(2))
mistake(check.fair_bits, "something else", "needs 8 bits", lambda nats, n, t: 3.5)
mistake(check.fair_bits, "a list", "list; it should be one", lambda nats, n, t: [nats for _ in t])


@mistake(check.fair_bits, "characters", "bits per character")
def _(nats, tokens, texts):
    return nats * tokens / log(2) / sum(map(len, texts))


@mistake(check.fair_bits, "the first text", "texts of 4, 2 and 4")
def _(nats, tokens, texts):
    return nats * tokens / log(2) / size(texts[:1])


@mistake(check.fair_bits, "accents as two", "12 bits for the 14")
def _(nats, tokens, texts):
    return nats * tokens / log(2) / size([unicodedata.normalize("NFD", text) for text in texts])


def pairs(written, held_out, *, tie=0.5):
    return sum((w > h) + tie * (w == h) for w in written for h in held_out) / len(written) / len(held_out)


mistake(check.recital, "exchanged", "are exchanged", lambda written, held_out: pairs(held_out, written))
mistake(check.recital, "the sum", "the number of pairs", lambda a, b: pairs(a, b) * len(a) * len(b))
mistake(check.recital, "for each of its letters", "more than all", lambda a, b: pairs(a, b) * len(a))
mistake(check.recital, "ties are nothing", "ties count nothing", lambda a, b: pairs(a, b, tie=0))
mistake(check.recital, "ties are whole", "as a whole", lambda a, b: pairs(a, b, tie=1))
mistake(check.recital, "a difference", "should give 1", lambda a, b: sum(a) / len(a) / (sum(b) / len(b)))
mistake(check.recital, "a table", "should be one number", lambda a, b: [[w > h for h in b] for w in a])


@mistake(check.recital, "means", "compare means or maxima")
def _(written, held_out):
    mine, yours = sum(written) / len(written), sum(held_out) / len(held_out)
    return (mine > yours) + (mine == yours) / 2


@mistake(check.recital, "above the middle", "gives 0.6")
def _(written, held_out):
    middle = sorted(held_out)[len(held_out) // 2]
    return sum((w > middle) + (w == middle) / 2 for w in written) / len(written)


@mistake(check.recital, "side by side", "but wins 6 of 12")
def _(written, held_out):
    sides = [(w > h) + (w == h) / 2 for w, h in zip(written, held_out)]
    return sum(sides) / len(sides)
