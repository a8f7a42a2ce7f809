"""Fixtures that every room shares."""

import signal

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell lets what it starts in the background ignore Ctrl-C, and that is inherited: commands
    # that tests interrupt would never end.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def anyio_backend() -> str:
    """Production is anyio on asyncio."""
    return "asyncio"
