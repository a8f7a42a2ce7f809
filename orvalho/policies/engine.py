"""The seam between those who ask and those who decide."""

from __future__ import annotations

from typing import Protocol

from orvalho.policies.access import AccessRequest, Decision


class PolicyEngine(Protocol):
    """Decides by a set of rules that never changes: a changed set is a new engine.

    `decide` may be called from any thread. Deny wins over allow, and when no rule speaks the
    answer is deny. It raises nothing: an engine that fails inside denies. An object may be a glob
    (a script's need, asked about before it runs): it is taken as the text of one path, so the
    answer is a promise about most of what the glob covers, and each call is asked about again.
    """

    def decide(self, request: AccessRequest) -> Decision: ...
