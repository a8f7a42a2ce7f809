"""The part of the local API that is about grants: rights that are given by a text."""

from __future__ import annotations

import msgspec

from orvalho.control.message import Message, tag


class GrantNew(Message, frozen=True, kw_only=True, tag=tag):
    """Let whoever `to` names (a peer, a context of one, a key; None: whoever has the text) do
    `needs` in one of our contexts (None: the usual one) until a moment in Unix seconds (None: for
    good), for so many runs (None: any). `script`: its digest; then only that script may, with just
    these `modules`, path -> digest, beside `filename`. -> GrantReply"""

    to: str | None
    needs: tuple[str, ...] = ()
    context: str | None = None
    until: float | None = None
    uses: int | None = None
    script: str | None = None
    filename: str = ""
    modules: dict[str, str] = msgspec.field(default_factory=dict)


class GrantNarrow(Message, frozen=True, kw_only=True, tag=tag):
    """Make less of a grant that we hold, given as text or id, and hand it on to `to` (None: keep
    it). What is None stays as it was; the rest as in GrantNew. -> GrantReply"""

    grant: str
    to: str | None = None
    needs: tuple[str, ...] | None = None
    until: float | None = None
    uses: int | None = None
    script: str | None = None
    filename: str = ""
    modules: dict[str, str] = msgspec.field(default_factory=dict)


class GrantKeep(Message, frozen=True, kw_only=True, tag=tag):
    """Keep a grant, so that scripts which it fits go with it. -> GrantReply"""

    text: str


class GrantShow(Message, frozen=True, kw_only=True, tag=tag):
    """What a grant says, given as text or id. -> GrantReply"""

    grant: str


class GrantList(Message, frozen=True, kw_only=True, tag=tag):
    """-> GrantListReply"""


class GrantRevoke(Message, frozen=True, kw_only=True, tag=tag):
    """Cut a link of a grant of ours, and all that was made of it. -> Note"""

    grant: str


class GrantForget(Message, frozen=True, kw_only=True, tag=tag):
    """Keep a grant no longer, of ours only what is not good any more. Nothing ends or is lifted by
    it. -> Note"""

    grant: str


class GrantLinkState(Message, frozen=True, kw_only=True):
    """One link. `whence`: issued, narrowed or kept here, used by others here; empty for one that
    is only known as part of those. `state`: good, revoked, ended. `to` is a name, or a key that
    has none here; None for whoever has it; `holder` is the key itself. `needs`, `script`, `until`
    and `uses` are what this link states, None where it leaves things as they were. `used` and
    `last_used_at` tell of its issuer's node alone."""

    grant: str
    parent: str | None
    whence: str
    state: str
    issuer: str
    context: str
    to: str | None
    holder: str | None
    needs: tuple[str, ...] | None
    script: str | None
    until: float | None
    uses: int | None
    made_at: float
    used: int
    last_used_at: float | None
    revoked_at: float | None


class GrantReply(Message, frozen=True, kw_only=True, tag=tag):
    """A grant: its links, the issuer's first, and the text that is pasted."""

    grant: str
    issuer: str
    context: str
    needs: tuple[str, ...]
    to: str | None
    script: str | None
    until: float | None
    state: str
    text: str
    links: tuple[GrantLinkState, ...]


class GrantListReply(Message, frozen=True, kw_only=True, tag=tag):
    """Every link that is known here, each after the one it was made of. `policy`: the lines of a
    policy that the good grants of this node amount to."""

    links: tuple[GrantLinkState, ...]
    policy: tuple[str, ...]


Request = GrantNew | GrantNarrow | GrantKeep | GrantShow | GrantList | GrantRevoke | GrantForget
Reply = GrantReply | GrantListReply
