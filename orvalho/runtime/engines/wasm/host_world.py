"""`orvalho:host@0.1`, our own interfaces for components: `wit/host.wit` says what they are.

Each function is a call of the run's table, as scripts make them, so what is declared, allowed and
counted holds here too. An answer that is an error is the `error` of the function's `result`.
"""

from __future__ import annotations

import base64
from typing import Any, Final

import msgspec

from orvalho.runtime.engines.blocking import Thrown
from orvalho.runtime.engines.wasm.guest import one_line
from orvalho.runtime.engines.wasm.preview2 import Caller, Function, Refusal

# Written as JSON a text takes six times as much at worst.
_MOST_TEXT: Final = 8 << 20
_LEVELS: Final = ("debug", "log", "info", "warn", "error")


def _one_line(text: str) -> bytes:
    if len(text) > _MOST_TEXT:
        message = f"a text has at most {_MOST_TEXT} characters"
        raise Refusal({"name": "LimitExceeded", "message": message})
    try:
        return one_line(text)
    except Thrown as thrown:
        raise Refusal({"name": thrown.name, "message": thrown.message}) from None


def _ask(caller: Caller, op: str, *arguments: Any) -> Any:
    if any(isinstance(each, str) and len(each) > _MOST_TEXT for each in arguments):
        message = f"a text has at most {_MOST_TEXT} characters: write bytes, in parts"
        raise Refusal({"name": "LimitExceeded", "message": message})
    return msgspec.json.decode(_call_raw(caller, op, msgspec.json.encode(arguments)))


def _call_raw(caller: Caller, op: str, arguments: bytes) -> bytes:
    answer = caller.guest.host.call(op, arguments)
    if answer.is_error:
        told = msgspec.json.decode(answer.value)
        name, message = str(told.get("name", "Error")), str(told.get("message", ""))
        raise Refusal({"name": name, "message": message})
    return answer.value


# ---- log and run -----------------------------------------------------------------------------


def _write_log(caller: Caller, level: str, line: str) -> None:
    caller.guest.host.log(_LEVELS.index(level) if level in _LEVELS else 1, line)


def _params(caller: Caller) -> str:
    return caller.guest.params.decode()


def _result(caller: Caller, text: str) -> None:
    try:
        caller.guest.result = b"R" + _one_line(text)
    except Refusal as refusal:
        raise Thrown(refusal.value["name"], refusal.value["message"]) from None


def _result_bytes(caller: Caller, content: Any) -> None:
    caller.guest.result = b"B" + base64.b64encode(bytes(content))


def _call(caller: Caller, op: str, arguments: str) -> str:
    return _call_raw(caller, op, _one_line(arguments)).decode()


def _fail(caller: Caller, message: str) -> None:
    raise Thrown("Error", message)


def _sleep(caller: Caller, wait_ms: int) -> None:
    caller.guest.host.sleep(wait_ms)


# ---- files and values ------------------------------------------------------------------------


def _entry(found: Any) -> dict[str, Any]:
    return {
        "name": found["name"],
        "is-directory": found["type"] == "directory",
        "size": found["size"],
        "modified-ms": float(found["modified"]),
    }


def _fs_read(caller: Caller, side: str, path: str) -> bytes:
    return base64.b64decode(_ask(caller, f"{side}.fs.read", path)["$bytes"])


def _fs_read_text(caller: Caller, side: str, path: str) -> Any:
    return _ask(caller, f"{side}.fs.readText", path)


def _fs_write(caller: Caller, side: str, path: str, content: Any) -> None:
    packed = {"$bytes": base64.b64encode(bytes(content)).decode()}
    _ask(caller, f"{side}.fs.write", path, packed)


def _fs_write_text(caller: Caller, side: str, path: str, text: str) -> None:
    _ask(caller, f"{side}.fs.write", path, text)


def _fs_list(caller: Caller, side: str, path: str) -> Any:
    return [_entry(each) for each in _ask(caller, f"{side}.fs.list", path)]


def _fs_stat(caller: Caller, side: str, path: str) -> Any:
    return _entry(_ask(caller, f"{side}.fs.stat", path))


def _fs_mkdir(caller: Caller, side: str, path: str) -> bool:
    return bool(_ask(caller, f"{side}.fs.mkdir", path))


def _fs_remove(caller: Caller, side: str, path: str) -> None:
    _ask(caller, f"{side}.fs.remove", path)


def _fs_move(caller: Caller, side: str, path: str, to: str) -> None:
    _ask(caller, f"{side}.fs.move", path, to)


def _kv_get(caller: Caller, key: str) -> str:
    return _call_raw(caller, "target.kv.get", msgspec.json.encode([key])).decode()


def _kv_put(caller: Caller, key: str, value: str) -> None:
    raw = _one_line(value)
    _call_raw(caller, "target.kv.put", b"[" + msgspec.json.encode(key) + b"," + raw + b"]")


def _kv_delete(caller: Caller, key: str) -> None:
    _ask(caller, "target.kv.delete", key)


def _kv_list(caller: Caller, prefix: str) -> Any:
    return [str(each) for each in _ask(caller, "target.kv.list", prefix)]


HOST_WORLD: Final[dict[str, dict[str, Function]]] = {
    "orvalho:host/types": {},
    "orvalho:host/log": {"write": _write_log},
    "orvalho:host/run": {
        "params": _params,
        "set-result": _result,
        "set-result-bytes": _result_bytes,
        "call": _call,
        "fail": _fail,
        "sleep": _sleep,
    },
    "orvalho:host/fs": {
        "read": _fs_read,
        "read-text": _fs_read_text,
        "write": _fs_write,
        "write-text": _fs_write_text,
        "list": _fs_list,
        "stat": _fs_stat,
        "mkdir": _fs_mkdir,
        "remove": _fs_remove,
        "move": _fs_move,
    },
    "orvalho:host/kv": {
        "get": _kv_get,
        "put": _kv_put,
        "delete": _kv_delete,
        "list": _kv_list,
    },
}
