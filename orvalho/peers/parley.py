"""What two nodes that pair say over a session in pairing mode: bodies of Pair frames, in turn."""

from __future__ import annotations

from orvalho.errors import Untrusted
from orvalho.peers import frames
from orvalho.peers.frames import Pair
from orvalho.peers.session import Session
from orvalho.transports.link import Link


async def say(link: Link, session: Session, body: bytes) -> None:
    """Raises:
    Unavailable: the far side has gone.
    """
    for message in session.seal([frames.encode(Pair(body=body))]):
        await link.send(message)


async def hear(link: Link, session: Session) -> bytes:
    """Raises:
    Unavailable: the far side has gone.
    Untrusted: it says something else than a Pair.
    """
    contents: list[bytes] = []
    while not contents:
        contents = session.open(await link.receive())
    frame = frames.decode(contents[0])
    if not isinstance(frame, Pair):
        raise Untrusted("a node that pairs says something else")
    return frame.body
