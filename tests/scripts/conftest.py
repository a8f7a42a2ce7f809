"""Fixtures of the scripts room."""

from __future__ import annotations

import pytest

from tests.scripts.scene import Scene, make_scene


@pytest.fixture(scope="session")
def scene() -> Scene:
    return make_scene()
