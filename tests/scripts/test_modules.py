"""Modules of a script: what is signed is what runs, and which specifiers mean what."""

from __future__ import annotations

import pytest

from orvalho.errors import InvalidInput, Untrusted
from orvalho.scripts.modules import check_path, resolve
from orvalho.scripts.signing import Parts
from tests.scripts.scene import Scene

FILES = {"a.js": "export const a = 1", "b/c.ts": "export let b: number"}


def test_the_modules_that_were_signed_are_those_that_are_verified(scene: Scene) -> None:
    envelope = scene.sign(parts=Parts(FILES, ("lib:x",), {"/lib/x.js": "ab"})).envelope
    verified = scene.verify(envelope, modules=FILES)
    assert verified.modules == FILES
    assert verified.call.libraries == ("lib:x",)
    assert verified.call.locked == {"/lib/x.js": "ab"}


@pytest.mark.parametrize(
    "files",
    [{}, {"a.js": FILES["a.js"]}, FILES | {"a.js": "1"}, FILES | {"d.js": ""}, {"../a.js": ""}],
)
def test_a_module_that_was_changed_left_out_or_added_is_refused(
    scene: Scene, files: dict[str, str]
) -> None:
    with pytest.raises(Untrusted):
        scene.verify(scene.sign(parts=Parts(FILES)).envelope, modules=files)


@pytest.mark.parametrize(
    ("specifier", "referrer", "path"),
    [
        ("./a.js", "job.js", "a.js"),
        ("../a.js", "src/job.js", "a.js"),
        ("./a/../b.js", "job.js", "b.js"),
        ("./a.js", "/lib/images/index.js", "/lib/images/a.js"),
        ("./a.js", "shared:/images.js", "shared:/a.js"),
        ("lib:images", "job.js", "lib:images"),
        ("shared:images", "/lib/images.js", "shared:images"),
    ],
)
def test_what_a_specifier_means(specifier: str, referrer: str, path: str) -> None:
    assert resolve(specifier, referrer) == path


@pytest.mark.parametrize(
    ("specifier", "referrer"),
    [
        ("../a.js", "job.js"),
        ("../a.js", "/lib/images.js"),
        ("../a.js", "shared:/images.js"),
        ("./a/../../b.js", "job.js"),
        ("shared:images", "job.js"),
        ("/etc/a.js", "job.js"),
        ("__proto__", "job.js"),
        ("./a", "job.js"),
        ("./a\\..\\b.js", "job.js"),
        ("https://a/b.js", "job.js"),
        ("lib:../a", "job.js"),
        ("node:fs", "job.js"),
    ],
)
def test_what_could_not_travel_or_leads_out_is_refused(specifier: str, referrer: str) -> None:
    with pytest.raises(InvalidInput):
        resolve(specifier, referrer)


@pytest.mark.parametrize(
    "path", ["/a.js", "../a.js", "a/../b.js", "a.txt", "lib:a", "shared:/a.js", "a\x1b.js", ""]
)
def test_a_path_from_elsewhere_cannot_stand_for_a_library(path: str) -> None:
    with pytest.raises(InvalidInput):
        check_path(path)
