"""Real workers for the length of a test file, and a job to hand them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from orvalho.runtime.job import Jobs
from orvalho.runtime.workers.pool import open_workers


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def jobs(anyio_backend: str) -> AsyncIterator[Jobs]:
    async with open_workers(contexts_per_worker=2) as workers:
        yield Jobs(workers)
