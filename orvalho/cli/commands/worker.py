"""`orvalho worker`: the processes that hold guests."""

from __future__ import annotations

import click

from orvalho.cli.output import age, size
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.control.messages import WorkerList, WorkerListReply


@click.group(
    "worker",
    cls=Noun,
    examples=(
        "orvalho worker ls",
        "orvalho worker ls --json",
        "orvalho --home ./phone2 worker ls",
    ),
)
def command() -> None:
    """Workers: the processes in which scripts run. They have no keys or files of their own."""


@command.command(
    "ls",
    cls=Verb,
    examples=(
        "orvalho worker ls",
        "orvalho worker ls --json",
        "orvalho --home ./phone2 worker ls",
    ),
)
@click.pass_obj
def ls(session: Session) -> None:
    """Which worker serves which contexts, and what it holds."""
    with session.connect() as client:
        reply = client.ask(WorkerList(), WorkerListReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    rows = [
        (
            worker.worker,
            worker.pid,
            ", ".join(worker.contexts) or None,
            worker.running,
            worker.runs,
            size(worker.rss_bytes),
            age(worker.started_at),
        )
        for worker in reply.workers
    ]
    headers = ("worker", "pid", "contexts", "running", "runs", "memory", "started")
    session.screen.table(headers, rows)
