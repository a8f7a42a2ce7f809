"""Pure rules for trying again: the caller passes the time, nothing here waits."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """When to try again: waits double up to a limit.

    Times are seconds on whatever clock the caller uses, as long as it is always the same one.
    `jitter` is a number in [0, 1) that the caller draws; it spreads the wait over its upper
    half, so that many peers do not knock in step.
    """

    first_wait_s: float = 0.25
    limit_s: float = 60.0
    retry_at: float = 0.0
    _wait_s: float = field(default=0.0, init=False)

    def failed(self, now: float, jitter: float = 0.0) -> None:
        self._wait_s = min(self.limit_s, 2 * self._wait_s or self.first_wait_s)
        self.retry_at = now + self._wait_s * (1 - jitter / 2)

    def succeeded(self) -> None:
        self._wait_s = 0.0
        self.retry_at = 0.0
