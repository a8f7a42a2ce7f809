"""The migrations of every room that keeps something in the database, in the order of its making."""

from __future__ import annotations

from orvalho.contexts import contents, documents, held, history, kv, refused, trust
from orvalho.daemon import file_queue
from orvalho.peers import node as peers
from orvalho.peers import records
from orvalho.policies import audit, grant_book, usage
from orvalho.scripts import held_runs, plan, runs, sources, traces

MIGRATIONS = (
    trust.MIGRATIONS,
    refused.MIGRATIONS,
    records.MIGRATIONS,
    held.MIGRATIONS,
    kv.MIGRATIONS,
    contents.MIGRATIONS,
    history.MIGRATIONS,
    documents.MIGRATIONS,
    audit.MIGRATIONS,
    runs.MIGRATIONS,
    usage.MIGRATIONS,
    sources.MIGRATIONS,
    plan.MIGRATIONS,
    held_runs.MIGRATIONS,
    traces.MIGRATIONS,
    file_queue.MIGRATIONS,
    grant_book.MIGRATIONS,
    *peers.MIGRATIONS,
)
