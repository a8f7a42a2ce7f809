"""`orvalho nodes`: every device that is known, and who is on the local network."""

from __future__ import annotations

import click

from orvalho.cli.output import age
from orvalho.cli.replies import plain
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.mesh import LanNode, Nodes, NodesReply, NodeState

_SHORT_KEY = 19


@click.command(
    "nodes",
    cls=Verb,
    examples=("orvalho nodes", "orvalho nodes --lan", "orvalho nodes -v"),
)
@click.option("--lan", is_flag=True, help="Who calls on the local network, paired or not.")
@click.pass_obj
def command(session: Session, lan: bool) -> None:
    """Every device we know: paired, introduced, or heard of from those. Suspect means that
    nobody reaches it just now, dead that nobody has for a while. -v adds addresses and keys."""
    with session.connect() as client:
        reply = client.ask(Nodes(lan=lan), NodesReply)
    if session.screen.as_json:
        session.screen.document(plain(reply))
        return
    if lan:
        _show_lan(session, reply)
    else:
        _show_known(session, reply.nodes)
    for problem in reply.problems:
        session.screen.line(f"! {problem}")


def _show_known(session: Session, nodes: tuple[NodeState, ...]) -> None:
    headers: tuple[str, ...] = ("node", "state", "known", "seen", "contexts", "labels")
    rows: list[tuple[object, ...]] = [
        (
            node.name,
            node.state,
            node.known + (", introduces" if node.is_introducer else ""),
            "now" if node.state == "alive" else age(node.last_seen_at),
            ", ".join(node.contexts) or None,
            " ".join((*node.labels, *node.capabilities)) or None,
        )
        for node in nodes
    ]
    if session.screen.verbose:
        headers += ("addresses", "key")
        rows = [
            (*row, " ".join(node.addresses) or None, node.key)
            for row, node in zip(rows, nodes, strict=True)
        ]
    session.screen.table(headers, rows)


def _show_lan(session: Session, reply: NodesReply) -> None:
    if not reply.is_listening:
        session.screen.notice(
            "beacons are off: orvalho config set mesh.beacons true, then start the daemon again"
        )
    session.screen.table(
        ("node", "key", "addresses", "state"),
        [
            (
                node.name,
                node.key if session.screen.verbose else node.key[:_SHORT_KEY],
                " ".join(node.addresses) or None,
                _standing(node),
            )
            for node in reply.lan
        ],
    )


def _standing(node: LanNode) -> str:
    if node.paired:
        return "paired"
    return "revoked" if node.revoked else "not paired: orvalho pair"
