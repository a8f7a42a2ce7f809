"""The past of our contexts: what notices edits, takes commits back, and takes old history away."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from orvalho.contexts.checking import Checking
from orvalho.contexts.commit import Committer
from orvalho.contexts.context import Contexts
from orvalho.contexts.hand_edits import HandEdits
from orvalho.contexts.pruning import Pruning, Terms
from orvalho.contexts.undo import Undoing
from orvalho.daemon.settings import History
from orvalho.errors import OrvalhoError
from orvalho.policies.quota import parse_duration, parse_size
from orvalho.store import Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Past:
    """The parts that work on the history of the contexts of one node."""

    hand_edits: HandEdits
    undoing: Undoing
    pruning: Pruning
    checking: Checking

    @classmethod
    def make(cls, store: Store, contexts: Contexts, committer: Committer) -> Past:
        hand_edits = HandEdits(store, contexts, committer)
        return cls(
            hand_edits=hand_edits,
            undoing=Undoing(store, committer, hand_edits),
            pruning=Pruning(store, contexts, committer.contents),
            checking=Checking(store, committer, hand_edits),
        )

    async def begin(self) -> None:
        """At the start of a node: contents that a crash left unnamed go, and what was changed by
        hand while we were off is noted."""
        try:
            await self.pruning.sweep_contents()
            await self.hand_edits.note_all()
        except OrvalhoError as error:
            _log.warning("history.not-begun", extra={"why": error.message})
        except Exception:  # noqa: BLE001 -- the top of a task
            _log.exception("history.not-begun")


def terms(settings: History, keep: str | None = None, most: str | None = None) -> Terms:
    """What is kept from now on: as the settings say, or less.

    Raises:
        InvalidInput: a text is no duration, or no size.
    """
    since = time.time() - parse_duration(keep or settings.keep)
    return Terms(since=since, max_bytes=parse_size(most or settings.max_bytes))
