"""From the owner's settings to what a run gets."""

from __future__ import annotations

from functools import lru_cache, partial

from orvalho.contexts.context import StorageLimits
from orvalho.daemon import settings
from orvalho.policies import usage
from orvalho.policies.quota import Allowance, Limits, parse_duration, parse_size
from orvalho.policies.quotas import TOTAL, Quotas, Spent, Terms
from orvalho.store import Store


@lru_cache(4)  # asked for with every run, and changed by nobody but the owner
def allowance(limits: settings.Limits) -> Allowance:
    usual = Limits(
        wall_s=parse_duration(limits.wall),
        cpu_s=parse_duration(limits.cpu),
        memory_bytes=parse_size(limits.memory),
        output_bytes=parse_size(limits.output),
        host_calls=limits.host_calls,
        network_bytes=parse_size(limits.network),
    )
    most = Limits(
        wall_s=parse_duration(limits.max_wall),
        cpu_s=parse_duration(limits.max_wall),
        memory_bytes=parse_size(limits.max_memory),
        output_bytes=usual.output_bytes,
        host_calls=usual.host_calls,
        network_bytes=usual.network_bytes,
    )
    return Allowance(usual, most)


def storage_limits(quota: settings.Quota) -> StorageLimits:
    return StorageLimits(disk_bytes=parse_size(quota.context_bytes), disk_files=quota.context_files)


def make_quotas(store: Store, quota: settings.Quota) -> Quotas:
    """The quotas of this node; what was used is looked up in `store` when it is first needed."""

    async def read(at: float) -> tuple[int, list[Spent]]:
        # On the writer's thread: what is about to be committed is seen, and told, once.
        return await store.transact("quota.read", partial(usage.spent_since, at=at))

    quotas = Quotas(read)
    quotas.use(shared_quotas(quota))
    return quotas


def shared_quotas(quota: settings.Quota) -> tuple[Terms, ...]:
    """What groups, and all senders together, may use; those without a single limit are left
    out."""
    found = [_terms(TOTAL, quota.total)]
    found += (_terms(name, shared) for name, shared in quota.groups.items() if name != TOTAL)
    return tuple(terms for terms in found if _limits(terms))


def _limits(terms: Terms) -> bool:
    limits = (
        *(terms.cpu_ms, terms.network_bytes, terms.memory_bytes),
        *(terms.cores, terms.runs_at_once),
    )
    return any(each is not None for each in limits)


def _terms(name: str, shared: settings.SharedQuota) -> Terms:
    return Terms(
        name,
        cpu_ms=round(parse_duration(shared.cpu) * 1000) if shared.cpu else None,
        network_bytes=parse_size(shared.network) if shared.network else None,
        memory_bytes=parse_size(shared.memory) if shared.memory else None,
        cores=shared.cores or None,
        runs_at_once=shared.runs_at_once or None,
        window_s=parse_duration(shared.window),
        queues=shared.queue,
    )
