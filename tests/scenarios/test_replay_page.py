"""docs/replay.md is what happens."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

from tests.scenarios.devices import two_devices

PAGE = Path(__file__).parents[2] / "docs/replay.md"


def test_the_session_goes_as_the_page_tells_it(tmp_path: Path) -> None:
    text = PAGE.read_text().split("## A session", 1)[1].split("\n## ", 1)[0]
    (source,) = re.findall(r"```js\n(.*?)```", text, re.DOTALL)
    blocks = [
        each
        for kind, each in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
        if not kind and "$ " in each
    ]
    with two_devices(tmp_path) as (laptop, phone):
        phone.allow("p, laptop, peer, fs.read, /notes/**, allow")
        notes = phone.tree("peer") / "notes"
        notes.mkdir()
        (notes / "list.txt").write_text("bread\n")
        (laptop.home / "list.js").write_text(source)
        run, caller, out, typed = "", "", "", 0
        for line in "".join(blocks).splitlines():
            who, is_typed, command = line.partition("$ orvalho ")
            if not is_typed:
                # What is told stands there in this order.
                told = line.replace("RUN", run).replace("alice@laptop", caller).removesuffix("...")
                assert told in out, (told, out)
                out = out.partition(told)[2]
                continue
            device = laptop if who == "laptop" else phone
            words = shlex.split(command.replace("RUN", run))
            words = [
                str(device.home / word) if word.endswith((".js", ".orvreplay")) else word
                for word in words
            ]
            out = device.does(*words)
            typed += 1
            if words[0] == "script":
                newest = phone.types("script", "ls", "--json").json["runs"][0]
                run, caller = newest["run"], newest["caller"]
            elif "--export" in words:
                shutil.copy(phone.home / "run.orvreplay", laptop.home)
        assert typed == 4
