"""Which head finds which fact of a tale, and what breaks without it: the table of chapter 16 for several seeds.

    python scripts/inside.py            # trains three models; writes benchmarks/results/inside.json
"""
import argparse
import sys
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

import torch

from nanogpt.bench import machine
from nanogpt.bpe import train_bpe
from nanogpt.config import GPTConfig
from nanogpt.corpus import tales
from nanogpt.files import write_json
from nanogpt.inside import ablate, mentions, record
from nanogpt.model import GPT
from nanogpt.optim import muon, wsd_lr
from nanogpt.sample import generate
from nanogpt.step import train_step
from nanogpt.tales import ParseError, TALE_VARIABLES, parse

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--steps", type=int, default=800)
parser.add_argument("--out", default=Path(__file__).parent.parent / "benchmarks" / "results" / "inside.json")
args = parser.parse_args()

HALF = 150  # tales to name the heads with; the others are for switching them off
FACTS = ("hero", "kind", "colour", "thing", "helper", "count")
documents, unseen = (list(tales(n, seed=seed).documents()) for n, seed in ((8000, 1), (300, 9)))
tokenizer = train_bpe(documents[:2000], 1024, ["<|endoftext|>"])


def rows_of(texts):
    rows = [torch.tensor([tokenizer.eot, *tokenizer.encode(text), tokenizer.eot]) for text in texts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)


rows, new = rows_of(documents), rows_of(unseen)
told = [(row, mention) for row, text in enumerate(unseen) for mention in mentions(text, tokenizer)]
choices = {fact: [tokenizer.encode(" " + one)[0] for entry in TALE_VARIABLES[fact] for one in entry.values()
                  if one not in ("she", "She", "he", "He", "his", "her")] for fact in FACTS}


def trained(seed):
    shape = GPTConfig(rows.shape[1], tokenizer.vocab_size, n_layer=2, n_head=4, n_embd=128, bias=False,
                      positions="rotary", tied=False, embd_std=0.3, ngram_orders=(2,))
    generator = torch.Generator().manual_seed(seed)
    model = GPT(shape, generator)
    optimizer = muon(model, 0.01, muon_lr=0.03, betas=(0.8, 0.95), weight_decay=0.0)
    peaks = [group["lr"] for group in optimizer.param_groups]
    for it in range(args.steps):
        for group, peak in zip(optimizer.param_groups, peaks):
            group["lr"] = wsd_lr(it, peak, 0, args.steps, 0.0, decay_fraction=0.8)
        batch = rows[torch.randint(len(rows), (8,), generator=generator)]
        train_step(model, optimizer, [(batch[:, :-1].clamp(min=0), batch[:, 1:])])
    return model.eval()


@torch.no_grad()
def right(model):
    "The share of facts that are the likeliest of their kind where they are said again, in %."
    logits, shares = model(new.clamp(min=0))[0], {fact: [] for fact in FACTS}
    for row, (fact, position, _) in told:
        if row < HALF:
            continue
        best = choices[fact][logits[row, position - 1, choices[fact]].argmax()]
        shares[fact].append(100.0 * (best == new[row, position].item()))
    return {fact: sum(share) / len(share) for fact, share in shares.items()}


def written(model):
    "The share of 200 tales that are consistent, and of those that break at a fact, in %."
    start = torch.tensor([[tokenizer.eot]])
    options = dict(num_samples=200, generator=torch.Generator().manual_seed(5), stop_tokens=[tokenizer.eot])
    broken = []
    for row in generate(model, start, rows.shape[1] - 1, **options)[:, 1:].tolist():
        try:
            parse(tokenizer.decode(row).split("<|endoftext|>")[0])
        except ParseError as error:
            broken.append(error.rule)
    return {"consistent": 100 - len(broken) / 2} | {fact: broken.count(fact) / 2 for fact in FACTS}


def look(seed):
    "Name the heads of each fact by where they look, in one half of the tales; switch them off in the other half."
    model = trained(seed)
    reference = record(model, new.clamp(min=0))
    patterns = torch.cat([reference["pattern.0"], reference["pattern.1"]], dim=1)
    precision = {fact: [] for fact in FACTS}
    for row, (fact, position, sources) in told:
        if row < HALF:
            best = patterns[row, :, position - 1].argmax(-1)  # where each head looks most
            precision[fact].append(100.0 * torch.isin(best, torch.tensor(sources)))

    def off(heads, how, measure):
        with ablate(model, heads, how, reference, torch.Generator().manual_seed(seed)):
            return measure(model)

    def drop(fact, heads, how="mean"):
        return intact[fact] - off(heads, how, right)[fact]

    intact, found = right(model), {}
    for fact in FACTS:
        hits = torch.stack(precision[fact]).mean(0)
        order = [divmod(int(i), 4) for i in hits.argsort(descending=True)]
        size = next((n for n in range(1, 5) if drop(fact, order[:n]) >= 20), 4)  # the fewest that matter
        named = order[:size]
        blocks = [[(block, head) for head in range(4) if (block, head) not in named] for block in range(2)]
        counts = [sum(block == one for one, _ in named) for block in range(2)]
        controls = [[*first, *second] for first in combinations(blocks[0], counts[0])
                    for second in combinations(blocks[1], counts[1])]
        found[fact] = {
            "precision": hits.tolist(), "heads": named, "right": intact[fact],
            "drop": {how: drop(fact, named, how) for how in ("zero", "mean", "resample")},
            "drop_of_others": [drop(fact, heads) for heads in controls],
            "written": off(named, "mean", written),
            "written_without_others": off(controls[seed % len(controls)], "mean", written) if controls else None,
        }
        print(seed, fact, found[fact], flush=True)
    return {"seed": seed, "written": written(model), "facts": found}


runs = [look(seed) for seed in range(args.seeds)]
command = "python " + " ".join(["scripts/inside.py", *sys.argv[1:]])
write_json(args.out, {"nanogpt": version("nanogpt"), "command": command, "machine": machine(), "runs": runs})
