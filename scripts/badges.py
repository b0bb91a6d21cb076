"""Write GitHub's owner, repository and branch from settings.ini into badges, commands, set-up cells and pages.yml.

A fork changes settings.ini and runs `python scripts/badges.py`. With --check, it only says what would change.
"""
import re
import sys
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).resolve().parent.parent
config = ConfigParser(delimiters=["="])
config.read(root / "settings.ini", encoding="utf-8")
cfg = config["DEFAULT"]
ours, branch = f"{cfg['user']}/{cfg['repo']}", cfg["branch"]
NAME = r"[\w.-]+/[\w-]+(?:\.[\w-]+)*"
RULES = [
    (rf"(colab\.research\.google\.com/github/){NAME}/blob/[\w.-]+/", rf"\g<1>{ours}/blob/{branch}/"),
    (rf"(https://github\.com/){NAME}/blob/[\w.-]+/", rf"\g<1>{ours}/blob/{branch}/"),  # Kaggle's links too
    (rf"(git\+https://github\.com/){NAME}", rf"\g<1>{ours}"),
    (rf"(git clone https://github\.com/){NAME}(\s+(?:&& )?cd )[\w.-]+", rf"\g<1>{ours}\g<2>{cfg['repo']}"),
    (rf"(https://github\.com/){NAME}(/actions/workflows/ci\.yml)", rf"\g<1>{ours}\g<2>"),
    (rf"(repository-code: https://github\.com/){NAME}", rf"\g<1>{ours}"),
    (rf"(README\]\(https://github\.com/){NAME}", rf"\g<1>{ours}"),
    (r"(    branches: \[)[\w.-]+\]", rf"\g<1>{branch}]"),
]


def rewrite(texts: dict[Path, str], why: str) -> list[Path]:
    "Write the files that differ from these texts, or with --check only say why they should. Gives those that differ."
    stale = [path for path, text in texts.items() if path.read_text(encoding="utf-8") != text]
    for path in stale:
        name = path.relative_to(root).as_posix()
        if "--check" in sys.argv:
            print(f"{name}: {why}")
        else:
            path.write_text(texts[path], encoding="utf-8", newline="\n")
            print(f"rewrote {name}")
    return stale


def ours_in(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    for pattern, replacement in RULES:
        text = re.sub(pattern, replacement, text)
    return text


if __name__ == "__main__":
    paths = [root / "README.md", root / "CONTRIBUTING.md", root / "CITATION.cff",
             *(root / ".github/workflows").glob("pages.yml"), *sorted((root / "nbs").rglob("*.ipynb"))]
    stale = rewrite({path: ours_in(path) for path in paths}, "links to another repository; run scripts/badges.py")
    sys.exit(1 if stale and "--check" in sys.argv else 0)
