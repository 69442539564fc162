"""Names from a data set, safe on a terminal, in JSON, in CSV and as names of files, and read back; numbers in tables."""

import csv
import io
import json
import math
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jpegcurr.files import (
    CsvWriter,
    csv_writer,
    escape_cell,
    json_values,
    path_part,
    read_csv,
    round_number,
    unescape_cell,
    write_json,
)
from jpegcurr.text import escape_json, sanitize, sanitize_lines

# Pieces of which awkward names consist.
PIECES = [
    "x1b",
    "x41",
    "u001b",
    "u202e",
    "U000e0041",
    *"\\'=-1.e /,\"猫\uff1d\0\x1b\x9b\n\r\t\u202e\ud800\udc9b\udcff\U000e0041",
]
NAMES = st.lists(st.sampled_from(PIECES), max_size=9).map("".join) | st.text()
HARMFUL = "\x00\x07\x1b\n\r\t\x7f\x85\x9b\u061c\u200e\u200f\u202a\u202e\u2028\u2066\u2069\u200b\ufeff\ud800\udc9b\U000e0041"
HARMLESS = "ünï 猫 \u3000\u00a0 ü 👨\u200d👩\u200d👧 می\u200cرم"


def has_none(text: str, allowed: str = "") -> bool:
    return not any(
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text if character not in allowed
    )


def test_what_steers_a_terminal_or_hides_is_replaced_and_the_rest_is_left() -> None:
    assert sanitize(HARMFUL) == len(HARMFUL) * "\N{REPLACEMENT CHARACTER}"
    assert sanitize(HARMLESS) == HARMLESS
    assert sanitize(Path("a\x1b[2J.jpg")) == "a\N{REPLACEMENT CHARACTER}[2J.jpg"


@given(text=NAMES)
def test_any_text_becomes_one_line(text: str) -> None:
    assert has_none(sanitize(text))
    sanitize(text).encode()


def test_a_line_of_a_name_is_indented_so_that_it_cannot_be_a_message() -> None:
    assert sanitize_lines("a\nerror: b\n  c\x1b", indent="  ") == "a\n  error: b\n  c\N{REPLACEMENT CHARACTER}"


@given(value=st.recursive(NAMES, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner), max_leaves=5))
def test_escaped_json_has_the_same_values(value: object) -> None:
    text = escape_json(json.dumps(value, ensure_ascii=False, indent=2))
    assert json.loads(text) == json.loads(json.dumps(value))
    assert has_none(text, allowed="\n")
    text.encode()


def test_json_files_hold_no_raw_control_characters_and_readable_names() -> None:
    write_json(Path("a.json"), {"猫": "\u202e\x9b\x1b"})
    assert Path("a.json").read_text() == '{\n  "猫": "\\u202e\\u009b\\u001b"\n}\n'


@given(text=NAMES)
def test_a_cell_is_no_formula_and_gives_its_text_back(text: str) -> None:
    cell = escape_cell(text)
    assert unescape_cell(cell) == text
    assert has_none(cell, allowed="".join(chr(code) for code in range(0xDCA0, 0xDD00)))
    if cell.lstrip()[:1] and cell.lstrip()[0] in "=+-@":
        float(cell)


@given(cells=st.lists(NAMES, min_size=2, max_size=3))
def test_rows_are_read_back(cells: list[str]) -> None:
    file = io.StringIO()
    CsvWriter(file).writerows([cells, ["x"]])
    rows = list(csv.reader(io.StringIO(file.getvalue())))
    assert [[unescape_cell(cell) for cell in row] for row in rows] == [cells, ["x"]]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-o.jpg", "'-o.jpg"),
        ("+1 dog", "'+1 dog"),
        (" =1", "' =1"),
        ("'=1", "''=1"),
        ("-1.5", "-1.5"),
        ("+3e-05", "+3e-05"),
        ("-", "'-"),
        ("it's", "it's"),
        ("\tx", "\\x09x"),
        ("a\x1b[31m\u202e", "a\\x1b[31m\\u202e"),
        ("C:\\x1b", "C:\\\\x1b"),
        ("C:\\new", "C:\\new"),
        ("C:\\xab\\u0041", "C:\\xab\\u0041"),
    ],
)
def test_cells_by_example(text: str, cell: str) -> None:
    assert escape_cell(text) == cell
    assert unescape_cell(cell) == text


def test_numbers_stay_numbers_and_raw_cells_what_they_are() -> None:
    name = os.fsdecode(b"=\xff.jpg")
    for raw, first in ((False, b"'=\xff.jpg"), (True, b"=\xff.jpg")):
        with csv_writer(Path("a.csv"), raw=raw) as writer:
            writer.writerow([name, -1.5, None, -3])
        assert Path("a.csv").read_bytes() == first + b",-1.5,,-3\n"
    with csv_writer(Path("a.csv")) as writer:
        writer.writerow([name, -1.5])
    assert list(read_csv(Path("a.csv"))) == [[name, "-1.5"]]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (92.80000000000001, "92.8"),
        (0.1 + 0.2, "0.3"),
        (100 / 3, "33.33333333"),
        (-1e-300 / 3, "-3.333333333e-301"),
        (100.0, "100.0"),
        (1.5e7, "15000000.0"),
        (math.nan, "nan"),
        (7, "7"),
        (2**53 + 1, "9007199254740993"),
        (np.float64(92.80000000000001), "92.8"),
        (np.float32(0.1), "0.1"),
        (np.float32(1 / 3), "0.33333334"),
        (np.int64(-3), "-3"),
    ],
)
@pytest.mark.parametrize("raw", [False, True])
def test_numbers_in_tables_have_no_digits_of_rounding(number: float, text: str, raw: bool) -> None:
    file = io.StringIO()
    CsvWriter(file, raw=raw).writerow([number, "92.80000000000001"])
    assert file.getvalue() == f"{text},92.80000000000001\n", "text is as it was"


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.floats(-1e300, 1e300, allow_subnormal=False))
def test_rounding_loses_nothing_that_matters(single: float, double: float) -> None:
    """Any float32 is the same after it; a double is to ten digits."""
    assert np.float32(round_number(single)) == np.float32(single)
    assert round_number(double) == pytest.approx(double, rel=6e-10, abs=0)
    assert round_number(round_number(double)) == round_number(double)
    assert json_values({"a": [double, (single, math.inf)], "b": "x"})["a"][0] == round_number(double)


@given(st.integers(1, 50_000).flatmap(lambda images: st.tuples(st.integers(0, images), st.just(images))))
def test_counts_can_be_recovered_from_a_percentage(counts: tuple[int, int]) -> None:
    right, images = counts
    percent = round_number(100 * right / images)
    assert round(percent * images / 100) == right
    assert percent == pytest.approx(100 * right / images, abs=1e-7)


@given(text=NAMES)
def test_a_name_becomes_one_part_of_a_path(text: str) -> None:
    part = path_part(text)
    assert Path(part).parts == (part,)
    assert not part.startswith(".")
    assert len(os.fsencode(part)) <= 201
    assert has_none(part, allowed="".join(chr(code) for code in range(0xDCA0, 0xDD00)))


def test_paths_by_example() -> None:
    names = ["../../etc", "a\nb", "\x1b[2J", "", "..", "cat, tabby", "猫" * 200]
    assert [path_part(name) for name in names[:6]] == ["_.._.._etc", "a_b", "_[2J", "_", "_..", "cat, tabby"]
    assert Path(path_part(names[6])).mkdir() is None
