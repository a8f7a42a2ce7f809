"""Rules are tried out, edited and hang on conditions, on real devices; docs/policies.md is true."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orvalho.cli import output
from tests.cli.test_output import misfit
from tests.scenarios.devices import LIMIT_S, Device, Printed, two_devices, wait_until

SCHEMAS = Path(output.__file__).parent / "schemas"
PAGE = Path(__file__).parents[2] / "docs/policies.md"
JOB = """\
// /// orvalho
// needs = ["target.fs.read:/photos/**"]
// ///
export default async ({ target }) => await target.fs.readText("/photos/a.txt");
"""


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[tuple[Device, Device]]:
    with two_devices(tmp_path) as (laptop, phone):
        (phone.tree("peer") / "photos").mkdir()
        (phone.tree("peer") / "photos/a.txt").write_text("hi")
        (laptop.home / "job.js").write_text(JOB)
        yield laptop, phone


def sends(laptop: Device) -> Printed:
    return laptop.types("script", "send", "peer@phone2", str(laptop.home / "job.js"))


def writes(device: Device, text: str) -> None:
    """Replace the rules of `peer`, and wait until those are in force."""
    device.policy("peer").write_text(text)
    expected = sum(
        line.startswith("p")
        for file in (device.home / "config/policy").glob("*.csv")
        for line in file.read_text().splitlines()
    )
    wait_until(lambda: device.rules() == expected, "the policy is read again")


def fits(schema: str, printed: Printed) -> None:
    """What was printed is as its JSON Schema says."""
    found = json.loads((SCHEMAS / f"{schema}.json").read_text())
    assert misfit(printed.json, found, found) is None


def editor(top: Path, *commands: str) -> str:
    """An editor that does these things with the file it is given."""
    path = top / "editor.sh"
    path.write_text("#!/bin/sh\n" + "\n".join(commands) + "\n")
    path.chmod(0o755)
    return str(path)


def test_the_session_goes_as_the_page_tells_it(
    devices: tuple[Device, Device], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laptop, phone = devices
    section = PAGE.read_text().split("## Trying rules out", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```\n(.*?)```", section, re.DOTALL)
    rules = "p, laptop, peer, fs.read, /photos/**, allow\n#? allow laptop peer fs.read /photos\n"
    writes(phone, rules)
    assert sends(laptop).json == "hi"
    new = tmp_path / "new/peer.csv"
    new.parent.mkdir()
    new.write_text(next(block for block in blocks if not block.startswith("$")))
    monkeypatch.setenv("EDITOR", editor(tmp_path, 'echo "# more" >> "$1"'))
    sessions = [block for block in blocks if block.startswith("$")]
    assert len(sessions) == 5

    for block in sessions:
        line, *told = block.splitlines()
        if line.endswith("fmt"):
            phone.policy("peer").write_text(rules.replace(", ", ","))
        words = shlex.split(line.removeprefix("$ orvalho ").replace("new/", f"{new.parent}/"))
        printed = phone.types(*words)
        assert printed.status == 0, printed
        said = printed.out.splitlines()
        assert said[: len(told)] == told, line
    assert phone.policy("peer").read_text() == f"{rules}# more\n"


def test_a_script_runs_only_while_the_condition_holds(
    devices: tuple[Device, Device], tmp_path: Path
) -> None:
    laptop, phone = devices
    readings = tmp_path / "readings.json"
    phone.does("config", "set", "policy.readings", str(readings))
    readings.write_text('{"battery": 31, "charging": false}')
    writes(phone, "p, @owner, peer, fs.read, /photos/**, allow, charging or battery>40\n")

    refused = sends(laptop)
    assert refused.status == 3
    reason = "only if charging or battery>40; now not charging, battery 31"
    assert reason in refused.err
    run = phone.types("script", "ls", "--json").json["runs"][-1]["run"]
    why = phone.types("why", run, "--json").json["decisions"]
    assert [each["unmet"] for each in why if not each["allowed"]] == [reason]
    assert reason in phone.does("why", run)

    readings.write_text('{"battery": 31, "charging": true}')
    assert sends(laptop).json == "hi"
    readings.write_text('{"battery": 5, "charging": false}')
    assert sends(laptop).status == 3
    told = phone.does("doctor")
    assert "conditions: battery 5" in told
    assert "conditions: not charging" in told


def test_hours_are_those_of_the_devices_clock(devices: tuple[Device, Device]) -> None:
    laptop, phone = devices
    day = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    today = time.localtime().tm_wday
    around = f"days={day[today]}+{day[(today + 1) % 7]}"
    writes(phone, f"p, @owner, peer, fs.read, /photos/**, allow, {around}\n")
    assert sends(laptop).json == "hi"

    far = f"days={day[(today + 3) % 7]}"
    phone.policy("peer").write_text(f"p, @owner, peer, fs.read, /photos/**, allow, {far}\n")
    wait_until(lambda: sends(laptop).status == 3, "the other rule counts")
    assert f"only if {far}; now {day[today]}" in sends(laptop).err


def test_a_failing_test_keeps_the_last_good_rules(devices: tuple[Device, Device]) -> None:
    laptop, phone = devices
    good = "p, laptop, peer, fs.read, /photos/**, allow\n"
    writes(phone, good)
    phone.policy("peer").write_text(
        "p, laptop, peer, fs.read, /**, allow\n#? deny laptop peer fs.read /x\n"
    )

    def told() -> str:
        return phone.types("doctor").out

    wait_until(lambda: "policy/peer.csv:2: this test fails" in told(), "the test is asked")
    assert "deny was expected, but it is allowed, by policy/peer.csv:1" in told()
    printed = phone.types("policy", "test")
    assert printed.status == 1
    assert "FAIL  policy/peer.csv:2  deny laptop peer fs.read /x" in printed.out
    assert sends(laptop).json == "hi", "the rules before are in force"


def test_the_files_are_tested_and_laid_out_with_no_daemon(tmp_path: Path) -> None:
    device = Device("laptop", tmp_path / "laptop")
    device.init()

    tested = device.types("policy", "test", "--json")
    assert (tested.status, tested.json["failed"]) == (0, 0)
    fits("policy-tested", tested)
    fits("policy-formatted", device.types("policy", "fmt", "--json"))
    assert device.types("policy", "fmt", "--check").status == 0
    file = device.home / "config/policy/default.csv"
    file.write_text(file.read_text().replace(", ", ","))
    assert device.types("policy", "fmt", "--check").status == 1
    assert json.loads(device.does("policy", "fmt", "--json"))["changed"] == ["policy/default.csv"]
    file.write_text("p, @owner, *, fs.raed, /x, deny\n#? alow\n")
    for words in (("test",), ("fmt",)):
        printed = device.types("policy", *words)
        assert printed.status == 2
        assert 'did you mean "fs.read"?' in printed.out
        assert "a test is" in printed.out
    assert not device.socket.exists(), "no daemon was started"


def test_an_edit_with_a_mistake_is_kept_and_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device("laptop", tmp_path / "laptop")
    device.init()
    file = device.policy("root")
    before = file.read_bytes()

    def types(*commands: str) -> Printed:
        monkeypatch.setenv("EDITOR", editor(tmp_path, *commands))
        monkeypatch.delenv("VISUAL", raising=False)
        return device.types("policy", "edit", "root")

    wrong = types('echo "p, laptop, root, fs.raed, /x, allow" >> "$1"')
    assert wrong.status == 1
    assert 'did you mean "fs.read"?' in wrong.out
    draft = device.home / "state/drafts/root.csv"
    assert str(draft) in wrong.err
    assert file.read_bytes() == before

    failed = types("exit 3")
    assert failed.status == 1
    assert "ended with status 3: nothing is installed" in failed.err
    truncated = types(': > "$1"')
    assert truncated.status == 1
    assert "is empty" in truncated.out
    assert file.read_bytes() == before

    fits("policy-installed", device.types("policy", "edit", "root", "--json"))
    mended = types('echo "p, laptop, root, fs.read, /x, allow" > "$1"')
    assert mended.status == 0, mended
    assert "going on with the draft" in mended.err
    assert file.read_text() == "p, laptop, root, fs.read, /x, allow\n"
    assert not draft.exists()

    theirs = types(f'echo "# theirs" > {shlex.quote(str(file))}; echo "# ours" > "$1"')
    assert theirs.status == 1
    assert "changed by somebody else" in theirs.err
    assert file.read_text() == "# theirs\n"
    assert draft.read_text() == "# ours\n"


def test_on_a_terminal_one_is_asked_to_edit_again(tmp_path: Path) -> None:
    device = Device("laptop", tmp_path / "laptop")
    device.init()
    good = "p, laptop, root, fs.read, /x, allow"
    program = editor(
        tmp_path,
        f'if [ -e "{tmp_path}/twice" ]; then echo "{good}" > "$1"',
        f'else touch "{tmp_path}/twice"; echo "p, oops" > "$1"; fi',
    )
    keyboard, terminal = os.openpty()
    try:
        os.write(keyboard, b"y\n")
        done = subprocess.run(
            [sys.executable, "-m", "orvalho", "policy", "edit", "root"],
            env=device.environ | {"VISUAL": program},
            stdin=terminal,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    finally:
        os.close(keyboard)
        os.close(terminal)

    assert done.returncode == 0, done
    assert "Edit again?" in done.stderr
    assert "this one has 2" in done.stdout
    assert device.policy("root").read_text() == f"{good}\n"


def test_names_that_nobody_has_are_warned_of_and_a_mistake_is_told_once(
    devices: tuple[Device, Device],
) -> None:
    laptop, phone = devices
    phone.allow("p, @nosuch, peer, fs.read, /a, allow", "p, gil@nowhere, peer, fs.read, /a, allow")
    checked = phone.types("policy", "check")
    assert checked.status == 0, checked
    assert "@nosuch: there is no such group" in checked.err
    assert "gil@nowhere: no such device is paired" in checked.err
    assert "laptop: no such" not in checked.err
    new = laptop.home / "new.csv"
    new.write_text("p, phone2, root, fs.raed, /a, allow\n")
    refused = laptop.types("policy", "diff", str(new))
    assert refused.status == 2
    assert refused.err.count("fs.raed") == 1, refused.err
    assert f"{new}:1" in refused.err
