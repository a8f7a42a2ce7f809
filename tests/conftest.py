"""Fixtures that every room shares."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Production is anyio on asyncio."""
    return "asyncio"
