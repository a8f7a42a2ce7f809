"""`orvalho secret`: credentials that mounts use."""

from __future__ import annotations

import sys
from typing import Final

import click

from orvalho.cli.arguments import read_text
from orvalho.cli.confirm import confirm
from orvalho.cli.output import moment
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.control.messages import Note
from orvalho.control.storage import (
    SecretList,
    SecretListReply,
    SecretRemove,
    SecretSet,
    SecretShow,
    SecretShown,
    SecretState,
)
from orvalho.errors import InvalidInput

_HEADERS: Final = ("secret", "for", "used by", "set")


@click.group(
    "secret",
    cls=Noun,
    examples=("orvalho secret set photos", "orvalho secret ls", "orvalho secret rm photos"),
)
def command() -> None:
    """Secrets: credentials for mounts, encrypted on this device, and never in a log."""


@command.command(
    "set",
    cls=Verb,
    examples=(
        "orvalho secret set photos",
        "orvalho secret set photos --for alice < credentials.txt",
        "orvalho secret set photos --for alice --for bob",
    ),
)
@click.argument("name", metavar="NAME")
@click.option("--for", "contexts", metavar="CONTEXT", multiple=True, help="Only for its mounts.")
@click.pass_obj
def set_(session: Session, name: str, contexts: tuple[str, ...]) -> None:
    """Keep a secret, asked for or from standard input: never from the command line, which others
    see. For s3:// it is ACCESS_KEY_ID:SECRET_ACCESS_KEY."""
    request = SecretSet(name=name, value=_ask_value(), contexts=contexts)
    with session.connect() as client:
        session.tell(client.ask(request, Note))


def _ask_value() -> str:
    if not sys.stdin.isatty():
        return read_text("-").rstrip("\r\n")
    value: str = click.prompt("secret", hide_input=True, err=True)
    return value


@command.command(
    "ls",
    cls=Verb,
    examples=("orvalho secret ls", "orvalho secret ls --json", "orvalho secret ls -q"),
)
@click.pass_obj
def ls(session: Session) -> None:
    """The names of the secrets, who may use them and which mounts do; never a value."""
    with session.connect() as client:
        reply = client.ask(SecretList(), SecretListReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    session.screen.table(_HEADERS, [_row(each) for each in reply.secrets])
    for each in reply.secrets:
        if each.problem:
            session.screen.notice(each.problem)


def _row(secret: SecretState) -> tuple[object, ...]:
    whom = ", ".join(secret.contexts) or "all"
    when = moment(secret.set_at) if secret.set_at else None
    return secret.name, whom, ", ".join(secret.mounts) or None, when


@command.command(
    "show",
    cls=Verb,
    examples=(
        "orvalho secret show photos",
        "orvalho secret show photos --reveal",
        "orvalho secret show photos --json",
    ),
)
@click.argument("name", metavar="NAME")
@click.option("--reveal", is_flag=True, help="Print the value too; only on a terminal.")
@click.pass_obj
def show(session: Session, name: str, reveal: bool) -> None:
    """One secret: who may use it, and which mounts do."""
    if reveal and not sys.stdout.isatty():
        raise InvalidInput("a secret is shown on a terminal alone, not in a pipe or a file.")
    with session.connect() as client:
        reply = client.ask(SecretShow(name=name, reveal=reveal), SecretShown)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    session.screen.table(_HEADERS, [_row(reply.secret)])
    if reply.value is not None:
        session.screen.line(reply.value)


@command.command(
    "rm",
    cls=Verb,
    examples=("orvalho secret rm photos", "orvalho secret rm old -y", "orvalho secret rm x -y -q"),
)
@click.argument("name", metavar="NAME")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def rm(session: Session, name: str, yes: bool) -> None:
    """Forget a secret. Mounts that use it work no longer."""
    if not yes:
        confirm(f"forget the secret {name}?")
    with session.connect() as client:
        session.tell(client.ask(SecretRemove(name=name), Note))
