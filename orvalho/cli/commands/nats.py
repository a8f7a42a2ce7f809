"""`orvalho nats`: a NATS server that carries what our devices say to each other."""

from __future__ import annotations

from pathlib import Path

import click

from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.control.road import NatsConfig, NatsConfigured


@click.group(
    "nats",
    cls=Noun,
    examples=(
        "orvalho nats config",
        "orvalho nats config --listen 0.0.0.0:4222 --tls ./certificates",
        "orvalho nats config --json",
    ),
)
def command() -> None:
    """NATS: a server in the middle, for devices that cannot reach each other."""


@command.command(
    "config",
    cls=Verb,
    examples=(
        "orvalho nats config",
        "orvalho nats config --out /etc/nats --tls /etc/nats/certificates",
        "orvalho nats config --leaf-hub 0.0.0.0:7422",
        "orvalho nats config --leaf nats-leaf://leaf:PASSWORD@hub.example:7422",
        "orvalho nats config --callout",
    ),
)
@click.option("--out", metavar="DIR", help="Where to write it (nats in the state directory).")
@click.option(
    "--listen",
    default="0.0.0.0:4222",
    metavar="HOST:PORT",
    help="Where the server is to listen (0.0.0.0:4222).",
)
@click.option("--tls", metavar="DIR", help="A directory with cert.pem and key.pem.")
@click.option("--leaf", metavar="URL", help="A NATS server that this one leans on.")
@click.option(
    "--leaf-hub", metavar="HOST:PORT", help="Where other NATS servers may lean on this one."
)
@click.option("--callout", is_flag=True, help="The server asks this daemon who may come in.")
@click.pass_obj
def config(
    session: Session,
    *,
    out: str | None,
    listen: str,
    tls: str | None,
    leaf: str | None,
    leaf_hub: str | None,
    callout: bool,
) -> None:
    """Write the configuration of a NATS server that lets in this node and those paired with it,
    each with the rights to its own messages. The daemon writes it again when a device is paired
    or forgotten, and has the server read it; with --callout the server asks instead, at each
    connection, and lets in nobody while the daemon is off."""
    request = NatsConfig(
        out=_absolute(out),
        listen=listen,
        tls=_absolute(tls),
        leaf=leaf,
        leaf_hub=leaf_hub,
        callout=callout,
    )
    with session.connect() as client:
        reply = client.ask(request, NatsConfigured)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    verb = "wrote" if reply.changed else "already written:"
    session.screen.line(f"{verb} {reply.path}")
    session.screen.line(f"  nodes    {', '.join(reply.nodes)}")
    session.screen.line(f"  start    nats-server -c {reply.path}")
    session.screen.line(f"  address  {reply.address}")
    if reply.leaf is not None:
        session.screen.line(f"  leaves   orvalho nats config --leaf {reply.leaf}")
    if reply.callout and reply.changed:
        session.screen.notice(
            "a server that runs already must be stopped and started for --callout"
        )
    session.screen.notice("on each device: add the address to `listen` in config.toml")


def _absolute(path: str | None) -> str | None:
    """The daemon's working directory is not ours."""
    return None if path is None else str(Path(path).expanduser().absolute())
