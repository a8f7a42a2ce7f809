"""QR codes (ISO/IEC 18004) as text, two rows of modules a line (the only import of segno)."""

from __future__ import annotations

from itertools import zip_longest
from typing import Final

import segno

# The quiet zone. The standard asks for four; readers of screens are content with two.
_BORDER: Final = 2
# (upper is light, lower is light): light modules are drawn, for terminals are dark. On a light
# one the code is inverted, which readers know.
_HALVES: Final = {
    (True, True): "\u2588",
    (True, False): "\u2580",
    (False, True): "\u2584",
    (False, False): " ",
}


def qr_text(text: str) -> str:
    """The lines of a QR code that says `text`."""
    code = segno.make(text, error="l", micro=False)
    rows = [[not dark for dark in row] for row in code.matrix_iter(border=_BORDER)]
    lines = []
    for upper, lower in zip_longest(rows[::2], rows[1::2], fillvalue=[True] * len(rows[0])):
        lines.append("".join(_HALVES[pair] for pair in zip(upper, lower, strict=True)))
    return "\n".join(lines) + "\n"
