"""Laying out files of rules: aligned, idempotent, and never another meaning."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orvalho.errors import InvalidInput
from orvalho.policies.layout import laid_out
from orvalho.policies.rule_set import RuleSet
from orvalho.policies.rules import read_files
from orvalho.policies.shipped import context_rules, default_rules

NAME = "policy/peer.csv"

UNTIDY = """\


# who may what
   # and why
p,gil@laptop,peer ,fs.read,/photos/**,allow,  hours=08:00-20:00   charging
p, *, peer,\tfs.read, /a b, deny


g, ana@laptop,@family
g, gil@laptop-old,@family
#? allow gil@laptop   peer fs.read /photos/a  b
#? when battery=3  charging=yes deny * peer fs.read /a b
# the end


"""

TIDY = """\
# who may what
# and why
p, gil@laptop, peer, fs.read, /photos/**, allow, hours=08:00-20:00 charging
p, *,          peer, fs.read, /a b,       deny

g, ana@laptop,     @family
g, gil@laptop-old, @family
#?                             allow gil@laptop peer fs.read /photos/a  b
#? when battery=3 charging=yes deny  *          peer fs.read /a b
# the end
"""


def meaning(text: str) -> tuple[object, ...]:
    """All that a file says, but for the lines on which it does."""
    rules = read(text)
    return (
        [dataclasses.replace(rule, line=0) for rule in rules.rules],
        [dataclasses.replace(row, line=0) for row in rules.memberships],
        [dataclasses.replace(test, line=0) for test in rules.tests],
    )


def read(text: str) -> RuleSet:
    reading = read_files([(NAME, text.encode())])
    assert reading.rules is not None, reading.problems
    return reading.rules


def test_columns_are_aligned_and_comments_stay() -> None:
    assert laid_out(NAME, UNTIDY.encode()) == TIDY
    assert meaning(TIDY) == meaning(UNTIDY)


@pytest.mark.parametrize("text", [default_rules(), context_rules("peer")])
def test_what_is_shipped_is_laid_out(text: str) -> None:
    assert laid_out(NAME, text.encode()) == text


def test_the_line_ends_of_windows_become_plain_ones() -> None:
    assert laid_out(NAME, UNTIDY.replace("\n", "\r\n").encode()) == TIDY


def test_one_long_path_moves_no_other_line() -> None:
    long = f"p, laptop, peer, fs.read, /{'x' * 200}, allow\n"
    short = "p, laptop, peer, fs.read, /a, allow\n"

    assert laid_out(NAME, (short + long).encode()) == short + long


@pytest.mark.parametrize(
    "broken", ["p, laptop, peer, fs.raed, /x, allow", "#? alow", "", "\ufeff# x", "p, a\x00b"]
)
def test_a_broken_file_is_refused_with_every_mistake(broken: str) -> None:
    with pytest.raises(InvalidInput, match="left as it is") as caught:
        laid_out(NAME, broken.encode())

    assert NAME in (caught.value.detail or "")


blanks = st.sampled_from(["", " ", "  ", "\t", " \t "])
words = st.sampled_from(["*", "laptop", "gil@laptop", "@owner", "@family"])
objects = st.sampled_from(
    ["/a", "/a b", "/photos/**", "/x/" + "y" * 60, "/\u00e4/*.jpg", "/a\u3000b"]
)
conditions = st.sampled_from([[], [], ["charging"], ["hours=08:00-20:00   or  metered=no"]])
rules = st.tuples(
    words, objects, st.sampled_from(["fs.read", "fs.write"]), st.sampled_from(["allow", "deny"])
)


@st.composite
def lines(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(["p", "p", "p", "g", "#?", "#", ""]))
    pad = lambda: draw(blanks)  # noqa: E731 -- drawn anew each time
    if kind == "p":
        who, object_, action, effect = draw(rules)
        fields = ["p", who, "peer", action, object_, effect, *draw(conditions)]
        return pad() + ",".join(pad() + field + pad() for field in fields)
    if kind == "g":
        return f"{pad()}g{pad()},{pad()}{draw(words)}{pad()},{pad()}@friends{pad()}"
    if kind == "#?":
        who, object_, action, effect = draw(rules)
        given = draw(st.sampled_from(["", "when charging=yes ", "when battery=3  metered=no\t"]))
        return (
            f"{pad()}#?{pad()}{given}{effect} {pad()}{who}  peer\t{action} {pad()}{object_}{pad()}"
        )
    if kind == "#":
        return pad() + "#" + draw(st.text("ab #?,=\t", max_size=12)).replace("#?", "# ?")
    return pad()


@settings(max_examples=400, deadline=None)
@given(st.lists(lines(), min_size=1, max_size=12), st.sampled_from(["\n", "\r\n"]))
def test_it_says_what_it_said_and_a_second_time_changes_nothing(drawn: list[str], end: str) -> None:
    text = end.join(drawn)
    assume(read_files([(NAME, text.encode())]).rules is not None)

    once = laid_out(NAME, text.encode())

    assert meaning(once) == meaning(text)
    assert laid_out(NAME, once.encode()) == once
    comments = [line.strip(" \t\r") for line in text.split("\n")]
    kept = [line for line in comments if line.startswith("#") and not line.startswith("#?")]
    assert [x for x in once.split("\n") if x.startswith("#") and not x.startswith("#?")] == kept


def test_ten_thousand_damaged_files_are_refused_or_laid_out_for_good() -> None:
    sound = (
        b"p, gil@laptop, peer, fs.read, /photos/**, allow, charging or battery>40\n"
        b"#? when battery=3 charging=yes allow * peer fs.read /x y\n"
        b"g, ana@laptop, @family\n"
    )
    dice = random.Random(7)
    refused = 0
    for _ in range(10_000):
        damaged = bytearray(sound)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(damaged))
            damaged[at : at + dice.randint(0, 2)] = dice.choice(
                (b"", b",", b"#", b"?", b"=", b" \t", b"\n", b"\r", b"@", b"*", b"\xff", b"\x00")
            )
        try:
            once = laid_out(NAME, bytes(damaged))
        except InvalidInput:
            refused += 1
            continue
        assert meaning(once) == meaning(damaged.decode())
        assert laid_out(NAME, once.encode()) == once
    assert 1000 < refused < 9999
