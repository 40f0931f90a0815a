"""Composes a command's arguments with Hydra and runs the command.

Here so that the messages of Hydra and OmegaConf, many lines long, become one sentence that says what to do.
Leaves out printing: errors leave as ValueError.
"""

import re
from importlib import import_module
from keyword import iskeyword

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from worldsim.cli import arguments


def run(command: str, overrides: list[str]) -> int | None:
    """Runs the command's `main`. Raises ValueError, in one sentence, where its arguments are wrong."""
    config = compose(command, overrides)
    module = import_module(module_name(command))
    try:
        return module.main(config)
    except InstantiationException as error:
        raise _instantiation_error(error) from error
    except OmegaConfBaseException as error:
        raise ValueError(_first_line(error)) from error


def module_name(command: str) -> str:
    """Returns the module of a command: its name, with an underscore for a space and behind a word of Python's."""
    return f"worldsim.cli.{arguments.file_name(command)}{'_' if iskeyword(command) else ''}"


def compose(command: str, overrides: list[str]) -> DictConfig:
    """Returns a command's config. Raises ValueError naming an argument that is missing, unknown or unreadable."""
    try:
        with initialize_config_module("worldsim.configs", version_base="1.3"):
            config = hydra_compose(arguments.file_name(command), overrides)
        OmegaConf.resolve(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_explain(command, error)) from error
    missing = OmegaConf.missing_keys(config)
    if missing:
        raise ValueError(_missing(command, missing))
    return config


def _explain(command: str, error: Exception) -> str:
    text = str(error)
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}; expected key=value, with special characters quoted: 'key=\"a=b, c\"'"
    if isinstance(error, MissingConfigException) and (match := re.search(r"Could not find '([^/']+)/(.*)'", text)):
        return f"unknown {match[1]} {match[2]!r}; expected one of {_options(command, match[1])}"
    if match := re.match(r"You must specify '([^']+)'", text):
        return f"{match[1]}= is required; expected one of {_options(command, match[1])}"
    if match := re.match(r"Could not override '([^']+)'", text):
        known = ", ".join(argument.key for argument in arguments.read(command))
        return f"unknown argument {match[1]!r}; {f'expected one of {known}' if known else 'this command takes none'}"
    if match := re.match(r"Ambiguous value for argument '([^']+)'", text):
        key, _, value = match[1].partition("=")
        return f"found several values in {match[1]!r}; quote a text with commas: '{key}=\"{value}\"'"
    return _first_line(error)


def _missing(command: str, keys: set[str]) -> str:
    comments = {argument.key: f" ({argument.comment})" for argument in arguments.read(command) if argument.comment}
    in_order = [key for key in comments if key in keys] + sorted(keys - set(comments))
    names = ", ".join(f"{key}={comments.get(key, '')}" for key in in_order)
    return f"{names} {'is' if len(keys) == 1 else 'are'} required; worldsim {command} --help lists the arguments"


def _options(command: str, group: str) -> str:
    options = [option for argument in arguments.read(command) if argument.key == group for option in argument.options]
    return ", ".join(options)


def _instantiation_error(error: InstantiationException) -> Exception:
    """Returns what a constructor said about its arguments; anything but a user error stays what it was."""
    cause = error.__cause__
    if isinstance(cause, (ValueError, TypeError, OSError, ImportError)):
        place = re.search(r"full_key: (\S+)", str(error))
        return ValueError(f"{place[1]}: {cause}" if place else str(cause))
    return cause if isinstance(cause, Exception) else ValueError(_first_line(error))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
