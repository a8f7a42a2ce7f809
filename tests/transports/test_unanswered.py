"""What is told where nobody answers: words, without the system's numbers."""

from __future__ import annotations

import pytest

from orvalho.transports.link import unanswered


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "nobody answers: connection refused"),
        (TimeoutError(), "nobody answers: not in time"),
        (
            OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 113] No route"),
            "nobody answers: multiple exceptions: Connect call failed, No route",
        ),
        (EOFError("TLS is not spoken there"), "nobody answers: TLS is not spoken there"),
    ],
)
def test_the_words_of_an_error(error: BaseException, words: str) -> None:
    told = unanswered(error, "ws://127.0.0.1:1")
    assert (told.message, told.where) == (words, "ws://127.0.0.1:1")
