"""What history costs: a run with effects against one without, and a changeset of 1,000 files."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import msgspec

from bench.pair import Pair, two_daemons
from bench.table import Row, ms, times
from orvalho.control.client import Client
from orvalho.control.messages import RunEnded, ScriptSend
from orvalho.control.past import CtxLog, CtxLogReply, CtxUndo, UndoDone, UndoPlanned

_RUNS = 100
_FILES = 1000
_LIMIT_S = 1.0
# The same calls; who fails at the end commits nothing.
_EFFECTS = """\
// /// orvalho
// needs = ["target.fs.write:/**", "target.kv.write:n"]
// ///
export default async ({ target, params }) => {
  await target.fs.write("/a.txt", `number ${params.n}`);
  await target.kv.put("n", params.n);
  if (!params.keep) throw new Error("dropped");
}
"""
_MANY = """\
// /// orvalho
// needs = ["target.fs.write:/**"]
// ///
export default async ({ target, params }) => {
  for (let n = 0; n < params.files; n++)
    await target.fs.write(`/many/${n}.txt`, `${params.text} ${n} `.repeat(50));
}
"""
_RULES = (
    "p, laptop, peer, fs.write, /**, allow",
    "p, laptop, peer, kv.write, n, allow",
)


def measure() -> Iterator[Row]:
    with two_daemons() as pair, pair.laptop.client() as client, pair.phone.client() as phone:
        with (pair.phone.home / "config/policy/peer.csv").open("a") as file:
            file.writelines(f"{line}\n" for line in _RULES)
        (pair.phone.home / "data/contexts/peer/many").mkdir()
        time.sleep(1.0)  # the policy is read again
        phone.ask(CtxLog(context="peer"), CtxLogReply)  # the directory is noted
        yield from effects(pair, client)
        yield from many(client, phone)


def effects(pair: Pair, client: Client) -> Iterator[Row]:
    for keep in (True, False):
        runs(client, 10, keep=keep)
    with_commit = runs(client, _RUNS, keep=True)
    without = runs(client, _RUNS, keep=False)
    yield Row(
        "a run with effects",
        ms(with_commit),
        f"the same, dropped at its end {ms(without)}",
        times(with_commit, without),
    )
    if shutil.which("strace"):
        counts = [
            synced(pair, lambda keep=keep: runs(client, _RUNS, keep=keep))  # type: ignore[misc]
            for keep in (True, False)
        ]
        yield Row(
            "fsyncs of such a run, where it runs",
            f"{counts[0] / _RUNS:.2f}",
            f"the same, dropped {counts[1] / _RUNS:.2f}",
            f"{(counts[0] - counts[1]) / _RUNS:+.2f}",
            "under +2",
        )


def runs(client: Client, count: int, *, keep: bool) -> float:
    """Seconds for one, on average."""
    start = time.perf_counter()
    for number in range(count):
        send(client, _EFFECTS, {"n": number, "keep": keep})
    return (time.perf_counter() - start) / count


def many(client: Client, phone: Client) -> Iterator[Row]:
    send(client, _MANY, {"files": _FILES, "text": "old"})
    start = time.perf_counter()
    usage = send(client, _MANY, {"files": _FILES, "text": "new"}).usage
    commit = time.perf_counter() - start - usage.wall_ms / 1000
    newest = phone.ask(CtxLog(context="peer", limit=1), CtxLogReply).commits[0]
    start = time.perf_counter()
    planned = phone.ask(CtxUndo(name=newest.id, plan=True), UndoPlanned)
    plan = time.perf_counter() - start
    assert len(planned.files) == _FILES, planned
    start = time.perf_counter()
    phone.ask(CtxUndo(name=newest.id, expected=planned.digest), UndoDone)
    undo = time.perf_counter() - start
    for what, taken in (("commit", commit), ("plan of its undo", plan), ("undo", undo)):
        yield Row(f"changeset of {_FILES} files: {what}", ms(taken), "", "", "1 s")


def send(client: Client, source: str, params: object) -> RunEnded:
    request = ScriptSend(
        to="peer@phone2",
        filename="history.js",
        source=source,
        params=msgspec.Raw(msgspec.json.encode(params)),
        wait=True,
    )
    (ended,) = [reply for reply in client.stream(request) if isinstance(reply, RunEnded)]
    assert ended.outcome in ("done", "failed"), ended
    return ended


def synced(pair: Pair, action: Callable[[], object]) -> int:
    """How often the phone's daemon had the disk flushed meanwhile."""
    calls = "trace=fsync,fdatasync,syncfs"
    watched = subprocess.Popen(
        ["strace", "-f", "-c", "-e", calls, "-p", str(pair.phone.daemon_pid())],
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(_LIMIT_S)
    action()
    time.sleep(2 * _LIMIT_S)
    with contextlib.suppress(ProcessLookupError):
        watched.send_signal(signal.SIGINT)
    _, told = watched.communicate(timeout=30)
    rows = re.findall(r"^.* (\d+) +(?:\d+ +)?(?:fsync|fdatasync|syncfs)$", told, re.MULTILINE)
    return sum(int(count) for count in rows)
