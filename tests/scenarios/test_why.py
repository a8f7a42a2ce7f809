"""`orvalho why`, end to end: what a person who types it sees, and what it does not give away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.devices import Device, Printed, two_devices

READER = """\
// /// orvalho
// needs = ["target.fs.read:/shared/**"]
// ///
export default async ({ target }) => target.fs.readText(%s)
"""


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Device]]:
    with two_devices(tmp_path_factory.mktemp("why")) as found:
        laptop, phone = found
        laptop.does("ctx", "new", "gil")
        phone.allow(
            "p, gil@laptop, peer, script.run, *, allow",
            "p, gil@laptop, peer, fs.read, /shared/**, allow",
        )
        tree = phone.tree("peer")
        (tree / "shared/secret").mkdir(parents=True)
        (tree / "shared/secret/key").write_text("42")
        (tree / "shared/a.txt").write_text("hello")
        yield laptop, phone


def send(laptop: Device, source: str, *words: str, name: str = "job.js") -> tuple[Printed, str]:
    """What was printed, and the run's id."""
    file = laptop.home / name
    file.write_text(source)
    printed = laptop.types("script", "send", "peer@phone2", str(file), *words, "--as", "gil")
    run = laptop.types("script", "ls", "--limit", "1", "--json").json["runs"][0]["run"]
    return printed, run


def test_first(devices: tuple[Device, Device]) -> None:
    laptop, phone = devices
    printed, run = send(laptop, READER % '"/shared/a.txt"')
    print(printed)
    print(phone.types("why", run))
    print(laptop.types("why", run))
    print(phone.types("why", "--who", "gil@laptop", "--do", "target.fs.write", "--on", "peer:/x"))
    printed, run = send(laptop, READER % '"/x"')
    print(printed)
    print(phone.types("why", run).out)
    assert 0
