"""What the shell asks on each Tab, and the REPL too: words from a running daemon, quickly."""

from __future__ import annotations

from typing import Final

from orvalho.cli.session import Session
from orvalho.errors import OrvalhoError

# Longer than this and the person is typing on; nothing is a fine answer.
_PATIENCE_S: Final = 0.3


def show_completions(session: Session, kind: str, text: str) -> None:
    """One word a line; nothing at all when the daemon does not run."""
    session.screen.lines(completions(session, kind, text))


def completions(session: Session, kind: str, text: str) -> list[str]:
    """What `text` may become (see `messages.Complete`)."""
    try:
        with session.connect_running(_PATIENCE_S) as client:
            reply = client.ask_plain({"type": "complete", "kind": kind, "text": text})
    except OrvalhoError:
        return []
    return [str(word) for word in reply.get("words", ())]
