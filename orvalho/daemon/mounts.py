"""What is mounted into our contexts: from `mounts.toml` to trees, again whenever it changes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from anyio import from_thread, to_thread

from orvalho.contexts.context import Contexts
from orvalho.contexts.filesystem import Quota, VirtualPath
from orvalho.contexts.mount_spec import MountSetting, Source
from orvalho.contexts.mounted import Mounted
from orvalho.contexts.mounts import tree_words
from orvalho.contexts.mounts.archive import ZipTree
from orvalho.contexts.mounts.disk import RootFS
from orvalho.contexts.mounts.memory import MemoryTree
from orvalho.contexts.mounts.object_store import open_s3
from orvalho.contexts.mounts.remote import RemoteTree
from orvalho.contexts.mounts.sqlite import SQLiteTree
from orvalho.contexts.names import Address
from orvalho.contexts.secrets import Secrets
from orvalho.daemon.home import Home
from orvalho.daemon.mounts_file import NAME, MountLine, read_mounts, remove_mount, write_mount
from orvalho.errors import Denied, InvalidInput, Unavailable
from orvalho.policies.quota import parse_size

_log = logging.getLogger(__name__)

# Takes a question of a context of ours to the context at an address: the answer's bytes.
AskTree = Callable[[Address, str, tree_words.Question], Any]

_DISK: Final = frozenset({"dir", "sqlite", "zip"})


@dataclass(frozen=True, slots=True)
class MountView:
    """One mount, for its owner. `url` holds no secret: none can stand in it. `state`: idle (not
    used yet), ready, failing."""

    context: str
    place: str
    url: str
    read_only: bool
    state: str
    error: str | None
    secret: str
    used_bytes: int
    quota_bytes: int


class Mounts:
    """Those of this node. Only `read` and what changes the file change anything."""

    def __init__(
        self,
        home: Home,
        contexts: Contexts,
        secrets: Secrets,
        default_quota: Callable[[], tuple[int, int]],
        ask: AskTree,
    ) -> None:
        """`default_quota`: bytes and files that a mount may hold where it says nothing. `ask` is
        called on the event loop."""
        self._home = home
        self._contexts = contexts
        self._secrets = secrets
        self._default_quota = default_quota
        self._ask = ask
        self._mounted: dict[tuple[str, VirtualPath], tuple[MountLine, Mounted]] = {}
        self._file = home.config / NAME
        self._writing = threading.Lock()

    # ---- the file -----------------------------------------------------------------------------

    async def read(self) -> tuple[str, ...]:
        """Put the file into force; what is wrong with it. What did not change stays as it is, and a
        file that cannot be read as a whole changes nothing."""
        try:
            lines, problems = await to_thread.run_sync(read_mounts, self._file)
        except InvalidInput as error:
            return (f"{error.where}: {error.message}",)
        return (*problems, *self._use(lines))

    async def put(self, context: str, place: VirtualPath, setting: MountSetting) -> bool:
        """Write a mount down and put it into force; False when it is like this already."""
        self._contexts.get(context)
        changed = await to_thread.run_sync(
            self._locked, partial(write_mount, self._file, context, place, setting)
        )
        await self.read()
        return changed

    async def drop(self, context: str, place: VirtualPath) -> bool:
        """Take a mount away; False when there is none."""
        gone = await to_thread.run_sync(
            self._locked, partial(remove_mount, self._file, context, place)
        )
        await self.read()
        return gone

    def _locked(self, change: Callable[[], bool]) -> bool:
        with self._writing:
            return change()

    # ---- what is mounted ------------------------------------------------------------------------

    def view(self) -> tuple[MountView, ...]:
        """All of them, by context and place."""
        return tuple(self._view(*self._mounted[key]) for key in sorted(self._mounted))

    def find(self, context: str, place: VirtualPath) -> Mounted | None:
        found = self._mounted.get((context, place))
        return None if found is None else found[1]

    def setting(self, context: str, place: VirtualPath) -> MountSetting | None:
        """What stands in the file for a place; None when nothing is mounted there."""
        found = self._mounted.get((context, place))
        return None if found is None else found[0].setting

    def users_of(self, secret: str) -> tuple[str, ...]:
        """The places whose mounts use a secret."""
        return tuple(
            f"{line.context}:{line.place}"
            for line, _ in self._mounted.values()
            if line.setting.secret == secret
        )

    def forget_secret(self, secret: str) -> None:
        """It has changed or gone: the mounts that use it open again."""
        for line, mounted in self._mounted.values():
            if line.setting.secret == secret:
                mounted.close()

    def _view(self, line: MountLine, mounted: Mounted) -> MountView:
        state = "failing" if mounted.error else ("ready" if mounted.is_open else "idle")
        return MountView(
            context=line.context,
            place=line.place,
            # What has a mistake may have a secret in it.
            url=line.setting.url if line.source is not None else "",
            read_only=mounted.is_read_only,
            state="failing" if line.problem else state,
            error=line.problem or mounted.error,
            secret=line.setting.secret if line.source is not None else "",
            used_bytes=mounted.quota.used_bytes,
            quota_bytes=mounted.quota.limit_bytes,
        )

    def _use(self, lines: tuple[MountLine, ...]) -> list[str]:
        before, self._mounted = self._mounted, {}
        problems = []
        for line in lines:
            key = line.context, line.place
            old = before.get(key)
            if old is not None and old[0] == line:
                self._mounted[key] = before.pop(key)
            else:
                self._mounted[key] = line, self._make(line)
        known = {context.name for context in self._contexts.list()}
        for name in sorted(known):
            self._contexts.mount(
                name,
                {place: each for (at, place), (_, each) in self._mounted.items() if at == name},
            )
        for context, place in self._mounted:
            if context not in known:
                problems.append(f"{NAME}: {context}:{place}: this node has no context {context}")
        for _, mounted in before.values():
            mounted.retire()
        return problems

    # ---- make ---------------------------------------------------------------------------------

    def _make(self, line: MountLine) -> Mounted:
        limit_bytes, limit_files = self._default_quota()
        source, setting = line.source, line.setting
        if source is not None and setting.quota:
            limit_bytes = parse_size(setting.quota)
        return Mounted(
            line.context,
            line.place,
            partial(self._open, line),
            Quota(
                f"mount {line.context}:{line.place}",
                limit_bytes=limit_bytes,
                limit_files=limit_files,
            ),
            is_read_only=setting.read_only or (source is not None and source.scheme == "zip"),
            is_remote=source is not None and source.scheme == "peer",
        )

    def _open(self, line: MountLine) -> Any:
        """In a thread.

        Raises:
            OrvalhoError, OSError: it cannot be opened.
        """
        source, setting = line.source, line.setting
        if source is None:
            raise Unavailable(line.problem or "the setting has a mistake", hint="orvalho doctor")
        if source.scheme in _DISK:
            return _open_on_disk(source, self._home)
        if source.scheme == "memory":
            return MemoryTree()
        if source.scheme == "s3":
            credentials = (
                self._secrets.get(setting.secret, line.context) if setting.secret else None
            )
            return open_s3(
                setting.url,
                endpoint=setting.endpoint or None,
                region=setting.region or None,
                credentials=credentials,
            )
        address = source.address
        assert address is not None, "checked when the URL was read"

        def ask(question: tree_words.Question) -> bytes:
            answer: bytes = from_thread.run(self._ask, address, line.context, question)
            return answer

        return RemoteTree(ask, VirtualPath(source.path), str(address))


def check_openable(source: Source, home: Home) -> None:
    """Refuse at once what can never work; what is only missing now may come. In a thread.

    Raises:
        OrvalhoError: why.
    """
    if source.scheme not in _DISK:
        return
    path = Path(source.path)
    _refuse_own(path, home)
    if source.scheme == "zip" and path.exists():
        ZipTree(path).close()


def _open_on_disk(source: Source, home: Home) -> Any:
    path = Path(source.path)
    _refuse_own(path, home)
    if source.scheme == "sqlite":
        return SQLiteTree(path)
    if not path.exists():
        raise Unavailable("it is not there", where=str(path))
    if source.scheme == "zip":
        return ZipTree(path)
    if not path.is_dir() or path.is_symlink():
        raise Unavailable("it is no directory, or a link to one", where=str(path))
    return RootFS(path)


def _refuse_own(path: Path, home: Home) -> None:
    """What is ours is no tree for scripts: keys, rules and settings lie there, and in a context's
    own tree scripts could put another file in place of this one."""
    real = path.resolve()
    for own in (home.config, home.state, home.data, home.cache):
        ours = own.resolve()
        if real == ours or real.is_relative_to(ours) or ours.is_relative_to(real):
            raise Denied(
                "it lies among this node's own files, or has them in it: what is mounted lies"
                " elsewhere",
                where=str(path),
            )
