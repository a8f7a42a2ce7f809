"""Object stores as trees, by opendal: S3 and what speaks its protocol.

A store has keys and no directories. A directory is here what some key lies below, or what has a
key of its own that ends in a slash; one that loses its last file gets such a key, so that removing
a file does not remove what it lay in. A key that is no path (`../x`, `a//b`) is not there.

opendal lets `..` climb out of its root on S3, WebDAV and HTTP (seen on the wire), and takes
credentials from the environment and from a cloud's metadata service. So a place has its one
spelling before it comes here (`StoredTree`), and nothing is loaded that was not given.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, Final
from urllib.parse import urlsplit

from orvalho.contexts.filesystem import virtual_path
from orvalho.contexts.fs_shim import fs_errors
from orvalho.contexts.mounts.stored import DIRECTORY, Status, StoredTree, changed_meanwhile
from orvalho.errors import Denied, InvalidInput, Unavailable

_CALL_S: Final = 10.0
_RETRIES: Final = 2
_PIECE_BYTES: Final = 8 << 20
# One listing of more is not a directory that anybody reads.
_MOST_LISTED: Final = 100_000
# One listing may take many requests.
_LIST_S: Final = 25.0
_REGION: Final = "us-east-1"


class ObjectTree(StoredTree):
    """The keys that an operator of opendal gives access to. Replacing a file is atomic as far as
    the store's own put is; what a listing shows may lag behind where the store says so."""

    is_network = True

    def __init__(self, operator: Any, *, hidden: Collection[str] = ()) -> None:
        """`hidden`: texts that no error may repeat."""
        super().__init__()
        self._operator = operator
        self._hidden = tuple(hidden)
        self._kinds = _library().exceptions
        # They have no class in common but Exception.
        self._any_kind = tuple(
            each
            for each in vars(self._kinds).values()
            if isinstance(each, type) and issubclass(each, Exception)
        )

    def _status(self, place: str) -> Status | None:
        with self._translated(place):
            try:
                found = self._operator.stat(place)
            except self._kinds.NotFound:
                return DIRECTORY if self._is_directory(place) else None
            except self._kinds.Unexpected as error:
                # ENOTDIR of opendal's `fs`: below a file there is nothing.
                if "(os error 20)" not in str(error):
                    raise
                return None
        return _status(found)

    def _children(self, place: str) -> Iterable[tuple[str, Status]]:
        top = f"{place}/" if place else "/"
        skipped = len(place) + 1 if place else 0
        found: dict[str, Status] = {}
        with self._translated(place):
            entries = self._list(top, _MOST_LISTED + 1)
            if len(entries) > _MOST_LISTED:
                raise OSError(errno.EFBIG, f"more than {_MOST_LISTED} entries in {place or '/'}")
            for entry in entries:
                key = str(entry.path)
                name = key[skipped:].removesuffix("/")
                if key.startswith(top.lstrip("/")) and _is_name(name):
                    status = DIRECTORY if key.endswith("/") else _status(entry.metadata)
                    # A file and a directory of one name: the file is what `stat` finds.
                    if not (status.is_directory and name in found):
                        found[name] = status
        return found.items()

    def _read(self, place: str, offset: int, count: int, version: str) -> bytes:
        with self._translated(place):
            if count == 0:
                return b""
            try:
                content: bytes = self._operator.read(
                    place, offset=offset, size=count, **_match(version)
                )
            except self._kinds.ConditionNotMatch as error:
                raise changed_meanwhile(place) from error
            except self._kinds.RangeNotSatisfied:
                return b""
        return content[: count + 1]

    def _store(self, place: str, source: IO[bytes], size_bytes: int) -> None:
        with self._translated(place):
            if size_bytes <= _PIECE_BYTES:
                self._operator.write(place, source.read())
                return
            with self._operator.open(place, "wb") as file:
                while piece := source.read(_PIECE_BYTES):
                    file.write(piece)

    def _make(self, place: str) -> None:
        with self._translated(place):
            self._operator.create_dir(f"{place}/")

    def _remove(self, place: str) -> None:
        with self._translated(place):
            self._operator.delete(place)
            above = place.rpartition("/")[0]
            if above and not self._is_directory(above):
                self._operator.create_dir(f"{above}/")

    def _remove_directory(self, place: str) -> None:
        for _name in self._children(place):
            raise fs_errors.DirectoryNotEmpty(place)
        with self._translated(place):
            if self._lies_below(place):
                # Keys that are no paths: not ours to remove.
                raise fs_errors.DirectoryNotEmpty(place)
            self._operator.delete(f"{place}/")
            above = place.rpartition("/")[0]
            if above and not self._is_directory(above):
                self._operator.create_dir(f"{above}/")

    def _is_directory(self, place: str) -> bool:
        return bool(self._keys(place))

    def _lies_below(self, place: str) -> bool:
        return any(key != f"{place}/" for key in self._keys(place))

    def _keys(self, place: str) -> list[str]:
        """The first few keys below a place, its own among them."""
        try:
            keys = [str(entry.path) for entry in self._list(f"{place}/", 3)]
        except self._kinds.NotFound:
            return []
        return [key for key in keys if key != place and key.startswith(f"{place}/")]

    def measure(self, most_files: int) -> tuple[int, int]:
        """See `StoredTree.measure`; in one listing, where directories without a key of their own
        do not count."""
        with self._translated("/"):
            entries = self._list("/", most_files + 2, recursive=True)
        files = [entry for entry in entries if str(entry.path).strip("/")]
        return len(files), sum(int(entry.metadata.content_length or 0) for entry in files)

    def _list(self, top: str, most: int, *, recursive: bool = False) -> list[Any]:
        """The first `most` entries. Not by the blocking list: that one holds the interpreter's lock
        while it waits, and a store that hangs would stop the whole daemon (measured)."""
        operator = self._operator.to_async_operator()
        # What one request brings: no more than are wanted.
        options: dict[str, Any] = {"recursive": recursive} | ({"limit": most} if most < 10 else {})

        async def collect() -> list[Any]:
            async with asyncio.timeout(_LIST_S):
                found: list[Any] = []
                async for entry in await operator.list(top, **options):
                    found.append(entry)
                    if len(found) >= most:
                        break
                return found

        try:
            # A loop of its own: this is a worker's thread, which has none.
            return asyncio.run(collect())
        except TimeoutError as error:
            raise OSError(errno.ETIMEDOUT, "the store does not answer") from error

    @contextmanager
    def _translated(self, place: str) -> Iterator[None]:
        """opendal's errors as those of a disk, in our own words: its own name hosts and headers."""
        kinds = self._kinds
        try:
            yield
        except kinds.NotFound as error:
            raise fs_errors.ResourceNotFound(place) from error
        except kinds.PermissionDenied:
            raise Unavailable(
                "the store does not accept our credentials for this",
                where=place,
                hint="orvalho secret ls",
            ) from None
        except (kinds.IsADirectory, kinds.NotADirectory) as error:
            raise fs_errors.ResourceNotFound(place) from error
        except self._any_kind as error:
            raise OSError(errno.EIO, self._told(error)) from None
        except UnicodeError as error:
            raise OSError(errno.EIO, "the store answers what is no text") from error

    def _told(self, error: Exception) -> str:
        """One line of the store's, without what is hidden."""
        first = str(error).partition("\n")[0]
        for secret in self._hidden:
            first = first.replace(secret, "***")
        text = "".join(char if char.isprintable() else "?" for char in first)[:200]
        return f"the store fails: {text}"


def open_s3(
    url: str,
    *,
    endpoint: str | None = None,
    region: str | None = None,
    credentials: str | None = None,
    call_s: float = _CALL_S,
) -> ObjectTree:
    """`s3://BUCKET/PREFIX`. `credentials`: `ACCESS_KEY_ID:SECRET_ACCESS_KEY`; None asks without
    any. `call_s` bounds each request to the store.

    Raises:
        InvalidInput: the URL or the credentials are none.
        Unavailable: opendal is not installed.
    """
    parts = urlsplit(url)
    options = {
        "bucket": parts.netloc,
        "root": virtual_path(parts.path or "/"),
        "region": region or _REGION,
        # Else the daemon's own surroundings would decide whose rights are used.
        "disable_config_load": "true",
        "disable_ec2_metadata": "true",
    }
    if endpoint:
        options["endpoint"] = endpoint
    hidden: tuple[str, ...] = ()
    if credentials is None:
        options["allow_anonymous"] = "true"
    else:
        key_id, colon, secret = credentials.strip().partition(":")
        if not (key_id and colon and secret) or not credentials.isprintable():
            raise InvalidInput(
                "credentials of S3 are ACCESS_KEY_ID:SECRET_ACCESS_KEY",
                hint="orvalho secret set NAME",
            )
        options |= {"access_key_id": key_id, "secret_access_key": secret}
        hidden = (credentials.strip(), secret, key_id)
    return ObjectTree(open_operator("s3", options, call_s=call_s), hidden=hidden)


def open_operator(scheme: str, options: Mapping[str, str], *, call_s: float = _CALL_S) -> Any:
    """An operator whose calls end. Only `s3` is mounted by name; `memory` and `fs` are for tests,
    since opendal's `fs` follows links out of its root.

    Raises:
        Unavailable: opendal is not installed.
    """
    opendal = _library()
    layers = opendal.layers
    operator = opendal.Operator(scheme, **options)
    operator = operator.layer(layers.TimeoutLayer(timeout=call_s, io_timeout=call_s))
    return operator.layer(
        layers.RetryLayer(max_times=_RETRIES, min_delay=0.1, max_delay=1.0, jitter=True)
    )


def _library() -> Any:
    """opendal, with its modules: 16 ms and 40 MB that only a mounted store needs."""
    try:
        import opendal  # noqa: PLC0415
        import opendal.exceptions  # noqa: PLC0415
        import opendal.layers  # noqa: PLC0415
    except ImportError as error:
        raise Unavailable(
            "object stores need the library opendal", hint="pip install orvalho[stores]"
        ) from error
    return opendal


def _status(metadata: Any) -> Status:
    if metadata.is_dir:
        return DIRECTORY
    modified = metadata.last_modified
    modified_at = modified.timestamp() if modified is not None else None
    size_bytes = int(metadata.content_length)
    version = str(metadata.etag or "")
    return Status(False, size_bytes, modified_at, version)


def _match(version: str) -> dict[str, str]:
    return {"if_match": version} if version else {}


def _is_name(name: str) -> bool:
    try:
        return bool(name) and "/" not in name and virtual_path(name) == f"/{name}"
    except (Denied, InvalidInput):
        return False
