"""Grants at the target and at the sender: what hostile messages, times and keys come to."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orvalho.contexts.identity import Identity, Key, Signer, key_text
from orvalho.daemon.granting import (
    MAX_WITH_A_RUN,
    Granted,
    Granting,
    bound_digest,
    grants_for,
    reason_of,
)
from orvalho.errors import Denied, InvalidInput, NotFound, Untrusted
from orvalho.policies import audit, grant_book, token
from orvalho.policies.access import AccessRequest, Decision, Rule, Subject
from orvalho.policies.audit import Audit
from orvalho.policies.capability import parse_capability
from orvalho.policies.grant_book import GrantBook
from orvalho.policies.grants import Grant, GrantLink, issue, narrow
from orvalho.scripts.messages import RunScript, decode, encode
from orvalho.store import open_store

pytestmark = pytest.mark.anyio

ALICE, BOB, CAROL = (Identity(bytes([each]) * 32) for each in (1, 2, 3))
THEIRS = BOB.context("peer")
DIGEST = "ab" * 32
READ = "target.fs.read:/Pictures/**"
DENY = Rule("policy/peer.csv", 3, 0, "*", "peer", "fs.read", "/Pictures/private", "deny")


class Policy:
    """Denies one path by a rule, and speaks of nothing else."""

    takes_grants = True

    def decide(self, request: AccessRequest) -> Decision:
        return Decision(False, DENY if request.object == "/Pictures/private" else None)


class Trust:
    """Knows bob, whose node had another key before."""

    def heir(self, key: Key) -> Key:
        return BOB.node_of(1).key if key == BOB.node.key and self.has_changed else key

    has_changed = False

    def by_key(self, _key: Key) -> None:
        return None

    def peers(self) -> tuple[()]:
        return ()


@asynccontextmanager
async def house(path: Path, me: Identity = ALICE) -> AsyncIterator[Any]:
    async with open_store(path / "db", [audit.MIGRATIONS, grant_book.MIGRATIONS]) as store:
        yield SimpleNamespace(
            identity=me,
            name="alice",
            grants=GrantBook(store),
            audit=Audit(store),
            trust=Trust(),
            policy=Policy(),
            refused=set(),
            contexts=SimpleNamespace(list=list),
        )


def new(*needs: str, **fields: Any) -> Grant:
    fields.setdefault("holder", BOB.node.key)
    link = GrantLink(
        made_at=1.0, issuer=ALICE.node.key, context="peer", needs=needs or (READ,), **fields
    )
    return issue(ALICE.granting, link)


def script(signed_by: Signer = THEIRS, **call: Any) -> Any:
    """A verified script of bob's, as far as grants look at it."""
    made = {
        "run": "r_1",
        "filename": "job.js",
        "script_sha256": DIGEST,
        "modules": {},
        "needs": (READ,),
        "wants": (),
        "target": SimpleNamespace(context="peer", node_key=key_text(ALICE.node.key)),
    }
    wants = tuple(map(parse_capability, call.get("wants", ())))
    return SimpleNamespace(
        call=SimpleNamespace(**made | call), signed_by=signed_by.key, needs=(), wants=wants
    )


def read(house: Any, *tokens: bytes, of: Any = None, sender: Key = BOB.node.key) -> Granted:
    message = RunScript(envelope=b"", source="", params=b"null", grants=tokens)
    return Granting(house).read(decode(encode(message), RunScript), of or script(), sender)


def may(granted: Granted, object_: str = "/Pictures/a", action: str = "fs.read") -> bool:
    subject = Subject(key_text(THEIRS.key), frozenset({"*"}))
    return granted.decide(AccessRequest(subject, "peer", action, object_)).allowed


async def test_a_good_grant_allows_and_a_deny_still_wins(tmp_path: Path) -> None:
    async with house(tmp_path) as alice:
        granted = read(alice, new().token)
        assert may(granted)
        assert may(granted, f"sha256:{DIGEST}", "script.run")
        assert not may(granted, "/Pictures/private")
        assert not may(granted, "/secret")
        assert granted.faults == []


async def test_without_readable_rules_no_grant_counts(tmp_path: Path) -> None:
    async with house(tmp_path) as alice:
        alice.policy.takes_grants = False
        assert not may(read(alice, new().token))


async def test_a_revocation_holds_from_the_next_call_on(tmp_path: Path) -> None:
    async with house(tmp_path) as alice:
        grant = new()
        granted = read(alice, grant.token)
        assert may(granted)
        await alice.grants.revoke(grant.id, time.time())
        assert not may(granted)
        (fault,) = read(alice, grant.token).faults
        assert "was revoked" in fault.message


async def test_an_end_holds_in_the_middle_of_a_run(tmp_path: Path) -> None:
    async with house(tmp_path) as alice:
        granted = read(alice, new(until=time.time() + 0.5).token)
        began = time.monotonic()
        while may(granted):
            assert time.monotonic() - began < 30


async def test_hostile_messages_are_refused_one_by_one(tmp_path: Path) -> None:
    """Each with its reason, all audited, and none of them keeps a good one from counting."""
    good = new()
    foreign = issue(
        CAROL.granting,
        GrantLink(made_at=1.0, issuer=ALICE.node.key, context="peer", needs=(READ,)),
    )
    inner = token.extend(good.token, good.root_key, good.token, BOB.node)
    async with house(tmp_path) as alice:
        for bad in (b"", b"\x00" * token.MAX_BYTES, bytes(1 << 20), foreign.token, inner):
            granted = read(alice, bad, good.token)
            assert [type(fault) for fault in granted.faults] == [Untrusted]
            assert may(granted)
        crowd = read(alice, *[b"x"] * 1000, good.token)
        assert len(crowd.faults) == MAX_WITH_A_RUN + 1
        assert not may(crowd)
        # What is noted without waiting stands before what is waited for.
        await alice.grants.revoke(good.id, 1.0)
        entries = await alice.audit.newest(100)
        assert {each.action for each in entries} == {"grant"}


async def test_another_signer_and_another_context_are_refused(tmp_path: Path) -> None:
    async with house(tmp_path) as alice:
        theirs = new(holder=THEIRS.key, holder_node=BOB.node.key).token
        assert may(read(alice, theirs))
        for thief in (BOB.context("other"), CAROL.context("peer")):
            granted = read(alice, theirs, of=script(thief))
            assert "not for who signed this script" in granted.faults[0].message
            assert not may(granted)
        # Bob's node may, but not carol with bob's text.
        assert not may(read(alice, new().token, sender=CAROL.node.key))


async def test_a_changed_key_keeps_what_it_has_and_hands_nothing_on(tmp_path: Path) -> None:
    changed = BOB.node_of(1).key
    handed = narrow(new(), GrantLink(made_at=2.0, holder=CAROL.node.key), BOB.node)
    async with house(tmp_path) as alice:
        assert may(read(alice, handed.token, sender=CAROL.node.key))
        alice.trust.has_changed = True
        # As a change of key leaves it: the old one is refused.
        alice.refused.add(BOB.node.key)
        assert may(read(alice, new().token, sender=changed))
        granted = read(alice, handed.token, sender=CAROL.node.key)
        assert "has changed since" in granted.faults[0].message
        alice.refused.add(changed)
        assert not may(read(alice, new().token, sender=changed))


async def test_what_is_limited_is_counted_before_the_run_or_not_used(tmp_path: Path) -> None:
    async with house(tmp_path) as alice:
        grant = new(uses=1)
        first = read(alice, grant.token)
        assert may(first)
        await first.count(script(), 1.0)
        assert may(first)
        late = read(alice, grant.token, of=script(run="r_2"))
        await late.count(script(run="r_2"), 2.0)
        assert not may(late), "it was not asked about, so it was not counted"
        wanted = script(run="r_3", wants=(READ,))
        with pytest.raises(Denied, match="is for 1 runs"):
            await read(alice, grant.token, of=wanted).count(wanted, 3.0)


async def test_a_refusal_tells_what_was_wrong_with_the_grant(tmp_path: Path) -> None:
    async with house(tmp_path) as alice:
        granted = read(alice, b"rubbish")
        assert reason_of(Denied("no rule"), granted) is granted.faults[0]
        by_rule = Denied("a rule", rule="policy/peer.csv:3")
        assert reason_of(by_rule, granted) is by_rule
        assert reason_of(by_rule, None) is by_rule
        other = NotFound("no such library")
        assert reason_of(other, granted) is other


def test_what_a_script_is_bound_with() -> None:
    alone = bound_digest("job.js", DIGEST, {})
    assert alone == DIGEST
    here = bound_digest("job.js", DIGEST, {"a.js": "1", "b.js": "2"})
    assert here == bound_digest(
        "deep/in/job.js", DIGEST, {"deep/in/b.js": "2", "deep/in/a.js": "1"}
    )
    assert here != bound_digest("job.js", DIGEST, {"a.js": "2", "b.js": "1"})
    assert here != bound_digest("in/job.js", DIGEST, {"a.js": "1", "b.js": "2"})
    assert len({alone, here, bound_digest("job.js", DIGEST, {"a.js": "1"})}) == 3


# ---- what goes with a call of ours ------------------------------------------------------------


async def test_kept_grants_go_where_they_fit_and_nowhere_else(tmp_path: Path) -> None:
    async with house(tmp_path, BOB) as bob:
        fitting = new()
        misfits = (
            new(holder=CAROL.node.key),
            new("target.kv.read:x"),
            new(until=time.time() - 1),
            new(script="cd" * 32),
        )
        for grant in (fitting, *misfits):
            await bob.grants.keep(grant, "kept", 1.0)
        await bob.grants.keep(new(), "narrowed", 2.0)
        context: Any = SimpleNamespace(key=THEIRS.key)
        assert grants_for(bob, (), script().call, context) == (fitting.token,)
        elsewhere = SimpleNamespace(context="peer", node_key=key_text(CAROL.node.key))
        assert grants_for(bob, (), script(target=elsewhere).call, context) == ()
        other = SimpleNamespace(context="other", node_key=key_text(ALICE.node.key))
        assert grants_for(bob, (), script(target=other).call, context) == ()
        # What is asked for by name goes, whatever it is: its issuer judges it.
        asked = (misfits[0].text, fitting.id)
        assert grants_for(bob, asked, script().call, context) == (
            misfits[0].token,
            fitting.token,
        )
        with pytest.raises(InvalidInput, match="at most"):
            grants_for(bob, [fitting.id] * (MAX_WITH_A_RUN + 1), script().call, context)
        with pytest.raises(InvalidInput):
            grants_for(bob, ["rubbish"], script().call, context)
