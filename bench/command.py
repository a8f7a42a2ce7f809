"""How fast a command answers, against a Python that does nothing."""

from __future__ import annotations

from collections.abc import Iterator

from bench import base
from bench.pair import two_daemons
from bench.table import Row, ms, times


def measure() -> Iterator[Row]:
    nothing = base.python()
    with two_daemons() as pair:
        orvalho = pair.laptop.command()
        for words, bar in ((["--version"], "3x"), (["status"], "5x")):
            taken = base.run([*orvalho, *words], env=pair.laptop.environ)
            yield Row(
                f"`orvalho {' '.join(words)}`",
                ms(taken),
                f"`python -c pass` {ms(nothing)}",
                times(taken, nothing),
                bar,
            )
