import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator

import anyio
import click
import pytest

from orvalho import __version__, errors
from orvalho.cli.tree import root
from orvalho.control import messages as m
from orvalho.control import policies

Shell = Callable[..., subprocess.CompletedProcess[str]]


def commands(
    command: click.Command, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for name in command.list_commands(ctx):
            child = command.get_command(ctx, name)
            assert child is not None
            yield from commands(child, (*path, name))


EVERY = dict(commands(root()))


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_help_shows_three_examples_and_then_the_flags(path, orvalho, capsys):
    assert orvalho(*path, "--help") == 0
    page = capsys.readouterr().out
    examples, _, flags = page.partition("Options:")
    assert examples.partition("Examples:")[2].count("orvalho") >= 3
    assert "--json" in flags


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_each_example_is_a_command_that_exists(path):
    for example in EVERY[path].examples:
        for words in orvalho_words(example):
            ctx = root().make_context("orvalho", words, resilient_parsing=False)
            command: click.Command = root()
            rest = [*ctx._protected_args, *ctx.args]
            while isinstance(command, click.Group) and rest:
                name, child, rest = command.resolve_command(ctx, rest)
                assert child is not None
                command, ctx = child, child.make_context(name, list(rest), parent=ctx)
                rest = [*ctx._protected_args, *ctx.args]


def orvalho_words(example: str) -> Iterator[list[str]]:
    import shlex

    for part in example.replace('eval "$(', "").replace(')"', "").split(" && "):
        for piece in part.split(" | "):
            words = shlex.split(piece.split(" < ")[0])
            while words and "=" in words[0]:
                del words[0]
            if words[:1] == ["orvalho"] and words[1:] != ["--version"]:
                yield words[1:]


def test_the_version_needs_neither_click_nor_msgspec(shell):
    done = shell("--version")
    assert (done.returncode, done.stdout) == (0, f"orvalho {__version__}\n")


@pytest.mark.parametrize(
    ("argv", "unwanted"),
    [
        (["--version"], ("click", "msgspec", "json", "socket", "orvalho.errors")),
        (["status"], ("click", "msgspec", "tabulate", "dataclasses", "inspect", "subprocess")),
        (["status", "--json"], ("click", "msgspec", "tabulate", "dataclasses", "inspect")),
        (["complete", "target", "p"], ("click", "msgspec", "tabulate", "dataclasses")),
        (["peer", "ls", "--json"], ("prompt_toolkit", "tabulate", "asyncio", "anyio")),
    ],
    ids=" ".join,
)
def test_fast_commands_import_little(argv, unwanted, daemon, environ):
    program = (
        "import os, sys\nfrom orvalho.cli.main import run\n"
        f"assert run({argv!r}, os.environ) == 0\n"
        f"sys.exit(' '.join(set({unwanted!r}) & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_global_options_stand_before_the_noun_or_after_the_verb(daemon, orvalho, capsys):
    for argv in (("--json", "peer", "ls"), ("peer", "--json", "ls"), ("peer", "ls", "--json")):
        assert orvalho(*argv) == 0
        assert json.loads(capsys.readouterr().out)["peers"][0]["name"] == "phone2"


def test_a_home_given_as_a_flag_wins_over_the_environment(daemon, orvalho, capsys, tmp_path):
    for argv in (("--home", f"{tmp_path}/none", "status"), ("status", "--home", f"{tmp_path}/no")):
        assert orvalho(*argv) == errors.NotFound.exit_status
        assert f"orvalho --home {tmp_path}/no" in (shown := capsys.readouterr().err)
        assert " init --name laptop" in shown


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["scirpt"], 'did you mean "script"?'),
        (["script", "sned"], 'did you mean "send"?'),
        (["script", "send", "x", "y", "--detahc"], "--detach"),
        (["peer", "rm"], "PEER"),
        (["peer", "invite", "--expires", "soon"], "7d"),
    ],
)
def test_wrong_usage_is_status_2_and_says_what_was_meant(argv, said, orvalho, capsys):
    assert orvalho(*argv) == errors.InvalidInput.exit_status
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.startswith("error[invalid-input]: ")
    assert "  try   orvalho" in shown.err
    assert shown.out == ""


def test_wrong_usage_is_json_when_json_was_asked_for(orvalho, capsys):
    assert orvalho("script", "sned", "--json") == 2
    told = json.loads(capsys.readouterr().err)
    assert told["format_version"] == "1.0"
    assert told["error"]["code"] == "invalid-input"


def test_a_noun_alone_shows_its_help(orvalho, capsys):
    assert orvalho("script") == 2
    assert "Examples:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "kind",
    [
        errors.InvalidInput,
        errors.Denied,
        errors.NotFound,
        errors.Unavailable,
        errors.LimitExceeded,
        errors.Untrusted,
        errors.Conflict,
        errors.ScriptFailed,
    ],
)
def test_each_error_has_its_exit_status_and_its_four_parts(kind, daemon, orvalho, capsys):
    daemon.says(
        m.Why,
        kind(
            "what and why",
            where="job.js:3",
            rule="policy/peer.csv:14",
            hint="orvalho why r_1",
            peer="peer@phone2",
            detail="a stack",
        ),
    )
    assert orvalho("why", "r_1") == kind.exit_status
    assert capsys.readouterr().err.splitlines() == [
        f"error[{kind.code}]: what and why",
        "  peer  peer@phone2",
        "  where job.js:3",
        "  rule  policy/peer.csv:14",
        "  a stack",
        "  try   orvalho why r_1",
    ]


def test_an_error_is_one_json_object_with_json(daemon, orvalho, capsys):
    daemon.says(m.Status, errors.Denied("no", rule="policy/peer.csv:14"))
    assert orvalho("status", "--json") == 3
    told = json.loads(capsys.readouterr().err)["error"]
    assert (told["code"], told["rule"]) == ("denied", "policy/peer.csv:14")


def test_a_bug_in_the_daemon_is_status_1_and_points_to_its_log(daemon, orvalho, capsys):
    daemon.says(m.Doctor, ZeroDivisionError("oh"))
    assert orvalho("doctor") == 1
    shown = capsys.readouterr().err
    assert "error[internal]" in shown
    assert "log.jsonl" in shown
    assert "Traceback" not in shown


def test_a_daemon_of_another_version_is_told_apart(daemon, orvalho, capsys):
    daemon.says(m.PeerList, m.Note(text="?"))
    assert orvalho("peer", "ls") == 4
    assert "another version" in capsys.readouterr().err


def test_a_peer_cannot_drive_the_terminal(daemon, orvalho, capsys):
    daemon.says(m.ContextNew, m.Note(text="\x1b]0;owned\x07 \x9b2J \u202egnp.exe"))
    assert orvalho("ctx", "new", "a") == 0
    assert capsys.readouterr().out == "\\u001b]0;owned\\u0007 \\u009b2J \\u202egnp.exe\n"


def test_a_reader_that_leaves_early_is_no_error(daemon, environ):
    daemon.says(
        m.ScriptLogs, *[m.RunOutput(run="r", seq=0, level="log", text="x" * 999, at=0.0)] * 500
    )
    command = f"{sys.executable} -P -m orvalho script logs r | head -1"
    done = subprocess.run(
        ["bash", "-c", command], env=environ, capture_output=True, text=True, check=False
    )
    assert done.stdout == "x" * 999 + "\n"
    assert done.stderr == ""


def test_interrupt_is_status_130(daemon, environ, tmp_path):
    async def forever(_: m.Request) -> AsyncIterator[m.Reply]:
        yield policies.AuditEntry(
            seq=1,
            at=0.0,
            actor="a",
            context="c",
            action="x",
            object="o",
            allowed=True,
            rule=None,
            run=None,
            text="first",
        )
        await anyio.sleep_forever()

    daemon.answers[policies.Audit] = forever
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "orvalho", "audit", "--follow"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert "first" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == ""
