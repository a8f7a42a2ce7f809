"""`orvalho script`: signed scripts, sent and received."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Final

import click
import msgspec

from orvalho.cli.arguments import Duration, grant_text, read_script, script_params
from orvalho.cli.inline import inline_source
from orvalho.cli.modules import (
    Lock,
    changes,
    check_lock,
    digests_of,
    find_modules,
    read_lock,
    write_lock,
)
from orvalho.cli.output import age, many, milliseconds, moment, size
from orvalho.cli.replies import plain
from orvalho.cli.runs import follow, show_end, show_held, show_queued, standing_words
from orvalho.cli.session import Session
from orvalho.cli.several import follow_each, show_choice
from orvalho.cli.tree import Noun, Verb
from orvalho.control.client import error_of
from orvalho.control.logic import ScriptCheck, ScriptChecked
from orvalho.control.messages import (
    Note,
    RunEnded,
    RunHeld,
    RunOutput,
    RunQueued,
    ScriptCancel,
    ScriptList,
    ScriptListReply,
    ScriptLogs,
    ScriptResult,
    ScriptSend,
    ScriptShow,
    ScriptShowReply,
)
from orvalho.control.seeing import ScriptPlaced
from orvalho.errors import InvalidInput, Unavailable

QUEUED_STATUS: Final = 7


@click.group(
    "script",
    cls=Noun,
    examples=(
        "orvalho script send peer@phone2 job.js",
        "orvalho script check job.js",
        "orvalho script ls",
    ),
)
def command() -> None:
    """Scripts: signed here, run on a peer under its rules."""


@command.command(
    "send",
    cls=Verb,
    examples=(
        "orvalho script send peer@phone2 job.js --param n=3",
        """orvalho script send peer@phone2 job.wasm --param 'args=["a", "b"]'""",
        "orvalho script send peer@phone2 photos.js --expose /album:rw -o photos.zip",
        """orvalho script send peer@phone2 -e 'target.fs.list("/shared")' --wait""",
        "orvalho script send --plan peer@phone2 job.js",
        "orvalho script send any@gpu=yes,env=home job.js",
        "orvalho script send @family job.js",
    ),
)
@click.argument("target", metavar="TARGET")
@click.argument("file", metavar="[FILE]", required=False)
@click.option("-e", "--eval", "code", metavar="CODE", help="Send CODE instead of a file.")
@click.option(
    "--param", "pairs", metavar="K=V", multiple=True, help="A parameter: JSON, or else text."
)
@click.option("--params-file", metavar="FILE", help="All parameters, as JSON (- for stdin).")
@click.option(
    "--expose",
    metavar="PATH[:rw]",
    multiple=True,
    help="What the run may read (or also write) of our own context.",
)
@click.option(
    "--deny",
    metavar="CAPABILITY",
    multiple=True,
    help="What the script is not to do, whatever it says: target.fs.read:/secret/**",
)
@click.option("--as", "context", metavar="CONTEXT", help="Which of our contexts sends it.")
@click.option(
    "--expires",
    "expires_s",
    type=Duration(),
    default="7d",
    metavar="TIME",
    help="How long it may wait for the target (7d).",
)
@click.option("--wait", is_flag=True, help="Wait for the result, however long the target is away.")
@click.option("--detach", is_flag=True, help="Print the run's id and go.")
@click.option("--plan", is_flag=True, help="Show what it would do there, and do nothing.")
@click.option("-o", "--output", metavar="FILE", help="Write the result to FILE.")
@click.option(
    "--lock", "locks", is_flag=True, help="Write down what it was made of, libraries included."
)
@click.option(
    "--grant",
    "grants",
    metavar="GRANT",
    multiple=True,
    help="By this grant (its text, @FILE or id); else by those kept here that fit.",
)
@click.pass_obj
def send(
    session: Session,
    *,
    target: str,
    file: str | None,
    code: str | None,
    pairs: tuple[str, ...],
    params_file: str | None,
    expose: tuple[str, ...],
    deny: tuple[str, ...],
    context: str | None,
    expires_s: int,
    wait: bool,
    detach: bool,
    plan: bool,
    output: str | None,
    locks: bool,
    grants: tuple[str, ...],
) -> int:
    """Sign FILE (- for stdin) and have TARGET run it: peer@phone2, the nearest and least busy of
    any@label=value, or each of @group, all or all@label=value (work@all: their context of that
    name). Its log lines come to standard error, its result to standard output. Exit status 7: the
    target is away, and the run waits for it; of several the worst. What it imports goes with it; a
    lock beside FILE must agree."""
    if wait and detach:
        raise InvalidInput("--wait and --detach exclude each other.")
    if file == "-" and params_file == "-":
        raise InvalidInput("standard input holds the script or the parameters, not both.")
    filename, source, module, needs = _source(file, code)
    beside = None if file == "-" else file
    if locks and (beside is None or detach):
        raise InvalidInput("--lock writes beside a FILE, once its run has ended.")
    lock = read_lock(beside) if beside else None
    request = ScriptSend(
        to=target,
        filename=filename,
        source=source,
        module=module,
        needs=needs,
        params=msgspec.Raw(script_params(pairs, params_file)),
        expose=expose,
        deny=deny,
        context=context,
        expires_s=expires_s,
        wait=wait,
        detach=detach,
        plan=plan,
        grants=tuple(map(grant_text, grants)),
    )

    def tell_queued(queued: RunQueued) -> None:
        if queued.state not in ("queued", "away"):
            session.screen.progress(f"{queued.run} to {queued.to}")
        elif wait:
            session.screen.notice(standing_words(queued))

    with session.connect() as client:
        graph = find_modules(client, beside, filename, source)
        if beside and lock and not locks:
            check_lock(beside, lock, graph.modules)
        request = msgspec.structs.replace(
            request,
            filename=graph.filename,
            modules=graph.modules,
            locked=lock.libraries if lock and not locks else None,
        )
        replies = client.stream(request)
        first = next(replies, None)
        if isinstance(first, ScriptPlaced) and first.several:
            return follow_each(session, first, replies, output, detach=detach)
        if isinstance(first, ScriptPlaced):
            show_choice(session, first)
        elif first is not None:
            replies = chain([first], replies)
        last = follow(session, replies, filename, tell_queued)
    if isinstance(last, RunEnded):
        show_end(session, last, output)
        if locks and beside:
            _lock(session, beside, graph.modules, last.run)
        return 0
    return _left(session, last, detach=detach)


def _source(file: str | None, code: str | None) -> tuple[str, str, bytes, str | None]:
    """Name, text, module, and what the file beside the module says."""
    if (file is None) == (code is None):
        raise InvalidInput("give a script FILE, or code with -e.", hint="orvalho script send -h")
    if code is not None:
        return "inline.js", inline_source(code), b"", None
    assert file is not None
    return _read(file)


def _read(file: str) -> tuple[str, str, bytes, str | None]:
    source, module, needs = read_script(file)
    stdin = "stdin.wasm" if module else "stdin.js"
    return (stdin if file == "-" else Path(file).name), source, module, needs


def _left(session: Session, queued: RunQueued | RunHeld | None, *, detach: bool) -> int:
    """The run goes on without us: asked for by --detach, because the target is away, or because
    its owner is to look at it."""
    if isinstance(queued, RunHeld):
        return show_held(session, queued)
    if queued is None:
        raise Unavailable("the daemon did not say what became of the script.")
    if session.screen.as_json:
        session.screen.document(plain(queued))
    elif detach:
        session.screen.line(queued.run)
    if detach:
        return 0
    show_queued(session, queued)
    return QUEUED_STATUS


@command.command(
    "lock",
    cls=Verb,
    examples=(
        "orvalho script lock job.js",
        "orvalho script lock job.ts --json",
        "orvalho script send peer@phone2 job.js --lock",
    ),
)
@click.argument("file", metavar="FILE")
@click.pass_obj
def lock_(session: Session, file: str) -> None:
    """Write the digests of all that FILE imports beside it (job.lock). A file that has changed
    since is not sent (exit status 6). `send --lock` writes down the target's libraries, too."""
    filename, source, _module, _needs = _read(file)
    with session.connect() as client:
        graph = find_modules(client, file, filename, source)
    known = read_lock(file)
    lock = Lock(digests_of(graph.modules), known.libraries if known else None)
    path = write_lock(file, lock)
    _tell_changes(session, changes(known, lock))
    session.tell(Note(text=f"{path}: {many(len(lock.modules), 'module')}"))


def _tell_changes(session: Session, lines: list[str]) -> None:
    """What was locked until now, and no longer is."""
    for line in lines:
        session.screen.notice(f"the lock was changed: {line}")


def _lock(session: Session, file: str, modules: dict[str, str], run: str) -> None:
    with session.connect() as client:
        reply = client.ask(ScriptShow(run=run), ScriptShowReply)
    receipt = msgspec.json.decode(reply.receipt) or {}
    libraries = {each["path"]: each["sha256"] for each in receipt.get("libraries", ())}
    known, lock = read_lock(file), Lock(digests_of(modules), libraries)
    path = write_lock(file, lock)
    _tell_changes(session, changes(known, lock))
    session.screen.notice(
        f"{path}: {many(len(modules), 'module')}, {many(len(libraries), 'library')}"
        if len(libraries) == 1
        else f"{path}: {many(len(modules), 'module')}, {len(libraries)} libraries"
    )


@command.command(
    "check",
    cls=Verb,
    examples=(
        "orvalho script check job.js",
        "orvalho script check job.wasm --json",
        "orvalho script check - < job.js",
        "orvalho script check job.js --for peer@laptop",
    ),
)
@click.argument("file", metavar="FILE")
@click.option(
    "--for", "target", metavar="CONTEXT", help="And that it names nothing switched off there."
)
@click.pass_obj
def check(session: Session, file: str, target: str | None) -> None:
    """Read a script without running it. Tells what it asks for, or every mistake in it."""
    filename, source, module, needs = _read(file)
    with session.connect() as client:
        graph = find_modules(client, None if file == "-" else file, filename, source)
        request = ScriptCheck(
            filename=graph.filename,
            source=source,
            module=module,
            needs=needs,
            modules=graph.modules,
            target=target,
        )
        reply = client.ask(request, ScriptChecked)
    if session.screen.as_json:
        session.screen.document(plain(reply))
    elif reply.problems:
        session.screen.lines(
            problem if problem.startswith(tuple(graph.modules)) else f"{graph.filename}:{problem}"
            for problem in reply.problems
        )
    elif not session.screen.quiet:
        session.screen.line(f"{filename}  {reply.language}  {size(reply.size_bytes)}")
        session.screen.line(f"  digest  {reply.digest}")
        session.screen.lines(f"  module  {each}  sha256:{d}" for each, d in reply.modules.items())
        session.screen.lines(f"  library {each}" for each in reply.libraries)
        session.screen.lines(f"  needs   {capability}" for capability in reply.needs)
        session.screen.lines(f"  wants   {capability}" for capability in reply.wants)
        session.screen.lines(f"  limit   {name} {value}" for name, value in reply.limits.items())
        session.screen.lines(f"  import  {each}" for each in reply.imports)
        session.screen.lines(f"  export  {each}" for each in reply.exports)
    if reply.problems:
        raise InvalidInput(f"{filename} has {many(len(reply.problems), 'mistake')} in it.")
    lock = read_lock(file) if file != "-" else None
    if lock:
        check_lock(file, lock, graph.modules)


@command.command(
    "ls",
    cls=Verb,
    examples=("orvalho script ls", "orvalho script ls --limit 5", "orvalho script ls --json"),
)
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, metavar="N", help="How many runs (50)."
)
@click.pass_obj
def ls(session: Session, limit: int) -> None:
    """The newest runs, sent and received."""
    with session.connect() as client:
        reply = client.ask(ScriptList(limit=limit), ScriptListReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    rows = [
        (
            run.run,
            run.direction,
            run.caller,
            run.target,
            run.filename,
            run.outcome or run.state,
            age(run.created_at),
            None if run.wall_ms is None else milliseconds(run.wall_ms),
        )
        for run in reply.runs
    ]
    headers = ("run", "direction", "caller", "target", "script", "state", "made", "took")
    session.screen.table(headers, rows)


@command.command(
    "show",
    cls=Verb,
    examples=(
        "orvalho script show r_01jd3k7m2q8v5x9z4b6n1c0f2h",
        "orvalho script show r_01jd",
        "orvalho script show r_01jd --json",
    ),
)
@click.argument("run", metavar="RUN")
@click.pass_obj
def show(session: Session, run: str) -> None:
    """One run: what it asked for, and its receipt. A unique start of the id will do."""
    with session.connect() as client:
        reply = client.ask(ScriptShow(run=run), ScriptShowReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    state = reply.state
    pairs = [
        ("script", f"{state.filename}  {state.digest}"),
        ("direction", state.direction),
        ("caller", state.caller),
        ("target", state.target),
        ("made", moment(state.created_at)),
        ("expires", moment(reply.expires_at)),
        ("ended", None if state.ended_at is None else moment(state.ended_at)),
        ("took", None if state.wall_ms is None else milliseconds(state.wall_ms)),
        ("params", size(reply.params_bytes)),
        ("sent", None if reply.sent_bytes is None else size(reply.sent_bytes)),
        *(("module", f"{path}  sha256:{each}") for path, each in reply.modules.items()),
        *(("library", text) for text in _libraries(reply)),
        *(("needs", need) for need in reply.needs),
        ("limit", (json.loads(bytes(reply.receipt)) or {}).get("limit")),
        ("receipt by", reply.receipt_by),
    ]
    session.screen.line(f"{state.run}  {state.outcome or state.state}")
    session.screen.lines(f"  {label:<10} {value}" for label, value in pairs if value is not None)
    if reply.error is not None:
        session.screen.error(error_of(reply.error))


def _libraries(reply: ScriptShowReply) -> list[str]:
    receipt = msgspec.json.decode(reply.receipt) or {}
    return [
        f"{each['name'] or each['path']}  {each['path']}  sha256:{each['sha256']}"
        for each in receipt.get("libraries", ())
    ]


@command.command(
    "logs",
    cls=Verb,
    examples=(
        "orvalho script logs r_01jd",
        "orvalho script logs r_01jd --follow",
        "orvalho script logs r_01jd --json",
    ),
)
@click.argument("run", metavar="RUN")
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until the run has ended.")
@click.pass_obj
def logs(session: Session, run: str, following: bool) -> None:
    """What a run logged."""
    with session.connect() as client:
        for reply in client.stream(ScriptLogs(run=run, follow=following)):
            if isinstance(reply, RunOutput):
                _show_output(session, reply)


def _show_output(session: Session, output: RunOutput) -> None:
    if session.screen.as_json:
        session.screen.event(
            "run.output",
            at=output.at,
            level=output.level,
            message=output.text,
            fields={"run": output.run, "seq": output.seq},
        )
    elif session.screen.verbose:
        session.screen.line_now(f"{moment(output.at)} {output.level:<5} {output.text}")
    else:
        session.screen.line_now(output.text)


@command.command(
    "result",
    cls=Verb,
    examples=(
        "orvalho script result r_01jd",
        "orvalho script result r_01jd --wait",
        "orvalho script result r_01jd -o photo.jpg",
    ),
)
@click.argument("run", metavar="RUN")
@click.option("--wait", is_flag=True, help="Wait until the run has ended.")
@click.option("-o", "--output", metavar="FILE", help="Write the result to FILE.")
@click.pass_obj
def result(session: Session, run: str, wait: bool, output: str | None) -> int:
    """The result of a run, as `send` would have shown it. Exit status 7 when there is none yet."""
    with session.connect() as client:
        (reply,) = client.stream(ScriptResult(run=run, wait=wait))
    if isinstance(reply, RunQueued):
        if session.screen.as_json:
            session.screen.document(plain(reply))
        session.screen.notice(f"{reply.run} has not ended: it is {reply.state}")
        session.screen.notice(f"  try   orvalho script result {reply.run} --wait")
        return QUEUED_STATUS
    assert isinstance(reply, RunEnded)
    show_end(session, reply, output)
    return 0


@command.command(
    "cancel",
    cls=Verb,
    examples=(
        "orvalho script cancel r_01jd3k7m2q8v5x9z4b6n1c0f2h",
        "orvalho script cancel r_01jd",
        "orvalho script cancel r_01jd --json",
    ),
)
@click.argument("run", metavar="RUN")
@click.pass_obj
def cancel(session: Session, run: str) -> None:
    """Stop a run, or take it back while it waits for its target."""
    with session.connect() as client:
        session.tell(client.ask(ScriptCancel(run=run), Note))
