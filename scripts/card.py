"""Draw docs/static/card.png, which is shown beside a link to the site: the demo's loss comes down to its floor."""
from pathlib import Path

import matplotlib.pyplot as plt

from nanogpt.corpus import tales
from nanogpt.plot import COLOURS, set_style
from nanogpt.report import REFERENCES

PROMISE = "Build a GPT in notebooks", "that are its library,", "and know the best loss", "that it could reach."
PAPER, INK, MUTED = "#f7f5ef", "#1b2030", "#5c6270"
iterations, losses = zip(*REFERENCES["demo"].curve)
floor = tales().floor

set_style()
figure = plt.figure(figsize=(12.8, 6.4), dpi=100, facecolor=PAPER, layout="none")
figure.text(0.051, 0.75, "nanogpt", fontsize=68, fontweight="bold", color=INK)
for i, line in enumerate(PROMISE):
    figure.text(0.055, 0.53 - 0.09 * i, line, fontsize=29, color=INK)
ax = figure.add_axes((0.56, 0.16, 0.39, 0.72), facecolor=PAPER)
ax.plot(iterations, losses, color=COLOURS[1], linewidth=5, marker="o", markersize=11)
ax.axhline(floor, color=INK, linestyle="--", linewidth=3)
ax.set(yscale="log", ylim=(0.6 * floor, 1.2 * losses[0]))
ax.tick_params(which="both", left=False, bottom=False, labelleft=False, labelbottom=False)
ax.spines["bottom"].set_visible(False)
ax.grid(False)
ax.set_xlabel("60 seconds of training on two cores", fontsize=20, color=MUTED)
ax.set_ylabel("loss", fontsize=20, color=MUTED, labelpad=12)
label = dict(textcoords="offset points", horizontalalignment="right")
ax.annotate(f"{losses[-1]:.3f}", (iterations[-1], losses[-1]), (0, 18), fontsize=28, weight="bold",
            color=COLOURS[1], **label)
ax.annotate(f"the exact floor: {floor:.3f}", (iterations[-1], floor), (0, -35), fontsize=23, color=INK, **label)
figure.savefig(Path(__file__).parent.parent / "docs" / "static" / "card.png")
