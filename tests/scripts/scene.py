"""Two nodes, a laptop whose script is to run on a phone."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from orvalho.contexts.identity import Identity, Key, certify, key_text
from orvalho.contexts.names import new_run_id
from orvalho.scripts.manifest import read_manifest
from orvalho.scripts.script import Script, make_script
from orvalho.scripts.signing import (
    Caller,
    SignedScript,
    Target,
    VerifiedScript,
    json_value,
    sign_script,
    verify_script,
)

NOW = 1_800_000_000.0
SOURCE = """\
// /// orvalho
// needs = ["target.fs.read:/photos/**"]
// timeout = "30s"
// ///
export default async ({ target }) => (await target.fs.list("/photos")).length
"""


PARAMS = b'{"album": 7}'


@dataclass(frozen=True)
class Scene:
    laptop: Identity
    phone: Identity
    caller: Caller
    target: Target
    script: Script

    def sign(self, **changes: object) -> SignedScript:
        arguments = {
            "signer": self.laptop.context("gil"),
            "caller": self.caller,
            "target": self.target,
            "params": PARAMS,
            "run": new_run_id(NOW, bytes(10)),
            "now": NOW,
        } | changes
        arguments["params"] = json_value(arguments["params"])  # type: ignore[arg-type]
        return sign_script(self.script, read_manifest(self.script), **arguments)  # type: ignore[arg-type]

    def verify(
        self,
        envelope: bytes,
        source: str = SOURCE,
        params: bytes = PARAMS,
        **changes: object,
    ) -> VerifiedScript:
        arguments = {
            "node_key": self.phone.node.key,
            "now": NOW + 1,
            "is_known_node": self.is_known,
        } | changes
        return verify_script(envelope, source, params, **arguments)  # type: ignore[arg-type]

    def is_known(self, key: Key) -> bool:
        return key == self.laptop.node.key


def caller_on(node: Identity, context: str = "gil", **changes: object) -> Caller:
    key = node.context(context).key
    caller = Caller(
        node="laptop",
        node_key=key_text(node.node.key),
        context=context,
        context_key=key_text(key),
        certificate=certify(node.node, "context", context, key, NOW),
    )
    return msgspec.structs.replace(caller, **changes)


def make_scene() -> Scene:
    laptop, phone = Identity(b"l" * 32), Identity(b"p" * 32)
    target = Target(node_key=key_text(phone.node.key), context="peer")
    return Scene(laptop, phone, caller_on(laptop), target, make_script("count.js", SOURCE))
