"""`orvalho key`: the keys of this node."""

from __future__ import annotations

import time
from typing import Final

import click

from orvalho.cli.confirm import confirm
from orvalho.cli.output import moment
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.control.pairing import (
    KeyPhrase,
    KeyPhraseReply,
    KeyReply,
    KeyRotate,
    KeyRotated,
    KeyShow,
)
from orvalho.errors import Unavailable

_RESTART_S: Final = 30.0


@click.group(
    "key",
    cls=Noun,
    examples=("orvalho key show", "orvalho key phrase", "orvalho key rotate"),
)
def command() -> None:
    """The keys of this node: show them, write them down, change the one that peers know."""


@command.command(
    "show",
    cls=Verb,
    examples=("orvalho key show", "orvalho key show --json", "orvalho --home DIR key show"),
)
@click.pass_obj
def show(session: Session) -> None:
    """The device id, the node's and its owner's public keys, and since when."""
    with session.connect() as client:
        reply = client.ask(KeyShow(), KeyReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    rows = [
        ("device id", reply.device_id),
        ("key", reply.key),
        ("owner key", reply.owner_key),
        ("created", moment(reply.created_at)),
    ]
    if reply.rotations:
        when = f", last {moment(reply.rotated_at)}" if reply.rotated_at else ""
        rows.append(("rotated", f"{reply.rotations} times{when}"))
    session.screen.table(("what", "value"), rows)


@command.command(
    "phrase",
    cls=Verb,
    examples=(
        "orvalho key phrase",
        "orvalho key phrase -y",
        "orvalho key phrase -y --json",
    ),
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def phrase(session: Session, yes: bool) -> None:
    """Print the recovery phrase: 24 words (and a number, if the key was ever changed) that give a
    new device these keys, by `orvalho init --restore`. Who has them is you."""
    if not yes:
        confirm("show the words that are all your keys on this device?")
    with session.connect() as client:
        reply = client.ask(KeyPhrase(), KeyPhraseReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    session.screen.line(reply.phrase)
    session.screen.notice(
        "write them on paper, in this order; on a new device: orvalho init --restore"
    )


@command.command(
    "rotate",
    cls=Verb,
    examples=("orvalho key rotate", "orvalho key rotate -y --json", "orvalho key rotate --force"),
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Give up mail that waits and scripts that run.")
@click.pass_obj
def rotate(session: Session, yes: bool, force: bool) -> None:
    """Change the node key. Peers stay paired: each learns of it when it next meets this node, by
    the word of the old key and of the owner's, for 30 days. The owner's key and those of contexts
    stay. The daemon begins anew."""
    if not yes:
        confirm("change this node's key? Its device id and its check words change too.")
    with session.connect() as client:
        reply = client.ask(KeyRotate(force=force), KeyRotated)
    _await_key(session, reply.key)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    session.screen.line(f"the node key has changed: device id {reply.device_id}")
    for peer in reply.peers:
        session.screen.line(f"  {peer.name}  words  {peer.check_words}")


def _await_key(session: Session, key: str) -> None:
    """Until the daemon has begun anew. Never starts one: it is its own."""
    give_up_at = time.monotonic() + _RESTART_S
    while True:
        try:
            with session.connect_running() as client:
                if client.ask(KeyShow(), KeyReply).key == key:
                    return
        except Unavailable:
            session.screen.progress("the daemon begins anew")
        if time.monotonic() > give_up_at:
            raise Unavailable(
                "the key has changed, but the daemon does not answer again",
                hint="orvalho daemon status",
            )
        time.sleep(0.1)
