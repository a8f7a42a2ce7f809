"""The suite that every tree runs: the 79 cases of the `fs` library, and the promises of ours."""

from __future__ import annotations

import unittest

import orvalho.contexts.fs_shim  # noqa: F401 -- lets `fs.test` be imported at all

if not hasattr(unittest.TestCase, "assertRaisesRegexp"):
    # Python 3.12 removed the old name, which one case still uses.
    unittest.TestCase.assertRaisesRegexp = unittest.TestCase.assertRaisesRegex

from fs.test import FSTestCases

__all__ = ["FSTestCases"]
