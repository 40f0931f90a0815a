"""The command `worldsim`: finds the command, its arguments and its help, and turns user errors into one line.

Here so that every command fails alike: one line on stderr and exit code 2, 1 where a game failed, 130 for Ctrl-C. A
programming error keeps its traceback; so does every error with HYDRA_FULL_ERROR=1. Leaves out Hydra, so that `--help`
answers at once.
"""

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import gymnasium as gym

import worldsim
from worldsim.cli import arguments
from worldsim.messages import GameError

COMMANDS = {
    "record": "record gameplay of any game into a data folder",
    "import": "make a data folder of videos, pictures, HDF5, LeRobot, Minari or OWAMcap data",
    "export": "make a Minari or LeRobot data set or a film of a data folder",
    "check": "see whether recordings are fit to be learned from",
    "train": "train a world model of recorded gameplay",
    "label": "name the actions of recordings that have none",
    "distill": "make a world need fewer steps",
    "eval": "measure a world against held-out recordings",
    "compare": "measure worlds side by side, by steps",
    "bench": "measure a world's speed and memory",
    "play": "play in a world with keyboard and mouse",
    "agent train": "teach an agent in a world's dreams",
    "agent eval": "see what an agent earns in the real game",
    "worlds": "list the worlds that ship",
}
USER_ERRORS = (ValueError, OSError, ImportError, gym.error.Error)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    command, rest = split(list(sys.argv[1:] if argv is None else argv) or ["--help"])
    if command in ("-h", "--help", "help"):
        return _print(overview())
    if command == "--version":
        return _print(f"worldsim {worldsim.__version__}")
    if command not in COMMANDS:
        return _fail("worldsim", f"unknown command {command!r}; expected one of {', '.join(COMMANDS)}")
    if {"-h", "--help"} & set(rest):
        return _print(arguments.help_text(command, COMMANDS[command]))
    return _run(command, rest)


def split(words: list[str]) -> tuple[str, list[str]]:
    """Returns the command, which may be of two words, and its arguments."""
    count = 2 if " ".join(words[:2]) in COMMANDS else 1
    return " ".join(words[:count]), words[count:]


def overview() -> str:
    """Returns the text of `worldsim --help`."""
    lines = [f"  {name:13}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: worldsim <command> key=value ...",
            "",
            *lines,
            "",
            "worldsim <command> --help lists a command's arguments.",
        ]
    )


def _run(command: str, rest: list[str]) -> int:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # so that game.id=my_module:MyGame-v0 finds the user's module, and shadows nothing
    # Before torch loads: beside one other busy process, threads that spin are 4 to 8 times slower than these. They spin
    # a moment, since to fall asleep at once costs a third of play's speed.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    try:
        return import_module("worldsim.cli.compose").run(command, rest) or 0
    except KeyboardInterrupt:
        return _fail(f"worldsim {command}", "interrupted", 130)
    except GameError as error:
        return _fail(f"worldsim {command}", sentence(error), 1)
    except USER_ERRORS as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        return _fail(f"worldsim {command}", sentence(error))


def sentence(error: Exception) -> str:
    """Returns an error's message as one line."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f": {error.filename}" if error.filename else "")
        text += "; free some space and run the same command again" if error.errno in DISK_FULL else ""
    return " ".join(text.split()) or type(error).__name__


def _print(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # whoever reads has seen enough, as `| head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _fail(name: str, message: str, code: int = 2) -> int:
    sys.stdout.flush()
    print(f"{name}: {message}", file=sys.stderr)
    return code
