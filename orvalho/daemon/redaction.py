"""Takes out of a text what names people, places and keys; the same thing always becomes the same
placeholder, so that the story stays readable: `node-1 refuses key-2`.

What is known is taken out by what it is (each key in every way it is written); what is not known
by how it looks: addresses, and long runs of letters and digits, which may be keys.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final

from orvalho.contexts.device_id import device_id
from orvalho.contexts.identity import Key

_KEY_TEXT: Final = re.compile(r"ed25519:[A-Za-z0-9_-]{43}")
_TICKET: Final = re.compile(r"orvalho\d:[A-Za-z0-9_-]+")
_URL_HOST: Final = re.compile(r"(?<=://)(\[[^\]\s]+\]|[^/\s:\"',]+)")
_IPV4: Final = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.])")
_IPV6: Final = re.compile(r"(?<![0-9A-Za-z:])(?=[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:)[0-9A-Fa-f:.]{2,45}")
_MAC: Final = re.compile(r"(?<![0-9A-Fa-f:])(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}(?![0-9A-Fa-f:])")
# A key is at least 43 characters in base64, 52 in base32, 64 in hex; a run id has 28.
_OPAQUE: Final = re.compile(r"[A-Za-z0-9+_=-]{40,}")
_PLACEHOLDER: Final = re.compile(r"[a-z]+-\d+")


class Redactor:
    """Tell it what is known (`know`, `know_key`), then `text` and `value` whatever is shown."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._names: dict[str, str] = {}
        self._numbers: Counter[str] = Counter()
        self._pattern: re.Pattern[str] | None = None

    def know(self, kind: str, *secrets: str) -> None:
        """These all mean one thing of this kind: `node`, `ctx`, `addr`."""
        fresh = [each for each in secrets if each and each.lower() not in self._names]
        if not fresh:
            return
        known = next((self._names[s.lower()] for s in secrets if s.lower() in self._names), None)
        placeholder = known or self._next(kind)
        self._names |= {each.lower(): placeholder for each in fresh}
        self._pattern = None

    def know_key(self, kind: str, raw: bytes) -> None:
        """A key, or another secret of 32 bytes, in every form that it may be written in."""
        self.know(kind, *encodings(raw))

    def value(self, value: Any) -> Any:
        """The same for a JSON value. The names of an object's fields are ours, and stay."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {key: self.value(inner) for key, inner in value.items()}
        if isinstance(value, Sequence):
            return [self.value(inner) for inner in value]
        return value

    def text(self, text: str) -> str:
        """The text without what is known, and without what looks like it."""
        text = _TICKET.sub(self._found("token"), text)
        if self._pattern is None:
            self._pattern = _any_of(self._names)
        text = self._pattern.sub(self._replaced, text)
        text = _KEY_TEXT.sub(self._found("key"), text)
        text = _URL_HOST.sub(self._host, text)
        text = _MAC.sub(self._found("addr"), text)
        text = _IPV4.sub(self._address, text)
        text = _IPV6.sub(self._address, text)
        return _OPAQUE.sub(self._opaque, text)

    # ---- inside -----------------------------------------------------------------------------

    def _next(self, kind: str) -> str:
        self._numbers[kind] += 1
        return f"{kind}-{self._numbers[kind]}"

    def _replaced(self, found: re.Match[str]) -> str:
        placeholder = self._names[found[0].lower()]
        self.counts[placeholder.partition("-")[0]] += 1
        return placeholder

    def _found(self, kind: str):  # type: ignore[no-untyped-def]
        def replace(found: re.Match[str]) -> str:
            return self._taken(kind, found[0])

        return replace

    def _taken(self, kind: str, secret: str) -> str:
        placeholder = self._names.setdefault(secret.lower(), "") or self._next(kind)
        self._names[secret.lower()] = placeholder
        self._pattern = None
        self.counts[kind] += 1
        return placeholder

    def _host(self, found: re.Match[str]) -> str:
        host = found[0].strip("[]")
        if _PLACEHOLDER.fullmatch(host) or _is_no_place(host):
            return found[0]
        return self._taken("addr", host)

    def _address(self, found: re.Match[str]) -> str:
        text = found[0].rstrip(".:") if "::" not in found[0][-2:] else found[0]
        try:
            address = ip_address(text)
        except ValueError:
            return found[0]
        if _is_no_place(str(address)):
            return found[0]
        return self._taken("addr", text) + found[0][len(text) :]

    def _opaque(self, found: re.Match[str]) -> str:
        # A sentence with dashes is no secret; what mixes letters and digits may be one.
        text = found[0]
        if not (re.search(r"\d", text) and re.search(r"[A-Za-z]", text)):
            return text
        return self._taken("token", text)


def encodings(raw: bytes) -> list[str]:
    """32 bytes in every form that this program, or a person, writes them in."""
    base32 = base64.b32encode(raw).decode()
    base64s = [base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()]
    found = [raw.hex(), raw.hex(":"), base32, base32.rstrip("="), *base64s]
    found += [text.rstrip("=") for text in base64s]
    found.append("ed25519:" + base64s[1].rstrip("="))
    if len(raw) == 32:
        found += [device_id(Key(raw)), device_id(Key(raw)).replace("-", "")]
    return found


def _is_no_place(host: str) -> bool:
    """Loopback and wildcard addresses are everybody's."""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    """Whole words only: a context named `a` must not eat every a. The longest first."""
    ordered = sorted((re.escape(name) for name in names), key=len, reverse=True)
    if not ordered:
        return re.compile(r"(?!)")
    return re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(ordered)})(?![A-Za-z0-9])", re.IGNORECASE)
