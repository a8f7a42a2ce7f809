"""What is kept of what a run got from outside, so that it can be made again."""

from __future__ import annotations

import msgspec

from orvalho.daemon.config import LoadedConfig
from orvalho.daemon.run_record import Arrival
from orvalho.policies.quota import parse_size
from orvalho.runtime.engine import Modules
from orvalho.runtime.job import Job, Run
from orvalho.runtime.recording import encode_recording


def room_bytes(settings: LoadedConfig) -> int:
    """How much a recording may take; 0 when nothing is recorded."""
    kept = settings.config.recorder
    return parse_size(kept.max_bytes) if kept.keep == "on" else 0


def keep_recording(arrival: Arrival, job: Job, run: Run) -> None:
    """Note in `arrival` what was recorded of its run, which has ended."""
    recorder = run.recorder
    arrival.recording = None
    if recorder is None:
        arrival.recorded = "off"
        return
    if recorder.is_lost or recorder.is_full:
        arrival.recorded = "lost" if recorder.is_lost else "large"
        return
    script = arrival.script
    is_other = job.source is not script.script.source
    own = job.modules == (Modules(script.modules) if script.modules else Modules())
    is_own = not is_other and own and job.params is script.params and not arrival.first_line
    if recorder.is_empty and is_own and not job.off:
        arrival.recorded = "empty"
        return
    recording = msgspec.structs.replace(
        recorder.recording(dict(job.caller), dict(job.target), job.limits),
        params=None if job.params is script.params else job.params,
        filename=job.filename if is_other else None,
        text=job.source if is_other and isinstance(job.source, str) else None,
        module=job.source if is_other and isinstance(job.source, bytes) else None,
        modules=None if own else job.modules,
        lines=arrival.first_line,
        off=job.off,
    )
    raw = encode_recording(recording)
    if len(raw) > job.record_bytes:
        arrival.recorded = "large"
        return
    arrival.recorded, arrival.recording = "kept", raw
