"""CSV, JSONL and npy files as named columns of numbers; ValueError names file and line of anything else.

Here because programs write such files in many ways, which are told apart by certain signs or refused.
Leaves out what a column means (`action_files`).

Text is UTF-8, UTF-16 or Latin-1. CSV is parted by commas, semicolons or tabs; with the latter two 0,5 is a half.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

UNNAMED = "action"  # of a lone column
PRETRAINING_KEYS = {  # the keys that Minecraft knows, by the names of our columns
    **{key: key for key in "wasdeqf123456789"},
    "space": "space",
    "left_shift": "left_shift",
    "left_ctrl": "left_control",
}


def _read_text(path: Path) -> str:
    """Returns a file's text: UTF-8, UTF-16 as Windows writes it, or else Latin-1, in which all bytes mean something."""
    raw = path.read_bytes()
    if raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return raw.decode("utf-16")
    if b"\0" in raw:
        raise ValueError(f"expected text in {path}, found other bytes; save it as UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def read_csv(path: Path) -> dict[str, np.ndarray]:
    """Returns a file's columns by the names in its first line."""
    text = _read_text(path)
    delimiter = _find_delimiter(path, text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"cannot read line {reader.line_num} of {path} ({error}); is a quote left open?") from None
    while rows and not rows[-1][1]:  # empty lines at the end
        rows.pop()
    header = [name.strip() for name in rows[0][1]] if rows else []
    if not any(header) or len({*header}) < len(header) or all(_number(name) is not None for name in header):
        raise ValueError(
            f"expected a header of different names in the first line of {path}, found {delimiter.join(header)!r}"
        )
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise ValueError(f"expected {len(header)} values in line {line} of {path}, found {len(row)}")
    cells = [row for _, row in rows[1:]]
    if delimiter != "," and _has_decimal_commas(cells):
        cells = [[cell.replace(",", ".") for cell in row] for row in cells]
    numbers = [[_number(cell) for cell in row] for row in cells]
    for (line, row), found in zip(rows[1:], numbers, strict=True):
        if None in found:
            place = found.index(None)
            raise ValueError(f"expected a number for {header[place]!r} in line {line} of {path}, found {row[place]!r}")
    return {name: np.array([row[i] for row in numbers]) for i, name in enumerate(header)}


def _find_delimiter(path: Path, text: str) -> str:
    """Returns what parts the names of the first line, outside quotes."""
    header = re.sub(r'"[^"]*"', "", text.partition("\n")[0])
    found = [delimiter for delimiter in ",;\t" if delimiter in header]
    if len(found) > 1:
        raise ValueError(
            f"expected names parted by commas, semicolons or tabs in the first line of {path}, found {header.strip()!r}"
        )
    return found[0] if found else ","


def _has_decimal_commas(cells: Sequence[Sequence[str]]) -> bool:
    """Returns whether 0,5 is a half: not where 1,000 may be a thousand, or points are there."""
    commas = [cell.strip() for row in cells for cell in row if "," in cell]
    points = any("." in cell for row in cells for cell in row)
    return not points and any(re.fullmatch(r"[-+]?[1-9]\d{0,2}(,\d{3})+", cell) is None for cell in commas)


def _number(text: str) -> int | float | None:
    text = {"true": "1", "false": "0"}.get(text.strip().lower(), text)
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def read_jsonl(path: Path) -> dict[str, np.ndarray]:
    """Returns the columns of a file with an object, a list or a number in each line."""
    rows: list[dict[str, Any]] = []
    for line, text in enumerate(_read_text(path).rstrip().split("\n"), start=1):
        try:
            row = json.loads(text)
        except ValueError as error:
            raise ValueError(f"expected JSON in line {line} of {path}, found {text[:40]!r} ({error})") from None
        if isinstance(row, dict) and isinstance(row.get("keyboard"), dict) and isinstance(row.get("mouse"), dict):
            row = _pretraining(path, line, row)
        if not isinstance(row, dict):
            row = {f"column {i}": x for i, x in enumerate(row)} if isinstance(row, list) else {UNNAMED: row}
        if not all(isinstance(value, (bool, int, float)) for value in row.values()):
            raise ValueError(f"expected numbers in line {line} of {path}, found {text[:40]!r}")
        if rows and row.keys() != rows[0].keys():
            raise ValueError(f"expected {', '.join(rows[0])} in line {line} of {path}, found {', '.join(row)}")
        rows.append(row)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]} if rows else {}


def _pretraining(path: Path, line: int, row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row of Minecraft play as Baker et al. 2022 (Video PreTraining) publish it: what is held, as columns."""
    try:
        keys = {key.removeprefix("key.keyboard.").replace(".", "_") for key in row["keyboard"]["keys"]}
        buttons, moved = {int(x) for x in row["mouse"]["buttons"]}, [float(row["mouse"][x]) for x in ("dx", "dy")]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"expected keyboard keys, mouse buttons, dx and dy in line {line} of {path}: {error}"
        ) from None
    held = {name: int(key in keys) for name, key in PRETRAINING_KEYS.items()}
    held |= {f"mouse_{name}": int(i in buttons) for i, name in enumerate(("left", "right", "middle"))}
    return held | dict(zip(("mouse_x", "mouse_y"), moved, strict=True))


def read_npy(path: Path) -> dict[str, np.ndarray]:
    """Returns the columns of an array `[T]` or `[T k]`."""
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"cannot read {path} as an array of numbers: {error}") from None
    if not isinstance(array, np.ndarray) or array.ndim not in (1, 2) or array.dtype.kind not in "biuf":
        found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else "several arrays"
        raise ValueError(f"expected numbers [T] or [T k] in {path}, found {found}")
    array = array.astype(np.int64) if array.dtype.kind == "u" else array
    return {UNNAMED: array} if array.ndim == 1 else {f"column {i}": array[:, i] for i in range(array.shape[1])}
