"""A library that stays: one instance, whose memory lives on from call to call.

The guest's thread asks for a call with the operation `service.next`, makes it, and answers with
`service.done`. Who may call, and as whom it then acts, its host decides.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

import msgspec

from orvalho.errors import InvalidInput
from orvalho.runtime.engines.blocking import Thrown
from orvalho.runtime.engines.wasm.guest import Guest
from orvalho.scripts.wasm.module import WasmModule, check_call

NEXT: Final = "service.next"
DONE: Final = "service.done"
_INITIALIZE: Final = "_initialize"


class Instance(Protocol):
    """What there is of a module once it is instantiated."""

    described: WasmModule

    def invoke(self, name: str, arguments: tuple[int | float, ...]) -> Any: ...
    def memory_bytes(self) -> int: ...
    def waiting(self) -> AbstractContextManager[None]: ...


def serve(guest: Guest, instance: Instance) -> None:
    """Make the calls that come, until there are no more. What a guest throws ends it.

    Raises:
        Thrown: the host has no calls to give.
    """
    if instance.described.export(_INITIALIZE) is not None:
        instance.invoke(_INITIALIZE, ())
    while True:
        with instance.waiting():
            asked = guest.host.call(NEXT, b"[%d]" % _cpu_ms())
        if asked.is_error:
            raise Thrown("Unavailable", "this is no service")
        record = _called(guest, instance, asked.value)
        answer = [record[:1].decode(), record[1:].decode(), _cpu_ms(), instance.memory_bytes()]
        guest.host.call(DONE, msgspec.json.encode(answer))


def _cpu_ms() -> int:
    """What the guest's thread has used in its life: as the host is told it between calls."""
    return round(1000 * time.thread_time())


def _called(guest: Guest, instance: Instance, params: bytes) -> bytes:
    """The last record of the call (see `bridge.py`)."""
    guest.params, guest.answer, guest.result = params, b"", None
    try:
        name, arguments = check_call(instance.described, msgspec.json.decode(params))
    except InvalidInput as error:
        return b"E" + msgspec.json.encode(["InvalidInput", error.message, ""])
    return guest.finish(instance.invoke(name, arguments), is_command=False)
