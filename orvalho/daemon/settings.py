"""The settings, section by section, with their defaults: `config.py` reads them."""

from __future__ import annotations

from typing import Final

import msgspec

DEFAULT_PORT: Final = 4455


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of config.toml. Unknown keys are refused: they are typos."""


class Log(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    level: str = "info"


class Workers(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`contexts_per_worker`: 1 gives each context a process of its own."""

    contexts_per_worker: int = 8
    runs_at_once: int = 128
    runs_at_once_per_peer: int = 64


class Limits(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most a script may ask for, and what it gets when it does not ask."""

    wall: str = "30s"
    cpu: str = "10s"
    memory: str = "64MB"
    output: str = "4MB"
    host_calls: int = 10_000
    network: str = "256MB"
    max_wall: str = "1h"
    max_memory: str = "512MB"


class SharedQuota(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What senders together may use of this node: `cpu` and `network` within a `window` that
    slides, the rest at one moment. An empty text and 0 are "no limit". `queue`: who is over it
    waits, instead of being refused."""

    cpu: str = ""
    cores: int = 0
    memory: str = ""
    network: str = ""
    runs_at_once: int = 0
    window: str = "1h"
    queue: bool = False


class Quota(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one context may hold; what all senders together may use, and those of a group:
    `[quota.groups.guests]`."""

    context_bytes: str = "1GB"
    context_files: int = 100_000
    kv_bytes: str = "64MB"
    total: SharedQuota = SharedQuota()
    groups: dict[str, SharedQuota] = {}


class Retention(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long we keep runs that have ended, and the audit log. What was used stays counted."""

    runs: str = "90d"
    audit: str = "365d"


class History(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long we keep what contexts were before, and how many bytes of it at most."""

    keep: str = "90d"
    max_bytes: str = "1GB"


class Recorder(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What scripts read here is kept with their runs, so that `orvalho replay` can make them
    again: `keep` is on or off, `max_bytes` the most of it for one run."""

    keep: str = "on"
    max_bytes: str = "1MB"


class Delivery(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What we keep for peers that are off. `grace`: how long a send without --wait waits for a
    connection before it says "queued"."""

    per_peer_bytes: str = "256MB"
    per_peer_count: int = 10_000
    grace: str = "2s"


class Depot(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Mail that we keep, sealed, from one own device for another that is off: the most from each
    depositor. Ours is kept by others whatever stands here."""

    enabled: bool = True
    per_peer_bytes: str = "64MB"
    per_peer_count: int = 1000


class Relay(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether frames between two of our own devices may pass through here."""

    enabled: bool = True


class Broker(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A program of the owner's that is asked, at its Unix `socket`, for leave to do `actions` that
    the rules have allowed. What it does not allow within `timeout` is refused."""

    socket: str = ""
    actions: tuple[str, ...] = ()
    timeout: str = "2s"


class Policy(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`explain_to`: whom a refusal's reason is told: "own" devices, "all" peers, "none".
    `readings`: a JSON file that says what conditions of rules are about, `{"battery": 31,
    "charging": false, "metered": true}`, where the machine itself does not tell."""

    explain_to: str = "own"
    readings: str = ""
    broker: Broker = Broker()


class Node(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What other devices of yours may choose this one by: `labels = ["env=home"]`."""

    labels: tuple[str, ...] = ()


class Mesh(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How devices find each other. `heartbeat`: how often what each one knows is compared; a
    device that is off is called dead within three. `beacons`: be heard and listen on the local
    network. `bootstrap`: further addresses of peers, `laptop=ws://192.168.1.20:4455`."""

    heartbeat: str = "5s"
    beacons: bool = True
    beacon_port: int = 4456
    bootstrap: tuple[str, ...] = ()


class Pairing(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`port`: UDP, where devices on this network ask who shows a code; 0 answers nobody. It counts
    from the next start.
    `approve`: a device that comes with a code or a ticket waits until its owner here approves."""

    port: int = 4457
    approve: bool = False


class Nats(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`stream`: the JetStream stream that keeps sealed mail for peers that are off, on the first
    NATS server of `listen`; empty for none. `registry`: with a stream, this node's record (its
    name, addresses and contexts, and whom it is paired with) lies there for its owner's others."""

    stream: str = ""
    registry: bool = True


class ContextSettings(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[contexts.NAME]`. `disabled`: words for what no script there has: eval, Function,
    WebAssembly, timers, fs, fs.read, fs.write, fs.remove, kv, kv.read, kv.write, node."""

    disabled: tuple[str, ...] = ()


class Config(_Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`context`: which of our contexts sends, where a command does not say."""

    name: str
    context: str = ""
    listen: tuple[str, ...] = (f"ws://0.0.0.0:{DEFAULT_PORT}",)
    log: Log = Log()
    workers: Workers = Workers()
    limits: Limits = Limits()
    quota: Quota = Quota()
    delivery: Delivery = Delivery()
    depot: Depot = Depot()
    relay: Relay = Relay()
    policy: Policy = Policy()
    node: Node = Node()
    mesh: Mesh = Mesh()
    pairing: Pairing = Pairing()
    nats: Nats = Nats()
    retention: Retention = Retention()
    contexts: dict[str, ContextSettings] = {}
    history: History = History()
    recorder: Recorder = Recorder()
