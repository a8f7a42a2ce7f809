"""What reading bytes from elsewhere may raise."""

from __future__ import annotations

from typing import Final

import msgspec

# msgspec lets two of Python's own through: text that is no UTF-8, and nesting without end.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
