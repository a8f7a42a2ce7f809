"""What a script would do is seen before it is done: by its sender, and by the target's owner."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.scenarios.devices import Device, two_devices, wait_until

JOB = """\
// /// orvalho
// needs = ["target.fs.read:/notes/**", "target.fs.write:/notes/**", "target.fs.remove:/notes/**",
//          "target.kv.read:**", "target.kv.write:**", "caller.fs.write:/log/**"]
// ///
export default async function ({ target, caller, params }) {
  const text = await target.fs.readText("/notes/list.txt");
  await target.fs.write("/notes/list.txt", text.replace("milk", "oat milk"));
  await target.fs.write("/notes/new.bin", new Uint8Array([0, 1, 2]));
  await target.fs.remove("/notes/old.txt");
  await target.kv.put("count", (await target.kv.get("count") ?? 0) + 1);
  if (params?.caller) await caller.fs.write("/log/done.txt", "done");
  console.log("almost done");
  return { changed: 3 };
}
"""
PAGE = Path(__file__).parents[2] / "docs/plans.md"
HOLDS = "p, laptop, peer, script.run, *, hold"
BEFORE = {"list.txt": "bread\nmilk\n", "old.txt": "gone soon\n"}


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory):
    with two_devices(tmp_path_factory.mktemp("plans")) as (laptop, phone):
        phone.allow(
            *(
                f"p, laptop, peer, fs.{act}, /notes/**, allow"
                for act in ("read", "write", "remove")
            ),
            "p, laptop, peer, fs.write, /drop/**, allow",
            *(f"p, laptop, peer, kv.{act}, **, allow" for act in ("read", "write")),
        )
        (laptop.home / "job.js").write_text(JOB)
        yield laptop, phone


@pytest.fixture
def notes(devices: tuple[Device, Device]) -> Path:
    folder = devices[1].tree("peer") / "notes"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for name, text in BEFORE.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def holding(devices: tuple[Device, Device]):
    """The phone holds what the laptop sends."""
    phone = devices[1]
    rules = phone.policy("peer").read_text()
    phone.allow(HOLDS)
    yield
    for each in phone.types("inbox", "--json").json["held"]:
        phone.does("inbox", "reject", each["run"])
    count = phone.rules()
    phone.policy("peer").write_text(rules)
    wait_until(lambda: phone.rules() < count, "the policy is read again")


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def job(laptop: Device) -> str:
    return str(laptop.home / "job.js")


def test_a_plan_shows_everything_and_does_nothing(
    devices: tuple[Device, Device], notes: Path
) -> None:
    laptop, _ = devices

    words = ("script", "send", "--plan", "peer@phone2", job(laptop), "--param", "caller=true")
    shown = laptop.types(*words)

    assert shown.status == 0, shown
    assert "  ~ /notes/list.txt" in shown.out
    assert "      -milk\n      +oat milk\n" in shown.out
    assert "  + /notes/new.bin  3 bytes  sha256:ae4b3280e56e" in shown.out.replace(" B ", " bytes ")
    assert "  - /notes/old.txt" in shown.out
    assert "  + kv count  1" in shown.out
    assert '  not run  caller.fs.write ["/log/done.txt","done"]' in shown.out
    assert shown.out.rstrip().endswith("Plan: 2 to add, 1 to change, 1 to destroy.")
    assert "nothing was changed" in shown.err
    assert "almost done" in shown.err
    assert contents(notes) == BEFORE

    run = laptop.types("script", "ls", "--json").json["runs"][0]
    assert run["outcome"] == "planned"
    again = laptop.types("script", "result", run["run"], "--json").json
    assert [each["path"] for each in again["plan"]["files"]] == [
        "/notes/list.txt",
        "/notes/new.bin",
        "/notes/old.txt",
    ]


def test_a_context_rewrites_what_it_is_asked_or_refuses_it(
    devices: tuple[Device, Device], tmp_path: Path
) -> None:
    laptop, phone = devices
    hook = phone.tree("peer") / "lib" / "interpret.js"
    hook.parent.mkdir(exist_ok=True)
    file = tmp_path / "size.js"
    file.write_text("export default ({ params }) => params;")
    words = ("script", "send", "peer@phone2", str(file), "--param")
    try:
        hook.write_text(
            "export default ({ params: call }) => {\n"
            "  if (call.params?.size < 0) throw new Error('sizes are positive');\n"
            "  if (call.params?.size > 800) return { params: { size: 800, of: call.script } };\n"
            "};\n"
        )
        assert json.loads(laptop.does(*words, "size=9000")) == {"size": 800, "of": "size.js"}
        run = laptop.types("script", "ls", "--json").json["runs"][0]["run"]
        receipt = laptop.types("script", "show", run, "--json").json["receipt"]
        assert receipt["interpreted"]["path"] == "/lib/interpret.js"
        assert json.loads(laptop.does(*words, "size=10")) == {"size": 10}
        assert json.loads(laptop.does(*words[:-1])) is None
        hook.write_text(
            "export default () => { let x = 1; for (let i = 0; i < 5e7; i++) x = (x * 7) % 1013; };"
        )
        assert json.loads(laptop.does(*words, "size=10")) == {"size": 10}
        run = laptop.types("script", "ls", "--json").json["runs"][0]["run"]
        receipt = laptop.types("script", "show", run, "--json").json["receipt"]
        assert receipt["usage"]["cpu_ms"] > 20, "whoever asks pays for the hook"
        hook.write_text("export default () => { throw new Error('sizes are positive'); };")
        refused = laptop.types(*words, "size=-1")
        assert refused.status == 3
        assert "sizes are positive" in refused.err
        # A refusal is no failure of the hook.
        assert phone.types("status", "--json").json["problems"] == []
        for source, told in (
            ("for (;;);", "peer:/lib/interpret.js: it used up its limit: "),
            ("\nexport default (", "peer:/lib/interpret.js:2:"),
            (
                "export default ({ params: call }) =>\n  call.params.size > 8;",
                "peer:/lib/interpret.js:2:15: TypeError: ",
            ),
            ("export default () => 5;", "peer:/lib/interpret.js: the hook returned something else"),
        ):
            hook.write_text(source)
            assert laptop.types(*words[:-1]).status != 0
            warned = [
                each
                for each in phone.types("doctor", "--json").json["findings"]
                if each["text"].startswith(told)
            ]
            assert len(warned) == 1, (told, phone.types("status", "--json").json["problems"])
            assert "mend /lib/interpret.js of peer" in warned[0]["hint"]
    finally:
        hook.unlink()
    laptop.does(*words[:-1])
    assert phone.types("status", "--json").json["problems"] == []


def test_the_hook_of_the_page_takes_a_call_without_parameters(
    devices: tuple[Device, Device], tmp_path: Path
) -> None:
    laptop, phone = devices
    (source,) = re.findall(r"```js\n(.*?)```", PAGE.read_text(), re.DOTALL)
    hook = phone.tree("peer") / "lib" / "interpret.js"
    hook.parent.mkdir(exist_ok=True)
    file = tmp_path / "echo.js"
    file.write_text("export default ({ params }) => params;")
    words = ("script", "send", "peer@phone2", str(file))
    hook.write_text(source)
    try:
        assert json.loads(laptop.does(*words)) is None
        assert json.loads(laptop.does(*words, "--param", "size=900")) == {"size": 800}
        assert laptop.types(*words, "--param", "size=-1").status == 3
    finally:
        hook.unlink()


def test_a_plan_shows_no_content_that_its_sender_may_not_read(
    devices: tuple[Device, Device], tmp_path: Path
) -> None:
    laptop, phone = devices
    drop = phone.tree("peer") / "drop"
    drop.mkdir(exist_ok=True)
    (drop / "letter.txt").write_text("between us")
    file = tmp_path / "write.js"
    file.write_text(
        '// /// orvalho\n// needs = ["target.fs.write:/drop/**"]\n// ///\n'
        'await target.fs.write("/drop/letter.txt", "mine");'
    )

    shown = laptop.types("script", "send", "--plan", "peer@phone2", str(file))

    assert "~ /drop/letter.txt" in shown.out
    assert "not yours to read" in shown.out
    assert "between us" not in shown.out + shown.err
    assert "10" not in shown.out  # nor how long it is
    assert (drop / "letter.txt").read_text() == "between us"


@pytest.mark.usefixtures("holding")
def test_what_is_held_is_done_exactly_when_it_is_accepted(
    devices: tuple[Device, Device], notes: Path
) -> None:
    laptop, phone = devices

    held = laptop.types("script", "send", "peer@phone2", job(laptop))

    assert held.status == 7, held
    assert "held at peer@phone2" in held.err
    assert contents(notes) == BEFORE
    waiting = phone.types("inbox", "--json").json["held"]
    assert [each["caller"].partition("@")[2] for each in waiting] == ["laptop"]
    run = waiting[0]["run"]
    shown = phone.does("inbox", "show", run)
    assert "export default async function" in shown
    assert "target.fs.write:/notes/**" in shown
    assert "      +oat milk" in shown
    line = phone.policy("peer").read_text().splitlines().index(HOLDS) + 1
    assert f"  held    by policy/peer.csv:{line}  {HOLDS}" in shown
    assert re.search(r"[ 0-9] s ", phone.does("inbox")), "how long it has waited"
    assert " ago" not in phone.does("inbox")
    # Programs are told, too.
    for device in devices:
        waits = device.types("script", "result", run, "--json")
        assert (waits.status, waits.json["state"], waits.json["run"]) == (7, "held", run)
    # Its lines may tell what it has read: they are the owner's until he has accepted it.
    assert json.loads(phone.does("script", "logs", run, "--json"))["message"] == "almost done"
    assert laptop.does("script", "logs", run) == ""
    reply = phone.types("why", run, "--json").json
    (link,) = [each for each in reply["chain"] if each["name"] == "held"]
    assert link["text"].endswith(f"by policy/peer.csv:{line}  {HOLDS}")
    assert "script.held" not in [each["action"] for each in reply["explained"]]
    assert "changed since" not in str(reply["explained"])
    # It outlives both.
    for device in devices:
        device.stop()
        device.start()
    wait_until(lambda: laptop.online("phone2"), "they are linked")
    assert laptop.types("script", "ls", "--json").json["runs"][0]["state"] == "held"

    assert run in phone.does("inbox")

    assert f"accepted {run} of " in phone.does("inbox", "accept", run)

    assert json.loads(laptop.does("script", "result", run, "--wait")) == {"changed": 3}
    assert "almost done" in laptop.does("script", "logs", run)
    assert (notes / "list.txt").read_text() == "bread\noat milk\n"
    assert (notes / "new.bin").read_bytes() == b"\0\1\2"
    assert not (notes / "old.txt").exists()
    assert phone.types("inbox", "--json").json["held"] == []
    assert phone.types("inbox", "accept", run).status == 4
    assert re.search(r"  ended .*UTC, accepted by the owner\n", phone.does("why", run))


@pytest.mark.usefixtures("holding")
def test_a_plan_says_that_its_target_would_hold_it_where_reasons_are_told(
    devices: tuple[Device, Device], notes: Path
) -> None:
    laptop, phone = devices
    line = phone.policy("peer").read_text().splitlines().index(HOLDS) + 1
    words = ("script", "send", "--plan", "peer@phone2", job(laptop))

    shown = laptop.types(*words)

    assert shown.status == 0, shown
    assert f"held by policy/peer.csv:{line}: its owner would look at it first\n" in shown.out
    assert laptop.types(*words, "--json").json["plan"]["held_by"] == f"policy/peer.csv:{line}"
    phone.does("config", "set", "policy.explain_to", "none")
    try:
        assert "held by" not in laptop.does(*words)
    finally:
        phone.does("config", "set", "policy.explain_to", "own")
    assert phone.types("inbox", "--json").json["held"] == []
    assert contents(notes) == BEFORE


@pytest.mark.usefixtures("holding")
def test_the_owner_sees_what_the_sender_may_not(
    devices: tuple[Device, Device], tmp_path: Path
) -> None:
    laptop, phone = devices
    drop = phone.tree("peer") / "drop"
    drop.mkdir(exist_ok=True)
    (drop / "letter.txt").write_text("between us\n")
    file = tmp_path / "write.js"
    file.write_text(
        '// /// orvalho\n// needs = ["target.fs.write:/drop/**"]\n// ///\n'
        'await target.fs.write("/drop/letter.txt", "mine\\n");'
    )

    held = laptop.types("script", "send", "--json", "peer@phone2", str(file))

    assert (held.status, held.json["state"]) == (7, "held")
    run = held.json["run"]
    # Later ones of the same beginning are not meant: only what is held is looked at.
    shown = phone.does("inbox", "show", run[:6])
    assert "      -between us\n      +mine\n" in shown
    assert "not yours to read" not in shown
    assert "between us" not in laptop.does("script", "show", run, "--json")
    rules = phone.policy("peer").read_text()
    try:
        phone.allow("p, laptop, peer, fs.write, /drop/**, deny")
        late = phone.types("inbox", "show", run)
        assert "its sender may not do this any more" in late.err
        number = len(phone.policy("peer").read_text().splitlines())
        assert f"  fs.write /drop/letter.txt  by policy/peer.csv:{number}" in late.err
        refused = phone.types("inbox", "show", run, "--json").json["refused_now"]
        assert f"fs.write /drop/letter.txt  by policy/peer.csv:{number}" in refused
        # What was planned is done all the same.
        phone.does("inbox", "accept", run[2:8].lower())
    finally:
        count = phone.rules()
        phone.policy("peer").write_text(rules)
        wait_until(lambda: phone.rules() < count, "the policy is read again")
    assert (drop / "letter.txt").read_text() == "mine\n"
    assert phone.types("inbox", "show", run[:6]).status == 4


@pytest.mark.usefixtures("holding")
def test_what_is_held_says_nothing_before_its_owner_has_looked(
    devices: tuple[Device, Device], notes: Path, tmp_path: Path
) -> None:
    laptop, phone = devices
    head = JOB[: JOB.index("export default")]
    talks, throws = tmp_path / "talks.js", tmp_path / "throws.js"
    talks.write_text(head + 'console.log(await target.fs.readText("/notes/list.txt"));')
    throws.write_text(head + 'throw new Error(await target.fs.readText("/notes/list.txt"));')

    held = laptop.types("script", "send", "peer@phone2", str(talks))
    failed = laptop.types("script", "send", "peer@phone2", str(throws))

    assert (held.status, failed.status) == (7, 1)
    assert "milk" not in held.out + held.err + failed.out + failed.err
    run = phone.types("inbox", "--json").json["held"][0]["run"]
    phone.does("inbox", "accept", run)
    laptop.does("script", "result", run, "--wait")
    assert "milk" in laptop.does("script", "logs", run)


@pytest.mark.usefixtures("holding")
def test_a_plan_is_void_once_the_context_has_changed(
    devices: tuple[Device, Device], notes: Path
) -> None:
    laptop, phone = devices
    assert laptop.types("script", "send", "peer@phone2", job(laptop)).status == 7
    run = phone.types("inbox", "--json").json["held"][0]["run"]

    (notes / "list.txt").write_text("wine\n")
    accepted = phone.types("inbox", "accept", run)

    assert accepted.status == 1
    assert "the context has changed since the plan" in accepted.err
    assert contents(notes) == BEFORE | {"list.txt": "wine\n"}
    ended = laptop.types("script", "result", run, "--wait")
    assert ended.status == 1
    assert "the context has changed since the plan" in ended.err


@pytest.mark.usefixtures("holding")
def test_what_is_rejected_is_told_why_and_does_nothing(
    devices: tuple[Device, Device], notes: Path
) -> None:
    laptop, phone = devices
    assert laptop.types("script", "send", "peer@phone2", job(laptop)).status == 7
    run = phone.types("inbox", "--json").json["held"][0]["run"]

    phone.does("inbox", "reject", run, "--reason", "ask me first")

    ended = laptop.types("script", "result", run, "--wait")
    assert ended.status == 3
    assert "ask me first" in ended.err
    assert contents(notes) == BEFORE
    ended_by = [e for e in phone.types("why", run, "--json").json["chain"] if e["name"] == "ended"]
    assert ended_by[0]["text"].endswith("rejected by the owner: ask me first")


@pytest.mark.usefixtures("holding")
def test_its_sender_takes_back_what_is_held(devices: tuple[Device, Device], notes: Path) -> None:
    laptop, phone = devices
    assert laptop.types("script", "send", "peer@phone2", job(laptop)).status == 7
    run = phone.types("inbox", "--json").json["held"][0]["run"]

    laptop.does("script", "cancel", run)

    wait_until(lambda: phone.types("inbox", "--json").json["held"] == [], "it is gone")
    assert phone.types("inbox", "accept", run).status == 4
    assert contents(notes) == BEFORE
