"""From the owner's settings to what a run gets."""

from __future__ import annotations

from orvalho.daemon.config import Config
from orvalho.policies.quota import Allowance, Limits, parse_duration, parse_size


def allowance(config: Config) -> Allowance:
    limits = config.limits
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
