"""`orvalho status`, without click and msgspec: it is typed most, and should answer at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from orvalho.cli.output import age, duration, many
from orvalho.cli.session import Session
from orvalho.control.client import Client


def show_status(session: Session, client: Client) -> None:
    """Ask and print: this node, then one line a peer, then what is wrong."""
    reply = client.ask_plain({"type": "status"})
    if session.screen.as_json:
        session.screen.document(reply)
        return
    session.screen.line(_node(reply))
    session.screen.lines(_peers(reply["peers"], with_headers=session.screen.is_terminal))
    for problem in reply["problems"]:
        session.screen.line(f"! {problem}")


def _node(reply: Mapping[str, Any]) -> str:
    parts = [
        reply["node"],
        f"orvalho {reply['version']}",
        f"pid {reply['pid']}",
        f"up {duration(time.time() - reply['started_at'])}",
        "contexts " + ", ".join(reply["contexts"]) if reply["contexts"] else "no contexts",
        "listening " + ", ".join(reply["listening"]) if reply["listening"] else "not listening",
    ]
    if reply["runs"]:
        parts.append(f"{many(reply['runs'], 'script')} running")
    if held := reply.get("held"):
        parts.append(f"{held} held: orvalho inbox ls")
    return "  ".join(parts)


def _peers(peers: Sequence[Mapping[str, Any]], *, with_headers: bool) -> Iterator[str]:
    rows = [(peer["name"], peer["relation"], peer["state"], _road(peer)) for peer in peers]
    if with_headers and rows:
        rows.insert(0, ("PEER", "OWNER", "STATE", "PATH"))
    # tabulate would align this too, but takes longer to import than all the rest to run.
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        yield "  ".join([*cells, row[3]]).rstrip()


def queued_text(count: int, kept_at: Mapping[str, int]) -> str:
    """`3 queued`, `3 queued at server`, `3 queued, 2 at server`."""
    text = f"{count} queued"
    if not kept_at:
        return text
    if list(kept_at.values()) == [count]:
        return f"{text} at {next(iter(kept_at))}"
    return ", ".join([text, *(f"{kept} at {name}" for name, kept in kept_at.items())])


def _road(peer: Mapping[str, Any]) -> str:
    """`direct 1.2.3.4:4455`, or for a peer that is away what waits for it, and since when."""
    parts = [peer["path"]] if peer["path"] else []
    if peer["queued"]:
        parts.append(f"mailbox {queued_text(peer['queued'], peer['queued_at'])}")
    if peer["state"] != "online":
        parts.append(f"last seen {age(peer['last_seen_at'])}")
    return ", ".join(parts)
