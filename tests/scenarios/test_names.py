"""Names of several: the nearest of those with a label, every member, all; on four real daemons."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.scenarios.devices import Device, wait_until

WHERE = "target.name"


@contextmanager
def network(top: Path, *names: str) -> Iterator[tuple[Device, ...]]:
    """The first device, paired with each of the others; all have a context `peer`."""
    devices = tuple(Device(name, top / name) for name in names)
    with ExitStack() as stack:
        for device in devices:
            device.init()
            stack.callback(device.stop)
            device.start()
        first, *others = devices
        for device in others:
            device.does("ctx", "new", "peer")
            device.does("config", "set", "context", "peer")
            first.does("peer", "add", device.does("peer", "invite").strip())
        wait_until(lambda: all(first.online(each.name) for each in others), "all are linked")
        yield devices


def labels_of(device: Device, name: str) -> str:
    members = device.types("resolve", "all", "--json").json["members"]
    return next(",".join(each["labels"]) for each in members if each["node"] == name)


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, ...]]:
    with network(tmp_path_factory.mktemp("names"), "laptop", "phone2", "tablet", "server") as found:
        laptop, phone, tablet, server = found
        phone.does("config", "set", "node.labels", '["gpu=yes", "env=home"]')
        tablet.does("config", "set", "node.labels", '["gpu=yes", "env=office"]')
        server.does("config", "set", "node.labels", "env=home")
        for name, label in (("phone2", "gpu"), ("tablet", "gpu"), ("server", "env")):
            wait_until(lambda name=name, label=label: label in labels_of(laptop, name), name)
        yield found


def test_a_script_lands_on_the_node_with_the_labels_and_says_why(devices) -> None:
    laptop = devices[0]
    printed = laptop.types("script", "send", "any@gpu=yes,env=home", "-e", WHERE)
    assert printed.status == 0, printed
    assert json.loads(printed.out) == "peer@phone2"
    assert "peer@phone2: gpu=yes, env=home; direct 127.0.0.1:" in printed.err


def test_labels_that_nobody_has_offer_the_near_one(devices) -> None:
    printed = devices[0].types("script", "send", "any@gpu=yse", "-e", WHERE)
    assert printed.status == 4
    assert "no paired node has gpu=yse" in printed.err
    assert "did you mean gpu=yes?" in printed.err


def test_all_asks_each_and_answers_once_for_each(devices) -> None:
    printed = devices[0].types("script", "send", "all", "-e", WHERE, "--json")
    assert printed.status == 0, printed
    results = printed.json["results"]
    assert {each["to"]: each["result"] for each in results} == {
        name: name for name in ("peer@phone2", "peer@tablet", "peer@server")
    }


def test_a_context_that_one_lacks_is_told_for_that_one_alone(devices) -> None:
    laptop, phone, *_ = devices
    phone.does("ctx", "new", "work")
    wait_until(lambda: "work" in laptop.does("peer", "ls"), "the laptop hears of it")
    printed = laptop.types("script", "send", "work@all", "-e", WHERE, "--json")
    assert printed.status == 4
    states = {each["to"]: each["state"] for each in printed.json["results"]}
    assert states == {"work@phone2": "done", "tablet": "not sent", "server": "not sent"}
    # Where none is named it is the usual one of each; a node without one is in doubt.
    phone.does("config", "set", "context", "")
    wait_until(lambda: "several contexts" in laptop.does("resolve", "all"), "it is in doubt")
    printed = laptop.types("script", "send", "all", "-e", WHERE)
    assert printed.status == 2
    assert "phone2 has several contexts (" in printed.err
    assert "peer@tablet  done" in printed.out
    phone.does("config", "set", "context", "peer")
    wait_until(lambda: "several contexts" not in laptop.does("resolve", "all"), "it is clear")


def test_a_group_is_its_members_by_node_key_and_by_context_key(devices) -> None:
    laptop, phone, _, _ = devices
    peers = {each["name"]: each for each in laptop.types("peer", "ls", "--json").json["peers"]}
    contexts = phone.types("ctx", "ls", "--json").json["contexts"]
    group = laptop.home / "config/groups/family"
    group.mkdir(parents=True)
    (group / "tablet.pub").write_text(peers["tablet"]["key"] + "\n")
    key = next(each["key"] for each in contexts if each["name"] == "peer")
    (group / "phone.pub").write_text(key + "\n")
    wait_until(lambda: "family" in laptop.does("group", "ls"), "the group is read")
    printed = laptop.types("script", "send", "@family", "-e", WHERE, "--json")
    assert printed.status == 0, printed
    assert [each["result"] for each in printed.json["results"]] == ["peer@phone2", "peer@tablet"]
    assert "did you mean @family?" in laptop.types("resolve", "@famly").err


def test_equal_services_share_the_calls(devices) -> None:
    laptop = devices[0]
    took = Counter(
        json.loads(laptop.does("script", "send", "peer@any", "-e", WHERE)) for _ in range(12)
    )
    assert set(took) == {"peer@phone2", "peer@tablet", "peer@server"}
    assert max(took.values()) - min(took.values()) <= 4, took


def test_resolve_tells_who_is_meant_now(devices) -> None:
    resolved = devices[0].types("resolve", "peer@any@gpu=yes", "--json").json
    assert {each["name"] for each in resolved["members"]} == {"peer@phone2", "peer@tablet"}
    assert resolved["chosen"] in ("peer@phone2", "peer@tablet")


def test_a_member_that_is_off_is_queued_for_and_none_at_all_is_an_error(tmp_path: Path) -> None:
    with network(tmp_path, "laptop", "phone2", "tablet") as (laptop, _, tablet):
        tablet.kill()
        wait_until(lambda: not laptop.online("tablet"), "the tablet is missed")
        printed = laptop.types("script", "send", "all", "-e", WHERE, "--json")
        assert printed.status == 7, printed
        states = {each["to"]: each["state"] for each in printed.json["results"]}
        assert states == {"peer@phone2": "done", "peer@tablet": "queued"}
        chosen = json.loads(laptop.does("script", "send", "any", "-e", WHERE))
        assert chosen == "peer@phone2", "who is off is not chosen"


def test_mistakes_are_told_before_a_script_is_sent(devices, tmp_path: Path) -> None:
    laptop = devices[0]
    job = tmp_path / "job.js"
    job.write_text("export default () => { return 1 +; }\n")
    printed = laptop.types("script", "send", "peer@phone2", str(job))
    assert printed.status == 2
    assert "job.js:1:" in printed.err
    job.write_text('// /// orvalho\n// needs = ["target.fs.raed:/a", 3, "nonsense"]\n// ///\n1\n')
    printed = laptop.types("script", "send", "peer@phone2", str(job))
    assert printed.status == 2
    assert "3 mistakes" in printed.err
    assert laptop.types("script", "ls", "--json").json["runs"][0]["filename"] != "job.js"


def test_options_alone_print_the_help_page(devices) -> None:
    printed = devices[0].types("--quiet", "-v")
    assert printed.status == 2
    printed = devices[0].types("-v")
    assert printed.status == 2
    assert "Usage: orvalho" in printed.err
