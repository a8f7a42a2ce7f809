"""Which of the owner's files have changed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchfiles import watch
from watchfiles.main import FileChange

# Editors save in several steps: a rename, a chmod, a second write. Longer than they take, and
# short enough that the owner sees it as at once.
_DEBOUNCE_MS: Final = 100
_STEP_MS: Final = 50


@dataclass(frozen=True, slots=True)
class Changed:
    policy: bool
    groups: bool
    config: bool
    mounts: bool = False


async def watch_files(directory: Path) -> AsyncIterator[Changed]:
    """What changes below the configuration directory, from now on.

    The directory is watched and not the files: a file that is replaced by a rename is a new one.
    """
    found: asyncio.Queue[set[FileChange]] = asyncio.Queue()
    stop = threading.Event()
    # Neither joined nor one of the loop's: the library sees `stop` only every few seconds, and
    # looking up more often would cost more than all else that an idle daemon does.
    threading.Thread(
        target=_follow,
        args=(directory, stop, asyncio.get_running_loop(), found),
        name="watch",
        daemon=True,
    ).start()
    try:
        while True:
            yield _sorted(directory, await found.get())
    finally:
        stop.set()


def _follow(
    directory: Path,
    stop: threading.Event,
    loop: asyncio.AbstractEventLoop,
    found: asyncio.Queue[set[FileChange]],
) -> None:
    for changes in watch(directory, debounce=_DEBOUNCE_MS, step=_STEP_MS, stop_event=stop):
        try:
            loop.call_soon_threadsafe(found.put_nowait, changes)
        except RuntimeError:  # the loop has closed: nobody waits any more
            return


def _sorted(directory: Path, changes: set[FileChange]) -> Changed:
    paths = [Path(path).relative_to(directory) for _, path in changes]
    tops = {path.parts[0] for path in paths if path.parts}
    return Changed(
        policy=bool(tops & {"policy", "model.conf"}),
        groups="groups" in tops,
        config=bool(tops & {"config.toml", "conf.d"}),
        mounts="mounts.toml" in tops,
    )
