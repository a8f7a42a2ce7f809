"""`orvalho use`: which of several networks commands are about."""

from __future__ import annotations

import click

from orvalho.cli.networks import DEFAULT, Networks
from orvalho.cli.session import Session
from orvalho.cli.tree import Verb
from orvalho.control.messages import Note
from orvalho.errors import InvalidInput


@click.command(
    "use",
    cls=Verb,
    examples=(
        "orvalho use add office --home ~/office",
        "orvalho use office",
        "orvalho use default",
        "orvalho --network office status",
    ),
)
@click.argument("words", metavar="[[add|rm] NAME]", nargs=-1)
@click.pass_obj
def command(session: Session, words: tuple[str, ...]) -> None:
    """Name homes, and choose the one that commands are about; alone it lists them. --home,
    --network and ORVALHO_HOME win over the choice."""
    networks = Networks(session.environ)
    match words:
        case ():
            _show(session, networks)
        case ("add",) | ("rm",):
            rest = " --home DIR" if words[0] == "add" else ""
            hint = f"orvalho use {words[0]} NAME{rest}"
            raise InvalidInput(f"`use {words[0]}` takes the NAME of a network.", hint=hint)
        case ("add", name):
            if session.home is None:
                raise InvalidInput("which home?", hint=f"orvalho use add {name} --home DIR")
            changed = networks.add(name, session.home)
            verb = "is" if changed else "is already"
            session.tell(Note(text=f"{name} {verb} {networks.homes[name]}", changed=changed))
        case ("rm", name):
            networks.remove(name)
            session.tell(Note(text=f"{name} is forgotten; its home stays as it is"))
        case (name,):
            changed = networks.use(name)
            verb = "using" if changed else "already using"
            session.tell(Note(text=f"{verb} {name}", changed=changed))
        case _:
            raise InvalidInput("give one NAME, add NAME or rm NAME.", hint="orvalho use --help")


def _show(session: Session, networks: Networks) -> None:
    found = [
        {"name": name, "home": home, "current": name == networks.current}
        for name, home in ((DEFAULT, None), *sorted(networks.homes.items()))
    ]
    if session.screen.as_json:
        session.screen.document({"networks": found})
        return
    rows = [("*" if each["current"] else "", each["name"], each["home"]) for each in found]
    session.screen.table(("", "network", "home"), rows)
