"""The most frequent words of a text, as a component: Python itself, compiled to WebAssembly."""

import re
from collections import Counter

from wit_world import WitWorld as World


class WitWorld(World):
    """`words.wit`, in Python."""

    def frequent(self, text: str, most: int) -> list[tuple[str, int]]:
        words = re.findall(r"[^\W\d_]+", text.lower())
        return Counter(words).most_common(most)
