"""docs/schemas.md is what happens; and what real devices make of documents that do not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.devices import Device, two_devices, wait_until

PAGE = Path(__file__).parents[2] / "docs/schemas.md"
SESSION = PAGE.read_text().split("## A session", 1)[1].split("\n## ", 1)[0]
BINDINGS = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]


def blocks(kind: str) -> list[str]:
    found = re.findall(r"```(\w*)\n(.*?)```\n", SESSION, re.DOTALL)
    return [text for name, text in found if name == kind]


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Device]]:
    with two_devices(tmp_path_factory.mktemp("schemas")) as (laptop, phone):
        tree = phone.tree("peer")
        (tree / "schema").mkdir()
        (tree / "contacts").mkdir()
        (tree / "schema/contact.json").write_text(blocks("json")[0])
        (tree / "schema/bindings.toml").write_text(BINDINGS)
        phone.allow(*blocks("")[1].splitlines())
        yield laptop, phone


def test_the_session_goes_as_the_page_tells_it(devices: tuple[Device, Device]) -> None:
    laptop, phone = devices
    plain = [each.strip() for each in blocks("")]
    listed, _, told, answer, checked = plain
    command, shown = listed.splitlines()
    assert phone.does(*command.removeprefix("$ orvalho ").split()).strip() == shown

    refused, asked = blocks("js")
    file = laptop.home / "refused.js"
    file.write_text(refused)
    printed = laptop.types("script", "send", "peer@phone2", str(file))
    assert printed.status == 1
    assert told in printed.err
    assert not (phone.tree("peer") / "contacts/ana.json").exists()

    file.write_text(asked)
    assert laptop.does("script", "send", "peer@phone2", str(file)).strip() == answer
    command, shown = checked.splitlines()
    assert phone.does(*command.removeprefix("$ orvalho ").split()).strip() == shown


STARLARK = """\
# /// orvalho
# needs = ["target.kv.read:contacts/**", "target.kv.write:contacts/**"]
# ///
def main(job):
    contacts = job.target.docs("contacts")
    doc = {"name": "P", "email": "p@example.org", "city": "Faro", "__proto__": 1}
    contacts.put("__proto__", doc)
    bad = job.attempt("target.docs.put", "contacts", "bad", {"name": 3})
    found = contacts.query({"where": {"city": "Faro"}})["docs"]
    return [found, bad.ok, bad.error.name, contacts.get("none"), contacts.list({"prefix": "__"}),
        contacts.delete("__proto__"), contacts.delete("__proto__")]
"""


def test_starlark_has_documents_as_well(devices: tuple[Device, Device]) -> None:
    laptop, _ = devices
    file = laptop.home / "docs.star"
    file.write_text(STARLARK)
    found, ok, name, none, ids, first, second = laptop.types(
        "script", "send", "peer@phone2", str(file)
    ).json
    assert [each["id"] for each in found] == ["__proto__"]
    assert found[0]["doc"]["__proto__"] == 1
    assert (ok, name, none, ids, first, second) == (
        *(False, "InvalidInput", None, ["__proto__"]),
        *(True, False),
    )


def test_documents_take_the_rights_on_their_keys(devices: tuple[Device, Device]) -> None:
    laptop, _ = devices
    for call, needs in (
        ('target.docs("contacts").put("x", {})', "target.kv.write:contacts/x"),
        ('target.docs("contacts").query({})', "target.kv.read:contacts/**"),
        ('target.docs("contacts").list()', "target.kv.read:contacts/**"),
        ('target.docs("contacts").get("x")', "target.kv.read:contacts/x"),
    ):
        file = laptop.home / "undeclared.js"
        file.write_text(f"export default ({{ target }}) => {call};")
        printed = laptop.types("script", "send", "peer@phone2", str(file))
        assert printed.status == 3
        assert f"needs {needs}" in printed.err
    for call in (
        'docs("../x").get("a")',
        'docs("contacts").get("")',
        "docs(3).get('a')",
        "docs().list()",
    ):
        file.write_text(f"export default ({{ target }}) => target.{call};")
        printed = laptop.types("script", "send", "peer@phone2", str(file))
        assert "InvalidInput" in printed.err


def test_a_file_that_does_not_fit_is_refused_and_the_schemas_are_guarded(
    devices: tuple[Device, Device],
) -> None:
    laptop, phone = devices
    phone.allow("p, @owner, peer, fs.write, /**, allow")
    file = laptop.home / "rui.json"
    file.write_text('{"name": "Rui"}')
    printed = laptop.types("file", "send", str(file), "peer@phone2:/contacts/")
    assert printed.status != 0
    assert "does not fit" in printed.err
    assert not list((phone.tree("peer") / "contacts").glob("rui*"))

    printed = laptop.types("file", "send", str(file), "peer@phone2:/schema/")
    assert printed.status == 3, "a rule about everything says nothing of /schema"


def test_the_owner_is_told_of_a_broken_schema(devices: tuple[Device, Device]) -> None:
    _, phone = devices
    schema = phone.tree("peer") / "schema/contact.json"
    good = schema.read_text()
    try:
        schema.write_text('{\n "type": "strin"\n}')
        wait_until(
            lambda: "peer:/schema/contact.json:2: /type" in phone.does("status"), "it is told"
        )
        printed = phone.types("ctx", "schema", "check", "peer", "--json")
        assert printed.status == 2
        assert printed.json["problems"]
    finally:
        schema.write_text(good)
    wait_until(lambda: "schema" not in phone.does("status"), "it is good again")
    (phone.tree("peer") / "contacts/old.json").write_text('{"name": 3}')
    misfits = phone.types("ctx", "schema", "check", "--json").json["misfits"]
    assert [each["at"] for each in misfits] == ["contacts/old.json"]
    assert len(misfits[0]["mistakes"]) == 2
