"""The most frequent words of a text, as a component: Python itself, compiled to WebAssembly.

What a run imports must have been imported when the component was built: nothing is on a disk to
be found later. `Counter.most_common` imports `heapq` in its body, so the counts are sorted here.
"""

import re
from collections import Counter

from wit_world import WitWorld as World


class WitWorld(World):
    """`words.wit`, in Python."""

    def frequent(self, text: str, most: int) -> list[tuple[str, int]]:
        counted = Counter(re.findall(r"[^\W\d_]+", text.lower()))
        return sorted(counted.items(), key=lambda each: -each[1])[:most]
