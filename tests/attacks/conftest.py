"""One event loop for the attacks of a file: what they leave behind would show in the next."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"
