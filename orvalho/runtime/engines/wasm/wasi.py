"""WASI preview 1 (`wasi_snapshot_preview1`), all of it, over our own calls: no file, clock or
socket of the host's is given to a guest.

What has no counterpart here (links, sockets, times of files) answers `notsup`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from orvalho.runtime.engines.wasm.files import Errno, File, Folder, Opening, Stat, Stream, WasiError
from orvalho.runtime.engines.wasm.guest import Exit, Guest, Offered, Place

_CREATE, _DIRECTORY, _EXCLUSIVE, _TRUNCATE = 1, 2, 4, 8
_RIGHT_READ, _RIGHT_WRITE = 1 << 1, 1 << 6
_ALL_RIGHTS: Final = (1 << 30) - 1
# fd_datasync, fd_write, fd_allocate, path_create_directory, path_create_file, path_link_source,
# path_link_target, path_rename_source, path_rename_target, path_filestat_set_size and _set_times,
# fd_filestat_set_size and _set_times, path_symlink, path_remove_directory, path_unlink_file.
_WRITING_RIGHTS: Final = sum(
    1 << bit for bit in (0, 6, 8, 9, 10, 11, 12, 16, 17, 19, 20, 22, 23, 24, 25, 26)
)
_APPEND: Final = 1
_CHARACTER_DEVICE, _FOLDER, _FILE = 2, 3, 4
_REALTIME, _MONOTONIC = 0, 1
# Those two, and the processor's: of the process, and of the thread.
_CLOCKS: Final = range(4)
_MOST_PIECES: Final = 1024
_MOST_AT_ONCE: Final = 16 << 20
_MOST_EVENTS: Final = 256
_MOST_RANDOM: Final = 1 << 20


def _succeeding(function: Callable[..., None]) -> Callable[..., int]:
    """With an errno for an answer."""

    def call(guest: Guest, place: Place, *arguments: int) -> int:
        try:
            function(guest, place, *arguments)
        except WasiError as error:
            return error.errno
        except IndexError:
            return Errno.FAULT
        except UnicodeDecodeError:
            return Errno.INVAL
        return Errno.SUCCESS

    return call


def _put_list(place: Place, texts: list[bytes], at: int, buffer: int) -> None:
    for number, text in enumerate(texts):
        place.write(at + 4 * number, struct.pack("<I", buffer & 0xFFFFFFFF))
        place.write(buffer, text + b"\0")
        buffer += len(text) + 1


def _put_sizes(place: Place, texts: list[bytes], count: int, size: int) -> None:
    place.write(count, struct.pack("<I", len(texts)))
    place.write(size, struct.pack("<I", sum(len(text) + 1 for text in texts)))


def _pieces(place: Place, at: int, count: int) -> list[tuple[int, int]]:
    """The places and sizes of a vector of buffers."""
    if not 0 <= count <= _MOST_PIECES:
        raise WasiError(Errno.INVAL)
    raw = place.read(at, 8 * count)
    return [(where, size) for where, size in struct.iter_unpack("<II", raw)]


def _gathered(place: Place, at: int, count: int) -> bytes:
    pieces = _pieces(place, at, count)
    if sum(size for _, size in pieces) > _MOST_AT_ONCE:
        raise WasiError(Errno.INVAL)
    return b"".join(place.read(where, size) for where, size in pieces)


def _scatter(place: Place, at: int, count: int, read: Callable[[int], bytes]) -> int:
    total = 0
    for where, size in _pieces(place, at, count):
        content = read(min(size, _MOST_AT_ONCE))
        place.write(where, content)
        total += len(content)
        if len(content) < size:
            break
    return total


# ---- arguments, clocks, chance ---------------------------------------------------------------


def _args_get(guest: Guest, place: Place, at: int, buffer: int) -> None:
    _put_list(place, guest.arguments, at, buffer)


def _args_sizes_get(guest: Guest, place: Place, count: int, size: int) -> None:
    _put_sizes(place, guest.arguments, count, size)


def _environ_get(guest: Guest, place: Place, at: int, buffer: int) -> None:
    _put_list(place, guest.environment, at, buffer)


def _environ_sizes_get(guest: Guest, place: Place, count: int, size: int) -> None:
    _put_sizes(place, guest.environment, count, size)


def _clock_time_get(guest: Guest, place: Place, clock: int, precision: int, at: int) -> None:
    if clock not in _CLOCKS:
        raise WasiError(Errno.INVAL)
    place.write(at, struct.pack("<Q", guest.host.clock_ns(clock)))


def _clock_res_get(guest: Guest, place: Place, clock: int, at: int) -> None:
    if clock not in _CLOCKS:
        raise WasiError(Errno.INVAL)
    place.write(at, struct.pack("<Q", 1))


def _random_get(guest: Guest, place: Place, at: int, size: int) -> None:
    if not 0 <= size <= _MOST_RANDOM:
        raise WasiError(Errno.INVAL)
    place.write(at, guest.host.chance(size))


def _proc_exit(guest: Guest, place: Place, status: int) -> None:
    raise Exit(status & 0xFFFFFFFF)


def _sched_yield(guest: Guest, place: Place) -> None:
    guest.host.look_in()


def _poll_oneoff(guest: Guest, place: Place, at: int, out: int, count: int, found: int) -> None:
    """Clocks are waited for; a stream or file is always ready."""
    if not 0 < count <= _MOST_EVENTS:
        raise WasiError(Errno.INVAL)
    waits = []
    for number in range(count):
        raw = place.read(at + 48 * number, 48)
        user, kind = struct.unpack_from("<QB", raw)
        wait_ns = 0
        if kind == 0:
            (clock,) = struct.unpack_from("<I", raw, 16)
            wait_ns, _, flags = struct.unpack_from("<QQH", raw, 24)
            if flags & 1:
                now = guest.host.clock_ns(clock if clock == _REALTIME else _MONOTONIC)
                wait_ns = max(0, wait_ns - now)
        waits.append((wait_ns, user, kind))
    least = min(wait_ns for wait_ns, _, _ in waits)
    if least:
        guest.host.sleep(least / 1e6)
    ready = [(user, kind) for wait_ns, user, kind in waits if wait_ns <= least]
    for number, (user, kind) in enumerate(ready):
        place.write(out + 32 * number, struct.pack("<QHB21x", user, 0, kind))
    place.write(found, struct.pack("<I", len(ready)))


# ---- descriptors -----------------------------------------------------------------------------


def _fd_write(guest: Guest, place: Place, fd: int, at: int, count: int, out: int) -> None:
    content = _gathered(place, at, count)
    opened = guest.files.find(fd)
    if isinstance(opened, Stream):
        if opened.number == 0:
            raise WasiError(Errno.BADF)
        guest.print(opened.number, content)
    else:
        file = guest.files.file(fd)
        if file.appends:
            file.at = len(guest.files.content(file))
        guest.files.write(file, file.at, content)
        file.at += len(content)
    place.write(out, struct.pack("<I", len(content)))


def _fd_pwrite(
    guest: Guest, place: Place, fd: int, at: int, count: int, where: int, out: int
) -> None:
    content = _gathered(place, at, count)
    guest.files.write(guest.files.file(fd), _offset(where), content)
    place.write(out, struct.pack("<I", len(content)))


def _fd_read(guest: Guest, place: Place, fd: int, at: int, count: int, out: int) -> None:
    opened = guest.files.find(fd)

    def read(size: int) -> bytes:
        if isinstance(opened, Stream):
            if opened.number != 0:
                raise WasiError(Errno.BADF)
            content, guest.files.stdin = guest.files.stdin[:size], guest.files.stdin[size:]
            return content
        file = guest.files.file(fd)
        content = guest.files.read(file, file.at, size)
        file.at += len(content)
        return content

    place.write(out, struct.pack("<I", _scatter(place, at, count, read)))


def _fd_pread(
    guest: Guest, place: Place, fd: int, at: int, count: int, where: int, out: int
) -> None:
    file, position = guest.files.file(fd), _offset(where)

    def read(size: int) -> bytes:
        nonlocal position
        content = guest.files.read(file, position, size)
        position += len(content)
        return content

    place.write(out, struct.pack("<I", _scatter(place, at, count, read)))


def _offset(where: int) -> int:
    if not 0 <= where <= _MOST_AT_ONCE:
        raise WasiError(Errno.INVAL)
    return where


def _fd_seek(guest: Guest, place: Place, fd: int, offset: int, whence: int, out: int) -> None:
    file = guest.files.file(fd)
    if whence not in (0, 1, 2):
        raise WasiError(Errno.INVAL)
    base = (0, file.at, len(guest.files.content(file)) if whence == 2 else 0)[whence]
    file.at = _offset(base + offset)
    place.write(out, struct.pack("<Q", file.at))


def _fd_tell(guest: Guest, place: Place, fd: int, out: int) -> None:
    place.write(out, struct.pack("<Q", guest.files.file(fd).at))


def _fd_close(guest: Guest, place: Place, fd: int) -> None:
    guest.files.close(fd)


def _fd_renumber(guest: Guest, place: Place, fd: int, to: int) -> None:
    guest.files.renumber(fd, to)


def _fd_sync(guest: Guest, place: Place, fd: int) -> None:
    opened = guest.files.find(fd)
    if isinstance(opened, File):
        guest.files.flush(opened)


def _fd_nothing(guest: Guest, place: Place, fd: int, *rest: int) -> None:
    guest.files.find(fd)


def _fd_fdstat_get(guest: Guest, place: Place, fd: int, at: int) -> None:
    opened = guest.files.find(fd)
    kind, flags, rights = _CHARACTER_DEVICE, 0, _RIGHT_READ | _RIGHT_WRITE
    inherited = _ALL_RIGHTS
    if not isinstance(opened, Stream) and not guest.files.is_writable(opened.side):
        inherited &= ~_WRITING_RIGHTS
    if isinstance(opened, Folder):
        kind, rights = _FOLDER, _ALL_RIGHTS & ~(_RIGHT_READ | _RIGHT_WRITE)
    elif isinstance(opened, File):
        kind, flags, rights = _FILE, _APPEND if opened.appends else 0, _ALL_RIGHTS
        rights &= ~0 if opened.is_readable else ~_RIGHT_READ
        rights &= ~0 if opened.is_writable else ~_RIGHT_WRITE
    if kind != _CHARACTER_DEVICE:
        rights &= inherited
    place.write(at, struct.pack("<BxHxxxxQQ", kind, flags, rights, inherited))


def _fd_fdstat_set_flags(guest: Guest, place: Place, fd: int, flags: int) -> None:
    opened = guest.files.find(fd)
    if isinstance(opened, File):
        opened.appends = bool(flags & _APPEND)


def _fd_filestat_get(guest: Guest, place: Place, fd: int, at: int) -> None:
    opened = guest.files.find(fd)
    if isinstance(opened, Stream):
        place.write(at, _packed(_CHARACTER_DEVICE, 0, 0))
    elif isinstance(opened, Folder):
        place.write(at, _packed_stat(guest.files.stat(opened.side, opened.path)))
    else:
        size = opened.stat.size if opened.content is None else len(opened.content)
        place.write(at, _packed(_FILE, size, opened.stat.modified))


def _fd_filestat_set_size(guest: Guest, place: Place, fd: int, size: int) -> None:
    guest.files.resize(guest.files.file(fd), _offset(size))


def _fd_allocate(guest: Guest, place: Place, fd: int, where: int, size: int) -> None:
    file = guest.files.file(fd)
    least = _offset(where) + _offset(size)
    if least > len(guest.files.content(file)):
        guest.files.resize(file, least)


def _fd_prestat_get(guest: Guest, place: Place, fd: int, at: int) -> None:
    opened = guest.files.find(fd)
    if not isinstance(opened, Folder) or not opened.preopened:
        raise WasiError(Errno.BADF)
    place.write(at, struct.pack("<II", 0, len(opened.preopened)))


def _fd_prestat_dir_name(guest: Guest, place: Place, fd: int, at: int, size: int) -> None:
    place.write(at, guest.files.folder(fd).preopened.encode()[: size & 0xFFFFFFFF])


def _fd_readdir(
    guest: Guest, place: Place, fd: int, at: int, size: int, after: int, out: int
) -> None:
    folder = guest.files.folder(fd)
    if after == 0:
        folder.entries = None
    raw = bytearray()
    for number, entry in enumerate(guest.files.list(folder)[max(after, 0) :], after + 1):
        name = entry.name.encode()
        kind = _FOLDER if entry.is_folder else _FILE
        raw += struct.pack("<QQIBxxx", number, number, len(name), kind) + name
        if len(raw) >= size & 0xFFFFFFFF:
            break
    raw = raw[: size & 0xFFFFFFFF]
    place.write(at, bytes(raw))
    place.write(out, struct.pack("<I", len(raw)))


def _packed(kind: int, size: int, modified_ms: float) -> bytes:
    """filestat: device, inode, type, links, size, and the times of access, change, creation."""
    at_ns = max(int(modified_ms * 1e6), 0)
    return struct.pack("<QQBxxxxxxxQQQQQ", 0, 0, kind, 1, size, at_ns, at_ns, at_ns)


def _packed_stat(stat: Stat) -> bytes:
    return _packed(_FOLDER if stat.is_folder else _FILE, stat.size, stat.modified)


# ---- paths -----------------------------------------------------------------------------------


def _path(guest: Guest, place: Place, fd: int, at: int, size: int) -> tuple[str, str]:
    return guest.files.place(fd, place.read(at, size).decode())


def _path_open(
    guest: Guest,
    place: Place,
    fd: int,
    follow: int,
    at: int,
    size: int,
    how: int,
    rights: int,
    inherited: int,
    flags: int,
    out: int,
) -> None:
    side, path = _path(guest, place, fd, at, size)
    opening = Opening(
        creates=bool(how & _CREATE),
        is_exclusive=bool(how & _EXCLUSIVE),
        truncates=bool(how & _TRUNCATE),
        wants_folder=bool(how & _DIRECTORY),
        is_readable=bool(rights & _RIGHT_READ),
        is_writable=bool(rights & _RIGHT_WRITE),
        appends=bool(flags & _APPEND),
    )
    place.write(out, struct.pack("<I", guest.files.open(side, path, opening)))


def _path_filestat_get(
    guest: Guest, place: Place, fd: int, follow: int, at: int, size: int, out: int
) -> None:
    place.write(out, _packed_stat(guest.files.stat(*_path(guest, place, fd, at, size))))


def _path_create_directory(guest: Guest, place: Place, fd: int, at: int, size: int) -> None:
    guest.files.make_folder(*_path(guest, place, fd, at, size))


def _path_unlink_file(guest: Guest, place: Place, fd: int, at: int, size: int) -> None:
    guest.files.remove_file(*_path(guest, place, fd, at, size))


def _path_remove_directory(guest: Guest, place: Place, fd: int, at: int, size: int) -> None:
    guest.files.remove_folder(*_path(guest, place, fd, at, size))


def _path_rename(
    guest: Guest, place: Place, fd: int, at: int, size: int, to: int, new: int, new_size: int
) -> None:
    side, path = _path(guest, place, fd, at, size)
    new_side, new_path = _path(guest, place, to, new, new_size)
    if side != new_side:
        raise WasiError(Errno.NOTSUP)
    guest.files.ask(side, "move", path, new_path)


def _not_here(guest: Guest, place: Place, *arguments: Any) -> None:
    raise WasiError(Errno.NOTSUP)


_FUNCTIONS: Final[dict[str, tuple[str, Callable[..., None]]]] = {
    "args_get": ("ii", _args_get),
    "args_sizes_get": ("ii", _args_sizes_get),
    "environ_get": ("ii", _environ_get),
    "environ_sizes_get": ("ii", _environ_sizes_get),
    "clock_res_get": ("ii", _clock_res_get),
    "clock_time_get": ("iIi", _clock_time_get),
    "random_get": ("ii", _random_get),
    "sched_yield": ("", _sched_yield),
    "poll_oneoff": ("iiii", _poll_oneoff),
    "fd_advise": ("iIIi", _fd_nothing),
    "fd_allocate": ("iII", _fd_allocate),
    "fd_close": ("i", _fd_close),
    "fd_datasync": ("i", _fd_sync),
    "fd_fdstat_get": ("ii", _fd_fdstat_get),
    "fd_fdstat_set_flags": ("ii", _fd_fdstat_set_flags),
    "fd_fdstat_set_rights": ("iII", _fd_nothing),
    "fd_filestat_get": ("ii", _fd_filestat_get),
    "fd_filestat_set_size": ("iI", _fd_filestat_set_size),
    "fd_filestat_set_times": ("iIIi", _not_here),
    "fd_pread": ("iiiIi", _fd_pread),
    "fd_prestat_get": ("ii", _fd_prestat_get),
    "fd_prestat_dir_name": ("iii", _fd_prestat_dir_name),
    "fd_pwrite": ("iiiIi", _fd_pwrite),
    "fd_read": ("iiii", _fd_read),
    "fd_readdir": ("iiiIi", _fd_readdir),
    "fd_renumber": ("ii", _fd_renumber),
    "fd_seek": ("iIii", _fd_seek),
    "fd_sync": ("i", _fd_sync),
    "fd_tell": ("ii", _fd_tell),
    "fd_write": ("iiii", _fd_write),
    "path_create_directory": ("iii", _path_create_directory),
    "path_filestat_get": ("iiiii", _path_filestat_get),
    "path_filestat_set_times": ("iiiiIIi", _not_here),
    "path_link": ("iiiiiii", _not_here),
    "path_open": ("iiiiiIIii", _path_open),
    "path_readlink": ("iiiiii", _not_here),
    "path_remove_directory": ("iii", _path_remove_directory),
    "path_rename": ("iiiiii", _path_rename),
    "path_symlink": ("iiiii", _not_here),
    "path_unlink_file": ("iii", _path_unlink_file),
    "proc_raise": ("i", _not_here),
    "sock_accept": ("iii", _not_here),
    "sock_recv": ("iiiiii", _not_here),
    "sock_send": ("iiiii", _not_here),
    "sock_shutdown": ("ii", _not_here),
}

WASI_FUNCTIONS: Final = {
    **{name: Offered(f"{kind}:i", _succeeding(f)) for name, (kind, f) in _FUNCTIONS.items()},
    "proc_exit": Offered("i:", _proc_exit),
}
