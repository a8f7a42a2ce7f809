"""`orvalho quota`: what each group may use, and has used."""

from __future__ import annotations

import click

from orvalho.cli.output import duration, moment, size
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.metering import Quota, QuotaReply, QuotaState

_HEADERS = ("quota", "cpu", "network", "memory", "runs", "cores", "waiting", "window", "room at")


@click.command(
    "quota",
    cls=Verb,
    examples=(
        "orvalho quota",
        "orvalho quota --json",
        "orvalho config set quota.groups.guests.cpu 10s",
    ),
)
@click.pass_obj
def command(session: Session) -> None:
    """Each quota as used/limit: of groups and, last, of all senders together. CPU and network
    count within the window, the rest at this moment; `room at` is when the oldest use is
    forgotten."""
    with session.connect() as client:
        reply = client.ask(Quota(), QuotaReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    if not reply.quotas:
        session.screen.notice("there is no quota: orvalho config set quota.total.cpu 10m")
    session.screen.table(_HEADERS, [_row(quota) for quota in reply.quotas])
    for problem in reply.problems:
        session.screen.notice(problem)


def _row(quota: QuotaState) -> tuple[object, ...]:
    cpu_limit_ms = quota.cpu_limit_ms
    return (
        quota.name if quota.name == "total" else f"@{quota.name}",
        f"{quota.cpu_ms / 1000:.3f} s/" + ("-" if cpu_limit_ms is None else _seconds(cpu_limit_ms)),
        _of(size(quota.network_bytes), quota.network_limit_bytes),
        _of(size(quota.memory_bytes), quota.memory_limit_bytes),
        f"{quota.running}/{'-' if quota.runs_limit is None else quota.runs_limit}",
        quota.cores_limit,
        quota.waiting,
        duration(quota.window_s),
        None if quota.room_at is None else moment(quota.room_at),
    )


def _of(used: str, limit: int | None) -> str:
    return f"{used}/{'-' if limit is None else size(limit)}"


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".") + " s"
