"""`orvalho why`, end to end: what a person who types it sees, and what it does not give away."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.devices import Device, Printed, two_devices

HEADER = """\
// /// orvalho
// needs = [%s]
// ///
"""
RUNS = "p, gil@laptop, peer, script.run, *, allow"


def script(body: str, *needs: str) -> str:
    return HEADER % ", ".join(f'"{each}"' for each in needs) + body


def reads(path: str, *needs: str) -> str:
    return script(
        f"export default async ({{ target }}) => target.fs.readText({path!r})",
        *(needs or ("target.fs.read:/shared/**",)),
    )


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Device]]:
    with two_devices(tmp_path_factory.mktemp("why")) as found:
        laptop, phone = found
        laptop.does("ctx", "new", "gil")
        phone.allow(
            RUNS,
            "p, gil@laptop, peer, fs.read, /shared/**, allow",
            "p, *, *, fs.read, /shared/secret/**, deny",
            "p, gil@laptop, peer, fs.write, /notes/**, allow",
            "p, gil@laptop, peer, kv.write, *, allow",
            "p, gil@laptop, peer, kv.read, *, allow",
        )
        tree = phone.tree("peer")
        (tree / "shared/secret").mkdir(parents=True)
        (tree / "notes").mkdir()
        (tree / "shared/secret/key").write_text("42")
        (tree / "shared/a.txt").write_text("hello")
        yield laptop, phone


def send(laptop: Device, source: str, *words: str, name: str = "job.js") -> tuple[Printed, str]:
    """What was printed, and the run's id."""
    file = laptop.home / name
    file.write_text(source)
    printed = laptop.types("script", "send", "peer@phone2", str(file), *words, "--as", "gil")
    run: str = laptop.types("script", "ls", "--limit", "1", "--json").json["runs"][0]["run"]
    return printed, run


def why(device: Device, *words: str) -> Any:
    printed = device.types("why", *words, "--json")
    assert printed.status in (0, 3), printed
    return printed.json


def decided(reply: Any, action: str, object_: str) -> Any:
    found = [e for e in reply["explained"] if (e["action"], e["object"]) == (action, object_)]
    assert found, reply["explained"]
    return found[0]


# ---- a run, where it was decided --------------------------------------------------------------


def test_the_whole_chain_of_a_run_stands_in_order(devices: tuple[Device, Device]) -> None:
    laptop, phone = devices
    printed, run = send(laptop, reads("/shared/a.txt"))
    assert printed.status == 0, printed
    reply = why(phone, run)
    names = [each["name"] for each in reply["chain"]]
    assert names == ["sender", "path", "signature", "certificate", "keys", "groups"]
    chain = {each["name"]: each for each in reply["chain"]}
    assert chain["path"]["text"].startswith("from laptop: direct 127.0.0.1")
    assert "laptop certifies ed25519:" in chain["certificate"]["text"]
    assert chain["keys"]["text"].count(" -> ") == 2
    assert all(chain[name]["holds"] for name in ("signature", "certificate", "keys"))
    assert reply["explained"][0]["action"] == "script.run"
    read = decided(reply, "fs.read", "/shared/a.txt")
    assert (read["call"], read["capability"]) == (
        "1 target.fs.readText",
        "target.fs.read:/shared/**",
    )
    matching = [each["where"] for each in read["tried"] if not each["differs"]]
    assert read["rule"] == matching[0]
    assert matching[-1].startswith("policy/peer.csv:")
    secret = next(each for each in read["tried"] if "/shared/secret" in each["text"])
    assert secret["differs"] == ["object"]
    text = phone.does("why", run)
    assert "target.fs.readText, call 1 of the run" in text
    assert "which did not match" in text
    assert "not this object" in phone.does("why", run, "--all")


def test_a_deny_is_told_with_the_edit_that_was_tried_and_what_it_opens(
    devices: tuple[Device, Device],
) -> None:
    laptop, phone = devices
    printed, run = send(laptop, reads("/shared/secret/key"))
    assert printed.status == 3, printed
    refused = decided(why(phone, run), "fs.read", "/shared/secret/key")
    edit = refused["edit"]
    assert refused["rule"] == edit["changes"][0]["where"]
    assert edit["is_tried"] is True
    assert edit["changes"][0]["old"] == "p, *, *, fs.read, /shared/secret/**, deny"
    # The other contexts of the phone stay closed.
    others = [each["name"] for each in phone.types("ctx", "ls", "--json").json["contexts"]]
    others.remove("peer")
    assert edit["changes"][0]["new"] == [
        f"p, *, {other}, fs.read, /shared/secret/**, deny" for other in others
    ]
    assert "no longer denies everybody fs.read /shared/secret/** in peer" in edit["opens"]


def test_the_edit_that_is_shown_does_what_it_says(devices: tuple[Device, Device]) -> None:
    """Type the edit, and the refused script runs."""
    laptop, phone = devices
    source = reads("/notes/b.txt", "target.fs.read:/notes/b.txt")
    (phone.tree("peer") / "notes/b.txt").write_text("b")
    printed, run = send(laptop, source)
    assert printed.status == 3
    edit = decided(why(phone, run), "fs.read", "/notes/b.txt")["edit"]
    (change,) = edit["changes"]
    assert (change["where"], edit["is_tried"]) == ("policy/peer.csv", True)
    phone.allow(*change["new"])
    printed, _ = send(laptop, source)
    assert (printed.status, printed.out) == (0, '"b"\n'), printed


def test_what_the_header_lacks_is_shown_as_its_line_and_as_the_rule_besides(
    devices: tuple[Device, Device],
) -> None:
    laptop, phone = devices
    _, run = send(laptop, reads("/other"))
    refused = decided(why(phone, run), "fs.read", "/other")
    assert refused["by"] == "header"
    header, rule = refused["edit"]["changes"]
    assert header["where"] == "job.js:2"
    assert header["new"] == ['// needs = ["target.fs.read:/other", "target.fs.read:/shared/**"]']
    assert rule["new"] == ["p, gil@laptop, peer, fs.read, /other, allow"]
    assert refused["edit"]["is_tried"] is True


def test_a_path_that_leads_out_is_told_as_that(devices: tuple[Device, Device]) -> None:
    laptop, phone = devices
    _, run = send(laptop, reads("/shared/../../key"))
    refused = [each for each in why(phone, run)["explained"] if not each["allowed"]]
    assert [each["by"] for each in refused] == ["path"]
    assert refused[0]["edit"] is None


# ---- without a run ----------------------------------------------------------------------------


def test_a_question_is_answered_with_the_status_of_its_answer(
    devices: tuple[Device, Device],
) -> None:
    _, phone = devices
    ask = ("why", "--who", "gil@laptop", "--do")
    allowed = phone.types(*ask, "target.fs.write", "--on", "peer:/notes/x")
    assert (allowed.status, "MATCHES" in allowed.out) == (0, True), allowed
    refused = phone.types(*ask, "fs.write", "--on", "peer:/x")
    assert refused.status == 3
    assert "+  policy/peer.csv  p, gil@laptop, peer, fs.write, /x, allow" in refused.out
    assert phone.types(*ask, "script.run", "--on", "peer").status == 0
    assert phone.types(*ask, "kv.read", "--on", "peer:a").status == 0
    assert phone.types("why", "--who", "*", "--do", "kv.read", "--on", "peer:a").status == 3
    called = phone.types("why", "--who", "@owner", "--do", "lib.call", "--on", "peer:images")
    assert called.status == 0, called
    sent = phone.types("why", "--who", "peer@phone2", "--do", "script.send", "--on", "gil@laptop")
    assert sent.status == 0, sent


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (
            ("--who", "gil@laptop", "--do", "fs.raed", "--on", "peer:/x"),
            2,
            'did you mean "fs.read"',
        ),
        (("--who", "norbert", "--do", "fs.read", "--on", "peer:/x"), 4, "norbert"),
        (("--who", "gil@laptop", "--do", "fs.read", "--on", "there:/x"), 4, "there"),
        (("--who", "gil@laptop", "--do", "fs.read", "--on", "peer"), 2, "--on peer:OBJECT"),
        (("--who", "gil@laptop", "--do", "fs.read", "--on", "peer:/../x"), 3, ".."),
        (("--who", "ed25519:abc", "--do", "fs.read", "--on", "peer:/x"), 2, "key"),
        (("--who", "gil@laptop"), 2, "--who, --do and --on"),
        (("r_01", "--who", "gil@laptop"), 2, "not both"),
    ],
)
def test_a_question_that_cannot_be_answered(
    devices: tuple[Device, Device], words: tuple[str, ...], status: int, says: str
) -> None:
    _, phone = devices
    printed = phone.types("why", *words)
    assert (printed.status, says in printed.err) == (status, True), printed


def test_a_draft_is_judged_and_not_used(devices: tuple[Device, Device], tmp_path: Path) -> None:
    _, phone = devices
    draft = tmp_path / "peer.csv"
    draft.write_text("p, gil@laptop, peer, fs.write, /**, allow\n")
    ask = ("why", "--who", "gil@laptop", "--do", "fs.write", "--on", "peer:/x")
    with_it = phone.types(*ask, "--file", str(draft), "--json")
    assert (with_it.status, with_it.json["decision"]["rule"]) == (0, "policy/peer.csv:1")
    assert phone.types(*ask).status == 3
    draft.write_text("p, gil@laptop, peer, fs.wrte, /**, allow\n")
    wrong = phone.types(*ask, "--file", str(draft))
    assert (wrong.status, 'policy/peer.csv:1:22: unknown action "fs.wrte"' in wrong.err) == (
        2,
        True,
    ), wrong


# ---- the sender's view --------------------------------------------------------------------------

SECRETS = ("family", "ana", "policy/", "deny", "gil@laptop, peer", "guests", "@owner, *")
CATCHES = """\
export default async ({ target }) => {
  try { await target.fs.readText('/shared/secret/key') } catch (error) {
    return Object.fromEntries(Object.getOwnPropertyNames(error)
      .filter((n) => n !== 'stack').map((n) => [n, error[n]]));
  }
}
"""


def test_an_own_device_is_told_the_decisions_and_no_other_rules(
    devices: tuple[Device, Device],
) -> None:
    laptop, phone = devices
    phone.allow("p, @family, peer, fs.read, /ana/**, allow")
    _, run = send(laptop, reads("/shared/secret/key"))
    reply = why(laptop, run)
    assert reply["shared"] == "decisions"
    told = decided(reply, "fs.read", "/shared/secret/key")
    assert told["rule"].startswith("policy/")
    there = [each for each in reply["explained"] if each["action"] != "script.send"]
    assert all(each["tried"] == [] and each["edit"] is None for each in there)
    shown = laptop.types("why", run).out
    assert "family" not in shown
    assert "its target shares what it decided" in shown


def test_its_sender_is_told_what_the_header_lacked(devices: tuple[Device, Device]) -> None:
    laptop, _ = devices
    printed, run = send(laptop, reads("/shared/a.txt", "target.fs.read:/elsewhere"))
    assert printed.status == 3, printed
    printed, run = send(laptop, reads("/other"))
    assert printed.status == 3, printed
    reply = why(laptop, run)
    refused = decided(reply, "fs.read", "/other")
    assert (refused["allowed"], refused["by"]) == (False, "header")
    assert '"target.fs.read:/other"' in refused["edit"]["changes"][0]["new"][0]
    assert "refused     fs.read /other" in laptop.does("why", run)


def test_who_is_told_nothing_learns_nothing(devices: tuple[Device, Device]) -> None:
    laptop, phone = devices
    phone.does("config", "set", "policy.explain_to", "none")
    try:
        found = []
        for source in (
            reads("/shared/secret/key"),
            reads("/elsewhere", "target.fs.read:/**"),
            script(CATCHES, "target.fs.read:/shared/**"),
            script("throw new Error('mine')", "target.fs.read:/secret/**"),
        ):
            printed, run = send(laptop, source)
            found += [printed.out, printed.err, laptop.does("script", "show", run, "--json")]
            reply = why(laptop, run)
            assert reply["shared"] == "outcome"
            # What our own side knows of itself is no secret of the target's.
            found.append(str([e for e in reply["explained"] if e["action"] != "script.send"]))
            found.append(str(reply["error"]))
    finally:
        phone.does("config", "set", "policy.explain_to", "own")
    for text in found:
        for secret in SECRETS:
            assert secret not in text, (secret, text)


def test_the_group_of_a_quota_is_told_to_its_owner_alone(devices: tuple[Device, Device]) -> None:
    laptop, phone = devices
    phone.does("group", "add", "guests", "laptop")
    phone.does("config", "set", "quota.groups.guests.cpu", "1ms")
    phone.does("config", "set", "policy.explain_to", "none")
    burn = script("let n = 0; for (let i = 0; i < 3e7; i++) n += i; export default n")
    try:
        send(laptop, burn)
        printed, run = send(laptop, burn)
        assert (printed.status, "quota cpu exceeded" in printed.err) == (5, True), printed
        shown = laptop.does("script", "show", run, "--json") + laptop.does("why", run, "--json")
        assert "guests" not in printed.err + shown
        reply = why(phone, run)
    finally:
        phone.does("config", "set", "policy.explain_to", "own")
        phone.does("config", "set", "quota.groups.guests.cpu", "")
    (quota,) = [each for each in reply["chain"] if each["name"] == "quota"]
    assert quota["text"].startswith("group guests: cpu ")
    assert quota["holds"] is False
    edit = reply["edit"]
    assert (edit["kind"], edit["is_tried"]) == ("quota", True)
    assert edit["changes"][0]["old"] == 'quota.groups.guests.cpu = "1ms"'
    events = phone.does("events", "--since", "1h", "--json")
    assert "quota cpu exceeded (group guests)" in events, events


# ---- the log is the past, the rules are now -----------------------------------------------------


def test_rules_that_have_changed_since_are_said_to_have(devices: tuple[Device, Device]) -> None:
    laptop, phone = devices
    source = reads("/later/x", "target.fs.read:/later/**")
    printed, run = send(laptop, source)
    assert printed.status == 3
    phone.allow("p, gil@laptop, peer, fs.read, /later/**, allow")
    refused = decided(why(phone, run), "fs.read", "/later/**")
    assert refused["changed"].startswith("the rules have changed since: now it is allowed by")
    assert refused["edit"] is None


# ---- docs/why.md --------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs/why.md"


def test_the_session_goes_as_the_page_tells_it(tmp_path: Path) -> None:
    text = PAGE.read_text().split("## A session", 1)[1].split("\n## ", 1)[0]
    asked, drafted, told = re.findall(r"```\n\$ orvalho (.*?)```", text, re.DOTALL)
    with two_devices(tmp_path) as (laptop, phone):
        laptop.does("ctx", "new", "gil")
        phone.allow("p, gil@laptop, peer, script.run, *, allow")
        draft = tmp_path / "peer.csv"
        draft.write_text("p, gil@laptop, peer, fs.write, /notes/**, allow\n")
        _, run = send(laptop, reads("/other"))
        for block, status in ((asked, 3), (drafted, 0), (told, 0)):
            line, *lines = block.strip("\n").splitlines()
            line = line.replace("peer.csv", str(draft)).replace("RUN", run)
            printed = phone.types(*line.split())
            assert printed.status == status, printed
            shown = printed.out.splitlines()
            for each in lines:
                assert any(one.startswith(each) for one in shown), (each, printed.out)
