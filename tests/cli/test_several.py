"""Names of several on the command line: one document, one line each, the worst exit status."""

import json
from pathlib import Path

import msgspec
import pytest

from orvalho.cli import output
from orvalho.control import messages as m
from orvalho.control import seeing
from tests.cli.test_output import misfit

SCHEMAS = Path(output.__file__).parent / "schemas"
KEY = "ed25519:" + "A" * 43
PLACED = seeing.ScriptPlaced(
    name="all",
    several=True,
    choices=tuple(
        seeing.Choice(to=f"peer@{name}", why="direct") for name in ("phone2", "tablet", "tv")
    ),
)


def queued(run: str, to: str, state: str) -> m.RunQueued:
    return m.RunQueued(run=run, to=to, state=state, queued_at="laptop", expires_at=4e9)


@pytest.fixture
def three(daemon):
    daemon.says(
        m.ScriptSend,
        PLACED,
        seeing.NotSent(to="peer@tv", code="denied", message="no rule", rule="policy/x.csv:3"),
        queued("r_1", "peer@phone2", "sending"),
        queued("r_2", "peer@tablet", "queued"),
        m.RunOutput(run="r_1", seq=0, level="log", text="hello", at=1.0),
        m.RunEnded(run="r_1", outcome="done", result=msgspec.Raw(b'{"n": 9}')),
    )


def test_the_worst_decides_and_each_has_a_line(three, orvalho, capsys):
    assert orvalho("script", "send", "all", "-e", "1") == 7
    shown = capsys.readouterr()
    assert [line.split()[:2] for line in shown.out.splitlines()] == [
        ["peer@phone2", "done"],
        ["peer@tablet", "queued"],
        ["peer@tv", "not"],
    ]
    assert "peer@phone2| hello" in shown.err
    assert "policy/x.csv:3" in shown.err


def test_one_document_holds_them_all(three, orvalho, capsys):
    orvalho("script", "send", "all", "-e", "1", "--json")
    document = json.loads(capsys.readouterr().out)
    schema = json.loads((SCHEMAS / "runs-of-several.json").read_text())
    assert misfit(document, schema, schema) is None
    assert [each["result"] for each in document["results"]] == [{"n": 9}, None, None]
    assert document["results"][2]["error"]["code"] == "denied"


def test_detached_a_queued_run_is_no_failure(daemon, orvalho):
    daemon.says(m.ScriptSend, PLACED, queued("r_2", "peer@tablet", "queued"))
    assert orvalho("script", "send", "all", "-e", "1", "--detach") == 0


def test_one_result_file_is_not_for_several(three, orvalho, tmp_path):
    assert orvalho("script", "send", "all", "-e", "1", "-o", str(tmp_path / "x")) == 2


def test_resolve_prints_every_member(daemon, orvalho, capsys):
    member = seeing.Member(
        name="peer@phone2",
        node="phone2",
        node_key=KEY,
        context="peer",
        context_key=KEY,
        state="online",
        path="direct",
        labels=("gpu=yes",),
        why="gpu=yes; direct",
    )
    reply = seeing.ResolvedAll(name="any@gpu=yes", members=(member,), chosen="peer@phone2")
    daemon.says(m.Resolve, reply)
    assert orvalho("resolve", "any@gpu=yes", "--json") == 0
    schema = json.loads((SCHEMAS / "resolved-all.json").read_text())
    assert misfit(json.loads(capsys.readouterr().out), schema, schema) is None
    assert orvalho("resolve", "any@gpu=yes") == 0
    assert "now: peer@phone2" in capsys.readouterr().err
