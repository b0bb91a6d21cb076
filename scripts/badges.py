"""Write the GitHub owner, repository and branch of settings.ini into every badge, clone command and set-up cell.

A fork changes settings.ini and runs `python scripts/badges.py`. With --check, only say which files would change.
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
if stale:
    print(("links to another repository than settings.ini names: " if "--check" in sys.argv else "rewrote ") + ", ".join(stale))
sys.exit(1 if stale and "--check" in sys.argv else 0)
