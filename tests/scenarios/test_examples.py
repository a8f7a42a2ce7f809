"""The examples that come with the program, each sent to a real device for what it is there for."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from orvalho.cli import examples
from tests.scenarios.devices import Device, Printed, two_devices

EXAMPLES = Path(__file__).parents[2] / "examples"


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    """With a comment of 40 kB before the frame's header, as a camera's preview stands there."""
    comment = b"\xff\xfe" + struct.pack(">H", 40_002) + b"x" * 40_000
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)
    return b"\xff\xd8" + comment + frame + b"\xff\xd9" + bytes(30)


PICTURES = {
    "a.png": (png(800, 600), "800x600 PNG"),
    "b.jpg": (jpeg(4000, 3000), "4000x3000 JPEG"),
    "c.gif": (b"GIF89a" + struct.pack("<HH", 16, 9) + bytes(30), "16x9 GIF"),
    "d.bmp": (b"BM" + bytes(16) + struct.pack("<II", 640, 480) + bytes(30), "640x480 BMP"),
    "e.webp": (
        b"RIFF" + bytes(4) + b"WEBPVP8X" + bytes(8) + b"\x7f\x02\x00\xdf\x01\x00" + bytes(9),
        "640x480 WebP",
    ),
}


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Device]]:
    with two_devices(tmp_path_factory.mktemp("examples")) as (laptop, phone):
        phone.allow("p, laptop, peer, fs.read, /shared/**, allow")
        phone.allow("p, *, peer, fs.read, /shared/secret/**, deny")
        shared = phone.tree("peer") / "shared"
        for folder in ("notes/deep", "secret", "album"):
            (shared / folder).mkdir(parents=True)
        (shared / "notes/a.txt").write_text("one two\nthree\n")
        (shared / "notes/deep/b.txt").write_text("vier  fünf\tsechs")
        (shared / "secret/c.txt").write_text("not for them")
        (shared / "sales.csv").write_text(
            'name,price,"units, sold"\nfig,3.5,2\n"a ""big"" plum",1e1,\n\nnut,x,40\n'
        )
        for name, (content, _) in PICTURES.items():
            (shared / "album" / name).write_bytes(content)
        yield laptop, phone


@pytest.fixture
def laptop(devices: tuple[Device, Device]) -> Device:
    return devices[0]


def sends(laptop: Device, name: str, **params: object) -> Printed:
    words = [word for key, value in params.items() for word in ("--param", f"{key}={_text(value)}")]
    return laptop.types("script", "send", "peer@phone2", str(examples.shipped_file(name)), *words)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def test_wordcount_counts_a_tree_as_wc_does(laptop: Device) -> None:
    printed = sends(laptop, "wordcount", args=["/shared/notes", "/shared/sales.csv"])
    assert printed.status == 0, printed
    assert [line.split() for line in printed.json.splitlines()] == [
        ["2", "3", "14", "/shared/notes/a.txt"],
        ["0", "3", "17", "/shared/notes/deep/b.txt"],
        ["5", "7", "67", "/shared/sales.csv"],
        ["7", "13", "98", "total", "of", "3", "files"],
    ]
    refused = sends(laptop, "wordcount", args=["/shared/notes/a.txt", "/shared/secret"])
    assert (refused.status, "/shared/secret: Permission denied" in refused.err) == (1, True)


def test_imagesize_reads_each_kind_and_nothing_else(laptop: Device) -> None:
    paths = [f"/shared/album/{name}" for name in PICTURES]
    printed = sends(laptop, "imagesize", args=paths)
    assert printed.status == 0, printed
    lines = [f"{says} /shared/album/{name}" for name, (_, says) in PICTURES.items()]
    assert printed.json.splitlines() == lines
    wrong = sends(laptop, "imagesize", args=["/shared/sales.csv", "/shared/none.png"])
    assert wrong.status == 1
    assert "no picture: /shared/sales.csv" in wrong.err
    assert "cannot be read: /shared/none.png" in wrong.err


def test_csvsum_adds_what_are_numbers(laptop: Device) -> None:
    printed = sends(laptop, "csvsum", file="/shared/sales.csv")
    assert printed.status == 0, printed
    assert printed.json == {"rows": 3, "price": 13.5, "units, sold": 42}
    refused = sends(laptop, "csvsum", file="/shared/secret/c.txt")
    assert (refused.status, "cannot be read" in refused.err) == (1, True), refused
    assert "--param file=" in sends(laptop, "csvsum").err


def test_diskreport_measures_and_names_what_is_hidden(laptop: Device) -> None:
    printed = sends(laptop, "diskreport", folder="/shared")
    assert printed.status == 0, printed
    told = printed.json
    album = sum(len(content) for content, _ in PICTURES.values())
    sizes = {each["path"]: each["bytes"] for each in told["folders"]}
    assert sizes == {
        "/shared": album + 14 + 17 + 67,
        "/shared/album": album,
        "/shared/notes": 31,
        "/shared/notes/deep": 17,
        "/shared/secret": 0,
    }
    assert told["hidden"] == ["/shared/secret"]
    assert told["files"] == 8


def test_inventory_counts_by_ending(laptop: Device) -> None:
    kinds = sends(laptop, "inventory", folder="/shared/notes").json["kinds"]
    assert kinds == {"txt": {"files": 2, "bytes": 31}}
    assert sends(laptop, "inventory", folder="/shared").status == 3, "a folder is refused"


def test_stale_finds_old_files(laptop: Device) -> None:
    printed = sends(laptop, "stale", folder="/shared/notes", days=0)
    if printed.status == 2 and "stale.ts" in printed.err:
        pytest.skip("TypeScript is not run by this version: its suffix is refused")
    assert [each["path"] for each in printed.json] == [
        "/shared/notes/a.txt",
        "/shared/notes/deep/b.txt",
    ]
    assert sends(laptop, "stale", folder="/shared/notes", days=1).json == []


@pytest.mark.parametrize("page", ["scripts", "starlark", "wasm"])
def test_what_a_page_says_to_send_works_on_a_fresh_home_with_the_rules_it_gives(
    tmp_path: Path, page: str
) -> None:
    text = (EXAMPLES.parent / f"docs/{page}.md").read_text()
    rules = re.findall(r"^p, .*", text, re.MULTILINE)
    commands = re.findall(r"^orvalho (script send \S+ examples/.*)", text, re.MULTILINE)
    assert rules
    assert commands
    with two_devices(tmp_path) as (laptop, phone):
        for folder in ("album", "shared"):
            (phone.tree("peer") / folder).mkdir(exist_ok=True)
        (phone.tree("peer") / "shared/a.txt").write_text("hello")
        phone.allow(*rules)
        for command in commands:
            printed = laptop.types(*shlex.split(command.replace("examples/", f"{EXAMPLES}/")))
            assert printed.status == 0, (command, printed)


@pytest.mark.skipif(
    importlib.util.find_spec("componentize_py") is None, reason="pip install orvalho[examples]"
)
def test_words_counts_in_python(laptop: Device, tmp_path: Path) -> None:
    built = str(examples.build(examples.find("words"), tmp_path).file)
    words = ("call=frequent", 'args=["a b b c c c", 2]')
    params = [word for each in words for word in ("--param", each)]
    printed = laptop.types("script", "send", "peer@phone2", built, "--wait", *params, limit_s=300.0)
    assert (printed.status, printed.out.strip()) == (0, '[["c",3],["b",2]]'), printed
