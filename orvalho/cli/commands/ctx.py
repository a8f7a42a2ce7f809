"""`orvalho ctx`: the contexts of this node, and what lies in them."""

from __future__ import annotations

import click

from orvalho.cli.commands import ctx_past
from orvalho.cli.output import age, moment, size
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.control.messages import (
    ContextFiles,
    ContextList,
    ContextListReply,
    ContextNew,
    FilesReply,
    Note,
)


@click.group(
    "ctx",
    cls=Noun,
    examples=(
        "orvalho ctx new alice",
        "orvalho ctx ls /alice/inbox",
        "orvalho ctx log alice",
        "orvalho ctx undo r_01JD4Q8V",
        "orvalho ctx at yesterday -- ls /photos",
    ),
)
def command() -> None:
    """Contexts: named peers on this node. Each has a key, a tree, rules and a past of its own."""


@command.command(
    "new",
    cls=Verb,
    examples=("orvalho ctx new alice", "orvalho ctx new work --json", "orvalho ctx new notes -q"),
)
@click.argument("name", metavar="NAME")
@click.pass_obj
def new(session: Session, name: str) -> None:
    """Make a context: its key, its tree and a policy file to edit."""
    with session.connect() as client:
        session.tell(client.ask(ContextNew(name=name), Note))


@command.command(
    "ls", cls=Verb, examples=("orvalho ctx ls", "orvalho ctx ls /", "orvalho ctx ls /alice --json")
)
@click.argument("path", metavar="[PATH]", required=False)
@click.pass_obj
def ls(session: Session, path: str | None) -> None:
    """The contexts, or what lies under a path: / has one directory a context."""
    with session.connect() as client:
        if path is None:
            _show_contexts(session, client.ask(ContextList(), ContextListReply))
        else:
            _show_files(session, client.ask(ContextFiles(path=path), FilesReply))


def _show_contexts(session: Session, reply: ContextListReply) -> None:
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    rows = [
        (
            context.name,
            context.files,
            f"{size(context.used_bytes)} of {size(context.quota_bytes)}",
            context.worker,
            context.key,
        )
        for context in reply.contexts
    ]
    session.screen.table(("context", "files", "used", "worker", "key"), rows)


def _show_files(session: Session, reply: FilesReply) -> None:
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    rows = [
        (
            entry.name + ("/" if entry.is_dir else ""),
            None if entry.is_dir else size(entry.size_bytes),
            _changed(session, entry.modified_at),
        )
        for entry in reply.entries
    ]
    session.screen.table(("name", "size", "changed"), rows)


def _changed(session: Session, at: float | None) -> str | None:
    if at is None:
        return None
    return moment(at) if session.screen.verbose else age(at)


for _verb in ctx_past.VERBS:
    command.add_command(_verb)
