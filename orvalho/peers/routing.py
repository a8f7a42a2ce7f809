"""Which of several ways to a node to take. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Path:
    """An open way to a node. `rtt_s` is its round trip, None until it has been measured."""

    description: str
    rtt_s: float | None
    opened_at: float

    @property
    def is_relay(self) -> bool:
        """Through another node, whose name in quotes describes the link."""
        return self.description.startswith('"')

    def __str__(self) -> str:
        return f"{'relay' if self.is_relay else 'direct'} {self.description}"


def rank(paths: Sequence[Path]) -> list[int]:
    """The places of the paths, best first: a direct one before one
    through a relay, a measured one before one that is not, the quicker
    before the slower, the newer before the older."""

    def cost(index: int) -> tuple[bool, bool, float, float]:
        path = paths[index]
        return path.is_relay, path.rtt_s is None, path.rtt_s or 0.0, -path.opened_at

    return sorted(range(len(paths)), key=cost)
