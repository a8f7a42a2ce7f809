"""`orvalho service`: libraries that stay, so that their memory lives on between calls."""

from __future__ import annotations

import click

from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.control.libraries import ServiceStart, ServiceStop
from orvalho.control.messages import Note


@click.group(
    "service",
    cls=Noun,
    examples=("orvalho service start counter", "orvalho services", "orvalho service stop counter"),
)
def command() -> None:
    """Services: published libraries that stay, each with one memory for all its calls."""


@command.command(
    "start",
    cls=Verb,
    examples=(
        "orvalho service start counter",
        "orvalho service start counter --ctx work",
        "orvalho service start counter --json",
    ),
)
@click.argument("name", metavar="LIBRARY")
@click.option("--ctx", "target", metavar="CONTEXT", help="In which context it runs.")
@click.pass_obj
def start(session: Session, name: str, target: str | None) -> None:
    """Keep one instance of LIBRARY: from now on calls of it there go to that one, one
    after the other. A trap ends the instance, and the next call makes a fresh one. It is gone when
    the daemon ends."""
    with session.connect() as client:
        session.tell(client.ask(ServiceStart(name=name, target=target), Note))


@command.command(
    "stop",
    cls=Verb,
    examples=(
        "orvalho service stop counter",
        "orvalho service stop counter --ctx work",
        "orvalho service stop counter --json",
    ),
)
@click.argument("name", metavar="LIBRARY")
@click.option("--ctx", "target", metavar="CONTEXT", help="In this context alone.")
@click.pass_obj
def stop(session: Session, name: str, target: str | None) -> None:
    """End the service LIBRARY; what it had in memory is gone."""
    with session.connect() as client:
        session.tell(client.ask(ServiceStop(name=name, target=target), Note))
