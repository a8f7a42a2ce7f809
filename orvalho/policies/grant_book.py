"""The grants of this node: issued, narrowed, kept for use, seen used; and which are revoked."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from sqlite_utils.migrations import Migrations

from orvalho.contexts.identity import Key
from orvalho.errors import Conflict, Denied, InvalidInput, LimitExceeded, NotFound, Untrusted
from orvalho.policies.grants import Grant, parse_id, read_grant
from orvalho.store import Store

Whence = Literal["issued", "narrowed", "kept", "used"]

MAX_GRANTS: Final = 10_000
# Each holder can make as many as it likes out of one; so many of them are drawn.
_MAX_USED: Final = 1000

MIGRATIONS: Final = Migrations("orvalho.policies.grant_book")


@MIGRATIONS()  # type: ignore[untyped-decorator]  # sqlite_utils is untyped here
def create_grants(database: Any) -> None:
    """`granted`: a token, by the id of its last link. `grant_link`: what is known here of a link's
    use. `grant_use`: the runs of a link that allows only so many. `grant_revoked`: links cut."""
    for statement in (
        """create table granted (
            id text primary key,
            token blob not null,
            root_key blob not null,
            whence text not null,
            at real not null
        ) strict""",
        """create table grant_link (
            id text primary key,
            uses integer not null,
            last_used_at real not null
        ) strict""",
        """create table grant_use (
            link text not null,
            run text not null,
            primary key (link, run)
        ) strict, without rowid""",
        "create table grant_revoked (id text primary key, at real not null) strict",
    ):
        database.conn.execute(statement)


@dataclass(frozen=True, slots=True)
class Held:
    """A grant as it is kept here, and since when."""

    grant: Grant
    whence: Whence
    at: float


@dataclass(frozen=True, slots=True)
class Use:
    """How often a link was used here, and when last, in Unix seconds."""

    uses: int
    last_used_at: float


class GrantBook:
    """Grants lie in memory and in the store, whose migrations include MIGRATIONS. A change is
    durable before its call returns. All methods on the event loop, but `fault` and `revoked_at`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: dict[str, Held] = {}
        self._uses: dict[str, Use] = {}
        self._revoked: dict[str, float] = {}

    async def load(self) -> None:
        """Read what an earlier daemon kept. A token that cannot be read any more is left out."""
        held, uses, revoked = await self._store.read(_read_all)
        self._held, self._uses, self._revoked = held, uses, revoked

    # ---- what is here -----------------------------------------------------------------------

    def all(self) -> list[Held]:
        """Oldest first."""
        return sorted(self._held.values(), key=lambda each: each.at)

    def kept(self) -> list[Grant]:
        """What may be used from here, newest first."""
        return [each.grant for each in reversed(self.all()) if each.whence == "kept"]

    def use_of(self, link: str) -> Use | None:
        return self._uses.get(link)

    def revoked_at(self, link: str) -> float | None:
        return self._revoked.get(link)

    def find(self, prefix: str) -> tuple[str, Held]:
        """The id of the one link that begins so, and a grant with it.

        Raises:
            NotFound: none does.
            InvalidInput: several do, or it is no id.
        """
        start = parse_id(prefix)
        found: dict[str, Held] = {}
        for held in self.all():
            for link in held.grant.ids:
                # The shortest chain with it says what the link itself is.
                known = found.get(link)
                is_shorter = known is None or len(held.grant.ids) < len(known.grant.ids)
                if link.startswith(start) and is_shorter:
                    found[link] = held
        if not found:
            raise NotFound(f"no grant {prefix} is known here", hint="orvalho grant ls")
        if len(found) > 1:
            raise InvalidInput(
                f"{len(found)} grants begin with {prefix}", detail="\n".join(sorted(found))
            )
        return next(iter(found.items()))

    # ---- what changes -----------------------------------------------------------------------

    async def keep(self, grant: Grant, whence: Whence, now: float) -> bool:
        """False when it was here already for the same.

        Raises:
            LimitExceeded: there are too many.
        """
        known = self._held.get(grant.id)
        if known is not None and whence in (known.whence, "used"):
            return False
        if known is None and len(self._held) >= MAX_GRANTS:
            raise LimitExceeded(
                f"a node keeps at most {MAX_GRANTS} grants", hint="orvalho grant rm GRANT"
            )
        held = Held(grant, whence, now)
        await self._store.transact("grant.kept", lambda connection: _put(connection, held))
        self._held[grant.id] = held
        return True

    async def forget(self, id_: str) -> None:
        """A grant that was kept or narrowed here. Nothing ends by it."""
        await self._store.transact(
            "grant.forgotten",
            lambda connection: connection.execute("delete from granted where id = ?", [id_]),
        )
        self._held.pop(id_, None)

    async def revoke(self, link: str, now: float) -> bool:
        """Cut every grant with that link off; False when it was before."""
        if link in self._revoked:
            return False
        await self._store.transact(
            "grant.revoked",
            lambda connection: connection.execute(
                "insert or ignore into grant_revoked (id, at) values (?, ?)", [link, now]
            ),
        )
        self._revoked[link] = now
        return True

    # ---- what is asked at the target --------------------------------------------------------

    def fault(self, grant: Grant, now: float) -> Untrusted | None:
        """Why a grant that was good is so no more, by our clock. From any thread."""
        for link in grant.ids:
            if link in self._revoked:
                return Untrusted(
                    f"grant {link} was revoked", where=link, hint="ask its issuer for another"
                )
        if now >= grant.until:
            return Untrusted(
                f"grant {grant.id} has ended {now - grant.until:,.0f} s ago",
                where=grant.id,
                hint="ask its issuer for another",
            )
        return None

    async def use(self, grant: Grant, run: str, now: float) -> None:
        """Count a run, durably where that is limited. The same run counts once, also when it is
        begun again after a crash.

        Raises:
            Denied: a link of it was used as often as it may be.
        """
        limits = [
            (id_, link.uses)
            for id_, link in zip(grant.ids, grant.links, strict=True)
            if link.uses is not None
        ]
        if limits:
            await self._store.transact("grant.used", lambda c: _count(c, limits, run))
        is_new = grant.id not in self._held and self._used_count() < _MAX_USED
        held = Held(grant, "used", now) if is_new else None
        if held is not None:
            self._held[grant.id] = held
        if grant.id not in self._held:
            return
        for id_ in grant.ids:
            known = self._uses.get(id_)
            self._uses[id_] = Use(known.uses + 1 if known else 1, now)

        def note(connection: sqlite3.Connection) -> None:
            if held is not None:
                _put(connection, held)
            _note_use(connection, grant.ids, now)

        self._store.transact_soon("grant.noted", note)

    def _used_count(self) -> int:
        return sum(1 for each in self._held.values() if each.whence == "used")


def _count(connection: sqlite3.Connection, limits: Sequence[tuple[str, int]], run: str) -> None:
    for link, most in limits:
        connection.execute("insert or ignore into grant_use (link, run) values (?, ?)", [link, run])
        sql = "select count(*) from grant_use where link = ?"
        (used,) = connection.execute(sql, [link]).fetchone()
        if used > most:
            raise Denied(
                f"grant {link} is for {most} runs, and these have been",
                where=link,
                hint="ask its issuer for another",
            )


def _note_use(connection: sqlite3.Connection, links: Iterable[str], now: float) -> None:
    connection.executemany(
        "insert into grant_link (id, uses, last_used_at) values (?, 1, ?)"
        " on conflict (id) do update set uses = uses + 1, last_used_at = excluded.last_used_at",
        [(link, now) for link in links],
    )


def _put(connection: sqlite3.Connection, held: Held) -> None:
    connection.execute(
        "insert or replace into granted (id, token, root_key, whence, at) values (?, ?, ?, ?, ?)",
        [held.grant.id, held.grant.token, held.grant.root_key, held.whence, held.at],
    )


def _read_all(
    connection: sqlite3.Connection,
) -> tuple[dict[str, Held], dict[str, Use], dict[str, float]]:
    held: dict[str, Held] = {}
    for token, root_key, whence, at in connection.execute(
        "select token, root_key, whence, at from granted"
    ).fetchall():
        try:
            each = Held(read_grant(token, Key(root_key)), _whence(whence), at)
        except (Untrusted, Conflict):
            continue
        held[each.grant.id] = each
    uses = {
        link: Use(count, at)
        for link, count, at in connection.execute("select id, uses, last_used_at from grant_link")
    }
    revoked = dict(connection.execute("select id, at from grant_revoked").fetchall())
    return held, uses, revoked


def _whence(text: str) -> Whence:
    found: Whence | None = next((each for each in get_args(Whence) if each == text), None)
    if found is None:
        raise Conflict(f"{text!a} is no way to come by a grant")
    return found
