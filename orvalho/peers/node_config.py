"""What a node is made of."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath

from orvalho.contexts.identity import Key, Signer
from orvalho.peers.carrier import Carrier
from orvalho.peers.code_pairing import DEFAULT_PORT, OnPaired
from orvalho.peers.frames import Hello
from orvalho.peers.keeping import DepotTerms
from orvalho.peers.links import OnSucceeded, PeerBook, Timings
from orvalho.peers.pairing import CheckCertificate
from orvalho.peers.relay import RelayTerms
from orvalho.peers.sending import OnUndelivered
from orvalho.peers.succession import Heir
from orvalho.peers.tally import Quota
from orvalho.store import Store
from orvalho.transports.catalog import Catalog

# Called when a peer says who it is: its key, and its Hello.
OnGreeting = Callable[[Key, Hello], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """What a node is made of. `certificate` is the owner's word for `name` and the signer's
    key; `blobs` a directory of the node's own; addresses are URLs of `catalog`.

    `on_undelivered` runs inside the transaction that gives an envelope up, on the store's
    thread; the others on the event loop.
    """

    name: str
    signer: Signer
    noise_static: bytes
    owner_key: Key
    certificate: bytes
    listen: Sequence[str]
    # Where others should dial, if not just where we listen (0.0.0.0 is no address to dial).
    advertise: Callable[[Sequence[str]], Sequence[str]]
    store: Store
    blobs: FilePath
    book: PeerBook
    check_certificate: CheckCertificate
    on_greeting: OnGreeting
    on_paired: OnPaired
    on_undelivered: OnUndelivered
    catalog: Catalog = field(default_factory=Catalog)
    # Keeps mail for peers that are not linked, if there is one.
    carrier: Carrier | None = None
    quota: Quota = field(default_factory=Quota)
    depot: DepotTerms = field(default_factory=DepotTerms)
    relay: RelayTerms = field(default_factory=RelayTerms)
    timings: Timings = field(default_factory=Timings)
    resend_after_s: float = 5.0
    resend_limit_s: float = 60.0
    sweep_s: float = 2.0
    # UDP: where those who type a code ask for who shows it; 0 hears nobody.
    pairing_port: int = DEFAULT_PORT
    # Our earlier keys, for which mail may still come, and what we say of them (`succession`);
    # how we check what others say of theirs, and learn it.
    formerly: frozenset[Key] = frozenset()
    succession: bytes = b""
    heir: Heir | None = None
    on_succeeded: OnSucceeded | None = None
    clock: Callable[[], float] = time.time
