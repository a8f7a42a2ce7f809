"""Which of the owner's files have changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchfiles import awatch

# Editors save in several steps: a rename, a chmod, a second write. Longer than they take, and
# short enough that the owner sees it as at once.
_DEBOUNCE_MS: Final = 100
_STEP_MS: Final = 50
# How often the watching thread looks up to see whether it is to stop.
_LOOK_UP_MS: Final = 250


@dataclass(frozen=True, slots=True)
class Changed:
    policy: bool
    groups: bool
    config: bool


async def watch_files(directory: Path) -> AsyncIterator[Changed]:
    """What changes below the configuration directory, from now on.

    The directory is watched and not the files: a file that is replaced by a rename is a new one.
    """
    async for changes in awatch(
        directory, debounce=_DEBOUNCE_MS, step=_STEP_MS, rust_timeout=_LOOK_UP_MS
    ):
        paths = [Path(path).relative_to(directory) for _, path in changes]
        tops = {path.parts[0] for path in paths if path.parts}
        yield Changed(
            policy=bool(tops & {"policy", "model.conf"}),
            groups="groups" in tops,
            config=bool(tops & {"config.toml", "conf.d"}),
        )
