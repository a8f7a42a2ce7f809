"""`orvalho ctx mount|umount|mounts`: trees from elsewhere in a context."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click
import msgspec

from orvalho.cli.confirm import confirm
from orvalho.cli.output import size
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.messages import Note
from orvalho.control.storage import (
    MountDrop,
    MountList,
    MountListReply,
    MountPut,
    MountReply,
    MountState,
)
from orvalho.errors import Conflict

_OURS: Final = ("sqlite:", "zip:", "dir:")


@click.command(
    "mount",
    cls=Verb,
    examples=(
        "orvalho ctx mount alice:/photos dir:/home/alice/Pictures --ro",
        "orvalho ctx mount alice:/cloud s3://bucket/prefix --secret photos",
        "orvalho ctx mount alice:/notes sqlite:notes.db",
        "orvalho ctx mount alice:/phone peer@phone2:/inbox",
    ),
)
@click.argument("place", metavar="CONTEXT:/PATH")
@click.argument("url", metavar="URL")
@click.option("--secret", metavar="NAME", default="", help="The credentials of s3://.")
@click.option("--endpoint", metavar="URL", default="", help="Where s3:// is, if not Amazon's.")
@click.option("--region", metavar="NAME", default="", help="The region of s3://.")
@click.option("--ro", "read_only", is_flag=True, help="Only to read from.")
@click.option("--quota", metavar="SIZE", default="", help="What it may hold, such as 2GB.")
@click.option("-y", "--yes", is_flag=True, help="Replace what is mounted there, without asking.")
@click.pass_obj
def mount(
    session: Session,
    *,
    place: str,
    url: str,
    secret: str,
    endpoint: str,
    region: str,
    read_only: bool,
    quota: str,
    yes: bool,
) -> None:
    """Let a context have a tree from elsewhere at a path: s3://BUCKET/PREFIX, sqlite:FILE,
    zip:FILE, dir:PATH, memory: or CONTEXT@NODE:/PATH. Rules see the whole path. It is written to
    mounts.toml, and stays."""
    request = MountPut(
        place=place,
        url=_absolute(url),
        secret=secret,
        endpoint=endpoint,
        region=region,
        read_only=read_only,
        quota=quota,
        replace=yes,
    )
    with session.connect() as client:
        try:
            reply = client.ask(request, MountReply)
        except Conflict as error:
            if not sys.stdin.isatty():
                raise
            confirm(f"{error.message.rstrip('.')}; replace it?")
            reply = client.ask(msgspec.structs.replace(request, replace=True), MountReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    verb = "mounted" if reply.changed else "already mounted"
    if not session.screen.quiet:
        session.screen.line(f"{reply.mount.place}: {verb}, {reply.mount.state}")
    if reply.mount.error:
        session.screen.notice(f"it cannot be used now: {reply.mount.error}")


def _absolute(url: str) -> str:
    """Paths are ours, not those of the daemon's directory."""
    scheme = next((each for each in _OURS if url.startswith(each)), None)
    if scheme is None or url == scheme:
        return url
    return scheme + str(Path(url.removeprefix(scheme)).expanduser().absolute())


@click.command(
    "umount",
    cls=Verb,
    examples=(
        "orvalho ctx umount alice:/photos",
        "orvalho ctx umount alice:/cloud --json",
        "orvalho ctx umount alice:/notes -q",
    ),
)
@click.argument("place", metavar="CONTEXT:/PATH")
@click.pass_obj
def umount(session: Session, place: str) -> None:
    """Take a mounted tree away. What is in it stays where it is."""
    with session.connect() as client:
        session.tell(client.ask(MountDrop(place=place), Note))


@click.command(
    "mounts",
    cls=Verb,
    examples=("orvalho ctx mounts", "orvalho ctx mounts -v", "orvalho ctx mounts --json"),
)
@click.pass_obj
def mounts(session: Session) -> None:
    """What is mounted where, and whether it can be used."""
    with session.connect() as client:
        reply = client.ask(MountList(), MountListReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    session.screen.table(
        ("place", "from", "mode", "state", "used", "error"), [_row(each) for each in reply.mounts]
    )
    for problem in reply.problems:
        session.screen.notice(problem)


def _row(mount: MountState) -> tuple[object, ...]:
    mode = "read-only" if mount.read_only else "read-write"
    used = None if mount.read_only else f"{size(mount.used_bytes)} of {size(mount.quota_bytes)}"
    return mount.place, mount.url or None, mode, mount.state, used, mount.error
