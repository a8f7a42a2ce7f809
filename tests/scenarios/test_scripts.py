"""What scripts can do between two real devices, and what they cannot."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.devices import Device, Printed, two_devices, wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Device]]:
    with two_devices(tmp_path_factory.mktemp("scripts")) as (laptop, phone):
        yield laptop, phone


@pytest.fixture
def laptop(devices: tuple[Device, Device]) -> Device:
    return devices[0]


@pytest.fixture
def phone(devices: tuple[Device, Device]) -> Device:
    return devices[1]


def send(laptop: Device, source: str, *words: str, to: str = "peer@phone2") -> Printed:
    file = laptop.home / "test.js"
    file.write_text(source)
    return laptop.types("script", "send", to, str(file), *words)


def mine(laptop: Device) -> str:
    """The context that sends when nothing else is said."""
    return laptop.types("ctx", "ls", "--json").json["contexts"][0]["name"]


def test_hello_runs_and_asks_for_nothing(laptop: Device) -> None:
    said = laptop.does("script", "send", "peer@phone2", str(EXAMPLES / "hello.js"))
    assert json.loads(said) == f"hello {mine(laptop)}@laptop, this is peer@phone2"


def test_a_script_runs_on_the_sending_node_as_well(laptop: Device) -> None:
    name = mine(laptop)
    printed = send(laptop, "export default ({ target }) => target.name", to=f"{name}@laptop")
    assert printed.json == f"{name}@laptop"


def test_counting_needs_a_line_in_the_policy(laptop: Device, phone: Device) -> None:
    refused = laptop.types("script", "send", "peer@phone2", str(EXAMPLES / "count.js"))
    assert refused.status == 3
    assert "p, " in refused.err, "the line that would allow it is shown"

    phone.allow("p, laptop, peer, kv.read, count, allow", "p, laptop, peer, kv.write, count, allow")
    for expected in (1, 2):
        said = laptop.does("script", "send", "peer@phone2", str(EXAMPLES / "count.js"))
        assert json.loads(said) == expected


def test_the_callers_files_are_reached_only_as_far_as_they_are_exposed(
    laptop: Device, phone: Device
) -> None:
    notes = laptop.tree(mine(laptop)) / "notes"
    notes.mkdir()
    (notes / "a.txt").write_text("remember")
    example = str(EXAMPLES / "notes.js")

    refused = laptop.types("script", "send", "peer@phone2", example)
    assert refused.status == 3, refused
    assert "/notes" in refused.err

    assert json.loads(
        laptop.does("script", "send", "peer@phone2", example, "--expose", "/notes")
    ) == ["a.txt"]
    assert (phone.tree("peer") / "inbox/a.txt").read_text() == "remember"


def test_an_exposed_path_is_not_written_without_rw(laptop: Device) -> None:
    source = """\
// /// orvalho
// needs = ["caller.fs.write:/out/**"]
// ///
export default async ({ caller }) => { await caller.fs.write("/out/x.txt", "x"); return "ok" }
"""
    (laptop.tree(mine(laptop)) / "out").mkdir()
    assert send(laptop, source, "--expose", "/out").status == 3
    assert send(laptop, source, "--expose", "/out:rw").json == "ok"


def test_bytes_go_to_a_file(laptop: Device, tmp_path: Path) -> None:
    # Without a file they are printed as they are.
    printed = send(laptop, "export default () => new Uint8Array([111, 107])")
    assert (printed.status, printed.out) == (0, "ok")

    source = "export default () => new Uint8Array([0, 255, 10])"
    out = tmp_path / "out.bin"
    assert send(laptop, source, "-o", str(out)).status == 0
    assert out.read_bytes() == b"\x00\xff\x0a"


def test_an_error_comes_back_with_its_line(laptop: Device) -> None:
    printed = send(laptop, "export default () => {\n  null.x;\n}")
    assert printed.status == 1
    assert "test.js:2" in printed.err
    assert "Cannot read properties of null" in printed.err


def test_a_limit_ends_a_run_with_its_name(laptop: Device) -> None:
    header = '// /// orvalho\n// timeout = "500ms"\n// ///\n'
    printed = send(laptop, header + "export default () => new Promise(() => {})")
    assert printed.status == 5
    assert "wall" in printed.err
    printed = send(laptop, header.replace("timeout", "cpu") + "export default () => { for(;;); }")
    assert printed.status == 5
    assert "cpu" in printed.err


def test_a_call_that_a_limit_ends_is_told_as_such_and_a_failure_of_its_own_is_not(
    laptop: Device, phone: Device
) -> None:
    phone.does("ctx", "mount", "peer:/small", "memory:", "--quota", "1kB")
    phone.allow("p, laptop, peer, fs.write, /small/**, allow")
    needs = '// /// orvalho\n// needs = ["target.fs.write:/small/**"]\n// ///\n'
    write = 'target.fs.write("/small/a", "x".repeat(5000))'
    let = send(laptop, f"{needs}export default async ({{ target }}) => {{ await {write} }}")
    assert let.status == 5, let
    assert "storage_bytes" in let.err
    own = f"try {{ await {write} }} catch (error) {{ throw new Error(error.message) }}"
    made = send(laptop, f"{needs}export default async ({{ target }}) => {{ {own} }}")
    assert made.status == 1, made


def test_a_run_can_be_stopped(laptop: Device) -> None:
    run = send(laptop, "export default () => new Promise(() => {})", "--detach", "--json").json[
        "run"
    ]
    wait_until(lambda: state(laptop, run) in ("sent", "running"), "it is on its way")
    laptop.does("script", "cancel", run)
    wait_until(lambda: state(laptop, run) == "ended", "it has ended")
    assert laptop.types("script", "show", run, "--json").json["state"]["outcome"] == "cancelled"


def state(device: Device, run: str) -> str:
    found: str = device.types("script", "show", run, "--json").json["state"]["state"]
    return found


def test_every_run_leaves_the_same_receipt_on_both_sides(laptop: Device, phone: Device) -> None:
    run = send(laptop, "export default () => 7", "--json").json["run"]
    ours, theirs = (d.types("script", "show", run, "--json").json for d in (laptop, phone))
    assert ours["receipt"] == theirs["receipt"]
    assert ours["receipt"]["outcome"] == "done"
    key = phone.types("status", "--json").json["key"]
    assert ours["receipt_by"] == theirs["receipt_by"] == key


def test_a_path_that_leads_out_is_refused_and_audited(laptop: Device, phone: Device) -> None:
    source = """\
// /// orvalho
// wants = ["target.fs.read:/**"]
// ///
export default async ({ target }) => {
  try { return await target.fs.readText("/shared/../../../state/keys/seed") }
  catch (error) { return error.name }
}
"""
    assert send(laptop, source).json == "Denied"
    assert "leave its context" in phone.does("audit")


def test_a_key_in_a_group_counts_at_once_and_not_when_it_is_gone(
    laptop: Device, phone: Device
) -> None:
    key = laptop.types("status", "--json").json["key"]
    family = phone.home / "config/groups/family"
    family.mkdir()
    (family / "laptop.pub").write_text(key + "\n")
    wait_until(lambda: key in phone.types("group", "show", "family").out, "the group is read")
    phone.allow("p, @family, peer, fs.read, /family/**, allow")
    (phone.tree("peer") / "family").mkdir()
    source = '// /// orvalho\n// needs = ["target.fs.read:/family/**"]\n// ///\n'
    source += 'await target.fs.list("/family")'
    assert send(laptop, source).json == []

    (family / "laptop.pub").unlink()
    wait_until(lambda: key not in phone.types("group", "show", "family").out, "it is out")
    assert send(laptop, source).status == 3


def test_a_broken_policy_line_keeps_the_rules_and_is_told(laptop: Device, phone: Device) -> None:
    file = phone.policy("peer")
    good = file.read_text()
    file.write_text(good + "p, laptop, peer, fs.raed, /x, allow\n")
    lines = good.count("\n") + 1
    told = f'policy/peer.csv:{lines}:18: unknown action "fs.raed", did you mean "fs.read"?'

    assert told in phone.types("policy", "check").out
    wait_until(lambda: told in phone.types("status").out, "status tells it")
    assert send(laptop, "1").status == 0, "the last good rules are in force"
    file.write_text(good)
    wait_until(lambda: told not in phone.types("status").out, "it is mended")


def test_settings_hold_at_once_and_after_a_restart(phone: Device) -> None:
    phone.does("config", "set", "workers.contexts_per_worker", "1")
    drop_in = phone.home / "config/conf.d/10-q.toml"
    drop_in.write_text('[quota]\ncontext_bytes = "123MB"\n')
    wait_until(
        lambda: "conf.d/10-q.toml:2" in phone.does("config", "show", "--origin"), "it is read"
    )
    assert phone.types("ctx", "ls", "--json").json["contexts"][0]["quota_bytes"] == 123_000_000
    phone.stop()
    phone.start()
    shown = phone.does("config", "show", "--origin")
    assert "config.toml" in next(line for line in shown.splitlines() if "contexts_per" in line)


def test_a_worker_serves_one_context_or_many_and_they_never_meet(
    laptop: Device, phone: Device
) -> None:
    phone.does("ctx", "new", "other")
    wait_until(lambda: "other@phone2" in laptop.does("complete", "target", ""), "it is announced")
    source = """\
// /// orvalho
// needs = ["target.fs.write:/inbox/**", "target.fs.read:/inbox/**"]
// ///
globalThis.seen = (globalThis.seen ?? 0) + 1;
export default async ({ target }) => {
  await target.fs.write("/inbox/who", target.name);
  return [globalThis.seen, await target.fs.readText("/inbox/who")];
}
"""
    for many in ("1", "8"):
        phone.does("config", "set", "workers.contexts_per_worker", many)
        for context in ("peer", "other"):
            printed = send(laptop, source, to=f"{context}@phone2")
            assert printed.json == [1, f"{context}@phone2"], printed
    workers = phone.types("worker", "ls", "--json").json["workers"]
    assert sorted(name for each in workers for name in each["contexts"]) == ["other", "peer"]


def test_an_unknown_context_is_refused_in_the_words_of_one_that_says_no(laptop: Device) -> None:
    printed = send(laptop, "1", to="pear@phone2")
    assert printed.status == 4
    assert "peer@phone2" in printed.err, "our own list of its contexts gives the near miss"


def test_a_guest_is_allowed_nothing_and_told_no_more(
    tmp_path_factory: pytest.TempPathFactory, phone: Device
) -> None:
    ana = Device("ana", tmp_path_factory.mktemp("guest") / "ana")
    ana.init()
    ana.start()
    try:
        ticket = phone.does("peer", "invite", "--guest").strip().splitlines()[-1].strip()
        ana.does("peer", "add", ticket)
        wait_until(lambda: ana.online("phone2"), "they are linked")
        (ana.home / "x.js").write_text("1")
        printed = ana.types("script", "send", "peer@phone2", str(ana.home / "x.js"))
        assert printed.status == 3
        assert "policy/" not in printed.err, "the reason is the owner's own business"
        used = ana.types("peer", "add", ticket)
        assert used.status == 0, "the same device may paste it again: its answer may be lost"
    finally:
        ana.stop()


def test_a_ticket_works_once(tmp_path_factory: pytest.TempPathFactory, phone: Device) -> None:
    ticket = phone.does("peer", "invite").strip().splitlines()[-1].strip()
    first, second = (Device(n, tmp_path_factory.mktemp("t") / n) for n in ("first", "second"))
    try:
        for device, status in ((first, 0), (second, 6)):
            device.init()
            device.start()
            assert device.types("peer", "add", ticket).status == status
        assert second.types("peer", "add", ticket[:-3] + "xyz").status == 2
    finally:
        first.stop()
        second.stop()


def test_a_forgotten_peer_is_refused(
    tmp_path_factory: pytest.TempPathFactory, phone: Device
) -> None:
    lost = Device("lost", tmp_path_factory.mktemp("lost") / "lost")
    lost.init()
    lost.start()
    try:
        ticket = phone.does("peer", "invite").strip().splitlines()[-1].strip()
        lost.does("peer", "add", ticket)
        wait_until(lambda: lost.online("phone2"), "they are linked")
        phone.does("peer", "rm", "lost", "-y")
        wait_until(lambda: not lost.online("phone2"), "the link is cut")
        time.sleep(0.5)
        assert not lost.online("phone2")
    finally:
        lost.stop()


def test_status_and_doctor_speak_json(laptop: Device) -> None:
    assert laptop.types("status", "--json").json["format_version"] == "1.0"
    levels = {each["level"] for each in laptop.types("doctor", "--json").json["findings"]}
    assert levels == {"ok"}


def test_a_call_that_nobody_waits_for_does_not_spoil_the_end(laptop: Device, phone: Device) -> None:
    source = """\
// /// orvalho
// needs = ["target.fs.write:/inbox/**"]
// ///
export default ({ target }) => { target.fs.write("/inbox/late", "x"); return 1 }
"""
    printed = send(laptop, source, "--json")
    assert (printed.status, printed.json["outcome"]) == (0, "done")
    assert state(phone, printed.json["run"]) == "ended"


def test_both_sides_are_reached_when_they_are_the_same_node(laptop: Device) -> None:
    name = mine(laptop)
    (laptop.tree(name) / "self").mkdir()
    (laptop.tree(name) / "self/a.txt").write_text("here")
    source = """\
// /// orvalho
// needs = ["caller.fs.read:/self/**"]
// ///
export default ({ caller }) => caller.fs.readText("/self/a.txt")
"""
    assert send(laptop, source, "--expose", "/self", to=f"{name}@laptop").json == "here"


def test_following_a_run_that_goes_on_starts_with_its_first_line(laptop: Device) -> None:
    source = """\
export default async ({ log }) => {
  for (let i = 0; i < 5; i++) { log(`tick ${i}`); await new Promise((r) => setTimeout(r, 200)); }
}
"""
    run = send(laptop, source, "--detach", "--json").json["run"]
    time.sleep(0.5)
    followed = laptop.types("script", "logs", "-f", run)
    assert followed.out.split("\n")[:5] == [f"tick {i}" for i in range(5)]


def test_a_result_that_is_not_there_yet_is_told_apart_from_none(laptop: Device) -> None:
    run = send(laptop, "export default () => new Promise(() => {})", "--detach", "--json").json[
        "run"
    ]
    waiting = laptop.types("script", "result", run)
    assert waiting.status == 7
    assert "has not ended" in waiting.err
    laptop.does("script", "cancel", run)
    wait_until(lambda: state(laptop, run) == "ended", "it has ended")
