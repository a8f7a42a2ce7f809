"""Who is at the other end of a local socket: the user id that the kernel vouches for."""

from __future__ import annotations

import os
import socket
import sys
from typing import Protocol


class _Socket(Protocol):
    def getsockopt(self, level: int, option: int, length: int, /) -> bytes: ...
    def fileno(self) -> int: ...


def peer_uid(connection: _Socket) -> int:
    """The effective user id of the process at the other end, as it was when it connected (for a
    client: when the server began to listen). SO_PEERCRED on Linux (unix(7)), getpeereid(3)
    elsewhere.

    Raises:
        OSError: the kernel does not say.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is not None:
        # struct ucred { pid_t pid; uid_t uid; gid_t gid; }
        ucred = connection.getsockopt(socket.SOL_SOCKET, option, 12)
        return int.from_bytes(ucred[4:8], sys.byteorder)
    return _getpeereid(connection.fileno())


def _getpeereid(descriptor: int) -> int:
    import ctypes  # noqa: PLC0415 - 3 ms that Linux does without

    uid, gid = ctypes.c_uint32(), ctypes.c_uint32()
    library = ctypes.CDLL(None, use_errno=True)
    if library.getpeereid(descriptor, ctypes.byref(uid), ctypes.byref(gid)):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return uid.value
