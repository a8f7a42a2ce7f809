"""What a binary can be run with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orvalho.errors import InvalidInput
from orvalho.scripts.wasm.binaries import check_parameters
from tests.runtime import wat

CAT = (Path(__file__).parents[2] / "examples" / "cat.wasm").read_bytes()


@pytest.mark.parametrize(
    "params",
    [
        None, {}, {"args": ["a", 1, 0.5]}, {"env": {"A": "b"}}, {"stdin": "x"}, {"stdin": None},
        {"args": [], "env": {}, "stdin": ""},
    ],
)  # fmt: skip
def test_what_a_program_takes(params: Any) -> None:
    check_parameters(CAT, params)


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"args": "x"}, "args: expected a list of texts"),
        ({"args": [["x"]]}, "args: expected a list of texts"),
        ({"args": [True]}, "args: expected a list of texts"),
        ({"env": ["x"]}, "env: expected a table of texts"),
        ({"env": {"A": None}}, "env: expected a table of texts"),
        ({"stdin": 5}, "stdin: expected a text"),
        ({"nonsense": 5}, "and no 'nonsense'"),
        ([1], "a table of parameters"),
    ],
)
def test_what_it_does_not(params: Any, why: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        check_parameters(CAT, params)
    assert why in raised.value.message


def test_one_that_reads_its_parameters_itself_takes_others_too() -> None:
    own = wat.command("(drop (call $params))")
    check_parameters(own, {"album": "Summer", "args": ["x"]})
    check_parameters(own, [1, 2])
    with pytest.raises(InvalidInput, match="args: expected"):
        check_parameters(own, {"args": "x"})
