"""`orvalho pair`: bring two devices together by a short code."""

from __future__ import annotations

import shutil
import time

import click

from orvalho.cli.arguments import Duration, read_text
from orvalho.cli.output import duration
from orvalho.cli.pairing import show_added, show_peer, tell_own
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.messages import PeerAdd, PeerAdded
from orvalho.control.pairing import PairArrived, PairJoin, PairShow, PairShown, PairTried
from orvalho.errors import InvalidInput

_TICKET: str = "orvalho1:"
_LIFETIME_S: int = 600


@click.command(
    "pair",
    cls=Verb,
    examples=(
        "orvalho pair",
        "orvalho pair 417-violin-orbit-lemon",
        "orvalho pair 417-violin-orbit-lemon --at 192.168.1.20",
        "orvalho pair --guest --expires 2m",
    ),
)
@click.argument("code", metavar="[CODE]", required=False)
@click.option("--at", metavar="ADDRESS", help="Where the other device is, if not on this network.")
@click.option("--guest", is_flag=True, help="The other device is another person's.")
@click.option("--name", metavar="LABEL", help="Call it so here, not what it calls itself.")
@click.option(
    "--expires",
    "expires_s",
    type=Duration(),
    metavar="TIME",
    help="How long a new code is good (10m).",
)
@click.option("--qr", is_flag=True, help="Draw the QR code, also off a terminal.")
@click.pass_obj
def command(
    session: Session,
    code: str | None,
    *,
    at: str | None,
    guest: bool,
    name: str | None,
    expires_s: int | None,
    qr: bool,
) -> int:
    """Without CODE: show one, as words and as a QR code, and wait for who types it. Ctrl-C
    withdraws it. With CODE: pair with the device that shows it. With - the code is read from
    standard input. The text of the QR code will do in place of the words."""
    if code is None:
        for option, is_given in (("--at", at is not None), ("--name", name is not None)):
            if is_given:
                raise InvalidInput(f"{option} goes with a CODE.", hint="orvalho pair --help")
        return _show(session, guest, expires_s or _LIFETIME_S, qr)
    for option, is_given in (("--expires", expires_s is not None), ("--qr", qr)):
        if is_given:
            raise InvalidInput(f"{option} goes without a CODE.", hint="orvalho pair --help")
    text = (read_text("-") if code == "-" else code).strip()
    return _join(session, text, at, guest, name)


def _join(session: Session, text: str, at: str | None, guest: bool, name: str | None) -> int:
    request: PeerAdd | PairJoin
    if text.startswith(_TICKET):
        request = PeerAdd(ticket=text, guest=guest, name=name)
    else:
        request = PairJoin(code=text, at=at, guest=guest, name=name)
        session.screen.progress("looking for the device that shows this code")
    with session.connect() as client:
        return show_added(session, client.ask(request, PeerAdded))


def _show(session: Session, guest: bool, expires_s: int, qr: bool) -> int:
    with session.connect() as client:
        for reply in client.stream(PairShow(guest=guest, expires_s=expires_s)):
            match reply:
                case PairShown():
                    _show_code(
                        session, reply, is_drawn=qr or session.screen.is_terminal, must_draw=qr
                    )
                case PairTried():
                    _say(session, "pair.tried", "warn", reply)
                case PairArrived():
                    _show_arrival(session, reply)
    return 0


def _show_code(session: Session, shown: PairShown, *, is_drawn: bool, must_draw: bool) -> None:
    screen = session.screen
    if screen.as_json:
        _say(session, "pair.shown", "info", shown)
        return
    if is_drawn:
        _draw(session, shown.ticket, must=must_draw)
    screen.line_now(shown.code)
    left = duration(shown.expires_at - time.time())
    screen.notice(f"on the other device: orvalho pair {shown.code}   (good for {left}, once)")


def _draw(session: Session, ticket: str, *, must: bool) -> None:
    from orvalho.cli.qr import qr_text  # noqa: PLC0415 - 30 ms that only a drawing needs

    picture = qr_text(ticket)
    width = picture.index("\n")
    if must or width <= shutil.get_terminal_size().columns:
        session.screen.verbatim(picture)
    else:
        session.screen.notice(f"a QR code would need a terminal {width} columns wide")


def _show_arrival(session: Session, arrived: PairArrived) -> None:
    if session.screen.as_json:
        _say(session, "pair.arrived", "info", arrived)
        return
    show_peer(session, arrived.text, arrived.peer)
    if arrived.held:
        session.screen.notice(f"to let it in: orvalho node approve {arrived.peer.name}")
    else:
        tell_own(session, arrived.peer)
        session.screen.notice("the other device shows the same words")


def _say(
    session: Session, kind: str, level: str, reply: PairShown | PairTried | PairArrived
) -> None:
    if session.screen.as_json:
        fields = {key: value for key, value in plain(reply).items() if key not in ("at", "text")}
        session.screen.event(kind, at=reply.at, level=level, message=reply.text, fields=fields)
    else:
        session.screen.notice(reply.text)
