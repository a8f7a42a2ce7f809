"""Where a script is wrong, as V8 tells it of the text that we put around it."""

from __future__ import annotations

import pytest

from orvalho.runtime.engines.catalog import make_engine


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("export default () => {\n  if (1) {\n}\n\n", (3, 2)),
        ("let a = 1;\nfunction f() {\n\n\n", (2, 15)),
        ("foo(", (1, 5)),
        ("'é😀';  (", (1, 10)),
        ("}", (1, 2)),
        ("", None),
    ],
)
def test_what_is_missing_at_the_end_is_missed_within_the_source(
    source: str, place: tuple[int, int] | None
) -> None:
    problems = make_engine("javascript").check("job.js", source)
    assert [(each.line, each.column) for each in problems] == ([place] if place else [])
