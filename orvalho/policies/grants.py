"""Grants that travel: what each link of a token states, and what all of them together allow.

The first link is the issuer's: who may do what, where, until when. Each further one is added by who
holds the grant, and states what is left of it. What a grant allows is what every link of it allows,
so no link can widen what stands before it, whatever it says.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import re
from dataclasses import dataclass
from typing import Final

import msgspec

from orvalho.contexts.identity import Key, Signer, key_text
from orvalho.contexts.names import check_label, ulid_text
from orvalho.errors import InvalidInput, OrvalhoError, Untrusted
from orvalho.policies import token as tokens
from orvalho.policies.access import ANY, AccessRequest, Rule, is_unprintable
from orvalho.policies.capability import Capability, parse_capability
from orvalho.policies.library_guard import changes_code, names_code
from orvalho.policies.rules import read_files

PREFIX: Final = "orvalho-grant:"
MAX_NEEDS: Final = 16
MAX_USES: Final = 1_000_000
_NAME_CHARACTERS: Final = 128
_KEY_BYTES: Final = 32
_ID_LETTERS: Final = 26
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class GrantLink(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One link. None leaves a thing as it was. A field that a reader does not know might narrow
    the grant, so such a link is refused.

    `issuer`, `context`: the node key and the context that it is about, of the first link alone.
    `needs`: what may be done, `target.fs.read:/x/**`. `holder`: the key, of a node or context,
    whose scripts may use it and which signs the next link; `holder_node` the key of its node; `to`
    what who made the link calls it. `script`: the one script's digest, see `granting.bound_digest`.
    `until`: Unix seconds. `uses`: how many runs. `made_at`: by the clock of who made it, to be
    shown.
    """

    made_at: float
    issuer: bytes | None = None
    context: str | None = None
    needs: tuple[str, ...] | None = None
    holder: bytes | None = None
    holder_node: bytes | None = None
    to: str | None = None
    script: str | None = None
    until: float | None = None
    uses: int | None = None

    def capabilities(self) -> tuple[Capability, ...] | None:
        return None if self.needs is None else tuple(map(parse_capability, self.needs))


@dataclass(frozen=True, slots=True)
class Grant:
    """A token that was read: its links and the id of each, `g_...`, from the issuer's on.
    `root_key` is the key that its first signature holds by."""

    token: bytes
    root_key: Key
    links: tuple[GrantLink, ...]
    ids: tuple[str, ...]
    capabilities: tuple[tuple[Capability, ...] | None, ...]

    @property
    def id(self) -> str:
        """That of its last link: what is held."""
        return self.ids[-1]

    @property
    def text(self) -> str:
        """What is pasted: `orvalho-grant:` and base64url of root key and token."""
        packed = base64.urlsafe_b64encode(self.root_key + self.token).rstrip(b"=")
        return PREFIX + packed.decode()

    @property
    def issuer(self) -> Key:
        return Key(self.links[0].issuer or b"")

    @property
    def context(self) -> str:
        return self.links[0].context or ""

    @property
    def holder(self) -> Key | None:
        """Whose scripts may use it; None: anybody's."""
        held = [link.holder for link in self.links if link.holder is not None]
        return Key(held[-1]) if held else None

    @property
    def until(self) -> float:
        """Unix seconds, infinite without an end."""
        return min((e.until for e in self.links if e.until is not None), default=math.inf)

    @property
    def script(self) -> str | None:
        return next((link.script for link in self.links if link.script is not None), None)

    @property
    def needs(self) -> tuple[Capability, ...]:
        """Those of the link that last named any."""
        return next((each for each in reversed(self.capabilities) if each is not None), ())

    @property
    def path(self) -> str:
        """`to bob, handed on to carol`, each as who made the link calls it."""
        names = [link.to or key_text(Key(link.holder)) for link in self.links if link.holder]
        if not names:
            return "to whoever has it"
        first = "to " + names[0]
        return first + "".join(f", handed on to {name}" for name in names[1:])

    def allows_script(self, digest: str) -> bool:
        return all(link.script in (None, digest) for link in self.links)

    def permits(self, request: AccessRequest, digest: str) -> str | None:
        """What of the grant allows this, in words; None: nothing. `digest` is that of the script
        which asks, and of what comes with it, as `script` has it."""
        if request.context != self.context or not self.allows_script(digest):
            return None
        if request.action == "script.run":
            return "script.run"
        found: str | None = None
        for capabilities in self.capabilities:
            if capabilities is None:
                continue
            covering = [each for each in capabilities if _covers(each, request)]
            if not covering:
                return None
            found = str(covering[0])
        return found


@dataclass(frozen=True, slots=True)
class GrantRule(Rule):
    """A grant in the place of a policy line: `where` and `text` are what receipts, the audit log
    and `why` tell of it."""

    @property
    def where(self) -> str:
        return f"grant {self.file}"

    @property
    def text(self) -> str:
        return f"{self.object}, {self.subject}"


def rule_of(grant: Grant, words: str, path: str) -> GrantRule:
    """The rule that a decision names when `grant` gave it: `words` is what `Grant.permits`
    answered, `path` through whose hands it came."""
    action = words.partition(":")[0]
    return GrantRule(grant.id, 0, 0, path, grant.context, action, words, "allow")


def _covers(capability: Capability, request: AccessRequest) -> bool:
    # As for policy lines: who may change everything may not thereby change code.
    if changes_code(request) and not names_code(capability.object):
        return False
    return capability.covers("target", request.action, request.object)


def issue(root: Signer, link: GrantLink) -> Grant:
    """Raises:
    InvalidInput: the link is not one that a grant can begin with.
    LimitExceeded: it is too large.
    """
    _check_link(link, is_first=True)
    return read_grant(tokens.issue(root, msgspec.msgpack.encode(link)), root.key)


def narrow(grant: Grant, link: GrantLink, holder: Signer | None) -> Grant:
    """The grant with one link more; `holder` signs where it has a holder.

    Raises:
        InvalidInput: the link claims what no further link may.
        LimitExceeded: the grant is too long or too large.
        Untrusted: the token does not hold, or `holder` is not its holder.
    """
    _check_link(link, is_first=False)
    statement = msgspec.msgpack.encode(link)
    extended = tokens.extend(grant.token, grant.root_key, statement, holder)
    return read_grant(extended, grant.root_key)


def read_text(text: str) -> tuple[bytes, Key]:
    """The token and the root key that a pasted text names.

    Raises:
        InvalidInput: it is no such text.
    """
    packed = "".join(text.split()).removeprefix(PREFIX)
    if not text.strip().startswith(PREFIX):
        raise InvalidInput(f"a grant begins with {PREFIX}", where=ascii(text.strip()[:40]))
    try:
        raw = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"the grant is cut off or mistyped: {error}") from error
    if not _KEY_BYTES < len(raw) <= _KEY_BYTES + tokens.MAX_BYTES:
        raise InvalidInput(f"a grant has no {len(raw)} bytes: it is cut off, or none")
    return raw[_KEY_BYTES:], Key(raw[:_KEY_BYTES])


def read_grant(token: bytes, root_key: Key) -> Grant:
    """The grant in a token, after all its signatures were checked, and that each link was signed
    by who held it then. Not checked: whose `root_key` is, times, uses, revocations.

    Raises:
        Untrusted: each reason has its own message.
    """
    blocks = tokens.open_token(token, root_key)
    links: list[GrantLink] = []
    holder: Key | None = None
    for index, block in enumerate(blocks):
        if block.signed_by != (holder if index else None):
            raise Untrusted(f"link {index + 1} of the grant is not signed by who held it")
        try:
            link = msgspec.msgpack.decode(block.statement, type=GrantLink)
            _check_link(link, is_first=index == 0)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidInput) as error:
            raise Untrusted(f"link {index + 1} of the grant is malformed: {error}") from error
        links.append(link)
        holder = Key(link.holder) if link.holder is not None else holder
    return Grant(
        token,
        root_key,
        tuple(links),
        tuple(_id(block.revocation_id) for block in blocks),
        tuple(link.capabilities() for link in links),
    )


def parse_id(text: str) -> str:
    """The beginning of a grant's id, as ids are written.

    Raises:
        InvalidInput: it is none.
    """
    letters = text[2:].upper()
    if text[:2].lower() != "g_" or not re.fullmatch(r"[0-9A-Z]{1,26}", letters):
        raise InvalidInput(f"a grant's id is g_ and {_ID_LETTERS} letters", where=ascii(text[:80]))
    return f"g_{letters}"


def policy_lines(grant: Grant) -> list[str]:
    """The lines of a policy that a grant amounts to, without what no line can say: until when, how
    often, and that its needs are those of one script. What earlier links may not allow in full
    stands there as a comment."""
    who = key_text(grant.holder) if grant.holder else ANY
    object_ = f"sha256:{grant.script}" if grant.script else ANY
    if len({link.script for link in grant.links} - {None}) > 1:
        return ["# nothing: its links name different scripts"]
    lines = [f"p, {who}, {grant.context}, script.run, {object_}, allow"]
    for need in grant.needs:
        line = f"p, {who}, {grant.context}, {need.action}, {need.object}, allow"
        if not _is_line(line, need):
            lines.append(f"# no rule can say it: {need!s}")
            continue
        is_within = all(
            any(_is_within(need, each) for each in capabilities)
            for capabilities in grant.capabilities
            if capabilities is not None
        )
        lines.append(line if is_within else f"# as far as its earlier links go: {line}")
    return lines


def _is_within(need: Capability, wider: Capability) -> bool:
    """Whether all that one reaches is reached by the other; False also where that is not plain."""
    inner, outer = need.object, wider.object
    if need.action != wider.action or (names_code(inner) and not names_code(outer)):
        return False
    if outer in (inner, "**") or ("*" not in inner and wider.glob.matches(inner)):
        return True
    top = outer.removesuffix("/**")
    return top != outer and "*" not in top and (inner == top or inner.startswith(f"{top}/"))


def _is_line(line: str, need: Capability) -> bool:
    """Whether a policy file would read it as it is meant: a comma in a path, say, it would not."""
    read = read_files([("policy/grants.csv", line.encode())])
    return read.rules is not None and [each.object for each in read.rules.rules] == [need.object]


def _id(revocation_id: bytes) -> str:
    return f"g_{ulid_text(hashlib.sha256(revocation_id).digest()[:16])}"


def _check_link(link: GrantLink, *, is_first: bool) -> None:
    """Raises:
    InvalidInput: a field is out of its bounds, or stands in the wrong link.
    """
    try:
        _check_fields(link)
    except OrvalhoError as error:
        raise InvalidInput(f"a grant cannot say this: {error}", hint=error.hint) from error
    if is_first and (link.issuer is None or link.context is None or link.needs is None):
        raise InvalidInput("a grant begins with its issuer, its context and what it allows")
    if not is_first and (link.issuer is not None or link.context is not None):
        raise InvalidInput("only the first link of a grant names issuer and context")


def _check_fields(link: GrantLink) -> None:
    for key in (link.issuer, link.holder, link.holder_node):
        if key is not None and len(key) != _KEY_BYTES:
            raise InvalidInput("a key has 32 bytes")
    if link.holder_node is not None and link.holder is None:
        raise InvalidInput("a node holds nothing without a holder")
    if link.context is not None:
        check_label(link.context)
    if link.to is not None and (
        len(link.to) > _NAME_CHARACTERS or any(map(is_unprintable, link.to))
    ):
        raise InvalidInput("a holder's name is short and printable")
    if link.script is not None and not _DIGEST.fullmatch(link.script):
        raise InvalidInput("a script's digest is 64 hex digits")
    if not all(math.isfinite(at) for at in (link.made_at, link.until or 0.0)):
        raise InvalidInput("a moment is a number of seconds")
    if link.uses is not None and not 1 <= link.uses <= MAX_USES:
        raise InvalidInput(f"a grant is for 1 to {MAX_USES} runs")
    if len(link.needs or ()) > MAX_NEEDS:
        raise InvalidInput(f"a grant names at most {MAX_NEEDS} needs")
    for capability in link.capabilities() or ():
        if capability.side != "target":
            raise InvalidInput(f"{capability} is the caller's own to allow")
