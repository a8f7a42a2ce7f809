"""What a node may do on our NATS server: speak to any node's door, hear its own, fetch its own
mail, leave its own record. A guest links and leaves mail, no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from orvalho.contexts.identity import Key
from orvalho.contexts.nkeys import user_nkey
from orvalho.transports.nats_bucket import GET, STREAM, SUBJECTS


@dataclass(frozen=True, slots=True)
class NatsUser:
    """A node that is let in. `is_own`: of the same owner; `is_home`: it looks after the server,
    and makes what mail and records lie in."""

    name: str
    key: Key
    is_own: bool = True
    is_home: bool = False

    @property
    def nkey(self) -> str:
        return user_nkey(self.key)


@dataclass(frozen=True, slots=True)
class Rights:
    """The subjects that may be published and subscribed to; nothing else is."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def rights_of(user: NatsUser, stream: str) -> Rights:
    """A reader of its own mail is made under a subject that names node and filter, and the server
    holds the request to them: so nobody has the mail of another sent to itself."""
    nkey = user.nkey
    publish = ["orvalho.link.*.*", "orvalho.mail.*"]
    subscribe = [f"orvalho.link.{nkey}.*", f"_INBOX_{nkey}.>"]
    if user.is_own:
        # Who may ask JetStream for messages can have them sent to any subject, past its own rights
        # (the server does not look at where an answer goes). So no guest may.
        publish += [
            f"$JS.API.CONSUMER.CREATE.{stream}.{nkey}.orvalho.mail.{nkey}",
            f"$JS.API.CONSUMER.INFO.{stream}.{nkey}",
            f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{nkey}",
            f"$JS.ACK.{stream}.{nkey}.>",
            f"{SUBJECTS}.{nkey}",
            f"{GET}.*",
        ]
        subscribe.append(f"{SUBJECTS}.*")
    if user.is_home:
        publish += [
            f"$JS.API.STREAM.{what}.{name}"
            for name in (stream, STREAM)
            for what in ("CREATE", "UPDATE", "INFO")
        ]
    return Rights(tuple(publish), tuple(subscribe))


# What may pass between a server that leans on ours and ours, in either way. The same for whatever
# nodes there are: a server that reads its configuration again leaves a leaf the rights that it came
# with. Mail that is left on either side is kept on both; requests, JetStream and its buckets stay
# on their own side.
LEAF_RIGHTS: Final = Rights(
    ("orvalho.link.*.*", "orvalho.mail.*"), ("orvalho.link.*.*", "orvalho.mail.*")
)
