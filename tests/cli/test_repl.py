import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from orvalho import errors
from orvalho.cli.inline import inline_source
from orvalho.cli.javascript import complete_word, is_complete
from orvalho.cli.repl import Repl
from orvalho.cli.session import Session
from orvalho.control import messages as m

RUN = "r_01jd3k7m2q8v5x9z4b6n1c0f2h"
ENTER, TAB, CTRL_C, CTRL_D = "\r", "\t", "\x03", "\x04"


@pytest.fixture
def keyboard() -> Iterator[PipeInput]:
    with create_pipe_input() as keys:
        yield keys


@pytest.fixture
def type_in(keyboard, daemon, environ):
    def type_keys(*keys: str) -> int:
        keyboard.send_text("".join(keys))
        session = Session(environ)
        with session.connect() as client:
            terminal = (keyboard, DummyOutput())
            return Repl(session, client, "peer@phone2", terminal=terminal).run()

    return type_keys


def sources(daemon) -> list[str]:
    tail = inline_source("")
    return [
        request.source.removesuffix(tail).rstrip("\n")
        for request in daemon.asked
        if isinstance(request, m.ScriptSend)
    ]


# ---- from a pipe


def test_lines_from_a_pipe_are_scripts_and_their_results_are_lines(daemon, shell):
    done = shell("repl", "peer@phone2", stdin="1 + 1\n\nawait target.fs.list(\n  '/'\n)\n")
    assert done.returncode == 0
    assert done.stdout == '{"n":9}\n' * 2
    assert done.stderr == "repl.js| hello\n" * 2
    assert sources(daemon) == ["1 + 1", "await target.fs.list(\n  '/'\n)"]
    sent = daemon.last(m.ScriptSend)
    assert (sent.to, sent.filename) == ("peer@phone2", "repl.js")
    for side in ("target", "caller"):
        for want in ("fs.read:/**", "fs.write:/**", "fs.remove:/**", "kv.read:**", "kv.write:**"):
            assert f'"{side}.{want}"' in sent.source


def test_the_exit_status_is_that_of_the_last_line_that_failed(daemon, shell):
    async def answer(request):
        if "bad" in request.source:
            raise errors.Denied("no", rule="policy/peer.csv:3", detail="at repl.js:4:1")
        yield m.RunEnded(run=RUN, outcome="done", result=msgspec.Raw(b"1"))

    daemon.answers[m.ScriptSend] = answer
    done = shell("repl", "peer@phone2", stdin="1\nbad\n2\n:quit\n3\n")
    assert (done.returncode, done.stdout) == (3, "1\n1\n")
    assert "  rule  policy/peer.csv:3" in done.stderr
    assert "at repl.js:4:1" in done.stderr
    assert len(sources(daemon)) == 3


def test_why_and_logs_are_about_the_last_line(daemon, shell):
    done = shell("repl", "peer@phone2", stdin="1\n:why\n:logs\n:help\n")
    assert done.returncode == 0
    assert daemon.last(m.Why).run == RUN
    assert daemon.last(m.ScriptLogs).run == RUN
    assert "refused     fs.write /Pictures/a" in done.stdout
    assert "error bye" in done.stdout
    assert ":quit" in done.stdout


@pytest.mark.parametrize("line", [":why", ":nonsense"])
def test_a_command_that_makes_no_sense_says_so(line, daemon, shell):
    assert shell("repl", "peer@phone2", stdin=line).returncode == errors.InvalidInput.exit_status


def test_a_target_that_is_away_is_told(daemon, shell):
    away = m.RunQueued(run=RUN, to="p", state="queued", queued_at="laptop", expires_at=4e9)
    daemon.says(m.ScriptSend, away)
    done = shell("repl", "peer@phone2", stdin="1\n")
    assert done.returncode == errors.Unavailable.exit_status
    assert f"orvalho script result {RUN} --wait" in done.stderr


# ---- at a prompt


def test_a_typed_line_is_sent_and_its_result_shown(type_in, daemon, capsys):
    assert type_in("1 + 1", ENTER, ":quit", ENTER) == 0
    assert sources(daemon) == ["1 + 1"]
    assert capsys.readouterr().out == '{"n":9}\n'


def test_enter_waits_while_a_bracket_is_open(type_in, daemon):
    type_in("[1,", ENTER, "2]", ENTER, CTRL_D)
    assert sources(daemon) == ["[1,\n2]"]


def test_an_empty_line_sends_what_never_closes(type_in, daemon):
    type_in("f(", ENTER, ENTER, CTRL_D)
    assert sources(daemon) == ["f("]


def test_ctrl_c_drops_the_line_and_ctrl_d_leaves(type_in, daemon):
    assert type_in("forget me", CTRL_C, "2", ENTER, CTRL_D) == 0
    assert sources(daemon) == ["2"]


def test_an_error_does_not_end_the_session(type_in, daemon, capsys):
    daemon.says(m.ScriptSend, errors.Denied("no", rule="policy/peer.csv:3"))
    assert type_in("1", ENTER, "2", ENTER, CTRL_D) == 0
    assert capsys.readouterr().err.count("error[denied]: no") == 2


def test_bytes_are_shown_as_what_they_are(type_in, daemon, capsys):
    daemon.says(m.ScriptSend, m.RunEnded(run=RUN, outcome="done", result_bytes=b"\x1b[2J"))
    type_in("x", ENTER, CTRL_D)
    assert capsys.readouterr().out == "<4 B of bytes: G1sySg==>\n"


def test_tab_completes_members_and_paths(type_in, daemon):
    daemon.says(m.Complete, m.Completions(words=("peer@phone2:/photos/",)))
    type_in("targ", TAB, ".f", TAB, ".li", TAB, "('/ph", TAB, "')", ENTER, CTRL_D)
    assert sources(daemon) == ["target.fs.list('/photos/')"]
    asked = daemon.last(m.Complete)
    assert (asked.kind, asked.text) == ("path", "peer@phone2:/ph")


def test_tab_asks_our_own_node_for_the_callers_paths(type_in, daemon):
    daemon.says(m.Complete, m.Completions(words=("gil@laptop:/notes",)))
    type_in('caller.fs.read("/no', TAB, '")', ENTER, CTRL_D)
    assert sources(daemon) == ['caller.fs.read("/notes")']


def test_the_history_is_kept_for_the_owner_alone(type_in, daemon, environ):
    type_in("secret()", ENTER, CTRL_D)
    file = Path(environ["ORVALHO_HOME"], "state", "repl_history")
    assert "secret()" in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


# ---- as much JavaScript as that takes


@pytest.mark.parametrize(
    "text",
    ["", "1", "f(1)", "({a: [1]})", "'('", '"\\"("', "`(`", "`a\\\\`", "// (", "/* ( */ 1", "a / b",
     "/[(]/.test(x)", "x = /\\(/", "1 / 2 / (3)", "'unclosed", ")", "(]"],
)  # fmt: skip
def test_complete_inputs(text):
    assert is_complete(text)


@pytest.mark.parametrize(
    "text",
    ["(", "f(1, [", "{ a", "`text", "`a\\`", "`ends\\", "/* open", "if (x) {", "(')'", "('/'"],
)  # fmt: skip
def test_inputs_that_go_on(text):
    assert not is_complete(text)


@pytest.mark.parametrize(
    ("text", "length", "words"),
    [
        ("ta", 2, ["target"]),
        ("x = caller.", 0, ["fs", "id", "kv", "name"]),
        ("await target.fs.m", 1, ["mkdir", "move"]),
        ("target.kv.", 0, ["delete", "get", "list", "put"]),
        ('await target.docs("contacts").q', 1, ["query"]),
        ("target.d", 1, ["docs"]),
        (":q", 2, [":quit"]),
        ("'ta", 0, []),
        ("other.ta", 0, []),
        ("target.fs.read(`/a", 2, ["target:/a"]),
    ],
)
def test_what_a_word_may_become(text, length, words):
    found = complete_word(text, lambda side, start: [f"{side}:{start}"])
    assert (found[0], list(found[1])) == (length, words)
