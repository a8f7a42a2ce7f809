"""Answers of other nodes: a table and a number that nothing they say can break."""

import json
import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orvalho.cli.answers import cell, columns, one_line, read_row, reduced, table
from orvalho.control.asking import AskAnswer, AskError


def row(node, result, state="done", error=None, result_bytes=None):
    raw = result if isinstance(result, bytes) else json.dumps(result).encode()
    return read_row(
        AskAnswer(
            to=f"peer@{node}",
            node=node,
            hops=1,
            state=state,
            result=msgspec.Raw(raw),
            result_bytes=result_bytes,
            error=None if error is None else AskError(code="denied", message=error),
        )
    )


SILENT = row("tv", None, "silent", "no answer within 5 s")


def test_records_become_columns_and_the_silent_have_a_row_with_the_reason():
    headers, cells = table([row("a", {"n": 1, "free_bytes": 2_500_000}), row("b", 7), SILENT])
    assert headers == ["node", "state", "n", "free_bytes", "answer", "why"]
    assert cells == [
        ["a", "done", "1", "2.5 MB", None, ""],
        ["b", "done", None, None, "7", ""],
        ["tv", "silent", None, None, None, "no answer within 5 s"],
    ]


def test_a_column_for_each_of_a_hundred_thousand_keys_is_not_made():
    many = {f"k{number}": number for number in range(100_000)}
    headers, cells = table([row("a", {"n": 1}), row("b", {"n": 2} | many), row("c", {"n": 3})])
    assert len(headers) == 2 + 12 + 1
    assert headers[2] == "n", "what most of them say is kept"
    assert cells[1][-1] == "+99989"
    assert columns([row("b", many)])[1] == 100_000 - 12


@pytest.mark.parametrize(
    "text",
    ["a\nb", "a\tb", "\x1b[31mred", "\x1b]0;title\x07", "\u202egnp.exe", "\u2066x", "\r", "\x9b1m"],
)
def test_no_text_moves_the_cursor_or_ends_the_line(text):
    for shown in (cell("x", text), cell("x", [text]), cell("x", {text: 1}), one_line(text)):
        assert shown is not None
        assert shown.isprintable()


def test_a_cell_and_a_name_are_short():
    headers, cells = table([row("a", {"k" * 500: "v" * 100_000})])
    assert len(headers[2]) <= 32
    assert len(str(cells[0][2])) <= 48


def test_sums_are_of_numbers_alone():
    rows = [row("a", {"n": 1, "x": 0.5}), row("b", {"n": 2, "x": "5"}), row("c", {"n": True})]
    assert reduced([*rows, SILENT], "sum") == {"n": 3, "x": 0.5}
    assert reduced([*rows, SILENT], "max") == {"n": 2, "x": 0.5}
    assert reduced([row("a", 3), row("b", 4), row("c", None), row("d", "9")], "min") == 3
    assert reduced([SILENT], "sum") is None


def test_what_did_not_end_well_is_not_added():
    failed = row("a", {"n": 1_000_000}, "failed", "it threw")
    assert reduced([failed, row("b", {"n": 2})], "sum") == {"n": 2}


def test_numbers_that_no_number_holds_give_none():
    huge = b"9" * 4000
    assert reduced([row("a", huge), row("b", huge)], "sum") is None
    assert reduced([row("a", 1e308), row("b", 1e308)], "sum") is None
    assert reduced([row("a", huge), row("b", 0.5)], "sum") is None
    assert reduced([row("a", {"n": 1e308}), row("b", {"n": 1e308, "m": 1})], "sum") == {
        "n": None,
        "m": 1,
    }
    assert len(str(cell("n", json.loads(huge)))) <= 48
    assert cell("n_bytes", 1 << 70) == str(1 << 70)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # A lone surrogate is no JSON.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=20)
    ),
    max_leaves=20,
)


@given(st.lists(VALUES, max_size=5))
@settings(max_examples=300, deadline=None)
def test_any_answers_make_a_table_of_whole_lines_and_numbers_of_json(values):
    rows = [row(f"n{number}", value) for number, value in enumerate(values)]
    headers, cells = table(rows)
    assert len(cells) == len(rows)
    for line in (headers, *cells):
        assert len(line) == len(headers)
        assert all(each is None or str(each).isprintable() for each in line)
    for how in ("sum", "min", "max"):
        found = reduced(rows, how)
        json.dumps(found, allow_nan=False)
        for number in found.values() if isinstance(found, dict) else [found]:
            assert number is None or math.isfinite(number)
