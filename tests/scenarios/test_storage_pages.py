"""docs/storage.md and docs/secrets.md are what happens."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.scenarios.devices import Device

DOCS = Path(__file__).parents[2] / "docs"


def session(page: str) -> list[tuple[str, str]]:
    """(what is typed, how the answer begins)."""
    text = (DOCS / page).read_text().split("## A session", 1)[1]
    block = re.search(r"```\n(.*?)```", text, re.DOTALL)
    assert block is not None
    steps = re.findall(r"^\$ orvalho (.*)\n((?:(?!\$ ).*\n)*)", block[1], re.M)
    return [(typed, answer.strip()) for typed, answer in steps]


@pytest.mark.parametrize("page", ["storage.md", "secrets.md"])
def test_the_session_goes_as_the_page_tells_it(tmp_path: Path, monkeypatch, page: str) -> None:
    monkeypatch.chdir(tmp_path)
    device = Device("laptop", tmp_path / "laptop")
    device.init()
    device.start()
    steps = session(page)
    assert len(steps) > 3
    try:
        for typed, answer in steps:
            line, _, file = typed.partition(" < ")
            printed = device.types(*shlex.split(line), stdin="AKIA:word\n" if file else None)
            assert printed.status == 0, (typed, printed)
            assert answer in printed.out, (typed, printed)
    finally:
        device.stop()
