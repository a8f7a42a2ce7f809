"""`orvalho ctx log`, `diff`, `show`, `at`, `undo`, `gc`, `df`, `fsck`: what contexts were."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import click

from orvalho.cli.changes import change_lines, commit_line, counts, one_line
from orvalho.cli.confirm import confirm
from orvalho.cli.output import Screen, age, many, moment, size
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.messages import Reply
from orvalho.control.past import (
    CtxAt,
    CtxDf,
    CtxDfReply,
    CtxDiff,
    CtxDiffReply,
    CtxFsck,
    CtxFsckReply,
    CtxGc,
    CtxGcReply,
    CtxLog,
    CtxLogReply,
    CtxShow,
    CtxShowReply,
    CtxUndo,
    PastEntries,
    PastPart,
    PastValues,
    UndoDone,
    UndoPlanned,
)
from orvalho.errors import Conflict, InvalidInput

_VERBS: Final = ("ls", "tree", "find", "cat", "kv")


@click.command(
    "log",
    cls=Verb,
    examples=("orvalho ctx log", "orvalho ctx log alice -n 5", "orvalho ctx log alice --json"),
)
@click.argument("context", metavar="[CTX]", required=False)
@click.option("-n", "limit", metavar="COUNT", default=20, show_default=True, help="How many.")
@click.pass_obj
def log(session: Session, context: str | None, limit: int) -> None:
    """The newest commits of a context: when, who, why, and how many paths and keys it added,
    changed and took away. What was changed by hand is a commit as well."""
    with session.connect() as client:
        reply = client.ask(CtxLog(context=context, limit=limit), CtxLogReply)
    screen = session.screen
    if screen.as_json:
        screen.document(plain(reply))
        return
    rows = [commit_line(commit, screen) for commit in reply.commits]
    screen.table(("commit", "when", "who", "cause", "changes", "run"), rows)
    if reply.begins_at is not None and len(reply.commits) < limit:
        screen.notice(f"what was before {moment(reply.begins_at)} is not kept")


@click.command(
    "diff",
    cls=Verb,
    examples=(
        "orvalho ctx diff alice",
        "orvalho ctx diff alice yesterday",
        'orvalho ctx diff alice "@{2h}" "@{1h}"',
        "orvalho ctx diff alice c_01JD4Q8V --json",
    ),
)
@click.argument("context", metavar="CTX")
@click.argument("start", metavar="[FROM]", required=False)
@click.argument("end", metavar="[TO]", required=False)
@click.pass_obj
def diff(session: Session, context: str, start: str | None, end: str | None) -> None:
    """What changed between two moments: @{1h}, yesterday, 2026-11-20, "2026-11-20 14:00", or the id
    of a commit or run (with ^ for right before it). Without TO: until now; without FROM: what the
    last commit changed."""
    with session.connect() as client:
        reply = client.ask(CtxDiff(context=context, start=start, end=end), CtxDiffReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    session.screen.lines(change_lines(reply.files, reply.values))


@click.command(
    "show",
    cls=Verb,
    examples=(
        "orvalho ctx show c_01JD4Q8V",
        "orvalho ctx show r_01JD4Q8V",
        "orvalho ctx show r_01JD4Q8V --json",
    ),
)
@click.argument("name", metavar="COMMIT|RUN")
@click.pass_obj
def show(session: Session, name: str) -> None:
    """What a commit, or a run here, changed."""
    with session.connect() as client:
        reply = client.ask(CtxShow(name=name), CtxShowReply)
    screen = session.screen
    if screen.as_json:
        screen.document(plain(reply))
        return
    for commit in reply.commits:
        screen.line(
            f"{commit.id}  {commit.context}  {moment(commit.at)}  {commit.author}  {commit.cause}"
        )
        for text in filter(None, (commit.run, commit.note)):
            screen.line(f"  {one_line(text)}")
    screen.lines(change_lines(reply.files, reply.values))


@click.command(
    "undo",
    cls=Verb,
    examples=(
        "orvalho ctx undo r_01JD4Q8V",
        "orvalho ctx undo c_01JD4Q8V --plan",
        "orvalho ctx undo r_01JD4Q8V -y",
    ),
)
@click.argument("name", metavar="RUN|COMMIT")
@click.option("--in", "context", metavar="CTX", help="The context, where a run changed several.")
@click.option("--plan", is_flag=True, help="Show what it would change, and change nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def undo(session: Session, *, name: str, context: str | None, plan: bool, yes: bool) -> None:
    """Take back what a run or a commit changed, in a commit of its own. What others changed since,
    elsewhere, stays; what they changed in the same places is listed, nothing is taken back then,
    and the exit status is 1."""
    screen = session.screen
    with session.connect() as client:
        planned = client.ask(CtxUndo(name=name, context=context, plan=True), UndoPlanned)
    if plan and screen.as_json:
        screen.document(plain(planned))
    elif not planned.blocks and not screen.as_json and not screen.quiet:
        screen.lines(change_lines(planned.files, planned.values))
        for path in planned.kept:
            screen.notice(f"{path} stays: something of others is in it")
    if planned.blocks:
        raise Conflict(
            "others have changed the same since: nothing is taken back",
            where=planned.blocks[0].where,
            hint=f"orvalho ctx log {planned.context}",
            detail="\n".join(each.text for each in planned.blocks),
        )
    if plan:
        return
    if not yes:
        confirm(f"take this back in {planned.context}?")
    with session.connect() as client:
        request = CtxUndo(name=name, context=context, expected=planned.digest)
        done = client.ask(request, UndoDone)
    if screen.as_json:
        screen.document(plain(done))
    elif not screen.quiet:
        screen.line(f"{done.commit}  {counts(planned.files, planned.values)}")


@click.command(
    "at",
    cls=Verb,
    examples=(
        "orvalho ctx at yesterday -- ls /photos",
        'orvalho ctx at "@{1h}" alice -- cat /notes.txt',
        "orvalho ctx at c_01JD4Q8V alice -- tree /",
        'orvalho ctx at "2026-11-20 14:00" alice -- find "*.jpg"',
        "orvalho ctx at yesterday alice -- kv settings/",
    ),
    context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]},
)
@click.argument("when", metavar="WHEN")
@click.argument("words", metavar="[CTX] -- ls|tree|find|cat|kv [PATH]", nargs=-1, required=True)
@click.pass_obj
def at(session: Session, when: str, words: tuple[str, ...]) -> None:
    """Look into what a context was, and change nothing: ls and tree list a directory, find takes a
    pattern of names, cat prints a file, kv the values whose keys begin so. WHEN is as for `ctx
    diff`; without CTX it is the usual context."""
    context, (verb, *rest) = _past_words(words)
    argument = rest[0] if rest else ""
    request = CtxAt(when=when, verb=verb, argument=argument, context=context)
    with session.connect() as client:
        if verb == "cat":
            _show_file(session.screen, client.stream(request))
        elif verb == "kv":
            _show_values(session, client.ask(request, PastValues))
        else:
            _show_entries(session, client.ask(request, PastEntries), verb)


@click.command(
    "gc",
    cls=Verb,
    examples=("orvalho ctx gc", "orvalho ctx gc --keep 30d --plan", "orvalho ctx gc --max 1GB -y"),
)
@click.option("--keep", metavar="DURATION", help="What is older goes (setting history.keep).")
@click.option("--max", "most", metavar="SIZE", help="At most so much (history.max_bytes).")
@click.option("--plan", is_flag=True, help="Show what would go, and change nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def gc(session: Session, *, keep: str | None, most: str | None, plan: bool, yes: bool) -> None:
    """Take old history away, of all contexts; what they hold now stays. This happens by itself
    once an hour, as the settings say."""
    screen = session.screen
    with session.connect() as client:
        if not plan and (keep or most) and not yes:
            planned = client.ask(CtxGc(keep=keep, max_bytes=most, plan=True), CtxGcReply)
            screen.notice(_pruned(planned, "would go"))
            confirm("take it away? It cannot be looked at or taken back after that.")
        reply = client.ask(CtxGc(keep=keep, max_bytes=most, plan=plan), CtxGcReply)
    if screen.as_json:
        screen.document(plain(reply))
    elif not screen.quiet:
        screen.line(_pruned(reply, "would go" if plan else "gone"))


@click.command(
    "df",
    cls=Verb,
    examples=("orvalho ctx df", "orvalho ctx df alice", "orvalho ctx df --json"),
)
@click.argument("context", metavar="[CTX]", required=False)
@click.pass_obj
def df(session: Session, context: str | None) -> None:
    """What contexts hold: their files, their values, and what only their past needs."""
    with session.connect() as client:
        reply = client.ask(CtxDf(context=context), CtxDfReply)
    screen = session.screen
    if screen.as_json:
        screen.document(plain(reply))
        return
    rows = [
        (
            each.name,
            many(each.files, "file"),
            size(each.tree_bytes),
            many(each.values, "value"),
            size(each.values_bytes),
            many(each.commits, "commit"),
            size(each.past_bytes),
            None if each.begins_at is None else age(each.begins_at),
        )
        for each in reply.contexts
    ]
    headers = ("context", "files", "size", "values", "size", "commits", "past", "since")
    screen.table(headers, rows)
    screen.line(
        f"{many(reply.contents, 'content')} kept for history, {size(reply.contents_bytes)},"
        f" shared by all; {size(reply.past_bytes)} of it only the past needs"
    )


@click.command(
    "fsck",
    cls=Verb,
    examples=("orvalho ctx fsck", "orvalho ctx fsck alice", "orvalho ctx fsck --json"),
)
@click.argument("context", metavar="[CTX]", required=False)
@click.pass_obj
def fsck(session: Session, context: str | None) -> int:
    """Read all that contexts hold and held, and say what is not whole. Exit status 1 when
    something is not."""
    with session.connect() as client:
        reply = client.ask(CtxFsck(context=context), CtxFsckReply)
    screen = session.screen
    if screen.as_json:
        screen.document(plain(reply))
    else:
        screen.lines(reply.problems)
        if not reply.problems and not screen.quiet:
            screen.line(
                f"{many(reply.contexts, 'context')}, {many(reply.files, 'file')},"
                f" {many(reply.versions, 'version')}, {many(reply.contents, 'content')}: good"
            )
    return 1 if reply.problems else 0


VERBS: Final = (log, diff, show, at, undo, gc, df, fsck)


def _past_words(words: tuple[str, ...]) -> tuple[str | None, list[str]]:
    """(context, verb and its argument)"""
    context: str | None = None
    rest = [word for word in words if word != "--"]
    if len(rest) > 1 and (rest[0] not in _VERBS or rest[1] in _VERBS):
        context, rest = rest[0], rest[1:]
    if not rest or rest[0] not in _VERBS:
        raise InvalidInput(
            f"what to look at is one of {', '.join(_VERBS)}", hint="orvalho ctx at --help"
        )
    if len(rest) > 2:
        raise InvalidInput(f"{rest[0]} takes one word.", hint="orvalho ctx at --help")
    if rest[0] == "cat" and len(rest) < 2:
        raise InvalidInput("cat takes the path of a file.", hint="orvalho ctx at --help")
    return context, rest


def _show_file(screen: Screen, replies: Iterable[Reply]) -> None:
    """As it is, but on a terminal: there a file of others must not move the cursor."""
    parts = (each.content for each in replies if isinstance(each, PastPart))
    if not screen.is_terminal:
        for part in parts:
            screen.raw(part)
        return
    try:
        text = b"".join(parts).decode()
    except UnicodeDecodeError as error:
        raise InvalidInput("this file is no text: redirect it into another file.") from error
    screen.lines(text.removesuffix("\n").split("\n"))


def _show_entries(session: Session, reply: PastEntries, verb: str) -> None:
    screen = session.screen
    if screen.as_json:
        screen.document(plain(reply))
        return
    rows = [
        (
            (each.path.rpartition("/")[2] if verb == "ls" else each.path)
            + ("/" if each.is_dir else ""),
            None if each.is_dir else size(each.size_bytes),
            None if each.changed_at is None else moment(each.changed_at),
        )
        for each in reply.entries
    ]
    screen.table(("name", "size", "changed"), rows)


def _show_values(session: Session, reply: PastValues) -> None:
    screen = session.screen
    if screen.as_json:
        screen.document(plain(reply))
        return
    screen.table(("key", "value"), [(each.key, each.value) for each in reply.values])


def _pruned(reply: CtxGcReply, what: str) -> str:
    return (
        f"{what}: {many(reply.commits, 'commit')}, {many(reply.versions, 'version')},"
        f" {many(reply.contents, 'content')} ({size(reply.contents_bytes)})"
    )
