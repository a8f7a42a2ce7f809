"""The migrations of every room that keeps something in the database, in the order of its making."""

from __future__ import annotations

from orvalho.contexts import held, kv, refused, trust
from orvalho.daemon import file_queue
from orvalho.peers import node as peers
from orvalho.peers import records
from orvalho.policies import audit, usage
from orvalho.scripts import runs, sources, traces

MIGRATIONS = (
    trust.MIGRATIONS,
    refused.MIGRATIONS,
    records.MIGRATIONS,
    held.MIGRATIONS,
    kv.MIGRATIONS,
    audit.MIGRATIONS,
    runs.MIGRATIONS,
    usage.MIGRATIONS,
    sources.MIGRATIONS,
    traces.MIGRATIONS,
    file_queue.MIGRATIONS,
    *peers.MIGRATIONS,
)
