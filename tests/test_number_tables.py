"""CSV and JSONL as programs write them: delimiters, decimal commas and encodings, read right or refused."""

import numpy as np
import pytest

from worldsim.data.action_files import read_actions

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252")


def read(tmp_path, text, encoding="utf-8", name="a.csv"):
    (tmp_path / name).write_bytes(text.encode(encoding))
    return read_actions(tmp_path / name).columns


def test_a_quote_that_is_left_open_is_named(tmp_path):
    (tmp_path / "a.csv").write_text('w,"a' + "\n0,1" * 50_000)
    with pytest.raises(ValueError, match="is a quote left open"):
        read_actions(tmp_path / "a.csv")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_columns_are_parted_by_commas_semicolons_or_tabs(tmp_path, delimiter, line_end):
    rows = [["w", "steer"], ["0", "0.5"], ["1", "-1.25"]]
    columns = read(tmp_path, line_end.join(delimiter.join(row) for row in rows) + line_end)
    assert list(columns) == ["w", "steer"] and columns["w"].dtype == np.int64
    assert columns["w"].tolist() == [0, 1] and columns["steer"].tolist() == [0.5, -1.25]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_decimal_commas_are_decimal(tmp_path, delimiter):
    columns = read(tmp_path, "steer;w\n0,5;1\n-1,250;0\n".replace(";", delimiter))
    assert columns["steer"].tolist() == [0.5, -1.25] and columns["w"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steer;w\n1,000;1\n2,500;0\n", "expected a number for 'steer' in line 2 of .*, found '1,000'"),  # thousands?
        ("steer;w\n0,5;1.5\n", "found '0,5'"),
        ('steer,w\n"0,5",1\n', "found '0,5'"),
        (
            "w;s,a\n0;1,1\n",
            "expected names parted by commas, semicolons or tabs in the first line of .*, found 'w;s,a'",
        ),
        ("sep=;\nw;s\n0;1\n", "in line 2 of"),
    ],
)
def test_what_may_mean_two_things_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_keys_called_comma_and_semicolon_stand_in_quotes(tmp_path):
    assert list(read(tmp_path, '",",";",w\n0,1,1\n1,0,1\n')) == [",", ";", "w"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("name", "text"),
    [("a.csv", "größe,w\r\n0.5,1\r\n2,0\r\n"), ("a.jsonl", '{"größe": 0.5, "w": 1}\n{"größe": 2, "w": 0}\n')],
)
def test_text_is_read_in_every_usual_encoding(tmp_path, encoding, name, text):
    columns = read(tmp_path, text, encoding, name)
    assert {key: values.tolist() for key, values in columns.items()} == {"größe": [0.5, 2], "w": [1, 0]}


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_utf_16_of_the_other_order_is_read_and_without_a_mark_refused(tmp_path, name):
    text = "w\n0\n1\n" if name == "a.csv" else '{"w": 0}\n{"w": 1}\n'
    assert read(tmp_path, "\ufeff" + text, "utf-16-be", name)["w"].tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"expected text in .*, found other bytes; save it as UTF-8"):
        read(tmp_path, text, "utf-16-le", name)
