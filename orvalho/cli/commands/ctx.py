"""`orvalho ctx`: the contexts of this node, and what lies in them."""

from __future__ import annotations

import click

from orvalho.cli.commands import ctx_mounts, ctx_past
from orvalho.cli.output import age, many, moment, size
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
from orvalho.control.schemas import SchemaCheck, SchemaChecked, SchemaList, SchemaListReply
from orvalho.errors import InvalidInput


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


command.add_command(ctx_mounts.mount)
command.add_command(ctx_mounts.umount)
command.add_command(ctx_mounts.mounts)


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
    "ls",
    cls=Verb,
    examples=("orvalho ctx ls", "orvalho ctx ls alice:/inbox", "orvalho ctx ls /alice --json"),
)
@click.argument("path", metavar="[PATH]", required=False)
@click.pass_obj
def ls(session: Session, path: str | None) -> None:
    """The contexts, or what lies under a path: CONTEXT:/PATH, or / with one directory a context."""
    with session.connect() as client:
        if path is None:
            _show_contexts(session, client.ask(ContextList(), ContextListReply))
        else:
            _show_files(session, client.ask(ContextFiles(path=_whole(path)), FilesReply))


def _whole(path: str) -> str:
    """`alice:/inbox` as the one tree of all contexts has it: `/alice/inbox`."""
    context, colon, rest = path.partition(":")
    if not colon or "/" in context:
        return path
    return f"/{context}/{rest.lstrip('/')}"


@command.group(
    "schema",
    cls=Noun,
    examples=(
        "orvalho ctx schema ls",
        "orvalho ctx schema check alice",
        "orvalho ctx schema check --json",
    ),
)
def schema() -> None:
    """Schemas: what documents must look like. They lie in /schema of a context's own tree."""


@schema.command(
    "ls",
    cls=Verb,
    examples=(
        "orvalho ctx schema ls",
        "orvalho ctx schema ls alice",
        "orvalho ctx schema ls --json",
    ),
)
@click.argument("context", metavar="[CONTEXT]", required=False)
@click.pass_obj
def schema_ls(session: Session, context: str | None) -> None:
    """What each schema is bound to, and what is wrong with it."""
    with session.connect() as client:
        reply = client.ask(SchemaList(context=context), SchemaListReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    rows = [
        (
            each.context,
            each.schema,
            ", ".join(each.files) or None,
            each.kv,
            ", ".join(each.indexed) or None,
            each.problem or "good",
        )
        for each in reply.schemas
    ]
    session.screen.table(("context", "schema", "files", "kv", "index", "state"), rows)
    for name, why in reply.closed:
        session.screen.line(f"{name} takes no writes but to /schema: {why}")


@schema.command(
    "check",
    cls=Verb,
    examples=(
        "orvalho ctx schema check",
        "orvalho ctx schema check alice",
        "orvalho ctx schema check --json",
    ),
)
@click.argument("context", metavar="[CONTEXT]", required=False)
@click.pass_obj
def schema_check(session: Session, context: str | None) -> None:
    """Hold what lies there already against the schemas; tell all that does not fit."""
    with session.connect() as client:
        reply = client.ask(SchemaCheck(context=context), SchemaChecked)
    if session.screen.as_json:
        session.screen.document(plain(reply))
    else:
        session.screen.lines(reply.problems)
        for misfit in reply.misfits:
            session.screen.line(f"{misfit.context}:{misfit.at}")
            session.screen.lines(f"  {mistake}" for mistake in misfit.mistakes)
    if reply.found or reply.problems:
        raise InvalidInput(
            f"{reply.found} of {many(reply.documents, 'document')} do not fit, and"
            f" {many(len(reply.problems), 'schema')} cannot be used"
        )
    if not session.screen.as_json and not session.screen.quiet:
        session.screen.line(f"{many(reply.documents, 'document')}: good")


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
