import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import msgspec
import pytest

from orvalho import errors
from orvalho.cli.arguments import script_params
from orvalho.control import logic, policies, why
from orvalho.control import messages as m

RUN = "r_01jd3k7m2q8v5x9z4b6n1c0f2h"
FAR = 4_000_000_000.0


def queued(state: str = "sending") -> m.RunQueued:
    return m.RunQueued(run=RUN, to="peer@phone2", state=state, queued_at="laptop", expires_at=FAR)


def ended(result: bytes | None = None, **fields) -> m.RunEnded:
    raw = None if result is None else msgspec.Raw(result)
    return m.RunEnded(**{"run": RUN, "outcome": "done", "result": raw, **fields})


@pytest.fixture
def job(tmp_path: Path) -> str:
    (tmp_path / "job.js").write_text("export default () => 9;\n")
    return str(tmp_path / "job.js")


def test_the_result_is_data_and_the_log_is_not(job, daemon, shell):
    done = shell("script", "send", "peer@phone2", job)
    assert (done.returncode, done.stdout) == (0, '{"n":9}\n')
    assert done.stderr == "job.js| hello\n"


def test_all_that_was_typed_reaches_the_daemon(job, daemon, orvalho, tmp_path):
    (tmp_path / "p.json").write_text('{"a": 1, "n": 0}')
    assert orvalho(
        "script", "send", "peer@phone2", job, "--param", "n=3", "--param", "who=ana",
        "--params-file", f"{tmp_path}/p.json", "--expose", "/notes", "--expose", "/box:rw",
        "--as", "gil", "--expires", "2h", "--wait",
    ) == 0  # fmt: skip
    sent = daemon.last(m.ScriptSend)
    assert (sent.to, sent.filename, sent.source) == (
        "peer@phone2", "job.js", "export default () => 9;\n",
    )  # fmt: skip
    assert json.loads(bytes(sent.params)) == {"a": 1, "n": 3, "who": "ana"}
    assert sent.expose == ("/notes", "/box:rw")
    assert (sent.context, sent.expires_s, sent.wait, sent.detach) == ("gil", 7200, True, False)


def test_a_parameter_is_json_or_else_text():
    pairs = ("n=3", "s=three", 'q="3"', "l=[1,2]", "e=", "eq=a=b")
    assert json.loads(script_params(pairs, None)) == {
        "n": 3, "s": "three", "q": "3", "l": [1, 2], "e": "", "eq": "a=b",
    }  # fmt: skip
    assert script_params((), None) == b"null"


@pytest.mark.parametrize("pair", ["novalue", "=3"])
def test_a_parameter_without_a_name_or_a_value_is_wrong_usage(pair):
    with pytest.raises(errors.InvalidInput, match="no parameter"):
        script_params((pair,), None)


def test_parameters_may_come_from_standard_input(job, daemon, shell):
    # Pretty-printed JSON has line breaks, which must not break the protocol's lines.
    done = shell("script", "send", "x@y", job, "--params-file", "-", stdin='[\n  1,\n  "a\\nb"\n]')
    assert done.returncode == 0
    assert json.loads(bytes(daemon.last(m.ScriptSend).params)) == [1, "a\nb"]


def test_code_on_the_command_line_asks_for_what_the_rules_may_give(daemon, orvalho):
    assert orvalho("script", "send", "peer@phone2", "-e", "1 + 1") == 0
    source = daemon.last(m.ScriptSend).source
    assert source.startswith("1 + 1\n// /// orvalho\n// wants = ["), "errors name its own lines"


@pytest.mark.parametrize(
    "argv",
    [
        ("peer@phone2",),
        ("peer@phone2", "job.js", "-e", "1"),
        ("peer@phone2", "no-such-file.js"),
        ("peer@phone2", "-", "--params-file", "-"),
        ("peer@phone2", "-e", "1", "--wait", "--detach"),
        ("peer@phone2", "-e", "1", "--params-file", __file__),
    ],
)
def test_wrong_usage_sends_nothing(argv, daemon, orvalho):
    assert orvalho("script", "send", *argv) == errors.InvalidInput.exit_status
    assert daemon.asked == []


def test_a_target_that_is_away_is_status_7(daemon, shell):
    daemon.says(m.ScriptSend, queued(), queued("queued"))
    done = shell("script", "send", "peer@phone2", "-e", "1")
    assert (done.returncode, done.stdout) == (7, "")
    assert done.stderr.startswith("queued at laptop, expires in ")
    assert f"orvalho script result {RUN} --wait" in done.stderr


def test_a_queued_run_is_json_with_json(daemon, orvalho, capsys):
    daemon.says(m.ScriptSend, queued("queued"))
    assert orvalho("script", "send", "peer@phone2", "-e", "1", "--json") == 7
    shown = json.loads(capsys.readouterr().out)
    assert (shown["run"], shown["state"]) == (RUN, "queued")
    assert shown["expires_at"].startswith("2096-10-02T")


def test_detach_prints_the_run_and_goes(daemon, orvalho, capsys):
    daemon.says(m.ScriptSend, queued())
    assert orvalho("script", "send", "peer@phone2", "-e", "1", "--detach") == 0
    assert capsys.readouterr().out == RUN + "\n"


@pytest.mark.parametrize(
    ("outcome", "code", "status"),
    [
        ("failed", "script-failed", 1),
        ("refused", "denied", 3),
        ("limited", "limit-exceeded", 5),
        ("refused", "untrusted", 6),
        ("expired", None, 4),
        ("cancelled", None, 1),
        ("limited", None, 5),
    ],
)
def test_the_exit_status_says_how_the_run_ended(  # noqa: PLR0917
    outcome, code, status, daemon, orvalho, capsys
):
    error = code and m.Failed(
        code=code, message="because", rule="policy/peer.csv:14", peer="phone2"
    )
    daemon.says(m.ScriptSend, queued(), ended(outcome=outcome, error=error))
    assert orvalho("script", "send", "peer@phone2", "-e", "1") == status
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "error[" in shown.err
    if code:
        assert "  rule  policy/peer.csv:14" in shown.err


def test_bytes_go_to_a_file_or_a_program_as_they_are(daemon, orvalho, capfdbinary, tmp_path):
    content = b"\x89PNG\xff\n" + b"x" * 1496
    daemon.says(m.ScriptSend, queued(), ended(result_bytes=content))
    assert orvalho("script", "send", "peer@phone2", "-e", "1") == 0
    assert capfdbinary.readouterr().out == content
    assert orvalho("script", "send", "peer@phone2", "-e", "1", "-o", f"{tmp_path}/a.png") == 0
    assert (tmp_path / "a.png").read_bytes() == content


def test_a_terminal_is_told_where_bytes_are(daemon, orvalho, capsys, monkeypatch):
    daemon.says(m.ScriptSend, queued(), ended(result_bytes=b"\x89PNG" + b"x" * 1496))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert orvalho("script", "send", "peer@phone2", "-e", "1") == 0
    shown = capsys.readouterr()
    assert "1.5 kB" in shown.err
    assert "PNG" in shown.err
    assert f"orvalho script result {RUN} -o FILE" in shown.err
    assert shown.out == ""


def test_a_file_that_cannot_be_written_is_told_with_the_way_to_fetch_it_again(
    daemon, orvalho, capsys, tmp_path
):
    assert orvalho("script", "send", "p@q", "-e", "1", "-o", f"{tmp_path}/none/a.json") == 2
    assert f"orvalho script result {RUN} -o FILE" in capsys.readouterr().err
    assert list(tmp_path.glob("none*")) == []


def test_a_result_keeps_its_digits(daemon, orvalho, capsys):
    daemon.says(m.ScriptResult, ended(b'{"big": 12345678901234567890123, "s": "\xc3\xa9\\n"}'))
    assert orvalho("script", "result", RUN) == 0
    assert capsys.readouterr().out == '{"big":12345678901234567890123,"s":"é\\n"}\n'


def test_a_result_cannot_drive_the_terminal_and_is_still_json(daemon, orvalho, capsys):
    text = "\x9b2J \u202e \x7f"
    daemon.says(m.ScriptResult, ended(json.dumps(text, ensure_ascii=False).encode()))
    for argv in ((), ("--json",)):
        assert orvalho("script", "result", RUN, *argv) == 0
        shown = capsys.readouterr().out
        assert shown.rstrip("\n").isprintable()
        told = json.loads(shown)
        assert (told["result"] if argv else told) == text


def test_a_string_result_is_json_too(daemon, orvalho, capsys):
    daemon.says(m.ScriptSend, queued(), ended(b'"r_01"'))
    assert orvalho("script", "send", "peer@phone2", "-e", "1") == 0
    assert capsys.readouterr().out == '"r_01"\n'


def test_json_keeps_the_result_on_one_stream_and_the_log_on_the_other(daemon, orvalho, capsys):
    assert orvalho("script", "send", "peer@phone2", "-e", "1", "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["result"] == {"n": 9}
    line = json.loads(shown.err)
    assert (line["type"], line["level"], line["message"]) == ("run.output", "log", "hello")
    assert line["time"] == "2023-11-14T22:13:20.500Z"


def test_interrupt_cancels_the_run(daemon, environ):
    async def endless(_: m.Request) -> AsyncIterator[m.Reply]:
        yield queued()
        yield m.RunOutput(run=RUN, seq=0, level="log", text="started", at=0.0)
        await anyio.sleep_forever()

    daemon.answers[m.ScriptSend] = endless
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "orvalho", "script", "send", "peer@phone2", "-e", "1"],
        env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert "started" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == "cancelled\n"
    assert daemon.last(m.ScriptCancel).run == RUN


def test_check_tells_every_mistake_with_its_place(job, daemon, orvalho, capsys):
    reply = logic.ScriptChecked(
        filename="job.js", language="javascript", digest="", size_bytes=1, needs=(), wants=(),
        limits={}, problems=("3:1: unknown capability", "4:2: oh"),
    )  # fmt: skip
    daemon.says(logic.ScriptCheck, reply)
    assert orvalho("script", "check", job) == 2
    shown = capsys.readouterr()
    assert shown.out == "job.js:3:1: unknown capability\njob.js:4:2: oh\n"
    assert "2 mistakes" in shown.err


def test_logs_are_data_when_they_are_asked_for(daemon, orvalho, capsys):
    assert orvalho("script", "logs", RUN) == 0
    assert capsys.readouterr().out == "hello\nbye\n"


def test_why_tells_rules_and_the_line_that_would_allow_it(daemon, orvalho, capsys):
    assert orvalho("why", RUN) == 0
    text = capsys.readouterr().out
    assert "rule     policy/peer.csv:3  p, @owner, peer, script.run, *, allow" in text
    assert "refused     fs.write /Pictures/a  (2 times)" in text
    assert "call     target.fs.write, call 2 of the run" in text
    assert (
        "tried    policy/peer.csv:4  p, *, peer, fs.read, /, allow  not this action, object" in text
    )
    assert "+  policy/peer.csv  p, @owner, peer, fs.write, /Pictures/**, allow" in text


def test_why_without_a_run_asks_for_all_of_it(daemon, orvalho, capsys, tmp_path):
    draft = tmp_path / "draft"
    draft.write_text("p, *, *, fs.write, /a, allow\n")
    asked = ("why", "--who", "gil@laptop", "--do", "fs.write", "--on", "peer:/a")
    assert orvalho(*asked, "--file", str(draft)) == 0
    question = daemon.last(why.WhyAsk)
    assert (question.who, question.do, question.on) == ("gil@laptop", "fs.write", "peer:/a")
    assert (question.draft_name, question.draft) == ("draft.csv", draft.read_text())
    assert orvalho(*asked, "--file", str(tmp_path / "none.csv")) == 2
    assert orvalho("why") == 2
    assert orvalho("why", RUN, "--who", "gil") == 2


def test_forgetting_a_peer_off_a_terminal_needs_yes(daemon, shell):
    refused = shell("peer", "rm", "phone2")
    assert refused.returncode == 2
    assert "-y" in refused.stderr
    assert daemon.asked == []
    assert shell("peer", "rm", "phone2", "-y").stdout == "forgot phone2\n"


def test_a_ticket_is_read_from_standard_input(daemon, shell):
    done = shell("peer", "add", "-", stdin="orvalho1:abc\n")
    assert done.returncode == 0
    assert daemon.last(m.PeerAdd).ticket == "orvalho1:abc"
    assert "abandon-ability-able-about" in done.stdout


def test_doctor_fails_when_something_is_broken(daemon, orvalho, capsys):
    assert orvalho("doctor") == 0
    daemon.says(m.Doctor, m.DoctorReply(findings=(m.Finding(level="problem", text="no disk"),)))
    assert orvalho("doctor") == 1
    assert "FAIL  no disk" in capsys.readouterr().out


def test_policy_check_fails_on_a_bad_file(daemon, orvalho, capsys):
    problem = 'policy/peer.csv:7:12: unknown action "fs.raed", did you mean "fs.read"?'
    daemon.says(
        policies.PolicyCheck, policies.PolicyChecked(files=("a",), rules=0, problems=(problem,))
    )
    assert orvalho("policy", "check") == 2
    assert capsys.readouterr().out == problem + "\n"
