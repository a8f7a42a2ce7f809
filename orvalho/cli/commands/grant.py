"""`orvalho grant`: rights that are given by a text, narrowed and handed on."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any, Final

import click

from orvalho.cli.arguments import Until, grant_text, read_script
from orvalho.cli.confirm import confirm
from orvalho.cli.modules import digests_of, find_modules
from orvalho.cli.output import age, many, moment
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Noun, Verb
from orvalho.control.client import Client
from orvalho.control.grants import (
    GrantForget,
    GrantKeep,
    GrantLinkState,
    GrantList,
    GrantListReply,
    GrantNarrow,
    GrantNew,
    GrantReply,
    GrantRevoke,
    GrantShow,
)
from orvalho.control.messages import Note

# Letters of an id that are enough to revoke by, unasked.
_PLAIN_ID: Final = 7


@click.group(
    "grant",
    cls=Noun,
    examples=(
        'orvalho grant new --to bob --needs "target.fs.read:/Pictures/**" --until fri',
        "orvalho grant ls",
        "orvalho grant revoke g_3MYRH0KN",
    ),
)
def command() -> None:
    """Grants: texts that let their holder do what no rule allows, until they end or are
    revoked."""


def _terms(function: Any) -> Any:
    """The options that new and narrow have in common."""
    for option in (
        click.option("--qr", is_flag=True, help="Draw its QR code as well."),
        click.option(
            "--uses", type=click.IntRange(1, 1_000_000), metavar="N", help="For N runs at most."
        ),
        click.option("--run", "file", metavar="FILE", help="For this very script alone."),
        click.option(
            "--needs",
            metavar="NEED",
            multiple=True,
            help="What it allows, like target.fs.read:/Pictures/** (again for more).",
        ),
    ):
        function = option(function)
    return function


@command.command(
    "new",
    cls=Verb,
    examples=(
        'orvalho grant new --to bob --needs "target.fs.read:/Pictures/**" --until fri',
        "orvalho grant new --to gil@bob --run photo.js --needs target.fs.write:/in/** --uses 3",
        'orvalho grant new --needs "target.kv.read:shared/**" --until 2h --qr',
    ),
)
@click.option(
    "--to", metavar="PEER", help="Whose scripts may use it: a node, CONTEXT@NODE or a key."
)
@click.option("--context", metavar="CONTEXT", help="Where: one of our contexts.")
@click.option(
    "--until",
    type=Until(),
    default="30d",
    metavar="WHEN",
    help="7d, fri, tomorrow, 2026-12-01 or never (30d).",
)
@_terms
@click.pass_obj
def new(
    session: Session,
    *,
    to: str | None,
    context: str | None,
    until: float | None,
    needs: tuple[str, ...],
    file: str | None,
    uses: int | None,
    qr: bool,
) -> None:
    """Give a right away as a text: to run scripts in a context of ours, and to do there what NEED
    says. A deny among our rules still holds. Without --to, whoever comes by the text has it."""
    with session.connect() as client:
        script, filename, modules = _script(client, file)
        request = GrantNew(
            to=to,
            needs=needs,
            context=context,
            until=until or None,
            uses=uses,
            script=script,
            filename=filename,
            modules=modules,
        )
        reply = client.ask(request, GrantReply)
    _give(session, reply, is_drawn=qr)


@command.command(
    "narrow",
    cls=Verb,
    examples=(
        'orvalho grant narrow g_3MYR --to carol --needs "target.fs.read:/Pictures/2024/**"',
        "orvalho grant narrow @grant.txt --to carol --until tomorrow",
        "orvalho grant narrow - --to carol --uses 1 < grant.txt",
    ),
)
@click.argument("grant", metavar="GRANT")
@click.option("--to", metavar="PEER", help="Hand it on: its scripts may use it, ours not.")
@click.option("--until", type=Until(), metavar="WHEN", help="When it ends, if not later.")
@_terms
@click.pass_obj
def narrow(
    session: Session,
    *,
    grant: str,
    to: str | None,
    until: float | None,
    needs: tuple[str, ...],
    file: str | None,
    uses: int | None,
    qr: bool,
) -> None:
    """Make a smaller grant of one that we hold (its text, @FILE or id), for ourselves or --to
    another. Its issuer need not be asked: what it allows is what every link of it allows."""
    with session.connect() as client:
        script, filename, modules = _script(client, file)
        request = GrantNarrow(
            grant=grant_text(grant),
            to=to,
            needs=needs or None,
            until=until or None,
            uses=uses,
            script=script,
            filename=filename,
            modules=modules,
        )
        reply = client.ask(request, GrantReply)
    _give(session, reply, is_drawn=qr)


@command.command(
    "keep",
    cls=Verb,
    examples=(
        "orvalho grant keep @grant.txt",
        "orvalho grant keep - < grant.txt",
        "orvalho grant keep orvalho-grant:EjRWeJASNFZ4kBI0VniQ",
    ),
)
@click.argument("grant", metavar="GRANT")
@click.pass_obj
def keep(session: Session, grant: str) -> None:
    """Keep a grant (its text, @FILE, or - for stdin). Scripts that it fits go with it from now
    on."""
    with session.connect() as client:
        reply = client.ask(GrantKeep(text=grant_text(grant)), GrantReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
    elif not session.screen.quiet:
        session.screen.lines(_told(reply))


@command.command(
    "show",
    cls=Verb,
    examples=(
        "orvalho grant show g_3MYRH0KN",
        "orvalho grant show @grant.txt",
        "orvalho grant show g_3MYRH0KN --json",
    ),
)
@click.argument("grant", metavar="GRANT")
@click.option("--qr", is_flag=True, help="Draw its QR code as well.")
@click.pass_obj
def show(session: Session, grant: str, *, qr: bool) -> None:
    """What a grant allows (its text, @FILE or id), link by link, and its text. Whether it holds,
    its issuer's device says when it is used."""
    with session.connect() as client:
        reply = client.ask(GrantShow(grant=grant_text(grant)), GrantReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    session.screen.lines(_told(reply))
    session.screen.lines(f"  {line}" for link in reply.links for line in _stated(link))
    _print(session, reply, is_drawn=qr)


@command.command(
    "ls",
    cls=Verb,
    examples=("orvalho grant ls", "orvalho grant ls --as-policy", "orvalho grant ls --json"),
)
@click.option("--as-policy", is_flag=True, help="The rules that our grants amount to.")
@click.pass_obj
def ls(session: Session, *, as_policy: bool) -> None:
    """All grants that are known here, each below the one it was made of: issued, kept, narrowed,
    and what others used here."""
    with session.connect() as client:
        reply = client.ask(GrantList(), GrantListReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
    elif as_policy:
        session.screen.lines(reply.policy)
    else:
        depth: dict[str | None, int] = {None: -1}
        for link in reply.links:
            depth[link.grant] = depth.get(link.parent, -1) + 1
        rows = [_row(link, depth[link.grant]) for link in reply.links]
        session.screen.table(("grant", "here", "to", "allows", "until", "used", "state"), rows)


@command.command(
    "revoke",
    cls=Verb,
    examples=(
        "orvalho grant revoke g_3MYRH0KN",
        "orvalho grant revoke @grant.txt",
        "orvalho grant revoke g_3MYRH0KN --json",
    ),
)
@click.argument("grant", metavar="GRANT")
@click.option("-y", "--yes", is_flag=True, help="Do not ask about an id of a few letters.")
@click.pass_obj
def revoke(session: Session, grant: str, yes: bool) -> None:
    """Cut a grant of ours (its text, @FILE or id), or one link of it: that and all that was made
    of it is refused from now on, also in runs that have begun."""
    text = grant_text(grant)
    if not yes and len(text.removeprefix("g_")) < _PLAIN_ID:
        # A few letters are typed by mistake, and a grant stays revoked.
        confirm(f"revoke {grant}, and all that was made of it?")
    with session.connect() as client:
        session.tell(client.ask(GrantRevoke(grant=text), Note))


@command.command(
    "rm",
    cls=Verb,
    examples=(
        "orvalho grant rm g_3MYRH0KN",
        "orvalho grant rm g_3MYRH0KN --json",
        "orvalho --home ./phone2 grant rm g_3MYRH0KN",
    ),
)
@click.argument("grant", metavar="GRANT")
@click.pass_obj
def rm(session: Session, grant: str) -> None:
    """Keep a grant of somebody else's no longer (it holds on; its issuer can revoke it), or one of
    ours that has ended or is revoked (it stays so)."""
    with session.connect() as client:
        session.tell(client.ask(GrantForget(grant=grant_text(grant)), Note))


def _script(client: Client, file: str | None) -> tuple[str | None, str, dict[str, str]]:
    """The digest of the script in a file, its path, and the digests of what it imports."""
    if file is None:
        return None, "", {}
    source, module, _needs = read_script(file)
    graph = find_modules(client, None if file == "-" else file, Path(file).name, source)
    digest = hashlib.sha256(module or source.encode()).hexdigest()
    return digest, graph.filename, digests_of(graph.modules)


def _give(session: Session, reply: GrantReply, *, is_drawn: bool) -> None:
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    for line in _told(reply):
        session.screen.notice(line)
    if reply.to is None:
        session.screen.notice("  WARNING  whoever comes by this text has the right: no --to is set")
    _print(session, reply, is_drawn=is_drawn)


def _print(session: Session, reply: GrantReply, *, is_drawn: bool) -> None:
    if is_drawn:
        from orvalho.cli.qr import qr_text  # noqa: PLC0415 - 30 ms that only a drawing needs

        session.screen.verbatim(qr_text(reply.text))
    session.screen.line(reply.text)


def _told(reply: GrantReply) -> list[str]:
    until = moment(reply.until) if reply.until is not None else "it is revoked"
    return [
        f"{reply.grant}  {reply.context}@{reply.issuer}  to {reply.to or 'whoever has it'}",
        *(f"  allows   {need}" for need in reply.needs or ("nothing but to run",)),
        *([f"  script   {reply.script}"] if reply.script else []),
        f"  until    {until}" + ("" if reply.state == "good" else f"  ({reply.state})"),
    ]


def _stated(link: GrantLinkState) -> list[str]:
    first = f"link {link.grant} to {link.to or ('as before' if link.parent else 'whoever has it')}"
    return [
        first,
        *(f"  allows {need}" for need in link.needs or ()),
        *([f"  until  {moment(link.until)}"] if link.until is not None else []),
        *([f"  for    {many(link.uses, 'run')}"] if link.uses is not None else []),
        *([f"  script {link.script}"] if link.script else []),
    ]


def _row(link: GrantLinkState, depth: int) -> tuple[object, ...]:
    used = f"{many(link.used, 'time')}, {age(link.last_used_at)}" if link.last_used_at else "never"
    is_over = link.until is not None and link.until <= time.time()
    return (
        ("-" * depth + " " + link.grant).strip(),
        link.whence or "-",
        link.to or ("as before" if link.parent else "whoever has it"),
        ", ".join(link.needs) if link.needs is not None else "as before",
        moment(link.until) if link.until is not None else "-",
        used,
        "ended" if is_over and link.state == "good" else link.state,
    )
