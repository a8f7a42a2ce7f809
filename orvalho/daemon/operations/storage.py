"""What we do when the owner mounts a tree, or keeps a secret."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

from anyio import to_thread

from orvalho.contexts.files import ContextFiles
from orvalho.contexts.filesystem import FileAction, VirtualPath
from orvalho.contexts.mount_spec import MountSetting, check_setting, parse_place
from orvalho.contexts.secrets import SecretEntry
from orvalho.control import messages as control
from orvalho.control import storage as words
from orvalho.daemon.house import House
from orvalho.daemon.mounts import MountView, check_openable
from orvalho.errors import Conflict, InvalidInput, NotFound, OrvalhoError
from orvalho.policies.quota import parse_size

Replies = AsyncIterator[control.Reply]


class StorageOperations:
    """`orvalho ctx mount ...` and `orvalho secret ...`."""

    def __init__(self, house: House) -> None:
        self._house = house

    def table(self) -> dict[type[control.Message], Callable[[Any], Any]]:
        """Request -> operation."""
        return {
            words.MountPut: self.mount,
            words.MountDrop: self.umount,
            words.MountList: self.mounts,
            words.SecretSet: self.set_secret,
            words.SecretRemove: self.remove_secret,
            words.SecretList: self.secrets,
            words.SecretShow: self.show_secret,
        }

    # ---- mounts -------------------------------------------------------------------------------

    async def mount(self, request: words.MountPut) -> Replies:
        context, place = parse_place(request.place)
        setting = MountSetting(
            url=request.url,
            secret=request.secret,
            endpoint=request.endpoint,
            region=request.region,
            read_only=request.read_only,
            quota=request.quota,
        )
        source = check_setting(setting)
        if setting.quota:
            parse_size(setting.quota)
        if source.address is not None and source.address.node == self._house.name:
            raise InvalidInput("url: that is this very node", where=request.place)
        if not request.replace:
            self._refuse_replacing(context, place, setting)
        await to_thread.run_sync(check_openable, source, self._house.home)
        changed = await self._house.mounts.put(context, place, setting)
        await self._note()
        await self._try(context, place)
        view = next(
            each
            for each in self._house.mounts.view()
            if (each.context, each.place) == (context, place)
        )
        yield words.MountReply(mount=_mount_state(view), changed=changed)

    def _refuse_replacing(self, context: str, place: VirtualPath, setting: MountSetting) -> None:
        """Raises:
        Conflict: something else is mounted there.
        """
        views = self._house.mounts.view()
        old = next((v for v in views if (v.context, v.place) == (context, place)), None)
        if old is None or (
            self._house.mounts.setting(context, place) in (None, setting) or not old.url
        ):
            return
        raise Conflict(
            f"{old.url} is mounted at {context}:{place} already",
            hint=f"orvalho ctx umount {context}:{place}, or the same command with -y",
        )

    async def umount(self, request: words.MountDrop) -> Replies:
        context, place = parse_place(request.place)
        if not await self._house.mounts.drop(context, place):
            raise NotFound(f"nothing is mounted at {context}:{place}", hint="orvalho ctx mounts")
        await self._note()
        yield control.Note(text=f"{context}:{place} is mounted no longer")

    async def mounts(self, _request: words.MountList) -> Replies:
        house = self._house
        yield words.MountListReply(
            mounts=tuple(map(_mount_state, house.mounts.view())),
            problems=house.problems.get("mounts", ()),
        )

    async def _note(self) -> None:
        self._house.problems["mounts"] = await self._house.mounts.read()

    async def _try(self, context: str, place: VirtualPath) -> None:
        """A first look, so that its owner sees at once whether it can be used."""
        files: ContextFiles = self._house.contexts.get(context).files(_owner_may)
        try:
            await files.list(place)
        except OrvalhoError:
            return  # its state tells

    # ---- secrets ------------------------------------------------------------------------------

    async def set_secret(self, request: words.SecretSet) -> Replies:
        house = self._house
        for name in request.contexts:
            house.contexts.get(name)
        store = partial(
            house.secrets.set, request.name, request.value, request.contexts, now=time.time()
        )
        changed = await to_thread.run_sync(store)
        if changed:
            await to_thread.run_sync(house.mounts.forget_secret, request.name)
        what = "is kept" if changed else "is kept already"
        whom = f", for {', '.join(sorted(request.contexts))}" if request.contexts else ""
        yield control.Note(text=f"secret {request.name} {what}{whom}", changed=changed)

    async def remove_secret(self, request: words.SecretRemove) -> Replies:
        house = self._house
        if not await to_thread.run_sync(house.secrets.remove, request.name):
            await to_thread.run_sync(house.secrets.find, request.name)
        users = house.mounts.users_of(request.name)
        await to_thread.run_sync(house.mounts.forget_secret, request.name)
        left = f"; without it: {', '.join(users)}" if users else ""
        yield control.Note(text=f"secret {request.name} is gone{left}")

    async def secrets(self, _request: words.SecretList) -> Replies:
        entries = await to_thread.run_sync(self._house.secrets.entries)
        yield words.SecretListReply(secrets=tuple(map(self._secret_state, entries)))

    async def show_secret(self, request: words.SecretShow) -> Replies:
        secrets = self._house.secrets
        entry = await to_thread.run_sync(secrets.find, request.name)
        value = await to_thread.run_sync(secrets.reveal, request.name) if request.reveal else None
        yield words.SecretShown(secret=self._secret_state(entry), value=value)

    def _secret_state(self, entry: SecretEntry) -> words.SecretState:
        return words.SecretState(
            name=entry.name,
            contexts=entry.contexts,
            mounts=self._house.mounts.users_of(entry.name),
            set_at=entry.set_at or None,
            problem=entry.problem,
        )


def _mount_state(view: MountView) -> words.MountState:
    return words.MountState(
        place=f"{view.context}:{view.place}",
        url=view.url,
        read_only=view.read_only,
        state=view.state,
        error=view.error,
        secret=view.secret,
        used_bytes=view.used_bytes,
        quota_bytes=view.quota_bytes,
    )


def _owner_may(_action: FileAction, _path: VirtualPath) -> None:
    """The owner looks at his own files: there is nothing to decide."""
