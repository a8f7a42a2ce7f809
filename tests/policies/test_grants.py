"""What a chain of links allows: never more than any of them, and only by those who held it."""

from __future__ import annotations

import math
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orvalho.contexts.identity import Identity, Signer, key_text
from orvalho.errors import InvalidInput, LimitExceeded, Untrusted
from orvalho.policies import token
from orvalho.policies.access import AccessRequest, Subject
from orvalho.policies.grants import (
    MAX_NEEDS,
    Grant,
    GrantLink,
    issue,
    narrow,
    parse_id,
    policy_lines,
    read_grant,
    read_text,
    rule_of,
)
from orvalho.policies.indexed_engine import IndexedEngine
from orvalho.policies.library_guard import LibraryGuard
from orvalho.policies.rules import read_files

ALICE = Identity(bytes(32))
BOB, CAROL, EVE = (Signer(bytes([each]) * 32) for each in (2, 3, 4))
SUBJECT = Subject(key_text(BOB.key), frozenset({"*"}))
DIGEST = "ab" * 32
READ = "target.fs.read:/Pictures/**"


def link(**fields: Any) -> GrantLink:
    return GrantLink(made_at=1000.0, **fields)


def new(needs: tuple[str, ...] = (READ,), **fields: Any) -> Grant:
    fields.setdefault("holder", BOB.key)
    return issue(ALICE.granting, link(issuer=ALICE.node.key, context="peer", needs=needs, **fields))


def permits(grant: Grant, action: str, object_: str, digest: str = DIGEST) -> bool:
    request = AccessRequest(SUBJECT, "peer", action, object_)
    return grant.permits(request, digest) is not None


def forged(grant: Grant, fields: dict[str, Any], signer: Signer | None) -> bytes:
    """A further link with any fields at all, signed as a holder may sign."""
    statement = msgspec.msgpack.encode({"made_at": 1.0} | fields)
    return token.extend(grant.token, grant.root_key, statement, signer)


# ---- what is allowed ------------------------------------------------------------------------


def test_a_grant_allows_its_needs_in_its_context_and_to_run() -> None:
    grant = new()
    assert permits(grant, "fs.read", "/Pictures/a.jpg")
    assert permits(grant, "script.run", f"sha256:{DIGEST}")
    assert not permits(grant, "fs.read", "/secret")
    assert not permits(grant, "fs.write", "/Pictures/a.jpg")
    assert not permits(grant, "lib.call", "images")
    other = AccessRequest(SUBJECT, "other", "fs.read", "/Pictures/a.jpg")
    assert grant.permits(other, DIGEST) is None


def test_a_grant_for_one_script_is_for_no_other() -> None:
    grant = new(script=DIGEST)
    assert permits(grant, "fs.read", "/Pictures/a.jpg")
    assert not permits(grant, "fs.read", "/Pictures/a.jpg", digest="cd" * 32)
    assert not permits(grant, "script.run", "sha256:" + "cd" * 32, digest="cd" * 32)


def test_who_may_change_all_may_not_change_code() -> None:
    everything = new(("target.fs.write:/**",))
    assert permits(everything, "fs.write", "/a.js")
    assert not permits(everything, "fs.write", "/lib/a.js")
    assert not permits(everything, "fs.write", "/LIB/a.js")
    named = new(("target.fs.write:/lib/own/**",))
    assert permits(named, "fs.write", "/lib/own/a.js")


def test_a_rule_of_a_grant_names_it() -> None:
    grant = new()
    rule = rule_of(grant, READ, "to bob")
    assert rule.where == f"grant {grant.id}"
    assert rule.text == f"{READ}, to bob"


# ---- narrowing ------------------------------------------------------------------------------


def test_a_smaller_grant_allows_what_both_links_allow() -> None:
    wider = narrow(new(), link(needs=("target.fs.read:/**",), holder=CAROL.key), BOB)
    assert permits(wider, "fs.read", "/Pictures/a.jpg")
    assert not permits(wider, "fs.read", "/secret")
    smaller = narrow(wider, link(needs=("target.fs.read:/Pictures/2024/**",)), CAROL)
    assert not permits(smaller, "fs.read", "/Pictures/a.jpg")
    assert permits(smaller, "fs.read", "/Pictures/2024/a.jpg")
    assert smaller.ids[:2] == wider.ids


def test_only_the_holder_narrows_and_hands_on() -> None:
    grant = new()
    for thief in (None, CAROL, EVE, ALICE.node):
        with pytest.raises(Untrusted, match="not signed by who held it"):
            narrow(grant, link(holder=EVE.key), thief)
    handed = narrow(grant, link(holder=CAROL.key), BOB)
    with pytest.raises(Untrusted, match="link 3"):
        narrow(handed, link(holder=BOB.key), BOB)
    assert narrow(handed, link(holder=EVE.key), CAROL).holder == EVE.key


def test_what_is_somebodys_never_becomes_anybodys() -> None:
    assert narrow(new(), link(needs=()), BOB).holder == BOB.key


def test_what_is_anybodys_is_bound_by_who_has_it() -> None:
    bearer = new(holder=None)
    bound = narrow(bearer, link(holder=CAROL.key), None)
    assert bound.holder == CAROL.key
    with pytest.raises(Untrusted, match="link 2"):
        narrow(bearer, link(holder=CAROL.key), EVE)
    with pytest.raises(Untrusted, match="link 3"):
        narrow(bound, link(holder=EVE.key), None)


@pytest.mark.parametrize(
    "fields",
    [
        {"issuer": EVE.key},
        {"context": "other"},
        {"issuer": EVE.key, "context": "other", "needs": ["target.fs.read:/**"]},
        {"needs": ["fs.read:/**"]},
        {"needs": ["caller.fs.read:/**"]},
        {"needs": ["target.fs.read:/a/../b"]},
        {"needs": [READ] * (MAX_NEEDS + 1)},
        {"needs": ["target.fs.read:/" + "**a" * 400]},
        {"needs": "target.fs.read:/**"},
        {"holder": b"short"},
        {"holder_node": bytes(32)},
        {"to": "a\x1b[2Jb"},
        {"to": "x" * 1000},
        {"script": "nothex"},
        {"until": math.nan},
        {"until": math.inf},
        {"until": "tomorrow"},
        {"uses": 0},
        {"uses": -1},
        {"uses": 1 << 40},
        {"a_narrowing_that_we_do_not_know": 1},
        {"made_at": None},
    ],
)
def test_a_link_that_claims_too_much_spoils_the_grant(fields: dict[str, Any]) -> None:
    grant = new()
    with pytest.raises(Untrusted, match="link 2 of the grant is malformed"):
        read_grant(forged(grant, fields, BOB), grant.root_key)


@pytest.mark.parametrize(
    "statement", [b"\xc1", b"\x91" * 500, b"", b"\x80", b"\xdf\xff\xff\xff\xff"]
)
def test_a_statement_that_is_no_link_is_refused(statement: bytes) -> None:
    grant = new()
    if not statement:
        statement = b"\xc0"
    made = token.extend(grant.token, grant.root_key, statement, BOB)
    with pytest.raises(Untrusted, match="malformed"):
        read_grant(made, grant.root_key)


def test_a_grant_in_a_grant_is_refused() -> None:
    grant = new()
    made = token.extend(grant.token, grant.root_key, new(holder=EVE.key).token, BOB)
    with pytest.raises(Untrusted, match="malformed"):
        read_grant(made, grant.root_key)


def test_a_first_link_says_who_what_and_where() -> None:
    for fields in ({}, {"issuer": ALICE.node.key}, {"issuer": ALICE.node.key, "context": "peer"}):
        with pytest.raises(InvalidInput, match="begins with"):
            issue(ALICE.granting, link(**fields))
        raw = token.issue(ALICE.granting, msgspec.msgpack.encode(link(**fields)))
        with pytest.raises(Untrusted, match="malformed"):
            read_grant(raw, ALICE.granting.key)


def test_a_grant_is_handed_on_a_few_times() -> None:
    grant = new(holder=None)
    for _ in range(token.MAX_LINKS - 1):
        grant = narrow(grant, link(), None)
    with pytest.raises(LimitExceeded):
        narrow(grant, link(), None)


NAMES = st.sampled_from(["a", "b", "*", "**", "a*", "Pictures", "lib", 'q"\\', "x y"])
GLOBS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))
NEEDS = st.lists(
    st.builds(
        lambda action, glob: f"target.fs.{action}:{glob}",
        st.sampled_from(["read", "write"]),
        GLOBS,
    ),
    max_size=3,
).map(tuple)
LINKS = st.builds(
    link,
    needs=st.none() | NEEDS,
    holder=st.none() | st.sampled_from([BOB.key, CAROL.key, EVE.key]),
    script=st.none() | st.sampled_from([DIGEST, "cd" * 32]),
    until=st.none() | st.floats(1, 1e10),
    uses=st.none() | st.integers(1, 10),
)
PATHS = st.lists(st.sampled_from(["a", "b", "ab", "Pictures", "lib", 'q"\\']), max_size=4).map(
    lambda names: "/" + "/".join(names)
)
SIGNERS = {signer.key: signer for signer in (BOB, CAROL, EVE)}


@settings(max_examples=300, deadline=None)
@given(NEEDS, st.lists(LINKS, max_size=4), st.lists(PATHS, min_size=1, max_size=8))
def test_a_narrowed_grant_never_allows_what_its_parent_refuses(
    needs: tuple[str, ...], links: list[GrantLink], paths: list[str]
) -> None:
    grant = new(needs)
    for each in links:
        holder = grant.holder
        child = narrow(grant, each, SIGNERS[holder] if holder else None)
        for path in paths:
            for action in ("fs.read", "fs.write"):
                for digest in (DIGEST, "cd" * 32):
                    if permits(child, action, path, digest):
                        assert permits(grant, action, path, digest)
        assert child.until <= grant.until
        assert (child.holder is None) <= (grant.holder is None)
        grant = child


@settings(max_examples=300, deadline=None)
@given(NEEDS, st.lists(LINKS, max_size=3), st.lists(PATHS, min_size=1, max_size=8))
def test_as_policy_no_grant_says_more_than_it_allows(
    needs: tuple[str, ...], links: list[GrantLink], paths: list[str]
) -> None:
    grant = new(needs)
    for each in links:
        grant = narrow(grant, each, SIGNERS[grant.holder] if grant.holder else None)
    text = "\n".join(dict.fromkeys(policy_lines(grant)))
    read = read_files([("policy/peer.csv", text.encode())])
    assert read.rules is not None, read.problems
    who = key_text(grant.holder or BOB.key)
    engine = LibraryGuard(read.rules, IndexedEngine)
    for path in paths:
        for action in ("fs.read", "fs.write"):
            request = AccessRequest(Subject(who, frozenset({"*", who})), "peer", action, path)
            if engine.decide(request).allowed:
                assert grant.permits(request, grant.script or DIGEST)


# ---- as text --------------------------------------------------------------------------------


def test_a_text_is_read_back_also_when_it_was_wrapped() -> None:
    grant = new()
    wrapped = "\n".join(grant.text[at : at + 60] for at in range(0, len(grant.text), 60))
    assert read_grant(*read_text(f"  {wrapped}\n")) == grant


@pytest.mark.parametrize(
    "text",
    ["", "orvalho1:abc", "orvalho-grant:", "orvalho-grant:!!!!", "orvalho-grant:" + "A" * 9999],
)
def test_what_is_no_text_of_a_grant_is_told(text: str) -> None:
    with pytest.raises(InvalidInput):
        read_text(text)


def test_a_text_that_was_cut_off_is_told() -> None:
    text = new().text
    for end in range(0, len(text), 7):
        with pytest.raises((InvalidInput, Untrusted)):
            read_grant(*read_text(text[:end]))


def test_an_id_is_typed_in_any_case_and_part() -> None:
    grant = new()
    assert grant.id.startswith(parse_id(grant.id[:6].lower()))
    for wrong in ("", "r_01", "g_", "g_!", "g_" + "0" * 27):
        with pytest.raises(InvalidInput):
            parse_id(wrong)


def test_as_policy_a_grant_says_no_more_than_it_allows() -> None:
    who = key_text(CAROL.key)
    needs = ("target.fs.read:/Pictures/2024/**", "target.fs.read:/**")
    grant = narrow(new(), link(needs=needs, holder=CAROL.key), BOB)
    assert policy_lines(grant) == [
        f"p, {who}, peer, script.run, *, allow",
        f"p, {who}, peer, fs.read, /Pictures/2024/**, allow",
        f"# as far as its earlier links go: p, {who}, peer, fs.read, /**, allow",
    ]
    odd = new(("target.fs.read:/a, b/**", 'target.kv.read:say "so"'), holder=None)
    assert policy_lines(odd)[1:] == [
        "# no rule can say it: target.fs.read:/a, b/**",
        '# no rule can say it: target.kv.read:say "so"',
    ]
    code = narrow(new(("target.fs.write:/**",)), link(needs=("target.fs.write:/lib/**",)), BOB)
    assert policy_lines(code)[1].startswith("# as far as its earlier links go: ")
    bearer = policy_lines(new(holder=None, script=DIGEST))
    assert bearer[0] == f"p, *, peer, script.run, sha256:{DIGEST}, allow"


def test_reading_a_grant_is_quick() -> None:
    """A bound against blowing up, not a measurement."""
    grant = new()
    for _ in range(6):
        grant = narrow(grant, link(needs=(READ,) * 4), BOB)
    began = time.monotonic()
    for _ in range(20):
        read_grant(grant.token, grant.root_key)
    assert time.monotonic() - began < 30
