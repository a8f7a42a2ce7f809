"""`orvalho grant` as it is typed and printed, and the moments that `--until` takes."""

import hashlib
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest

from orvalho.cli.arguments import until
from orvalho.control import grants
from orvalho.control import messages as m
from tests.cli.conftest import GRANT_REPLY

TEXT = GRANT_REPLY.text
# A Saturday, half past ten in the evening, two hours ahead of UTC.
NOW = datetime(2026, 11, 21, 22, 30, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize(
    ("text", "ahead"),
    [
        ("90s", timedelta(seconds=90)),
        ("2h", timedelta(hours=2)),
        ("7d", timedelta(days=7)),
        ("1w", timedelta(days=7)),
    ],
)
def test_a_duration_is_from_now(text, ahead):
    assert until(text, NOW) == (NOW + ahead).timestamp()


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("today", 22),
        ("sat", 22),
        ("tomorrow", 23),
        ("sun", 23),
        ("Fri", 28),
        ("friday", 28),
        ("2026-11-29", 30),
    ],
)
def test_a_day_lasts_to_its_end(text, day):
    # By the clock of the machine, whatever its zone.
    assert until(text, NOW) == datetime(2026, 11, day).astimezone().timestamp()


def test_a_moment_and_no_end():
    at = datetime(2026, 12, 1, 18, tzinfo=UTC)
    assert until("2026-12-01T18:00:00Z", NOW) == at.timestamp()
    assert until("never", NOW) == 0.0


@pytest.mark.parametrize(
    "text", ["", "soon", "0d", "2020-01-01", "2020-01-01T00:00:00Z", "2026-13-40", "fr", "9999999d"]
)
def test_what_is_no_moment_to_come_is_told(text, orvalho, daemon, capsys):
    assert until(text, NOW) is None
    assert orvalho("grant", "new", "--to", "bob", "--until", text) == 2
    assert "is no moment to come" in capsys.readouterr().err
    assert daemon.asked == []


def test_the_text_alone_goes_to_standard_output(daemon, orvalho, capsys):
    assert orvalho("grant", "new", "--to", "bob", "--needs", "target.fs.read:/a") == 0
    printed = capsys.readouterr()
    assert printed.out == f"{TEXT}\n"
    assert "allows   target.fs.read:/Pictures/**" in printed.err
    assert "WARNING" not in printed.err
    asked = daemon.last(grants.GrantNew)
    assert (asked.to, asked.needs, asked.context) == ("bob", ("target.fs.read:/a",), None)


def test_a_bearers_grant_is_told_loudly(daemon, orvalho, capsys):
    daemon.says(grants.GrantNew, msgspec.structs.replace(GRANT_REPLY, to=None))
    assert orvalho("grant", "new", "--until", "never") == 0
    assert "WARNING  whoever comes by this text has the right" in capsys.readouterr().err
    assert daemon.last(grants.GrantNew).until is None


def test_a_script_is_named_by_its_digest(daemon, orvalho, tmp_path):
    file = tmp_path / "photo.js"
    file.write_text("export default () => 1\n")
    assert orvalho("grant", "new", "--to", "bob", "--run", str(file)) == 0
    asked = daemon.last(grants.GrantNew)
    assert asked.script == hashlib.sha256(file.read_bytes()).hexdigest()
    assert asked.modules == {}


def test_what_is_not_said_when_narrowing_stays(daemon, orvalho):
    assert orvalho("grant", "narrow", "g_1", "--to", "carol", "--uses", "2") == 0
    asked = daemon.last(grants.GrantNarrow)
    assert (asked.grant, asked.to, asked.needs, asked.until) == ("g_1", "carol", None, None)
    assert asked.uses == 2


@pytest.mark.parametrize("verb", ["keep", "show", "revoke", "rm"])
def test_a_grant_is_given_as_text_or_in_a_file(verb, daemon, orvalho, tmp_path):
    file = tmp_path / "grant.txt"
    file.write_text(f"  {TEXT}\n")
    for given in (TEXT, f"@{file}"):
        assert orvalho("grant", verb, given) == 0
        asked = daemon.asked[-1]
        assert (asked.text if verb == "keep" else asked.grant) == TEXT
    assert orvalho("grant", verb, "@/nothing/there") == 2


def test_the_chain_is_drawn_and_cannot_drive_the_terminal(daemon, orvalho, capsys):
    assert orvalho("grant", "ls") == 0
    out = capsys.readouterr().out
    assert [line.split("g_")[0].strip() for line in out.splitlines()] == ["", "-", "--"]
    assert "2 times" in out
    assert orvalho("grant", "show", "g_2", "--qr") == 0
    out += capsys.readouterr().out
    assert "\u2588" in out
    assert "\x1b" not in out
    assert orvalho("grant", "ls", "--as-policy") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("p, bob, peer, fs.read")


def test_a_script_is_sent_with_grants(daemon, orvalho, tmp_path: Path):
    file = tmp_path / "grant.txt"
    file.write_text(TEXT)
    words = ("--grant", f"@{file}", "--grant", "g_1")
    assert orvalho("script", "send", "peer@alice", "-e", "1", *words) == 0
    assert daemon.last(m.ScriptSend).grants == (TEXT, "g_1")


def test_a_few_letters_of_an_id_are_asked_about(daemon, orvalho, capsys):
    assert orvalho("grant", "revoke", "g_3M") == 2
    assert "--yes" in capsys.readouterr().err
    assert daemon.asked == []
    assert orvalho("grant", "revoke", "g_3M", "-y") == 0
    assert orvalho("grant", "revoke", "g_3MYRH0K") == 0


def test_a_file_without_its_at_is_told(daemon, orvalho, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("small.txt").write_text(TEXT)
    assert orvalho("grant", "show", "small.txt") == 2
    assert "did you mean @small.txt?" in capsys.readouterr().err
    assert daemon.asked == []
