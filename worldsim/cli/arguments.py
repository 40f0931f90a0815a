"""Reads a command's arguments, with their defaults and comments, from its YAML file.

Here so that help and error messages say what the file says, at once and without Hydra.
Leaves out the values given on the command line: those are `worldsim.cli.compose`.
"""

import re
from dataclasses import dataclass
from importlib.resources import files

REQUIRED = "???"

_LINE = re.compile(r"^(?P<indent> *)(?P<key>[\w.]+):(?: +(?P<value>[^\s#][^#]*?))?\s*(?:# ?(?P<comment>.*))?$")
_GROUP = re.compile(r"^ *- *(?:override +)?/?(?P<key>\w+)(?:@[\w.]+)?: *(?P<value>\S+)\s*(?:# ?(?P<comment>.*))?$")


@dataclass(frozen=True)
class Argument:
    """One `key=` of a command; `options` are the files of a config group."""

    key: str
    default: str
    comment: str
    options: tuple[str, ...] = ()


def file_name(command: str) -> str:
    """Returns the name of a command's YAML file, without its ending."""
    return command.replace(" ", "_")


def read(command: str) -> list[Argument]:
    """Returns the arguments of a command: its config groups, then its keys with dots, in the file's order."""
    text = _text(f"{file_name(command)}.yaml")
    return [*_groups(text), *_keys(text)]


def help_text(command: str, title: str) -> str:
    """Returns the text of `worldsim <command> --help`."""
    found = read(command)
    rows = [(f"{argument.key}=", _default(argument), argument.comment) for argument in found]
    for group in found:
        rows += [(f"{group.key}={option}", "", _option_comment(group.key, option)) for option in group.options]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    lines = [f"  {key:{widths[0]}}  {value:{widths[1]}}  {comment}".rstrip() for key, value, comment in rows]
    return "\n".join([f"worldsim {command}: {title}", "", f"usage: worldsim {command} key=value ...", "", *lines])


def _text(path: str) -> str:
    return (files("worldsim.configs") / path).read_text(encoding="utf-8")


def _groups(text: str) -> list[Argument]:
    matches = [match for line in text.splitlines() if (match := _GROUP.match(line))]
    return [Argument(m["key"], m["value"], m["comment"] or "", _options(m["key"])) for m in matches]


def _options(group: str) -> tuple[str, ...]:
    folder = files("worldsim.configs") / group
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return tuple(sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml")))


def _keys(text: str) -> list[Argument]:
    text = re.sub(r"(#.*)\n +# *", r"\1 ", text)  # a comment may go on in the next line
    matches = [match for line in text.splitlines() if (match := _LINE.match(line))]
    indents = [len(match["indent"]) for match in matches] + [0]
    found: list[Argument] = []
    parents: list[tuple[int, str]] = []
    for match, indent, following in zip(matches, indents, indents[1:], strict=False):
        parents = [parent for parent in parents if parent[0] < indent] + [(indent, match["key"])]
        names = [key for _, key in parents]
        is_section = match["value"] is None and following > indent
        if not is_section and names[0] not in ("defaults", "hydra") and names[-1] != "_target_":
            found.append(Argument(".".join(names), match["value"] or "null", match["comment"] or ""))
    return found


def _default(argument: Argument) -> str:
    return "(required)" if argument.default == REQUIRED else f"[{argument.default}]"


def _option_comment(group: str, option: str) -> str:
    # The option's first comment says what it is; then what it asks for.
    text = _text(f"{group}/{option}.yaml")
    comments = [line.lstrip("# ").strip() for line in text.splitlines() if line.startswith("#") and "@" not in line]
    needed = [f"{group}.{argument.key}=" for argument in _keys(text) if argument.default == REQUIRED]
    return "; ".join([*comments[:1], *([f"needs {' '.join(needed)}"] if needed else [])])
