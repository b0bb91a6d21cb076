"""The `nanogpt` command in a child of a process that has imported torch already."""

import os
import sys

from nanogpt.cli import main


def command(args: list[str], folder: str, streams: list[str]):
    "Run it in a folder, with files as its three streams."
    os.chdir(folder)
    os.environ["COLUMNS"] = "200"
    for number, path in enumerate(streams):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = (open(i, "r" if i == 0 else "w", encoding="utf-8") for i in range(3))
    sys.argv = ["nanogpt", *args]
    sys.exit(main())
