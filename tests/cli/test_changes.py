"""Changes as they are printed: a diff that patch would take, and nothing that looks like ours."""

from __future__ import annotations

from orvalho.cli.changes import change_lines, one_line
from orvalho.control.past import FileChanged, NodeState, ValueChanged


def node(text: str | None, size: int = 4) -> NodeState:
    return NodeState(kind="file", sha256="ab" * 32, size_bytes=size, text=text)


def lines(before: NodeState | None, after: NodeState | None) -> list[str]:
    changed = FileChanged(path="/a", mark="~", before=before, after=after)
    return list(change_lines([changed], []))


def test_text_is_a_unified_diff() -> None:
    assert lines(node("one\ntwo\n"), node("one\nthree\n"))[1:] == [
        "--- a/a",
        "+++ b/a",
        "@@ -1,2 +1,2 @@",
        " one",
        "-two",
        "+three",
    ]


def test_a_missing_last_line_feed_is_said() -> None:
    shown = lines(node("one"), node("one\n"))
    assert shown[-3:] == ["-one", "\\ No newline at end of file", "+one"]


def test_what_is_no_text_is_told_by_size_and_digest() -> None:
    assert lines(node(None, 4000), node("one")) == ["~ /a  4 kB abababababab -> 4 B abababababab"]
    assert lines(None, node(None)) == ["~ /a  nothing -> 4 B abababababab"]


def test_a_text_of_too_many_lines_is_not_compared() -> None:
    many = "x\n" * 6000
    assert lines(node(many), node(many + "y"))[-1].endswith("too long to compare here")


def test_only_a_line_feed_ends_a_line() -> None:
    """Other ends would let one line of a file look like two of a diff."""
    shown = lines(node(""), node("one\u2028+two\x0b+three\r\n"))
    assert [line for line in shown if line.startswith("+")][1:] == ["+one\u2028+two\x0b+three\r"]


def test_a_value_and_a_note_of_others_cannot_pose_as_lines_of_ours() -> None:
    value = ValueChanged(key="n", mark="~", before="[\n1]", after="2")
    assert list(change_lines([], [value])) == ["~ kv:n", "-[", "-1]", "+2"]
    assert one_line("job.js\nc_01 owner") == "job.js c_01 owner"
