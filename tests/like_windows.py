"""Linux with what Windows lacks taken away, and with what Windows forbids refused. For a process of its own."""

import io
import multiprocessing
import os
import re
import shutil
import signal
import sys
import warnings
from importlib import import_module
from pathlib import Path

MISSING = "fork forkpty register_at_fork sched_getaffinity getuid geteuid uname getloadavg statvfs O_DIRECTORY O_DIRECT"
SIGNALS = "SIGHUP SIGKILL SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGPIPE SIGTSTP SIGCONT alarm setitimer"
MODULES = "fcntl resource pwd grp termios tty pty posix curses readline syslog"
ILLEGAL = re.compile(r'[<>:"|?*\\\x00-\x1f]|[ .]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE)


def in_use(path: str) -> bool:
    "Whether this process has a file open, or mapped, that is at this path or in the folder there."
    path, held = os.path.realpath(path), []
    for number in os.listdir("/proc/self/fd"):
        try:
            held.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            pass
    with io.FileIO("/proc/self/maps") as maps:
        held += re.findall(r" (/.*)", maps.readall().decode("utf-8", "surrogateescape"))
    return any(one == path or one.startswith(f"{path}/") for one in held)


def refuse(event: str, args: tuple):
    "Called by Python for everything that it asks of the system."
    if event in ("os.fork", "os.forkpty", "os.symlink"):
        raise OSError(f"Windows has no {event}")
    paths = {"open": 1, "os.mkdir": 1, "os.remove": 1, "os.rmdir": 1, "os.rename": 2}.get(event, 0)
    for path in (os.fsdecode(path) for path in args[:paths] if not isinstance(path, int)):
        if event == "open" and os.path.isdir(path):
            raise PermissionError(13, "Windows opens no folder", path)
        new = event in ("os.mkdir", "os.rename") or event == "open" and args[2] & os.O_CREAT
        bad = [part for part in Path(path).parts if new and part not in ("/", "..") and ILLEGAL.search(part)]
        if bad:
            raise OSError(22, f"Windows has no file of the name {bad[0]!r}", path)
        probe = ".filelock-probe-" in path  # filelock 4.3 makes it where locks are POSIX's
        if event in ("os.remove", "os.rename", "os.rmdir") and in_use(path) and not probe:
            raise PermissionError(13, "Windows neither removes nor renames what is open", path)


class Nt:
    "The module os, under Windows' name."

    name = "nt"

    def __getattr__(self, name: str):
        return getattr(os, name)


def begin(order: list[str]):
    "Import every module of nanogpt where the modules and functions of POSIX are missing, then forbid the rest."
    for module in order:  # with all that they need: libraries look at the platform's name
        import_module(f"nanogpt.{module}")
    for name in [name for name in sys.modules if name.split(".")[0] in ("nanogpt", "lm_eval")]:
        del sys.modules[name]  # and where nanogpt's adapter is registered
    sys.modules.update(dict.fromkeys(MODULES.split()))
    for owner, names in ((os, MISSING), (signal, SIGNALS)):
        for name in names.split():
            vars(owner).pop(name, None)
    warnings.filterwarnings("error", category=EncodingWarning, module=r"nanogpt\b")
    for module in order:
        import_module(f"nanogpt.{module}")
    files = sys.modules["nanogpt.files"]

    class WindowsLock(files.FileLock):
        "Removes its file, as filelock does there."

        def release(self, force: bool = False):
            if self.is_locked:
                super().release(force)
                Path(self.lock_file).unlink()

    files.os, files.FileLock, shutil._use_fd_functions = Nt(), WindowsLock, False
    multiprocessing.set_start_method("spawn", force=True)
    sys.addaudithook(refuse)
