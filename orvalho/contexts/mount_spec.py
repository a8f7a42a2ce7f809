"""What a mount is made from, as its owner writes it: a URL and what belongs to it. Pure.

| URL | what |
|---|---|
| `s3://BUCKET/PREFIX` | an object store |
| `sqlite:/path/file` | one SQLite file |
| `zip:/path/file.zip` | an archive, only read |
| `dir:/path` | a directory of this machine |
| `memory:` | nothing that stays |
| `CONTEXT@NODE:/path` | the tree of a context on a paired node |

URLs come from the owner alone, never from what a script says or writes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Literal, get_args
from urllib.parse import urlsplit

import msgspec

from orvalho.contexts.filesystem import VirtualPath, virtual_path
from orvalho.contexts.names import Address, check_label, near_miss, parse_address
from orvalho.errors import Denied, InvalidInput

Scheme = Literal["s3", "sqlite", "zip", "dir", "memory", "peer"]

_FILES: Final = frozenset({"sqlite", "zip", "dir"})
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,62}")
_REMOTE: Final = re.compile(r"([a-z0-9-]+@[a-z0-9-]+):(/.*)")
_EXAMPLE: Final = "orvalho ctx mount --help"


class MountSetting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One mount as it is written down. `quota` is a size, such as "2GB"; empty for what a context
    may hold."""

    url: str
    secret: str = ""
    endpoint: str = ""
    region: str = ""
    read_only: bool = False
    quota: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A URL, read. `path`: of a file or directory of this machine, the prefix in a bucket, or the
    path in another context. `bucket` and `address` only where there is one."""

    scheme: Scheme
    path: str = ""
    bucket: str = ""
    address: Address | None = None


def parse_place(text: str) -> tuple[str, VirtualPath]:
    """`alice:/photos` -> the context and the path in it.

    Raises:
        InvalidInput: it is not of that form, or is the root: that is the context's own.
    """
    context, colon, path = text.partition(":")
    if not colon or not path.startswith("/"):
        raise InvalidInput(
            "a place is CONTEXT:/path, such as alice:/photos",
            where=ascii(text[:200]),
            hint=_EXAMPLE,
        )
    place = virtual_path(path)
    if place == "/":
        raise InvalidInput(
            "/ is the context's own tree, and stays: mount below it", where=ascii(text[:200])
        )
    return check_label(context), place


def check_setting(setting: MountSetting) -> Source:
    """The source that a setting names. No message repeats the URL: a secret may stand in it.

    Raises:
        InvalidInput: something in it does not fit.
    """
    source = parse_url(setting.url)
    if setting.endpoint:
        _check_endpoint(setting.endpoint)
    for name in ("secret", "endpoint", "region"):
        if getattr(setting, name) and source.scheme != "s3":
            raise InvalidInput(f"{name}: only s3:// has one")
    if setting.secret:
        check_label(setting.secret)
    if setting.region and not re.fullmatch(r"[a-z0-9-]{1,40}", setting.region):
        raise InvalidInput("region: a word such as eu-central-1")
    return source


def parse_url(url: str) -> Source:
    """Raises:
    InvalidInput: it is none of the kinds above, or holds credentials.
    """
    if len(url) > 1024 or not url.isprintable():
        raise InvalidInput("url: at most 1024 printable characters")
    if remote := _REMOTE.fullmatch(url):
        return Source("peer", _path(remote[2]), address=parse_address(remote[1]))
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in get_args(Scheme) or scheme == "peer":
        near = near_miss(scheme[:12], get_args(Scheme))
        raise InvalidInput(
            "url: s3://BUCKET/PREFIX, sqlite:/FILE, zip:/FILE, dir:/PATH, memory: or"
            " CONTEXT@NODE:/PATH" + (f"; did you mean {near}:?" if near else ""),
            hint=_EXAMPLE,
        )
    if scheme == "memory":
        if rest:
            raise InvalidInput("url: nothing follows memory:")
        return Source("memory")
    if scheme in _FILES:
        if not rest.startswith("/") or ".." in PurePosixPath(rest).parts or "\0" in rest:
            raise InvalidInput(f"url: {scheme}: is followed by an absolute path without ..")
        return Source(scheme, rest)  # type: ignore[arg-type]  # one of the literals
    return _bucket(url)


def _bucket(url: str) -> Source:
    parts = urlsplit(url)
    if "@" in parts.netloc or ":" in parts.netloc:
        raise InvalidInput("url: credentials do not belong here", hint="orvalho secret set NAME")
    if not _BUCKET.fullmatch(parts.netloc) or parts.query or parts.fragment:
        raise InvalidInput(
            "url: s3:// is followed by a bucket's name (3 to 63 of a-z 0-9 . _ -, such as"
            " s3://my-photos/2026) and a path"
        )
    return Source("s3", _path(parts.path or "/"), bucket=parts.netloc)


def _check_endpoint(endpoint: str) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise InvalidInput("endpoint: http:// or https:// and a host, without credentials")
    if parts.query or parts.fragment or not endpoint.isprintable():
        raise InvalidInput("endpoint: http:// or https:// and a host, without credentials")


def _path(text: str) -> str:
    try:
        return virtual_path(text)
    except Denied as error:
        raise InvalidInput(f"url: {error.message}") from error
