"""What a run leaves behind in each language, how soon a cancelled one is over, and what a module
costs that the target has already."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from typing import Final

import msgspec

from bench.engines import STARLARK, send
from bench.idle import children, private_bytes
from bench.pair import Pair, two_daemons
from bench.programs.build import HERE
from bench.scripts import TRIVIAL
from bench.table import Row, ms
from orvalho.control.client import Client
from orvalho.control.messages import RunEnded, RunQueued, ScriptCancel, ScriptResult, ScriptSend

_RUNS: Final = 1000
_CANCELS: Final = 11
_HEADER: Final = '{0} /// orvalho\n{0} timeout = "60s"\n{0} cpu = "60s"\n{0} ///\n'
# An endless loop in each language.
_LOOPS: Final[dict[str, tuple[str, str | bytes, str | None]]] = {
    "JavaScript": ("loop.js", _HEADER.format("//") + "for (;;);", None),
    "Starlark": (
        "loop.star",
        _HEADER.format("#") + "def main(job):\n  for i in range(2000000000):\n    pass",
        None,
    ),
    "WebAssembly": (
        "loop.wasm",
        b"\0asm\1\0\0\0\1\4\1\x60\0\0\3\2\1\0\7\7\1\3run\0\0\n\t\1\7\0\3\x40\x0c\0\x0b\x0b",
        'timeout = "60s"\ncpu = "60s"\n',
    ),
}


def measure() -> Iterator[Row]:
    with two_daemons() as pair, pair.laptop.client() as client:
        yield from _cancels(pair, client)
        yield from _second_sends(pair, client)
    yield from leaks()


def endless(client: Client, language: str) -> str:
    """Start an endless loop in that language on the phone; its run."""
    filename, source, needs = _LOOPS[language]
    text, module = (source, b"") if isinstance(source, str) else ("", source)
    request = ScriptSend(
        to="peer@phone2",
        filename=filename,
        source=text,
        module=module,
        needs=needs,
        params=msgspec.Raw(b"{}"),
        detach=True,
    )
    queued = [reply for reply in client.stream(request) if isinstance(reply, RunQueued)]
    return queued[0].run


# ---- cancel ------------------------------------------------------------------------------------


def _cancels(pair: Pair, client: Client) -> Iterator[Row]:
    for language in _LOOPS:
        taken = []
        for _ in range(_CANCELS):
            run = endless(client, language)
            time.sleep(0.4)
            start = time.perf_counter()
            list(client.stream(ScriptCancel(run=run)))
            told = time.perf_counter()
            (ended,) = [
                reply
                for reply in client.stream(ScriptResult(run=run, wait=True))
                if isinstance(reply, RunEnded)
            ]
            over = time.perf_counter()
            assert ended.outcome == "cancelled", ended
            taken.append((told - start, over - told))
        worst = max(after for _, after in taken)
        yield Row(
            f"end of an endless loop in {language}, after `script cancel` has returned",
            ms(statistics.median(after for _, after in taken)),
            f"worst of {_CANCELS} {ms(worst)}; the request itself "
            f"{ms(statistics.median(asked for asked, _ in taken))}",
            bar="100 ms",
        )


# ---- a module that is there already ------------------------------------------------------------


def _second_sends(pair: Pair, client: Client) -> Iterator[Row]:
    """A module of two megabytes, most of it a section that nothing reads."""
    size = 2_000_000
    filler = bytes([0, *_leb(size + 2), 1]) + b"x" + bytes(size)
    sends = []
    for number in range(6):
        before = _link_bytes(pair)
        # A new module in each pair of sends.
        body = filler[:-1] + bytes([number // 2])
        module = (HERE / "kernels.wasm").read_bytes() + body
        start = time.perf_counter()
        send(client, "large.wasm", module, {"call": "fib", "args": [1]})
        took = time.perf_counter() - start
        after = _link_bytes(pair)
        sent = None if before is None or after is None else after - before
        sends.append((took, sent))
    for name, which in (("first", sends[0::2]), ("second", sends[1::2])):
        counted = [sent for _, sent in which if sent is not None]
        told = f"{statistics.median(counted) / 1e3:.0f} kB on the link" if counted else ""
        yield Row(
            f"a module of 2 MB, {name} send",
            ms(statistics.median(took for took, _ in which)),
            told,
            bar="no body" if name == "second" else "",
        )


def _leb(value: int) -> bytes:
    """LEB128, in four bytes."""
    return bytes([value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14 & 0x7F | 0x80,
                  value >> 21])  # fmt: skip


def _link_bytes(pair: Pair) -> int | None:
    """What the laptop's daemon has sent on its sockets so far, by the kernel's own count; None
    where `ss` is not installed."""
    ss = shutil.which("ss")
    if ss is None:
        return None
    done = subprocess.run([ss, "-tinpH"], capture_output=True, text=True, check=True)
    total, is_ours = 0, False
    for line in done.stdout.splitlines():
        if not line.startswith((" ", "\t")):
            is_ours = f"pid={pair.laptop.daemon_pid()}," in line
        elif is_ours and (found := re.search(r"bytes_sent:(\d+)", line)):
            total += int(found[1])
    return total


# ---- what stays --------------------------------------------------------------------------------


def leaks(*names: str) -> Iterator[Row]:
    """What the languages of those names leave behind, or all of them."""
    hello = (HERE / "hello.wasm").read_bytes()
    programs: dict[str, tuple[str, str | bytes]] = {
        "JavaScript": ("bench.js", TRIVIAL),
        "WASI": ("hello.wasm", hello),
        "Starlark": ("bench.star", STARLARK),
    }
    for name in names or programs:
        filename, source = programs[name]
        params = {} if filename.endswith(".wasm") else {"n": 1}
        with two_daemons() as pair, pair.laptop.client() as client:
            # What is allocated once, and the tables' first pages.
            for _ in range(_RUNS // 2):
                send(client, filename, source, params)
            before = _memory(pair)
            for _ in range(_RUNS):
                send(client, filename, source, params)
            time.sleep(1)
            after = _memory(pair)
        grown = {key: after.get(key, 0) - size for key, size in before.items()}
        told = ", ".join(f"{key} {size / 1e6:+.1f}" for key, size in grown.items())
        yield Row(
            f"private memory after {_RUNS} more runs of {name}",
            f"{sum(grown.values()) / 1e6:+.1f} MB",
            f"MB: {told}",
            bar="5 MB",
        )


def _memory(pair: Pair) -> dict[str, int]:
    """Private bytes of the target's processes, by what they are."""
    pid = pair.phone.daemon_pid()
    zygote, *workers = children(pid)
    return {
        "daemon": private_bytes(pid),
        "zygote": private_bytes(zygote),
        "workers": sum(map(private_bytes, workers)),
    }
