"""Build, train and sample a GPT. Names are loaded on first use, and torch with the first that needs it."""
import os
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

__all__ = [
    "GPT", "GPTConfig", "TrainConfig", "__version__", "generate", "get_tokenizer", "load", "prepare",
    "sample_text", "stream", "train",
]  # fmt: skip

# Threads of torch that wait for each other hold their cores, and beside another program that does so too a run takes
# ten times as long. With this many turns instead of 30 billion they wait almost as fast, and then let go. Torch reads
# it when it is loaded; what the user has set stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_HOMES = {
    "GPT": "model", "GPTConfig": "config", "TrainConfig": "recipe", "generate": "sample",
    "get_tokenizer": "vocab", "load": "hub", "prepare": "prepare", "sample_text": "sample",
    "stream": "sample", "train": "train",
}  # fmt: skip

if TYPE_CHECKING:  # editors and type checkers read this
    from .config import GPTConfig
    from .hub import load
    from .model import GPT
    from .prepare import prepare
    from .recipe import TrainConfig
    from .sample import generate, sample_text, stream
    from .train import train
    from .vocab import get_tokenizer

    __version__: str
else:

    def __getattr__(name: str):
        if name == "__version__":
            return import_module("importlib.metadata").version("nanogpt")
        if name in _HOMES:
            return getattr(import_module(f"nanogpt.{_HOMES[name]}"), name)
        raise AttributeError(f"module 'nanogpt' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    "`nanogpt.train` and `nanogpt.prepare` name functions, and modules too, which must not hide them."

    def __setattr__(self, name: str, value: object):
        if not (name in _HOMES and isinstance(value, ModuleType)):  # the import system sets submodules
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
