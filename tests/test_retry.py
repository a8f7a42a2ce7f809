"""Trying again: pure rules, tested without waiting."""

from __future__ import annotations

from orvalho.retry import Backoff


def test_waits_double_up_to_a_limit_and_start_anew_after_success() -> None:
    backoff = Backoff(first_wait_s=1, limit_s=5)
    waits = []
    for _ in range(5):
        backoff.failed(now=100)
        waits.append(backoff.retry_at - 100)
    assert waits == [1, 2, 4, 5, 5]
    backoff.succeeded()
    backoff.failed(now=100)
    assert backoff.retry_at == 101


def test_jitter_shortens_a_wait_by_half_at_most() -> None:
    backoff = Backoff(first_wait_s=8)
    backoff.failed(now=0, jitter=0.999)
    assert 4 <= backoff.retry_at < 4.01
