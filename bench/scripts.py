"""Scripts between two daemons: the control socket, both databases, the WebSocket, an isolate."""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import uvloop

from bench import base
from bench.idle import children, cpu_seconds
from bench.pair import Device, Pair, two_daemons
from bench.table import Row, ms, times
from orvalho.control.client import Client
from orvalho.control.messages import ContextNew, RunEnded, ScriptSend

TRIVIAL = "export default ({ params }) => params.n + 1"
ECHO = "export default ({ params }) => params"
_IN_FLIGHT = 64
_SCRIPTS = 4000


def measure() -> Iterator[Row]:
    with two_daemons() as pair:
        echo, sync = base.websocket_echo(256, 1000), base.fsync()
        floor = echo + 2 * sync
        with pair.laptop.client() as client:
            warm = round_trip(client, 1000)
            yield Row(
                "warm round trip of a trivial script, p50",
                ms(warm),
                f"echo {ms(echo)} + 2 fsyncs {ms(sync)}",
                times(warm, floor),
                "8x",
            )
            yield from against_ssh(warm)
            yield from cold_contexts(pair, client, warm)
            megabyte = base.websocket_echo(1_000_000, 60)
            text = "x" * 1_000_000
            for what, source, params in (
                ("1 MB of parameters", "export default ({ params }) => params.length", text),
                ("1 MB of result", 'export default () => "x".repeat(1e6)', None),
                ("1 MB there and back", ECHO, text),
            ):
                taken = send_often(client, "peer@phone2", source, params, 30)
                yield Row(what, ms(taken), f"echo {ms(megabyte)}", times(taken, megabyte), "4x")
        yield from sustained(pair)


def round_trip(client: Client, count: int) -> float:
    return send_often(client, "peer@phone2", TRIVIAL, {"n": 1}, count)


def send_often(client: Client, to: str, source: str, params: object, count: int) -> float:
    request = ScriptSend(
        to=to,
        filename="bench.js",
        source=source,
        params=msgspec.Raw(msgspec.json.encode(params)),
        wait=True,
    )

    def once() -> None:
        ended = [reply for reply in client.stream(request) if isinstance(reply, RunEnded)]
        assert ended[0].outcome == "done", ended

    return base.median(once, count)


def cold_contexts(pair: Pair, client: Client, warm: float) -> Iterator[Row]:
    """A worker for each context, so that the first script of a context has to fork one."""
    pair.phone.types("config", "set", "workers.contexts_per_worker", "1")
    taken = []
    with pair.phone.client() as phone:
        for number in range(12):
            list(phone.stream(ContextNew(name=f"cold-{number}")))
    time.sleep(0.5)
    for number in range(12):
        start = time.perf_counter()
        request = ScriptSend(
            to=f"cold-{number}@phone2",
            filename="bench.js",
            source=TRIVIAL,
            params=msgspec.Raw(b'{"n":1}'),
            wait=True,
        )
        list(client.stream(request))
        taken.append(time.perf_counter() - start)
    beyond = statistics.median(taken) - warm
    yield Row("first script in a cold context, beyond a warm one", ms(beyond), bar="40 ms")


def against_ssh(warm: float) -> Iterator[Row]:
    """`ssh localhost node job.js`, where both are installed and a key is let in."""
    ssh, node = shutil.which("ssh"), shutil.which("node")
    if ssh and node:
        job = Path(tempfile.mkdtemp()) / "job.js"
        job.write_text("console.log(1 + 1)")
        command = [ssh, "-o", "BatchMode=yes", "localhost", node, str(job)]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            taken = base.run(command, 10)
            yield Row(
                "the same, against ssh",
                ms(warm),
                f"`ssh localhost node` {ms(taken)}",
                times(taken, warm),
                "50x faster",
            )
            return
    if node:
        taken = base.run([node, "-e", "console.log(1 + 1)"], 10)
        yield Row(
            "the same, against node alone (no sshd here)",
            ms(warm),
            f"`node` {ms(taken)}",
            times(taken, warm),
            "50x faster than ssh",
        )


def sustained(pair: Pair) -> Iterator[Row]:
    before = _used(pair)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        start = time.perf_counter()
        own = time.process_time()
        done = runner.run(_flood(pair.laptop))
        taken = time.perf_counter() - start
        own = time.process_time() - own
    spent = {name: seconds - before[name] for name, seconds in _used(pair).items()}
    where = ", ".join(f"{name} {seconds / _SCRIPTS * 1e3:.2f}" for name, seconds in spent.items())
    yield Row(
        f"sustained, {_IN_FLIGHT} in flight, {done} of {_SCRIPTS} done",
        f"{done / taken:.0f} scripts/s",
        f"CPU ms each: {where}, this client {own / _SCRIPTS * 1e3:.2f}",
        bar="500/s",
    )


def _used(pair: Pair) -> dict[str, float]:
    """Processor seconds so far. A busy context gets further workers on the way."""
    laptop, phone = pair.laptop.daemon_pid(), pair.phone.daemon_pid()
    return {
        "laptop daemon": cpu_seconds(laptop),
        "phone daemon": cpu_seconds(phone),
        "phone workers": sum(map(cpu_seconds, children(phone))),
    }


async def _flood(device: Device) -> int:
    request = msgspec.json.encode(
        ScriptSend(
            to="peer@phone2",
            filename="bench.js",
            source=TRIVIAL,
            params=msgspec.Raw(b'{"n":1}'),
            wait=True,
        )
    )
    left = _SCRIPTS
    done = 0

    async def one_client() -> None:
        nonlocal left, done
        reader, writer = await asyncio.open_unix_connection(device.socket, limit=1 << 20)
        while left > 0:
            left -= 1
            writer.write(request + b"\n")
            while True:
                line = await reader.readline()
                if b'"run.ended"' in line:
                    done += json.loads(line)["outcome"] == "done"
                elif b'"type":"done"' in line or b'"type":"failed"' in line:
                    break
        writer.close()

    await asyncio.gather(*(one_client() for _ in range(_IN_FLIGHT)))
    return done
