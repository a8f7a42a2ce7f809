"""The part of the local API that is about what is mounted into contexts, and about secrets."""

from __future__ import annotations

from orvalho.control.message import Message, tag

# ---- requests -----------------------------------------------------------------------------


class MountPut(Message, frozen=True, kw_only=True, tag=tag):
    """Mount a tree. `place` is `alice:/photos`; Conflict where another is mounted there already,
    unless `replace`. -> MountReply"""

    place: str
    url: str
    secret: str = ""
    endpoint: str = ""
    region: str = ""
    read_only: bool = False
    quota: str = ""
    replace: bool = False


class MountDrop(Message, frozen=True, kw_only=True, tag=tag):
    """Mount it no longer; what is in it stays where it is. -> Note"""

    place: str


class MountList(Message, frozen=True, kw_only=True, tag=tag):
    """-> MountListReply"""


class SecretSet(Message, frozen=True, kw_only=True, tag=tag):
    """Keep a secret; only `contexts` may use it, or all where there are none. -> Note"""

    name: str
    value: str
    contexts: tuple[str, ...] = ()


class SecretRemove(Message, frozen=True, kw_only=True, tag=tag):
    """-> Note"""

    name: str


class SecretList(Message, frozen=True, kw_only=True, tag=tag):
    """-> SecretListReply"""


class SecretShow(Message, frozen=True, kw_only=True, tag=tag):
    """-> SecretShown; with the value only if `reveal`."""

    name: str
    reveal: bool = False


# ---- replies ------------------------------------------------------------------------------


class MountState(Message, frozen=True, kw_only=True):
    """`state`: idle (not used yet), ready, failing; `error` says why. `secret` is a name. What is
    used is counted once something was written; `url` is empty where its setting has a mistake."""

    place: str
    url: str
    read_only: bool
    state: str
    error: str | None
    secret: str
    used_bytes: int
    quota_bytes: int


class MountReply(Message, frozen=True, kw_only=True, tag=tag):
    mount: MountState
    changed: bool


class MountListReply(Message, frozen=True, kw_only=True, tag=tag):
    mounts: tuple[MountState, ...]
    problems: tuple[str, ...] = ()


class SecretState(Message, frozen=True, kw_only=True):
    """A secret without its value. `contexts`: who may use it, empty for all; `mounts`: which do."""

    name: str
    contexts: tuple[str, ...]
    mounts: tuple[str, ...]
    set_at: float | None
    problem: str | None = None


class SecretListReply(Message, frozen=True, kw_only=True, tag=tag):
    secrets: tuple[SecretState, ...]


class SecretShown(Message, frozen=True, kw_only=True, tag=tag):
    secret: SecretState
    value: str | None = None


Request = MountPut | MountDrop | MountList | SecretSet | SecretRemove | SecretList | SecretShow
Reply = MountReply | MountListReply | SecretListReply | SecretShown
