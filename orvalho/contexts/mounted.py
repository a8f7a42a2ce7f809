"""A tree that is mounted into a context from elsewhere: it may be slow, away, or broken.

Whatever it does, it costs its own calls alone. A call that is not answered in time is cut, and
its thread left behind; where too many are left behind, no further one goes in. What failed a
moment ago is not tried again by each call of a script.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import anyio
from anyio import to_thread

from orvalho.contexts.files import Mount
from orvalho.contexts.filesystem import (
    FileAction,
    GuardedFS,
    Quota,
    VirtualPath,
    measure,
    unchecked,
)
from orvalho.contexts.fs_shim import fs_errors
from orvalho.errors import NotFound, OrvalhoError, Unavailable

T = TypeVar("T")

CALL_S: Final = 30.0
_READERS: Final = 4
_LEFT_BEHIND: Final = 8
_AGAIN_S: Final = 2.0
# So long a commit waits for trees that are not ours.
_COMMIT_S: Final = 60.0


class Mounted(Mount):
    """A Mount whose tree is not ours. Its calls end: with what was asked for, or with Unavailable
    and why. `error` is the last such reason, None after a call that went well."""

    is_foreign = True

    def __init__(
        self,
        owner: str,
        place: VirtualPath,
        open_tree: Callable[[], Any],
        quota: Quota,
        *,
        is_read_only: bool,
        is_remote: bool = False,
        call_s: float = CALL_S,
    ) -> None:
        super().__init__(owner, open_tree, quota)
        self.place = place
        self.is_read_only = is_read_only
        self.is_remote = is_remote
        self.error: str | None = None
        self.hint: str | None = None
        self._call_s = call_s
        self._failed_at = float("-inf")
        self._is_gone = False
        self._is_measured = False
        self._inside = 0
        self._counting = threading.Lock()
        self._limits: tuple[anyio.CapacityLimiter, anyio.CapacityLimiter] | None = None

    @property
    def is_open(self) -> bool:
        return self._tree is not None

    @property
    def tree(self) -> GuardedFS:
        """As of a Mount; it is measured when something is first written."""
        if self._tree is None:
            with self._opening:
                if self._is_gone:
                    raise NotFound(f"{self.owner}:{self.place} is mounted no longer")
                if self._tree is None:
                    check = refuse_writes if self.is_read_only else unchecked
                    self._tree = GuardedFS(self._open_tree(), check, self.quota)
        return self._tree

    async def read(self, call: Callable[[GuardedFS], T]) -> T:
        """See `Mount.read`.

        Raises:
            Unavailable: it cannot be opened, fails, or does not answer in time.
        """
        return await self._bounded(call, self._limiters()[0])

    async def write(self, call: Callable[[GuardedFS], T]) -> T:
        """See `Mount.write`. After Unavailable, what was written may be there or not.

        Raises:
            Unavailable: as `read`.
        """

        def measured(tree: GuardedFS) -> T:
            if not self._is_measured and not self.is_read_only:
                self._measure(tree)
            return call(tree)

        return await self._bounded(measured, self._limiters()[1])

    def measure_once(self) -> None:
        tree = self.tree
        if not self._is_measured and not self.is_read_only:
            self._measure(tree)

    def close(self) -> None:
        """Let the tree go; a later use opens it again."""
        self._is_measured = False
        super().close()

    def retire(self) -> None:
        """It is mounted no longer: runs that still hold it are told so."""
        with self._opening:
            self._is_gone = True
        self.close()

    # ---- inside -------------------------------------------------------------------------------

    def _limiters(self) -> tuple[anyio.CapacityLimiter, anyio.CapacityLimiter]:
        if self._limits is None:
            self._limits = anyio.CapacityLimiter(_READERS), anyio.CapacityLimiter(1)
        return self._limits

    async def _bounded(self, call: Callable[[GuardedFS], T], limiter: anyio.CapacityLimiter) -> T:
        if self._inside >= _LEFT_BEHIND:
            raise self._unavailable(f"{self._inside} calls still wait for it")
        if self.error is not None and time.monotonic() - self._failed_at < _AGAIN_S:
            raise self._unavailable(self.error, self.hint)
        try:
            with anyio.fail_after(self._call_s):
                return await to_thread.run_sync(
                    self._enter, call, limiter=limiter, abandon_on_cancel=True
                )
        except TimeoutError as error:
            why = f"it does not answer within {self._call_s:g} s"
            raise self._failed(why) from error

    def _enter(self, call: Callable[[GuardedFS], T]) -> T:
        with self._counting:
            self._inside += 1
        try:
            result = self._with_tree(call)
        except fs_errors.ResourceError as error:
            # What is missing or in the way is an answer like others.
            self.error = None
            raise error
        except OSError as error:
            if error.errno == errno.ESTALE and "replaced" in str(error):
                self.close()
            raise self._failed(error.strerror or str(error)) from error
        except fs_errors.OperationFailed as error:
            raise self._failed(str(error)) from error
        except Unavailable as error:
            raise self._failed(error.message, error.hint) from error
        except OrvalhoError as error:
            if self._tree is None:
                raise self._failed(error.message, error.hint) from error
            raise
        finally:
            with self._counting:
                self._inside -= 1
        self.error = None
        return result

    def _measure(self, tree: GuardedFS) -> None:
        inner = tree._inner
        if hasattr(inner, "measure"):
            files, size = inner.measure(self.quota.limit_files)
        else:
            files, size = measure(inner)
        self.quota.begin_with(files, size)
        self._is_measured = True

    def _failed(self, why: str, hint: str | None = None) -> Unavailable:
        self.error, self.hint, self._failed_at = why, hint, time.monotonic()
        return self._unavailable(why, hint)

    def _unavailable(self, why: str, hint: str | None = None) -> Unavailable:
        at = f"{self.owner}:{self.place}"
        return Unavailable(
            f"{at} cannot be used now: {why}", where=at, hint=hint or "orvalho ctx mounts"
        )


async def in_time(mounts: Iterable[Mount], call: Callable[[], T]) -> T:
    """`call()` in a thread, for what works on these mounts.

    Raises:
        Unavailable: a tree that is not ours did not answer in time. What it was asked may still
            happen.
    """
    if not any(each.is_foreign for each in mounts):
        return await to_thread.run_sync(call)
    try:
        with anyio.fail_after(_COMMIT_S):
            return await to_thread.run_sync(call, abandon_on_cancel=True)
    except TimeoutError as error:
        raise Unavailable(
            f"a mounted tree does not answer within {_COMMIT_S:g} s", hint="orvalho ctx mounts"
        ) from error


def refuse_writes(action: FileAction, path: VirtualPath) -> None:
    """The check of a tree that is only read."""
    if action != "fs.read":
        raise fs_errors.ResourceReadOnly(path)
