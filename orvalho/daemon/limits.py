"""From the owner's settings to what a run gets."""

from __future__ import annotations

from functools import lru_cache

from orvalho.daemon import config
from orvalho.policies.quota import Allowance, Limits, parse_duration, parse_size


@lru_cache(4)  # asked for with every run, and changed by nobody but the owner
def allowance(limits: config.Limits) -> Allowance:
    usual = Limits(
        wall_s=parse_duration(limits.wall),
        cpu_s=parse_duration(limits.cpu),
        memory_bytes=parse_size(limits.memory),
        output_bytes=parse_size(limits.output),
        host_calls=limits.host_calls,
    )
    most = Limits(
        wall_s=parse_duration(limits.max_wall),
        cpu_s=parse_duration(limits.max_wall),
        memory_bytes=parse_size(limits.max_memory),
        output_bytes=usual.output_bytes,
        host_calls=usual.host_calls,
    )
    return Allowance(usual, most)
