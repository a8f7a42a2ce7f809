"""Which of several ways to a node to take. Pure; every way is direct."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Path:
    """An open way to a node. `rtt_s` is its round trip, None until it has been measured."""

    description: str
    rtt_s: float | None
    opened_at: float

    def __str__(self) -> str:
        return f"direct {self.description}"


def rank(paths: Sequence[Path]) -> list[int]:
    """The places of the paths, best first: a measured one before one that is not, the quicker
    before the slower, the newer before the older."""

    def cost(index: int) -> tuple[bool, float, float]:
        path = paths[index]
        return path.rtt_s is None, path.rtt_s or 0.0, -path.opened_at

    return sorted(range(len(paths)), key=cost)
