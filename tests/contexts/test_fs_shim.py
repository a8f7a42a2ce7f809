"""The door to fs: no warnings, and no setuptools needed or disturbed."""

from __future__ import annotations

import subprocess
import sys

import pytest

BEFORE = {
    "as installed": "",
    "without setuptools": "import sys; sys.modules['setuptools'] = None",
    "with pkg_resources that fails": "import sys; sys.modules['pkg_resources'] = None",
}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_fs_is_imported_without_a_warning(before):
    program = f"""
{before}
import sys
had = "pkg_resources" in sys.modules
from orvalho.contexts.fs_shim import MemoryFS
tree = MemoryFS()
tree.writetext("f", "text")
assert tree.readtext("f") == "text"
assert ("pkg_resources" in sys.modules) == had
assert sys.modules.get("pkg_resources") is None
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
