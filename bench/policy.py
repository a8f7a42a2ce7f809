"""One decision, not seen before, against plain pycasbin on the same rules."""

from __future__ import annotations
