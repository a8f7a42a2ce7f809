"""What a client may ask of pairing, approval and keys, and what comes back; see `messages`."""

from __future__ import annotations

from orvalho.control.message import Message, tag


class PairShow(Message, frozen=True, kw_only=True, tag=tag):
    """Show a short code, and a ticket beside it, until one of them is used, or the client hangs
    up, which withdraws both. -> PairShown, PairTried, ..., PairArrived"""

    guest: bool = False
    expires_s: int = 600


class PairJoin(Message, frozen=True, kw_only=True, tag=tag):
    """Pair with the device that shows a code. `at`: where it is (`192.168.1.20`, or a URL), instead
    of asking the local network. -> PeerAdded"""

    code: str
    at: str | None = None
    guest: bool = False
    name: str | None = None


class NodePending(Message, frozen=True, kw_only=True, tag=tag):
    """The nodes that wait for our approval, or were rejected. -> NodePendingReply"""


class NodeApprove(Message, frozen=True, kw_only=True, tag=tag):
    """Make a node that waits a peer. -> Note"""

    name: str


class NodeReject(Message, frozen=True, kw_only=True, tag=tag):
    """Refuse a node that waits, now and when it comes again. -> Note"""

    name: str


class KeyShow(Message, frozen=True, kw_only=True, tag=tag):
    """The keys of this node. -> KeyReply"""


class KeyPhrase(Message, frozen=True, kw_only=True, tag=tag):
    """The secret of this node, as words. -> KeyPhraseReply"""


class KeyRotate(Message, frozen=True, kw_only=True, tag=tag):
    """Change the node key; the daemon begins anew. `force`: also when mail or runs are lost by it.
    -> KeyRotated"""

    force: bool = False


class PairShown(Message, frozen=True, kw_only=True, tag=tag):
    """`ticket` is the text of the QR code."""

    at: float
    text: str
    code: str
    ticket: str
    expires_at: float
    guest: bool


class PairTried(Message, frozen=True, kw_only=True, tag=tag):
    """Somebody came with a wrong code; `left` more and it is withdrawn."""

    at: float
    text: str
    left: int


class PairedState(Message, frozen=True, kw_only=True):
    """`relation`: own or guest. `check_words`: four, joined by dashes, the same on both sides."""

    name: str
    key: str
    relation: str
    contexts: tuple[str, ...]
    check_words: str


class PairArrived(Message, frozen=True, kw_only=True, tag=tag):
    """`held`: it waits for `orvalho node approve`."""

    at: float
    text: str
    peer: PairedState
    held: bool


class KeyReply(Message, frozen=True, kw_only=True, tag=tag):
    """Public keys, as `ed25519:...`. `rotated_at`: when the node key was last changed, if it was
    and on this device."""

    device_id: str
    key: str
    owner_key: str
    created_at: float
    rotations: int
    rotated_at: float | None


class KeyRotated(Message, frozen=True, kw_only=True, tag=tag):
    """`peers`: each with the check words that it will show from now on."""

    device_id: str
    key: str
    old_key: str
    peers: tuple[PairedState, ...]


class KeyPhraseReply(Message, frozen=True, kw_only=True, tag=tag):
    phrase: str


class HeldState(Message, frozen=True, kw_only=True):
    """`state`: waits, rejected."""

    name: str
    key: str
    relation: str
    check_words: str
    asked_at: float
    state: str


class NodePendingReply(Message, frozen=True, kw_only=True, tag=tag):
    nodes: tuple[HeldState, ...]
