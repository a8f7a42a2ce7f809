"""`ask` on the command line: what it asks for, what it shows, how it ends."""

import json

import msgspec
import pytest

from orvalho.control import asking, logic

PLACED = asking.AskPlaced(
    name="all",
    here="peer@laptop",
    choices=tuple(
        asking.AskChoice(to=f"peer@{name}", node=name, hops=1, why="direct")
        for name in ("tv", "phone2", "tablet")
    ),
    left_out=(asking.AskChoice(to="peer@attic", node="attic", hops=2, why="offline"),),
)


def answer(node, result=b"null", state="done", error=None):
    return asking.AskAnswer(
        to=f"peer@{node}",
        node=node,
        hops=1,
        state=state,
        result=msgspec.Raw(result),
        error=None if error is None else asking.AskError(code="denied", message=error),
    )


SILENT = answer("tv", state="silent", error="no answer within 5 s")
REFUSED = answer("tablet", state="refused", error="policy/peer.csv:7 denies it")


@pytest.fixture
def three(daemon):
    daemon.says(asking.Ask, PLACED, answer("phone2", b'{"n": 2}'), REFUSED, SILENT)
    return daemon


def test_each_node_has_a_row(three, orvalho, capsys):
    assert orvalho("ask", "all", "-e", "1") == 0
    shown = capsys.readouterr()
    rows = [line.split(maxsplit=3) for line in shown.out.splitlines()]
    assert rows == [
        ["phone2", "done", "2"],
        ["tablet", "refused", "-", "policy/peer.csv:7 denies it"],
        ["tv", "silent", "-", "no answer within 5 s"],
    ]
    assert "attic is left out: it is 2 hops away" in shown.err
    assert "1 of 3 answered" in shown.err


def test_none_that_answers_is_status_1_and_all_rows_are_shown(daemon, orvalho, capsys):
    daemon.says(asking.Ask, PLACED, REFUSED, SILENT)
    assert orvalho("ask", "all", "-e", "1") == 1
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert orvalho("ask", "all", "-e", "1", "--reduce", "sum") == 1
    shown = capsys.readouterr()
    assert shown.out == "null\n"
    assert "tv silent: no answer within 5 s" in shown.err


def test_a_reduction_prints_what_it_comes_to(daemon, orvalho, capsys):
    daemon.says(asking.Ask, PLACED, answer("phone2", b"2"), answer("tv", b"3"), REFUSED)
    assert orvalho("ask", "all", "-e", "1", "--reduce", "sum") == 0
    shown = capsys.readouterr()
    assert shown.out == "5\n"
    assert "tablet refused: policy/peer.csv:7 denies it" in shown.err
    assert orvalho("ask", "all", "-e", "1", "--reduce", "max", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["result"], document["answered"], document["asked"]) == (3, 2, 3)
    assert [each["state"] for each in document["rows"]] == ["done", "refused", "done"]


def test_what_is_asked_for_is_passed_on(three, orvalho, tmp_path):
    program = tmp_path / "p.star"
    program.write_text("def main(job):\n    return 1\n")
    words = ("--param", "n=3", "--timeout", "2s", "--hops", "1", "--here", "--as", "work")
    assert orvalho("ask", "@family", str(program), *words) == 0
    request = three.last(asking.Ask)
    assert (request.to, request.filename, request.context) == ("@family", "p.star", "work")
    assert (bytes(request.params), request.timeout_s) == (b'{"n": 3}', 2)
    assert (request.hops, request.here) == (1, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--reduce", "average"), "table, sum, min, max, star:FILE"),
        (("--reduce", "star:none.star"), "none.star cannot be read"),
        (("--timeout", "soon"), "30m"),
        (("--hops", "0"), "--hops"),
        (("x.js",), "-e"),
    ],
)
def test_wrong_usage_asks_nobody(words, said, daemon, orvalho, capsys):
    assert orvalho("ask", "all", "-e", "1", *words) == 2
    assert said in capsys.readouterr().err
    assert not daemon.asked


def test_a_reducing_program_is_looked_at_before_anybody_is_asked(daemon, orvalho, tmp_path, capsys):
    file = tmp_path / "r.star"
    for text, said in (
        ("def main(job):\n  return 1\n", "has no `def reduce(rows)`"),
        ("def reduce(rows):\n  return 1\ndef main(job):\n  return 1\n", "cannot have a `main`"),
    ):
        file.write_text(text)
        assert orvalho("ask", "all", "-e", "1", "--reduce", f"star:{file}") == 2
        assert said in capsys.readouterr().err
    assert not daemon.asked
    file.write_text("def reduce(rows):\n  return (\n")
    daemon.says(
        logic.ScriptCheck,
        logic.ScriptChecked(
            filename="r.star",
            language="starlark",
            digest="sha256:ab",
            size_bytes=12,
            needs=(),
            wants=(),
            limits={},
            problems=("2:10: unexpected end",),
        ),
    )
    assert orvalho("ask", "all", "-e", "1", "--reduce", f"star:{file}") == 2
    assert "r.star:2:10" in capsys.readouterr().err
    assert not [each for each in daemon.asked if isinstance(each, asking.Ask)]


def test_hostile_answers_reach_the_terminal_as_text(daemon, orvalho, capsys):
    hostile = json.dumps({"\x1b[2J\nfake  done": "\x1b]0;pwned\x07\n\u202ex", "n": [1] * 9999})
    daemon.says(asking.Ask, PLACED, answer("phone2", hostile.encode()), SILENT)
    for words in ((), ("--json",), ("--reduce", "sum")):
        orvalho("ask", "all", "-e", "1", *words)
        shown = capsys.readouterr()
        assert "\x1b" not in shown.out + shown.err
        assert "\u202e" not in shown.out + shown.err
        assert len(shown.out.splitlines()) == (2 if words == () else 1)


def test_top_once_is_one_table(three, orvalho, capsys, tmp_path):
    assert orvalho("top", "--once") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    request = three.last(asking.Ask)
    assert (request.to, request.filename, request.here) == ("all", "ram.wasm", True)
    assert 'needs = ["target.node.read:/"]' in (request.needs or "")
    mine = tmp_path / "mine.wasm"
    mine.write_bytes(request.module)
    assert orvalho("top", "--once", "--program", str(mine)) == 0
    assert three.last(asking.Ask).filename == "mine.wasm"
