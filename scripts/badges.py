"""Write GitHub's owner, repository and branch from settings.ini into badges, clone commands and set-up cells.

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
NAME = r"[\w.-]+/[\w-]+"
RULES = [
    (rf"(colab\.research\.google\.com/github/){NAME}/blob/[\w.-]+/", rf"\g<1>{ours}/blob/{branch}/"),
    (rf"(git\+https://github\.com/){NAME}", rf"\g<1>{ours}"),
    (rf"(git clone https://github\.com/){NAME}", rf"\g<1>{ours}"),
    (rf"(https://github\.com/){NAME}(/actions/workflows/ci\.yml)", rf"\g<1>{ours}\g<2>"),
    (rf"(README\]\(https://github\.com/){NAME}", rf"\g<1>{ours}"),
]

stale = []
for path in [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "nbs").rglob("*.ipynb"))]:
    before = path.read_text(encoding="utf-8")
    after = before
    for pattern, replacement in RULES:
        after = re.sub(pattern, replacement, after)
    if after != before:
        stale.append(str(path.relative_to(root)))
        if "--check" not in sys.argv:
            path.write_text(after, encoding="utf-8", newline="\n")
check = "--check" in sys.argv
for name in stale:
    print(f"{name}: links to another repository; run scripts/badges.py" if check else f"rewrote {name}")
sys.exit(1 if stale and check else 0)
