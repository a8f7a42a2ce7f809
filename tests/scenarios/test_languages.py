"""The examples of each language, sent from one real device to another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import wasmtime

from tests.runtime import component_text, wat
from tests.runtime.test_components import ASKS
from tests.scenarios.devices import Device, two_devices

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Device]]:
    with two_devices(tmp_path_factory.mktemp("languages")) as (laptop, phone):
        tree = phone.home / "data" / "contexts" / "peer"
        (tree / "notes").mkdir(exist_ok=True)
        (tree / "notes" / "a.txt").write_text("first\nsecond\n")
        (tree / "notes" / "b.md").write_text("#")
        (tree / "notes" / "link.txt").symlink_to("/etc/passwd")
        yield laptop, phone


@pytest.fixture
def laptop(devices: tuple[Device, Device]) -> Device:
    return devices[0]


@pytest.fixture
def phone(devices: tuple[Device, Device]) -> Device:
    return devices[1]


def test_starlark_says_hello(laptop: Device) -> None:
    printed = laptop.types(
        "script", "send", "peer@phone2", str(EXAMPLES / "hello.star"), "--param", "name=ana"
    )
    assert (printed.status, printed.json) == (0, "hello ana, this is peer@phone2"), printed
    assert "running on peer@phone2" in printed.err


def test_a_library_is_called_by_name(laptop: Device) -> None:
    words = ("script", "send", "peer@phone2", str(EXAMPLES / "add.wasm"), "--param", "call=add")
    assert laptop.types(*words, "--param", "args=[2,3]").json == 5
    refused = laptop.types(*words, "--param", 'args=["x",3]')
    assert refused.status == 2
    assert "argument 1: expected i32, got text" in refused.err
    assert "add.wasm" not in laptop.does("script", "ls").splitlines()[1], "it was never sent"


def test_files_need_a_line_in_the_policy_in_every_language(laptop: Device, phone: Device) -> None:
    cat = ("script", "send", "peer@phone2", str(EXAMPLES / "cat.wasm"))
    cat = (*cat, "--param", 'args=["/notes/a.txt"]')
    count = ("script", "send", "peer@phone2", str(EXAMPLES / "inventory.star"))
    count = (*count, "--param", "folder=/notes")
    for words in (cat, count):
        assert laptop.types(*words).status == 3

    phone.allow("p, laptop, peer, fs.read, /**, allow")
    printed = laptop.types(*cat)
    assert (printed.status, printed.json) == (0, "first\nsecond\n"), printed
    assert printed.err.splitlines()[-2:] == ["cat.wasm| first", "cat.wasm| second"]
    assert laptop.types(*count).json == {"txt": 1, "md": 1}
    absent = laptop.types(*cat[:-1], 'args=["/notes/c.txt"]')
    assert (absent.status, "exit status 44" in absent.err) == (1, True), "ENOENT"


def test_what_is_not_in_the_side_file_is_not_reached(
    laptop: Device, phone: Device, tmp_path: Path
) -> None:
    phone.allow("p, laptop, peer, fs.read, /notes/**, allow")
    (tmp_path / "cat.wasm").write_bytes((EXAMPLES / "cat.wasm").read_bytes())
    words = ("script", "send", "peer@phone2", str(tmp_path / "cat.wasm"))
    words = (*words, "--param", 'args=["/notes/a.txt"]')
    assert "exit status 2" in laptop.types(*words).err, "EACCES: nothing was declared"
    (tmp_path / "cat.wasm.toml").write_text('needs = ["target.fs.read:/notes/**"]\n')
    assert laptop.types(*words).json == "first\nsecond\n"
    (tmp_path / "cat.wasm.toml").write_text("need = []\n")
    wrong = laptop.types(*words)
    assert wrong.status == 2
    assert "cat.wasm.toml:1" in wrong.err


def test_no_link_or_path_leads_out_of_the_tree(laptop: Device, phone: Device) -> None:
    phone.allow("p, laptop, peer, fs.read, /notes/*, allow")
    words = ("script", "send", "peer@phone2", str(EXAMPLES / "cat.wasm"), "--param")
    assert laptop.types(*words, 'args=["/notes/a.txt"]').status == 0
    for path in ("/notes/link.txt", "/notes/../../../../../../etc/passwd", "//etc/passwd", "/.."):
        printed = laptop.types(*words, f'args=["{path}"]')
        assert printed.status in (1, 3), printed
        assert "root:" not in printed.out + printed.err


def test_a_module_carries_its_needs_in_a_section(laptop: Device, tmp_path: Path) -> None:
    toml = b'needs = ["target.kv.read:a"]\n'
    section = bytes([0, len(toml) + 8, 7]) + b"orvalho" + toml
    (tmp_path / "job.wasm").write_bytes(wat.run("") + section)
    said = laptop.types("script", "check", str(tmp_path / "job.wasm"), "--json").json
    assert said["needs"] == ["target.kv.read:a"]
    assert said["language"] == "wasm"
    assert "function run () -> nothing" in said["exports"]
    assert "function orvalho.take (i32) -> nothing" in said["imports"]


def test_a_large_module_travels_whole(laptop: Device, tmp_path: Path) -> None:
    size = 6 << 20
    large = bytes([0, *_number(size + 2), 1]) + b"x" + bytes(size)
    file = tmp_path / "large.wasm"
    file.write_bytes((EXAMPLES / "add.wasm").read_bytes() + large)
    words = ("script", "send", "peer@phone2", str(file), "--param", "call=add")
    assert laptop.types(*words, "--param", "args=[2,3]", "--wait").json == 5
    file.write_bytes(file.read_bytes() + large * 5)
    refused = laptop.types(*words)
    assert refused.status == 2
    assert "more than 33554432" in refused.err


def _number(value: int) -> list[int]:
    """LEB128."""
    return [value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14 & 0x7F | 0x80, value >> 21]


def test_text_of_a_module_is_not_guessed_at(laptop: Device, tmp_path: Path) -> None:
    for name in ("add.wat", "add.wasm"):
        (tmp_path / name).write_text((EXAMPLES / "add.wat").read_text())
        printed = laptop.types("script", "send", "peer@phone2", str(tmp_path / name))
        assert printed.status == 2
        assert "WebAssembly text" in printed.err


def test_a_module_survives_a_restart_of_its_target(laptop: Device, phone: Device) -> None:
    words = ("script", "send", "peer@phone2", str(EXAMPLES / "add.wasm"), "--param", "call=mean")
    words = (*words, "--param", "args=[1, 2]", "--wait")
    phone.stop()
    queued = laptop.types(*words[:-1])
    assert queued.status == 7, queued
    phone.start()
    again = laptop.types(*words)
    assert again.status == 0, again
    assert again.json == 1.5
    run = json.loads(laptop.does("script", "ls", "--json"))["runs"][1]["run"]
    assert laptop.types("script", "result", run, "--wait").json == 1.5


AREA = ("script", "send", "peer@phone2", str(EXAMPLES / "shapes.wasm"), "--param", "call=area")


def test_a_component_takes_what_its_types_say(laptop: Device) -> None:
    sides = '{"rectangle": {"width": 2, "height": 1.5}}'
    printed = laptop.types(*AREA, "--param", f"args=[{sides}]")
    assert (printed.status, printed.json) == (0, {"ok": 3.0}), printed
    assert laptop.types(*AREA, "--param", 'args=["point"]').json == {"ok": 0.0}
    refused = laptop.types(*AREA, "--param", 'args=[{"circle": -1}]')
    assert refused.json == {"err": "no side is shorter than nothing"}
    said = laptop.types("script", "check", str(EXAMPLES / "shapes.wasm"), "--json").json
    (exported,) = said["exports"]
    assert exported.startswith("function area: func(of: variant{point, circle(f64), rectangle(")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ('["square"]', "argument 1: there is no case 'square': it is one of point, circle, rec"),
        ('[{"circle": "x"}]', 'argument 1 case "circle": expected f64, got text'),
        ('[{"rectangle": {"width": 1}}]', 'the field "height" is missing'),
        ("[]", "takes 1 arguments, not 0"),
    ],
)
def test_what_a_component_cannot_take_is_not_sent(laptop: Device, args: str, message: str) -> None:
    before = laptop.does("script", "ls", "--json")
    printed = laptop.types(*AREA, "--param", f"args={args}")
    assert printed.status == 2
    assert message in printed.err
    assert laptop.does("script", "ls", "--json") == before


def test_an_interface_is_for_those_who_declare_it(laptop: Device, tmp_path: Path) -> None:
    file = tmp_path / "asks.wasm"
    file.write_bytes(ASKS)
    printed = laptop.types("script", "send", "peer@phone2", str(file))
    assert printed.status == 2
    assert "orvalho:host/kv@0.1.0" in printed.err
    assert 'add a capability such as "target.kv.read:*" to needs' in printed.err
    (tmp_path / "asks.wasm.toml").write_text('needs = ["target.kv.read:a"]\n')
    assert laptop.types("script", "send", "peer@phone2", str(file)).status == 3, "the policy's word"


def test_an_exit_status_is_told(laptop: Device, tmp_path: Path) -> None:
    file = tmp_path / "three.wasm"
    file.write_bytes(wat.command("(call $exit (i32.const 3))"))
    printed = laptop.types("script", "send", "peer@phone2", str(file), "--json")
    assert printed.status == 1
    assert "exit status 3" in printed.out + printed.err
    file.write_bytes(component_text.command("(i32.const 1)"))
    assert "exit status 1" in laptop.types("script", "send", "peer@phone2", str(file)).err


@pytest.mark.parametrize("name", ["add", "cat", "shapes"])
def test_the_modules_are_made_of_their_texts(name: str) -> None:
    text = (EXAMPLES / f"{name}.wat").read_text()
    assert (EXAMPLES / f"{name}.wasm").read_bytes() == bytes(wasmtime.wat2wasm(text))
