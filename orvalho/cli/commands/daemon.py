"""`orvalho daemon`: the process that holds keys, rules and connections."""

from __future__ import annotations

import os
import sys
import time
from typing import Final

import click

from orvalho.cli.output import duration
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.control.client import Client
from orvalho.control.messages import DaemonStop, Note, Status, StatusReply
from orvalho.control.start import daemon_command
from orvalho.errors import Unavailable

_STOP_S: Final = 15.0


@click.group(
    "daemon",
    cls=Noun,
    examples=("orvalho daemon start", "orvalho daemon status", "orvalho daemon stop"),
)
def command() -> None:
    """Start and stop the process behind every other command."""


@command.command(
    "run",
    cls=Verb,
    examples=(
        "orvalho daemon run",
        "orvalho daemon run --home /media/stick/orvalho",
        "ORVALHO_LOG_LEVEL=debug orvalho daemon run",
    ),
)
@click.pass_obj
def run(session: Session) -> None:
    """Be the daemon, here in the foreground, until Ctrl-C."""
    sys.stdout.flush()
    argv = daemon_command(session.place, "run", "--foreground")
    os.execv(argv[0], argv)  # noqa: S606 - our own program takes this one's place


@command.command(
    "start",
    cls=Verb,
    examples=(
        "orvalho daemon start",
        "orvalho daemon start --home /media/stick/orvalho",
        "orvalho daemon start --json",
    ),
)
@click.pass_obj
def start(session: Session) -> None:
    """Start the daemon in the background. Any command that needs it does that too."""
    try:
        client, changed = session.connect_running(), False
    except Unavailable:
        client, changed = session.connect(), True
    with client:
        _tell(session, client, "started" if changed else "already running", changed=changed)


@command.command(
    "status",
    cls=Verb,
    examples=(
        "orvalho daemon status",
        "orvalho daemon status --json",
        "orvalho daemon status --quiet && echo it runs",
    ),
)
@click.pass_obj
def status(session: Session) -> None:
    """Whether the daemon runs; exit status 4 when it does not. Never starts it."""
    with session.connect_running() as client:
        _tell(session, client, "running", changed=False)


@command.command(
    "stop",
    cls=Verb,
    examples=(
        "orvalho daemon stop",
        "orvalho daemon stop --grace 30",
        "orvalho daemon stop --home /media/stick/orvalho",
    ),
)
@click.option(
    "--grace",
    "grace_s",
    type=click.FloatRange(min=0),
    default=5.0,
    metavar="SECONDS",
    help="How long running scripts may take to end (5).",
)
@click.pass_obj
def stop(session: Session, grace_s: float) -> None:
    """End the daemon once running scripts have ended, at most 5 s (or --grace) from now: those that
    still run are broken off."""
    try:
        client = session.connect_running()
    except Unavailable:
        session.tell(Note(text="already stopped", changed=False))
        return
    try:
        for _ in client.stream(DaemonStop(grace_s=grace_s)):
            pass
    except Unavailable:
        session.screen.progress("the daemon hung up")
    client.close()
    _wait_until_gone(session, grace_s + _STOP_S)
    session.tell(Note(text="stopped"))


def _wait_until_gone(session: Session, limit_s: float) -> None:
    give_up_at = time.monotonic() + limit_s
    while time.monotonic() < give_up_at:
        try:
            session.connect_running().close()
        except Unavailable:
            return
        time.sleep(0.02)
    raise Unavailable(f"the daemon still answers after {limit_s:g} s.", hint="orvalho doctor")


def _tell(session: Session, client: Client, verb: str, *, changed: bool) -> None:
    reply = client.ask(Status(), StatusReply)
    if session.screen.as_json:
        names = ("node", "version", "pid", "started_at", "listening")
        fields = {name: value for name, value in plain(reply).items() if name in names}
        session.screen.document({"running": True, "changed": changed, **fields})
    elif not session.screen.quiet:
        up = duration(time.time() - reply.started_at)
        session.screen.line(f"{verb}: {reply.node}, pid {reply.pid}, up {up}")
