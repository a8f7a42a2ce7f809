"""The gate in front of a context: declared, allowed, begun once."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from orvalho.daemon.run_gate import RunGate
from orvalho.errors import Denied
from orvalho.policies import audit
from orvalho.policies.access import AccessRequest, Decision, Rule, Subject
from orvalho.policies.audit import Audit
from orvalho.policies.capability import Grants, parse_capability
from orvalho.store import Store, open_store

SUBJECT = Subject("ed25519:gil", frozenset({"*", "gil@laptop"}))
RULE = Rule("policy/peer.csv", 3, 0, "*", "peer", "fs.read", "/photos/**", "allow")


def allows_photos(request: AccessRequest) -> Decision:
    allowed = request.object.startswith("/photos")
    return Decision(allowed, rule=RULE if allowed else None)


def gate(store: Store, needs: str, begin: object = None, explains: bool = True) -> RunGate:
    async def nothing() -> None:
        return None

    return RunGate(
        run="r_1",
        side="target",
        subject=SUBJECT,
        context="peer",
        grants=Grants((parse_capability(needs),)),
        decide=allows_photos,
        audit=Audit(store),
        begin=begin or nothing,  # type: ignore[arg-type]
        explains=explains,
    )


@pytest.mark.anyio
async def test_what_was_not_declared_is_refused_whatever_the_policy_says(tmp_path: Path) -> None:
    async with open_store(tmp_path / "db", [audit.MIGRATIONS]) as store:
        photos = gate(store, "target.fs.read:/photos/2024/**")
        photos.decide("fs.read", "/photos/2024/a.jpg")
        with pytest.raises(Denied, match="did not say that it needs") as caught:
            photos.decide("fs.read", "/photos/2023/a.jpg")
        assert 'add "target.fs.read:/photos/2023/a.jpg"' in (caught.value.hint or "")


@pytest.mark.anyio
async def test_what_the_policy_refuses_is_audited_at_once(tmp_path: Path) -> None:
    async with open_store(tmp_path / "db", [audit.MIGRATIONS]) as store:
        everything = gate(store, "target.fs.read:/**")
        with pytest.raises(Denied, match="no rule allows it") as caught:
            everything.decide("fs.read", "/secret")
        assert everything.refusal_behind(caught.value.message) is caught.value
        assert everything.refusal_behind("a message of the guest's own") is None
        await store.transact("t.after", lambda connection: None)
        (entry,) = await Audit(store).newest(10)
        assert (entry.action, entry.object, entry.allowed) == ("fs.read", "/secret", False)


@pytest.mark.anyio
async def test_no_effect_passes_before_the_mark_of_the_first_is_durable(tmp_path: Path) -> None:
    done: list[str] = []
    marked = anyio.Event()

    async def begin() -> None:
        await marked.wait()
        done.append("marked")

    async def effect(one: RunGate) -> None:
        await one.begin_effect()
        done.append("effect")

    async with open_store(tmp_path / "db", [audit.MIGRATIONS]) as store:
        one = gate(store, "target.fs.write:/**", begin)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(effect, one)
            tasks.start_soon(effect, one)
            await anyio.wait_all_tasks_blocked()
            assert done == []
            marked.set()
    assert done == ["marked", "effect", "effect"]


@pytest.mark.anyio
async def test_reasons_that_are_not_shared_do_not_reach_the_guest(tmp_path: Path) -> None:
    async with open_store(tmp_path / "db", [audit.MIGRATIONS]) as store:
        silent = gate(store, "target.fs.read:/**", explains=False)
        with pytest.raises(Denied) as caught:
            silent.decide("fs.read", "/secret")
        told = (caught.value.message, caught.value.rule, caught.value.hint)
        assert told == ("fs.read /secret is not allowed", None, None)
        assert silent.made()[0].decision.allowed is False, "the owner's side knows it all"


@pytest.mark.anyio
async def test_what_was_allowed_is_told_again_when_it_was_not_written_down(tmp_path: Path) -> None:
    async with open_store(tmp_path / "db", [audit.MIGRATIONS]) as store:
        photos = gate(store, "target.fs.read:/photos/**")
        photos.decide("fs.read", "/photos/a.jpg")
        before = photos.taken
        first = photos.take_allowed()
        assert photos.take_allowed() == []
        photos.give_back(before)
        assert photos.take_allowed() == first != []
