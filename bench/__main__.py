"""Every figure of docs/performance.md, measured in one run: `make bench`.

Times on shared machines drift, so each figure stands beside a base measured in the same run, as
a ratio. Nothing here fails on a slow machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from bench import (
    base,
    command,
    depot,
    engine_costs,
    engines,
    faults,
    files,
    gossip,
    history,
    hostile,
    idle,
    links,
    nats,
    policy,
    rehearsal,
    scripts,
    trees,
    values,
)
from bench.table import Row, show

PARTS: dict[str, Callable[[], Iterable[Row]]] = {
    "command": command.measure,
    "policy": policy.measure,
    "rehearsal": rehearsal.measure,
    "scripts": scripts.measure,
    "engines": engines.measure,
    "engine-costs": engine_costs.measure,
    "depot": depot.measure,
    "hostile": hostile.measure,
    "idle": idle.measure,
    "gossip": gossip.measure,
    "faults": faults.measure,
    "links": links.measure,
    "nats": nats.measure,
    "file": files.measure,
    "values": values.measure,
    "trees": trees.measure,
    "history": history.measure,
}


def main(names: list[str]) -> None:
    rows: list[Row] = []
    for name in names or PARTS:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        rows += PARTS[name]()
    show(base.machine(), rows)


if __name__ == "__main__":
    main(sys.argv[1:])
