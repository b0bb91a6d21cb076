"""Wrong answers to the exercises of chapter 2."""
import math
from collections import Counter

from nanogpt import check
from nanogpt.tales import Grammar, entries

from . import mistake

mistake(check.text_perplexity, "the loss", "that is the loss in nats", math.log(2))
mistake(check.text_perplexity, "the whole text's cost", "cost of the whole text", math.log(16))
mistake(check.text_perplexity, "the loss in bits", "in bits", 1)
mistake(check.text_perplexity, "the text's probability", "that is the probability of the text", 1 / 16)
mistake(check.text_perplexity, "no average", "that is for the whole text", 16)
mistake(check.text_perplexity, "the mean of perplexities", "the mean of 1/p", 2.25)
mistake(check.text_perplexity, "the mean probability", "averaged the probabilities", 1.78)
mistake(check.text_perplexity, "without the certain one", "left out the certain character", 2.52)
mistake(check.text_perplexity, "another base", "not of 2", 1.617)
mistake(check.text_perplexity, "something else", "cost on average", 3)

mistake(check.uneven_entropy, "all alike", "if the ten texts were equally likely", 2.303)
mistake(check.uneven_entropy, "not weighted", "half of the time", 2.89)
mistake(check.uneven_entropy, "everything halved", "ln 2 counts in full", 1.445)
mistake(check.uneven_entropy, "the template only", "that is the choice of the template", 0.693)
mistake(check.uneven_entropy, "the place only", "that is the choice of the place", 2.197)
mistake(check.uneven_entropy, "bits", "in bits", 2.585)
mistake(check.uneven_entropy, "the perplexity", "e to the power of the entropy", 6)
mistake(check.uneven_entropy, "how many texts", "there are ten texts", 10)
mistake(check.uneven_entropy, "something else", "weigh the cost", 1.5)

HEROES = entries("Lily/She, Ben/He, Mia/She, Hugo/He", "She")
COUNTS = entries("three/two, four/three, five/four", "less")
STORY = "{hero} planted {count} seeds. {hero.She} ate one and kept {count.less}."


def story(text, rules=(), heroes=HEROES, counts=COUNTS, **variables):
    "The solution with something changed."
    return Grammar({"story": [text], **dict(rules)}, {"hero": heroes, "count": counts, **variables}, start="story")


free = {"pronoun": ["She", "He"], "rest": ["two", "three", "four"]}
mistake(check.agreeing_story, "as it was", "After Ben, it should say 'He'",
        story("{hero} planted {count} seeds. {pronoun} ate one and kept {rest}.", free))
mistake(check.agreeing_story, "a pronoun of its own", "After Hugo, it should say 'He'",
        story("{hero} planted {count} seeds. {she} ate one and kept {count.less}.",
              heroes=HEROES[:1] + HEROES[3:], she=entries("She")))
mistake(check.agreeing_story, "only the pronoun mended", "But five less one is not three",
        story("{hero} planted {count} seeds. {hero.She} ate one and kept {rest}.", free))
mistake(check.agreeing_story, "the same number again", "But one seed was eaten",
        story("{hero} planted {count} seeds. {hero.She} ate one and kept {count}."))
mistake(check.agreeing_story, "forms exchanged", "It should begin with",
        story(STORY, counts=entries("two/three, three/four, four/five", "less")))
mistake(check.agreeing_story, "only one number", "there are 4 stories", story(STORY, counts=COUNTS[:1]))
mistake(check.agreeing_story, "the name again", "After Ben, it should say 'He'",
        story(STORY.replace("{hero.She}", "{hero}")))
mistake(check.agreeing_story, "new heroes", "['Anna'] are new", story(STORY, heroes=entries("Anna/She, Ben/He", "She")))
mistake(check.agreeing_story, "a text", "of type str", "Lily planted three seeds. She ate one and kept two.")


def costs(model, text, see=0):
    chances = [model(text[: i + see]).get(character, 0) for i, character in enumerate(text)]
    return [-math.log(p) if p else math.inf for p in chances]


def pooled(model, texts, **options):
    return [cost for text in texts for cost in costs(model, text, **options)]


def average(values):
    return sum(values) / len(values)


mistake(check.loss_on_texts, "not averaged", "the cost of all four", lambda model, texts: sum(pooled(model, texts)))
mistake(check.loss_on_texts, "a list", "of type list", pooled)
mistake(check.loss_on_texts, "no minus", "is never negative", lambda model, texts: -average(pooled(model, texts)))
mistake(check.loss_on_texts, "the perplexity", "is the perplexity",
        lambda model, texts: math.exp(average(pooled(model, texts))))
mistake(check.loss_on_texts, "bits", "in bits", lambda model, texts: average(pooled(model, texts)) / math.log(2))
mistake(check.loss_on_texts, "sees too much", "does the model see",
        lambda model, texts: average(pooled(model, texts, see=1)))
mistake(check.loss_on_texts, "the mean of means", "lets 'c' count as much",
        lambda model, texts: average([average(costs(model, text)) for text in texts]))
mistake(check.loss_on_texts, "one long text", "each text begins anew",
        lambda model, texts: average(costs(model, "".join(texts))))
mistake(check.loss_on_texts, "first character left out", "the first character costs too",
        lambda model, texts: average([cost for text in texts for cost in costs(model, text)[1:]]))
mistake(check.loss_on_texts, "impossible ones left out", "is 0.000, although",
        lambda model, texts: average([cost for cost in pooled(model, texts) if cost < math.inf]))
mistake(check.loss_on_texts, "the first text only", "the loss is 1.587; it should be 1.547",
        lambda model, texts: average(costs(model, texts[0])))


@mistake(check.loss_on_texts, "the mean probability", "averaged the probabilities, and then")
def _(model, texts):
    return -math.log(average([math.exp(-cost) for cost in pooled(model, texts)]))


@mistake(check.loss_on_texts, "the logarithm of zero", "math")
def _(model, texts):
    return average([-math.log(model(text[:i]).get(text[i], 0)) for text in texts for i in range(len(text))])


@mistake(check.loss_on_texts, "unnamed characters", "KeyError in your line")
def _(model, texts):
    chances = [model(text[:i])[text[i]] for text in texts for i in range(len(text))]
    return average([-math.log(p) if p else math.inf for p in chances])


mistake(check.word_perplexity, "the loss", "that is the loss", 0.761)
mistake(check.word_perplexity, "the floor", "is the floor", 0.1535)
mistake(check.word_perplexity, "per character", "that is the perplexity per character", 1.166)
mistake(check.word_perplexity, "perplexity multiplied", "multiply costs, not perplexities", 5.78)
mistake(check.word_perplexity, "another base", "not of 2", 1.695)
mistake(check.word_perplexity, "letters only", "only the letters", 1.79)
mistake(check.word_perplexity, "the cost of a tale", "cost of a whole tale", 43.553)
mistake(check.word_perplexity, "something else", "share that cost", 3)


def blend(counts, before, alphabet, order=1, cut=lambda before, n: before[len(before) - n :]):
    p = {character: 1 / len(alphabet) for character in alphabet}
    for n in range(len(counts))[::order]:
        seen = counts[n].get(cut(before, n), Counter())
        p = {c: (seen[c] + p[c]) / (seen.total() + 1) for c in alphabet}
    return p


def alone(counts, before, alphabet, n):
    seen = counts[n].get(before[len(before) - n :], Counter())
    return {c: (seen[c] + 0.01) / (seen.total() + 0.01 * len(alphabet)) for c in alphabet}


@mistake(check.blended_counts, "the longest that was seen", "calls ")
def _(counts, before, alphabet):
    for n in reversed(range(len(counts))):
        if seen := counts[n].get(before[len(before) - n :]):
            return {c: seen[c] / seen.total() for c in alphabet}


@mistake(check.blended_counts, "what was not seen left out", "there is no probability for")
def _(counts, before, alphabet):
    seen = counts[1].get(before[-1:], Counter())
    return {c: times / seen.total() for c, times in seen.items()}


@mistake(check.blended_counts, "a sum of distributions", "the probabilities sum to")
def _(counts, before, alphabet):
    parts = [alone(counts, before, alphabet, n) for n in range(len(counts))]
    return {c: sum(part[c] for part in parts) for c in alphabet}


@mistake(check.blended_counts, "a plain mean", "trust a long context more")
def _(counts, before, alphabet):
    parts = [alone(counts, before, alphabet, n) for n in range(len(counts))]
    return {c: sum(part[c] for part in parts) / len(parts) for c in alphabet}


mistake(check.blended_counts, "the longest only", "with 6 characters alone",
        lambda counts, before, alphabet: alone(counts, before, alphabet, len(counts) - 1))
mistake(check.blended_counts, "the shortest last", "with 0 characters alone",
        lambda counts, before, alphabet: blend(counts, before, alphabet, order=-1))
mistake(check.blended_counts, "before[-0:]", "`before[-0:]` is all",
        lambda counts, before, alphabet: blend(counts, before, alphabet, cut=lambda before, n: before[-n:]))
mistake(check.blended_counts, "a list", "it should be a dictionary",
        lambda counts, before, alphabet: list(blend(counts, before, alphabet).values()))
