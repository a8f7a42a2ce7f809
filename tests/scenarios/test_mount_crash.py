"""A device loses its power between a commit and its trees, one of which is away when it is back."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.scenarios.devices import two_devices, wait_until

NEEDS = '// /// orvalho\n// needs = ["target.fs.write:/**"]\n// ///\n'
BOTH = "await target.fs.write('/ext/there.txt', 'x'); await target.fs.write('/own.txt', 'x')"
OWN = "await target.fs.write('/later.txt', 'x')"


def test_what_is_away_holds_up_nothing_else_and_a_context_that_went_nobody(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with two_devices(tmp_path) as (laptop, phone):
        phone.does("ctx", "new", "gone")
        phone.allow("p, laptop, peer, fs.write, /**, allow")
        phone.allow("p, laptop, gone, fs.write, /**, allow", context="gone")
        phone.does("ctx", "mount", "peer:/ext", f"dir:{outside}")
        phone.stop()
        for context, body, name in (("gone", OWN, "gone.js"), ("peer", BOTH, "both.js")):
            phone.start("after", "run.ended", "1")
            (file := laptop.home / name).write_text(
                f"{NEEDS}export default async ({{ target }}) => {{ {body} }}\n"
            )
            laptop.does("script", "send", "--detach", f"{context}@phone2", str(file))
            wait_until(lambda: phone.has_died, "its power goes")
            if context == "gone":
                shutil.rmtree(phone.tree("gone"))
                phone.policy("gone").unlink()
        assert not (outside / "there.txt").exists()
        away = outside.rename(tmp_path / "away")
        phone.start()
        assert (phone.tree("peer") / "own.txt").read_text() == "x", "before anything runs"
        away.rename(outside)
        wait_until((outside / "there.txt").exists, "it is placed once its tree is back")
