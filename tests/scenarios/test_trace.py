"""Scripts that call other nodes, on four real devices: laptop -> phone2 -> phone3 -> tv. Each knows
its neighbours; the laptop knows phone2 alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime import wat
from tests.scenarios.devices import Device, Printed, wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
SPIN = wat.module('(func (export "spin") (loop $l (br $l)))')
COUNTER = wat.module(
    """(global $n (mut i32) (i32.const 0))
    (func (export "next") (result i32)
      (global.set $n (i32.add (global.get $n) (i32.const 1))) (global.get $n))"""
)


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Device]]:
    top = tmp_path_factory.mktemp("trace")
    names = ("laptop", "phone2", "phone3", "tv")
    found = {name: Device(name, top / name) for name in names}
    try:
        for device in found.values():
            device.init()
            device.start()
            if device.name != "laptop":
                device.does("ctx", "new", "peer")
        for host, guest in (("phone2", "laptop"), ("phone3", "phone2"), ("tv", "phone3")):
            ticket = found[host].does("peer", "invite").strip().splitlines()[-1].strip()
            found[guest].does("peer", "add", ticket)
            wait_until(
                lambda h=host, g=guest: found[g].online(h) and found[h].online(g),  # type: ignore[misc]
                f"{guest} and {host} are linked",
            )
        phone3 = found["phone3"]
        phone3.does("lib", "publish", str(EXAMPLES / "add.wasm"))
        phone3.does("lib", "publish", str(EXAMPLES / "cat.wasm"))
        for name, module in (("spin", SPIN), ("counter", COUNTER)):
            (file := top / f"{name}.wasm").write_bytes(module)
            phone3.does("lib", "publish", str(file))
        found["phone2"].allow(
            "p, laptop, peer, node.send, *, allow", "p, laptop, peer, kv.write, *, allow"
        )
        phone3.allow("p, phone2, peer, node.send, *, allow")
        found["tv"].allow("p, phone3, peer, kv.write, *, allow")
        yield found
    finally:
        for device in found.values():
            device.stop()


@pytest.fixture
def laptop(devices: dict[str, Device]) -> Device:
    return devices["laptop"]


def runs(device: Device, source: str, *words: str, needs: str, tmp: Path) -> Printed:
    (tmp / "job.js").write_text(f"// /// orvalho\n// {needs}\n// ///\n{source}\n")
    return device.types("script", "send", "peer@phone2", str(tmp / "job.js"), "--json", *words)


def calls(name: str) -> str:
    return f'needs = ["target.node.call:{name}@phone3"]'


def newest(device: Device) -> dict[str, Any]:
    found: dict[str, Any] = device.types("script", "ls", "--json").json["runs"][0]
    return found


def ended(printed: Printed) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(printed.out.strip().splitlines()[-1])
    return found


def test_a_call_crosses_two_hosts_and_is_signed_both_ways(
    laptop: Device, devices: dict[str, Device], tmp_path: Path
) -> None:
    source = 'export default ({ target }) => target.node.call("add@phone3", "add", [2, 3])'
    printed = runs(laptop, source, needs=calls("add"), tmp=tmp_path)
    assert (printed.status, ended(printed)["result"]) == (0, 5), printed
    run = ended(printed)["run"]

    told = laptop.types("trace", run, "--json").json
    first, second = told["runs"]
    assert (first["node"], first["run"], first["parent"]) == ("phone2", run, None)
    assert (second["node"], second["parent"]) == ("phone3", run)
    assert (second["caller"], second["target"]) == ("peer@phone2", "root@phone3")
    assert (first["outcome"], second["outcome"]) == ("done", "done")
    assert (first["signed"], second["signed"]) == ("both", "both")
    assert second["wall_ms"] <= first["wall_ms"]
    drawn = laptop.does("trace", run)
    assert "└─ phone3  add.lib in root@phone3 by peer@phone2  done" in drawn, drawn
    assert "signed both ways" in drawn.splitlines()[-1]

    # The middle sees the same; the far end sees only what the call says of its way.
    middle = devices["phone2"].types("trace", run, "--json").json
    assert middle["trace"] == told["trace"]
    assert [each["run"] for each in middle["runs"]] == [run, second["run"]]
    end = devices["phone3"].types("trace", second["run"], "--json").json
    assert end["trace"] == told["trace"]
    assert [(each["run"], each["caller"]) for each in end["above"]] == [(run, first["caller"])]
    assert [each["run"] for each in end["runs"]] == [second["run"]]

    # Each receipt names its neighbours.
    far = devices["phone3"].types("script", "show", second["run"], "--json").json["receipt"]
    near = devices["phone2"].types("script", "show", run, "--json").json["receipt"]
    assert (far["parent"], far["trace"]) == (run, told["trace"])
    assert [each[0] for each in near["caused"]] == [second["run"]]


def test_a_service_is_called_and_a_program_too(
    laptop: Device, devices: dict[str, Device], tmp_path: Path
) -> None:
    devices["phone3"].does("service", "start", "counter", "--ctx", "peer")
    source = """export default async ({ target }) => {
      const next = () => target.node.call("counter@phone3", "next", [], { context: "peer" });
      return [await next(), await next()];
    }"""
    printed = runs(laptop, source, needs=calls("counter"), tmp=tmp_path)
    assert ended(printed)["result"] == [1, 2], printed
    devices["phone3"].does("service", "stop", "counter")
    both = laptop.types("trace", ended(printed)["run"], "--json").json["runs"]
    assert [each["filename"] for each in both] == ["job.js", "counter.lib", "counter.lib"]

    star = tmp_path / "job.star"
    star.write_text(
        '# /// orvalho\n# needs = ["target.node.call:*@phone3"]\n# ///\n'
        "def main(job):\n    return job.target.node.call('add@phone3', 'mean', [1.5, -2.5])\n"
    )
    assert laptop.does("script", "send", "peer@phone2", str(star)).strip() == "-0.5"


def test_what_was_not_declared_or_not_allowed_is_refused(
    laptop: Device, devices: dict[str, Device], tmp_path: Path
) -> None:
    call = 'export default ({ target }) => target.node.call("add@phone3", "add", [2, 3])'
    bare = runs(laptop, call, needs="", tmp=tmp_path)
    assert bare.status == 3, bare
    assert "target.node.call:add@phone3" in bare.out + bare.err
    before = len(devices["phone3"].types("script", "ls", "--json").json["runs"])
    devices["phone2"].allow("p, laptop, peer, node.call, cat@*, deny")
    refused = runs(laptop, call.replace("add@", "cat@"), needs=calls("cat"), tmp=tmp_path)
    assert (refused.status, "cat@" in refused.out + refused.err) == (3, True), refused
    assert len(devices["phone3"].types("script", "ls", "--json").json["runs"]) == before
    # The other node's own rules hold as well: they know phone2 alone.
    devices["phone3"].allow("p, phone2, *, lib.call, spin, deny")
    there = runs(
        laptop,
        'export default ({ target }) => target.node.call("spin@phone3", "spin")',
        needs=calls("spin"),
        tmp=tmp_path,
    )
    assert there.status == 3, there
    text = devices["phone3"].policy("peer").read_text()
    devices["phone3"].policy("peer").write_text(
        text.replace("p, phone2, *, lib.call, spin, deny\n", "")
    )
    # What is declared in a header travels as a word that older nodes may not know: it is checked.
    wrong = runs(laptop, "1", needs='needs = ["caller.node.call:add@phone3"]', tmp=tmp_path)
    assert wrong.status == 2, wrong


def test_a_mistake_is_told_with_the_node_it_was_made_for(laptop: Device, tmp_path: Path) -> None:
    source = """export default async ({ target }) => {
      const told = [];
      for (const [name, args] of [["add@phone3", ["x", 3]], ["ad@phone3", []], ["add@phone9", []],
          ["add", []], ["add@phone2", []]]) {
        try { await target.node.call(name, "add", args); told.push("done"); }
        catch (error) { told.push(`${error.name}: ${error.message}`); }
      }
      return told;
    }"""
    printed = runs(laptop, source, needs='needs = ["target.node.call:*"]', tmp=tmp_path)
    told = ended(printed)["result"]
    assert told[0] == "InvalidInput: argument 1: expected i32, got text", told
    assert told[1].startswith("NotFound"), told
    assert told[2].startswith("NotFound"), told
    assert told[3].startswith("InvalidInput: a library of another node is NAME@NODE"), told
    assert told[4].startswith("LimitExceeded: hops: the script runs on phone2 already"), told


def test_a_loop_is_refused(laptop: Device, tmp_path: Path) -> None:
    back = (
        '// /// orvalho\n// needs = ["target.node.call:*"]\n// ///\n'
        'export default ({ target }) => target.node.call("add@phone2", "add", [1, 2])'
    )
    source = f"""export default async ({{ target }}) => {{
      try {{ return await target.node.send("peer@phone3", {json.dumps(back)}); }}
      catch (error) {{ return `${{error.name}}: ${{error.message}}`; }}
    }}"""
    printed = runs(laptop, source, needs='needs = ["target.node.send:*"]', tmp=tmp_path)
    told = ended(printed)["result"]
    assert "hops: the call came through phone2 already" in told, told


def test_three_nodes_down(laptop: Device, devices: dict[str, Device], tmp_path: Path) -> None:
    last = (
        '// /// orvalho\n// needs = ["target.kv.write:*"]\n// ///\n'
        'export default ({ target }) => target.kv.put("seen", 1)'
    )
    middle = (
        '// /// orvalho\n// needs = ["target.node.send:peer@tv"]\n// ///\n'
        'export default ({ target }) => target.node.send("peer@tv", '
        f'{json.dumps(last)}, {{ filename: "last.js" }})'
    )
    source = f"""export default ({{ target }}) =>
      target.node.send("peer@phone3", {json.dumps(middle)}, {{ filename: "middle.js" }})"""
    printed = runs(laptop, source, needs='needs = ["target.node.send:peer@phone3"]', tmp=tmp_path)
    assert printed.status == 0, printed
    told = laptop.types("trace", ended(printed)["run"], "--json").json["runs"]
    nodes = [(each["node"], each["filename"], each["signed"]) for each in told]
    assert nodes == [
        ("phone2", "job.js", "both"),
        ("phone3", "middle.js", "both"),
        ("tv", "last.js", "both"),
    ]
    tv = devices["tv"]
    ran = [each["run"] for each in told]
    above = tv.types("trace", ran[2], "--json").json["above"]
    assert [each["run"] for each in above] == ran[:2]
    # Who is away is named, and what is known of it without asking is told all the same.
    phone3 = devices["phone3"]
    phone3.stop()
    away = laptop.types("trace", ran[0], "--json").json["runs"]
    assert [each["run"] for each in away] == ran, "phone3's receipt names what it called"
    assert [each["signed"] for each in away] == ["both", "both", "caller"]
    assert "is not known" in (away[1]["problem"] or ""), away
    assert (away[2]["filename"], away[2]["outcome"]) == ("last.js", "done")
    phone3.start()
    wait_until(lambda: devices["phone2"].online("phone3"), "phone3 is back")


def test_cancelling_the_outer_run_ends_the_inner(
    laptop: Device, devices: dict[str, Device], tmp_path: Path
) -> None:
    needs = calls("spin") + '\n// timeout = "5m"'
    source = 'export default ({ target }) => target.node.call("spin@phone3", "spin")'
    printed = runs(laptop, source, "--detach", needs=needs, tmp=tmp_path)
    run = json.loads(printed.out.strip().splitlines()[-1])["run"]
    phone3 = devices["phone3"]
    wait_until(lambda: devices["phone2"].types("trace", run, "--json").json["runs"][1:], "it calls")
    wait_until(lambda: newest(devices["phone2"])["state"] == "sent", "the call is over there")
    inner = devices["phone2"].types("trace", run, "--json").json["runs"][1]["run"]
    time.sleep(0.3)
    laptop.does("script", "cancel", run)
    wait_until(lambda: newest(laptop)["outcome"] == "cancelled", "the outer run has ended")

    def inner_outcome() -> str | None:
        found = phone3.types("script", "ls", "--json").json["runs"]
        return next((each["outcome"] for each in found if each["run"] == inner), None)

    wait_until(lambda: inner_outcome() == "cancelled", "the inner run has ended")


def test_a_call_gets_no_more_time_than_its_caller_has(
    laptop: Device, devices: dict[str, Device], tmp_path: Path
) -> None:
    needs = calls("spin") + '\n// timeout = "1s"'
    source = 'export default ({ target }) => target.node.call("spin@phone3", "spin")'
    printed = runs(laptop, source, needs=needs, tmp=tmp_path)
    assert printed.status == 5, printed
    found = devices["phone3"].types("script", "ls", "--json").json["runs"][0]
    wait_until(
        lambda: (
            devices["phone3"].types("script", "ls", "--json").json["runs"][0]["outcome"]
            in ("limited", "cancelled")
        ),
        "the inner run has ended",
    )
    assert found["filename"] == "spin.lib"


def test_a_guest_of_another_owner_learns_nothing_of_what_lies_beyond(
    devices: dict[str, Device], tmp_path: Path
) -> None:
    phone2 = devices["phone2"]
    guest = Device("visitor", tmp_path / "visitor")
    try:
        guest.init()
        guest.start()
        ticket = phone2.does("peer", "invite", "--guest").strip().splitlines()[-1].strip()
        guest.does("peer", "add", ticket, "--guest")
        wait_until(lambda: guest.online("phone2"), "the visitor is linked")
        phone2.allow(
            "p, visitor, peer, script.run, *, allow", "p, visitor, peer, node.call, *, allow"
        )
        call = 'export default ({ target }) => target.node.call("add@phone3", "add", [2, 3])'
        done = runs(guest, call, needs=calls("add"), tmp=tmp_path)
        assert ended(done)["result"] == 5, done
        told = guest.types("trace", ended(done)["run"], "--json").json["runs"]
        assert [each["node"] for each in told] == ["phone2"]
        receipt = guest.types("script", "show", ended(done)["run"], "--json").json["receipt"]
        assert (receipt["caused"], receipt["tried"]) == ([], [])
        own = phone2.types("trace", ended(done)["run"], "--json").json["runs"]
        assert [each["node"] for each in own] == ["phone2", "phone3"], "its owner sees all of it"

        devices["phone3"].allow("p, phone2, *, lib.call, add, deny")
        refused = runs(guest, call, needs=calls("add"), tmp=tmp_path)
        assert refused.status == 3, refused
        assert "ask the owner of phone2" in refused.out + refused.err
        assert ".csv" not in refused.out + refused.err
        # Nobody else may ask about a run.
        other = devices["laptop"].types("trace", ended(done)["run"])
        assert other.status == 4, other
    finally:
        guest.stop()
