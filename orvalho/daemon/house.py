"""Everything that is wired together, by name: what operations and handlers are given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from orvalho.contexts.commit import Committer
from orvalho.contexts.context import Context, Contexts
from orvalho.contexts.documents import Documents
from orvalho.contexts.groups import Groups
from orvalho.contexts.identity import Identity, Key
from orvalho.contexts.kv import KeyValue, KvLimits
from orvalho.contexts.refused import RefusedKeys
from orvalho.contexts.secrets import Secrets
from orvalho.contexts.trust import TrustBook
from orvalho.contexts.workspace import Workspace
from orvalho.daemon.broker import Broker
from orvalho.daemon.config import LoadedConfig
from orvalho.daemon.events import Events
from orvalho.daemon.feed import Feed
from orvalho.daemon.greeting import Greeted
from orvalho.daemon.home import Home
from orvalho.daemon.lan import Lan
from orvalho.daemon.mesh import Mesh
from orvalho.daemon.mounts import Mounts
from orvalho.daemon.past import Past
from orvalho.daemon.run_words import RunEvent
from orvalho.daemon.services import Services
from orvalho.errors import NotFound
from orvalho.peers.node import Node
from orvalho.policies.audit import Audit
from orvalho.policies.book import PolicyBook
from orvalho.policies.grant_book import GrantBook
from orvalho.policies.ledger import Ledger
from orvalho.policies.quota import parse_size
from orvalho.policies.quotas import Quotas
from orvalho.runtime.job import Jobs
from orvalho.scripts.library import Libraries
from orvalho.scripts.runs import Runs
from orvalho.store import Store

_VALUE_BYTES: Final = 1 << 20
_VALUES: Final = 1_000_000


@dataclass(slots=True)
class House:
    """The rooms of one running daemon. Only `settings` and `problems` change while it runs."""

    home: Home
    settings: LoadedConfig
    identity: Identity
    store: Store
    trust: TrustBook
    groups: Groups
    contexts: Contexts
    committer: Committer
    secrets: Secrets
    mounts: Mounts
    past: Past
    policy: PolicyBook
    grants: GrantBook
    broker: Broker
    audit: Audit
    ledger: Ledger
    quotas: Quotas
    jobs: Jobs
    node: Node
    refused: RefusedKeys
    mesh: Mesh
    # None where beacons are off.
    lan: Lan | None
    runs: Runs
    libraries: Libraries
    services: Services
    feed: Feed[RunEvent]
    started_at: float
    stop: Callable[[float], None]
    # How our side of a script answers its target: also for a target that is this very node.
    answer_caller: Callable[[Key, bytes], Awaitable[bytes]]
    # What the owner should mend, by where it comes from: "policy", "groups", "config",
    # "nats".
    problems: dict[str, tuple[str, ...]] = field(default_factory=dict)
    # What helps with one of these, by its text, where it is not to mend a file.
    hints: dict[str, str] = field(default_factory=dict)
    # What each peer last said of itself.
    greeted: dict[Key, Greeted] = field(default_factory=dict)
    events: Events = field(default_factory=Events)

    @property
    def name(self) -> str:
        return self.settings.config.name

    def labels_of(self, node_key: Key) -> frozenset[str]:
        """What a node may be chosen by, `key=value` each, as it says itself: the labels that its
        owner gave it, and what it found out itself where these say nothing."""
        given = self.given_labels_of(node_key)
        keys = {label.partition("=")[0] for label in given}
        found = self.mesh.labels_of(node_key)
        return given | {label for label in found if label.partition("=")[0] not in keys}

    def given_labels_of(self, node_key: Key) -> frozenset[str]:
        """The labels that a node's owner gave it."""
        if node_key == self.identity.node.key:
            return frozenset(self.settings.config.node.labels)
        return self.greeted.get(node_key, Greeted()).labels

    def caller(self, name: str | None, verb: str = "send") -> Context:
        """Our context of that name, else the usual one, else the first.

        Raises:
            NotFound: there is none; `verb` says what it was needed for.
        """
        usual = name or self.settings.config.context
        if usual:
            return self.contexts.get(usual)
        found = self.contexts.list()
        if not found:
            raise NotFound(f"this node has no context to {verb} from", hint="orvalho ctx new NAME")
        return found[0]

    def values_of(self, context: str) -> KeyValue:
        """The key-value store of one of our contexts."""
        total = parse_size(self.settings.config.quota.kv_bytes)
        limits = KvLimits(_VALUE_BYTES, total, _VALUES)
        return KeyValue(self.store, context, limits, self.contexts.get(context).schemas.current)

    def documents_of(self, context: str) -> Documents:
        """The collections in that store, for who asks about many values at once."""
        return Documents(self.store, context, self.contexts.get(context).schemas.current)

    def workspace(self, context: Context) -> Workspace:
        """What a run reads and changes of a context, until it is committed."""
        values = self.values_of(context.name)
        return Workspace(context, values, self.committer.contents.draft)
