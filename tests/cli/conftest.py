"""A daemon that is not one: canned answers behind the real server, on the real socket."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import anyio
import anyio.from_thread
import msgspec
import pytest

from orvalho.cli.main import run
from orvalho.control import (
    asking,
    grants,
    libraries,
    logic,
    mesh,
    metering,
    past,
    planning,
    policies,
    policy_tools,
    replaying,
    road,
    schemas,
    seeing,
    storage,
    tracing,
    why,
)
from orvalho.control import messages as m
from orvalho.control import pairing as p
from orvalho.control.client import socket_path
from orvalho.control.server import open_server

RUN = "r_01jd3k7m2q8v5x9z4b6n1c0f2h"
KEY = "ed25519:" + "A" * 43

PHONE = m.PeerState(
    name="phone2",
    key=KEY,
    relation="own",
    state="online",
    path="direct 127.0.0.1:4455",
    contexts=("peer",),
    check_words="abandon-ability-able-about",
    added_at=1_700_000_000.0,
    introduced="ticket",
    last_seen_at=1_700_000_000.0,
    queued=0,
)
STATE = m.RunState(
    run=RUN,
    direction="sent",
    caller="gil@laptop",
    target="peer@phone2",
    filename="job.js",
    digest="sha256:ab",
    state="ended",
    outcome="done",
    created_at=1_700_000_000.25,
    ended_at=1_700_000_001.0,
    wall_ms=41,
)
QUEUED = m.RunQueued(
    run=RUN, to="peer@phone2", state="sending", queued_at="laptop", expires_at=4_000_000_000.0
)
ENDED = m.RunEnded(
    run=RUN, outcome="done", result=msgspec.Raw(b'{"n": 9}'), usage=m.Usage(wall_ms=41)
)
OUTPUT = m.RunOutput(run=RUN, seq=0, level="log", text="hello", at=1_700_000_000.5)

HELD = planning.HeldState(
    run="r_1",
    caller="gil@laptop",
    target="peer@phone2",
    filename="job.js",
    digest="00" * 32,
    held_at=1_700_000_000.0,
    rule="policy/peer.csv:9",
    files=1,
    values=1,
)
MOUNT = storage.MountState(
    place="gil:/photos",
    url="s3://album",
    read_only=False,
    state="ready",
    error=None,
    secret="photos",
    used_bytes=0,
    quota_bytes=1_000_000_000,
)
SECRET = storage.SecretState(
    name="photos", contexts=("gil",), mounts=("gil:/photos",), set_at=1_700_000_000.0
)
WHY_ALLOWED = why.Explained(
    action="script.run",
    object="*",
    allowed=True,
    by="rule",
    reason="policy/peer.csv:3 allows it",
    rule="policy/peer.csv:3",
    text="p, @owner, peer, script.run, *, allow",
)
WHY_REFUSED = why.Explained(
    action="fs.write",
    object="/Pictures/a",
    allowed=False,
    by="default",
    reason="no rule allows it",
    times=2,
    call="2 target.fs.write",
    tried=(
        why.RuleTried(
            where="policy/peer.csv:4",
            text="p, *, peer, fs.read, /, allow",
            effect="allow",
            differs=("action", "object"),
        ),
    ),
    edit=why.Edit(
        kind="rule",
        changes=(
            why.LineChange(
                where="policy/peer.csv", new=("p, @owner, peer, fs.write, /Pictures/**, allow",)
            ),
        ),
        is_tried=True,
    ),
)
COMMIT = past.CommitState(
    id="c_01JD3K7M2Q8V5X9Z4B6N1C0F2H",
    context="gil",
    at=1_700_000_000.0,
    author="gil@laptop",
    cause="run",
    run=RUN,
    note="job.js",
    added=1,
    changed=0,
    gone=0,
)
FILE_CHANGED = past.FileChanged(
    path="/a.txt",
    mark="+",
    before=None,
    after=past.NodeState(kind="file", sha256="ab", size_bytes=4, text="one\n"),
)
VALUE_CHANGED = past.ValueChanged(key="n", mark="~", before="1", after="2")

LIBRARY = libraries.LibraryState(
    name="add",
    filename="add.wasm",
    kind="library",
    size_bytes=73,
    sha256="ab",
    doc="sums",
    exports=("add(i32, i32) -> i32",),
    published_at=1_700_000_000.0,
)
CHECKED = seeing.AddressCheck(address="ws://127.0.0.1:4455", took_ms=1.5)


def _grant_link(grant: str, parent: str | None, to: str | None, used: int) -> grants.GrantLinkState:
    return grants.GrantLinkState(
        grant=grant,
        parent=parent,
        whence="used" if parent else "issued",
        state="good",
        issuer="alice",
        context="peer",
        to=to,
        holder=KEY if to else None,
        needs=("target.fs.read:/Pictures/**",) if parent is None else None,
        script="ab" * 32 if parent else None,
        until=1_900_000_000.0,
        uses=3 if parent else None,
        made_at=1_700_000_000.0,
        used=used,
        last_used_at=1_700_000_001.0 if used else None,
        revoked_at=None,
    )


GRANT_REPLY = grants.GrantReply(
    grant="g_2",
    issuer="alice",
    context="peer",
    needs=("target.fs.read:/Pictures/**",),
    to="carol\x1b[2J",
    script="ab" * 32,
    until=1_900_000_000.0,
    state="good",
    text="orvalho-grant:EjRWeJASNFZ4kBI0VniQ",
    links=(
        _grant_link("g_1", None, "bob", 0),
        _grant_link("g_2", "g_1", "carol\x1b[2J", 2),
        _grant_link("g_3", "g_2", None, 0),
    ),
)

CANNED: dict[type[m.Message], tuple[m.Message, ...]] = {
    seeing.Ping: (
        seeing.Pong(
            peer="phone2",
            number=1,
            path="direct 127.0.0.1:4455",
            rtt_ms=3.0,
            at=1_700_000_000.5,
            level="info",
            text="pong from phone2 via direct 127.0.0.1:4455 in 3.0 ms",
        ),
    ),
    seeing.Netcheck: (
        seeing.NetcheckReply(
            interfaces=(seeing.Interface(name="lo", addresses=("127.0.0.1",)),),
            ipv4=True,
            ipv6=False,
            multicast=(),
            proxies=("https_proxy",),
            listening=(CHECKED,),
            peers=(
                seeing.PeerCheck(
                    name="phone2",
                    state="online",
                    paths=("direct 127.0.0.1:4455",),
                    rtt_ms=3.0,
                    clock_ahead_ms=-7200.0,
                    addresses=(CHECKED,),
                ),
            ),
        ),
    ),
    seeing.Echo: (),
    libraries.LibraryPublish: (libraries.LibraryPublished(library=LIBRARY, changed=True),),
    libraries.LibraryRemove: (m.Note(text="add is published no longer"),),
    libraries.LibraryList: (libraries.LibraryListReply(node="phone2", libraries=(LIBRARY,)),),
    libraries.LibraryShow: (
        libraries.LibraryShown(
            node="phone2",
            library=LIBRARY,
            needs='timeout = "3s"',
            metadata=libraries.WasmMetadata(
                kind="library",
                is_program=False,
                wasi=("wasi_snapshot_preview1",),
                name="add",
                size_bytes=73,
                sha256="ab",
                imports=(libraries.WasmExternal(module="a", name="t", kind="table", type=""),),
                exports=(
                    libraries.WasmExternal(
                        module="", name="add", kind="function", type="(i32, i32) -> i32"
                    ),
                ),
                functions=(
                    libraries.WasmFunction(
                        interface="",
                        name="add",
                        parameters=(libraries.WasmParameter(name="", type="i32"),),
                        results=("i32",),
                    ),
                ),
                memories=(
                    libraries.WasmMemory(minimum_bytes=65_536, maximum_bytes=None, is_shared=False),
                ),
                tables=1,
                has_start=True,
                sections=(libraries.WasmSection(name="producers", size_bytes=9),),
                producers={"language": ("C 17",)},
                features=("+simd128",),
                header="",
                wit="",
                signer="unsigned",
                notes=("a note",),
            ),
        ),
    ),
    libraries.LibraryGet: (
        libraries.LibraryContent(node="phone2", library=LIBRARY, content=b"bytes"),
    ),
    libraries.LibraryCall: (QUEUED, OUTPUT, ENDED),
    libraries.ServiceStart: (m.Note(text="add runs in peer"),),
    libraries.ServiceStop: (m.Note(text="add is stopped in peer"),),
    libraries.ServiceList: (
        libraries.ServiceListReply(
            node="phone2",
            services=(
                libraries.ServiceState(
                    library="add",
                    context="peer",
                    sha256="ab",
                    calls=4,
                    failures=1,
                    memory_bytes=65_536,
                    started_at=1_700_000_000.0,
                    instance_at=1_700_000_000.0,
                    problem="it trapped",
                ),
            ),
        ),
    ),
    seeing.Bench: (
        seeing.BenchReply(
            rows=(
                seeing.Measured(
                    what="messages of 256 B",
                    path="direct",
                    count=9,
                    per_second=4.5,
                    p50_ms=None,
                    p99_ms=None,
                ),
            )
        ),
    ),
    seeing.Bugreport: (seeing.Report(text="== version\nx", redacted={"node": 2}),),
    seeing.FileSend: (
        seeing.FileProgress(to="phone2", state="sending", sent_bytes=1, size_bytes=9),
        seeing.FileSent(
            to="peer@phone2",
            path="/inbox/a",
            size_bytes=9,
            sha256="ab",
            took_ms=3,
            sent_bytes=9,
            changed=True,
        ),
    ),
    m.Status: (
        m.StatusReply(
            node="laptop",
            key=KEY,
            version="0.1.0",
            pid=42,
            started_at=1_700_000_000.0,
            listening=("ws://0.0.0.0:4455",),
            contexts=("gil",),
            peers=(
                PHONE,
                msgspec.structs.replace(
                    PHONE, name="tab", relation="guest", state="offline", path="", queued=3
                ),
            ),
            runs=1,
            problems=("policy/gil.csv:7: unknown action",),
        ),
    ),
    m.DaemonStop: (),
    m.ContextNew: (m.Note(text="made context alice"),),
    m.ContextList: (
        m.ContextListReply(
            contexts=(
                m.ContextState(
                    name="gil",
                    key=KEY,
                    files=2,
                    used_bytes=1500,
                    quota_files=10,
                    quota_bytes=10**9,
                    worker=1,
                ),
            )
        ),
    ),
    m.ContextFiles: (
        m.FilesReply(
            path="/",
            entries=(
                m.FileState(name="gil", is_dir=True, size_bytes=0, modified_at=None),
                m.FileState(name="a.txt", is_dir=False, size_bytes=5, modified_at=1_700_000_000.0),
            ),
        ),
    ),
    m.PeerInvite: (m.Ticket(ticket="orvalho1:abc", expires_at=4_000_000_000.0, guest=False),),
    m.PeerAdd: (m.PeerAdded(peer=PHONE, changed=True),),
    p.PairShow: (
        p.PairShown(
            at=1.7e9,
            text="code 417-violin-orbit-lemon",
            code="417-violin-orbit-lemon",
            ticket="orvalho1:abc",
            expires_at=4_000_000_000.0,
            guest=False,
        ),
        p.PairTried(at=1.7e9, text="somebody tried a wrong code", left=2),
        p.PairArrived(
            at=1.7e9,
            text="paired with phone2",
            peer=p.PairedState(
                name="phone2", key=KEY, relation="own", contexts=("peer",), check_words="a-b-c-d"
            ),
            held=False,
        ),
    ),
    p.NodePending: (
        p.NodePendingReply(
            nodes=(
                p.HeldState(
                    name="phone2",
                    key=KEY,
                    relation="own",
                    check_words="a-b-c-d",
                    asked_at=1.7e9,
                    state="waits",
                ),
            )
        ),
    ),
    p.KeyShow: (
        p.KeyReply(
            device_id="MFZWI3D",
            key=KEY,
            owner_key=KEY,
            created_at=1.7e9,
            rotations=1,
            rotated_at=1.7e9,
        ),
    ),
    p.KeyRotate: (
        p.KeyRotated(
            device_id="MFZWI3D",
            key=KEY,
            old_key=KEY,
            peers=(
                p.PairedState(
                    name="phone2", key=KEY, relation="own", contexts=(), check_words="a-b-c-d"
                ),
            ),
        ),
    ),
    p.KeyPhrase: (p.KeyPhraseReply(phrase="zoo zoo"),),
    m.PeerList: (m.PeerListReply(peers=(PHONE,)),),
    m.PeerRemove: (m.Note(text="forgot phone2"),),
    past.CtxLog: (past.CtxLogReply(context="gil", commits=(COMMIT,), begins_at=None),),
    past.CtxDiff: (
        past.CtxDiffReply(
            context="gil", start=None, end=COMMIT.id, files=(FILE_CHANGED,), values=(VALUE_CHANGED,)
        ),
    ),
    past.CtxShow: (
        past.CtxShowReply(commits=(COMMIT,), files=(FILE_CHANGED,), values=(VALUE_CHANGED,)),
    ),
    past.CtxUndo: (
        past.UndoPlanned(
            context="gil",
            commits=(COMMIT,),
            digest="ab",
            blocks=(),
            kept=("/d",),
            files=(FILE_CHANGED,),
            values=(VALUE_CHANGED,),
        ),
    ),
    past.CtxAt: (
        past.PastEntries(
            context="gil",
            commit=COMMIT.id,
            entries=(
                past.PastEntry(
                    path="/a.txt", is_dir=False, size_bytes=4, sha256="ab", changed_at=1.5
                ),
            ),
        ),
    ),
    past.CtxGc: (
        past.CtxGcReply(commits=1, versions=2, contents=3, contents_bytes=4000, plan=False),
    ),
    past.CtxDf: (
        past.CtxDfReply(
            contexts=(
                past.ContextDf(
                    name="gil",
                    files=3,
                    tree_bytes=4000,
                    values=1,
                    values_bytes=8,
                    commits=2,
                    past_bytes=100,
                    begins_at=1_700_000_000.0,
                ),
            ),
            contents=3,
            contents_bytes=4100,
            past_bytes=100,
        ),
    ),
    past.CtxFsck: (past.CtxFsckReply(contexts=1, files=3, versions=4, contents=3, problems=()),),
    policies.GroupList: (
        policies.GroupListReply(
            groups=(policies.GroupState(name="family", members=((KEY, "ana.pub", "phone2"),)),)
        ),
    ),
    policies.GroupShow: (
        policies.GroupListReply(
            groups=(policies.GroupState(name="family", members=((KEY, "ana.pub", None),)),)
        ),
    ),
    road.NatsConfig: (
        road.NatsConfigured(path="/home/nats.conf", nodes=("laptop",), address="nats://HOST:4222"),
    ),
    m.Resolve: (
        m.Resolved(
            name="peer@phone2",
            node="phone2",
            node_key=KEY,
            context="peer",
            context_key=KEY,
            state="online",
            path="direct 127.0.0.1:4455",
        ),
    ),
    logic.ScriptCheck: (
        logic.ScriptChecked(
            filename="job.js",
            language="javascript",
            digest="sha256:ab",
            size_bytes=12,
            needs=("target.fs.read:/photos/**",),
            wants=(),
            limits={"wall_ms": 30000},
            problems=(),
        ),
    ),
    logic.ScriptImports: (logic.ScriptImportsReply(imports=(), problems=()),),
    logic.LogicShow: (
        logic.LogicReply(
            context="peer@laptop",
            files=(
                logic.LogicFile(
                    name="lib:images",
                    path="/lib/images.js",
                    file="/home/data/contexts/peer/lib/images.js",
                    origin="context",
                    digest="sha256:ab",
                    wins=True,
                    why="comes before shared:/images.js",
                    functions=(
                        logic.LogicFunction(
                            name="thumb", line=3, signature="function thumb(a)", doc="Smaller."
                        ),
                    ),
                    problems=(),
                ),
            ),
        ),
    ),
    m.ScriptSend: (QUEUED, OUTPUT, ENDED),
    m.ScriptList: (m.ScriptListReply(runs=(STATE,)),),
    m.ScriptShow: (
        m.ScriptShowReply(
            state=STATE,
            needs=("target.fs.read:/**",),
            params_bytes=2,
            expires_at=1_700_000_000.0,
            error=None,
            receipt=msgspec.Raw(b'{"ended_at": 5}'),
            receipt_by=KEY,
        ),
    ),
    m.ScriptLogs: (OUTPUT, msgspec.structs.replace(OUTPUT, seq=1, level="error", text="bye")),
    m.ScriptResult: (ENDED,),
    m.ScriptCancel: (m.Note(text="cancelled"),),
    tracing.Trace: (
        tracing.TraceReply(
            trace="0" * 32,
            runs=tuple(
                tracing.TracedRun(
                    run=f"r_{number}",
                    parent=f"r_{number - 1}" if number else None,
                    node="phone2",
                    caller="root@laptop",
                    target="peer@phone2",
                    filename="job.js",
                    state="ended",
                    outcome="done",
                    started_at=1.0,
                    wall_ms=3,
                    signed="both",
                    problem="it is away" if number else None,
                )
                for number in range(2)
            ),
        ),
    ),
    replaying.Replay: (
        replaying.Replayed(
            run=RUN,
            filename="job.js",
            caller="alice@laptop",
            target="peer@phone2",
            signed_by="this node",
            outcome="done",
            ran_at=1.0,
            deterministic=True,
            difference=None,
            stopped=None,
            host_calls=1,
            clock_readings=0,
            lines=0,
            wall_ms=4,
        ),
    ),
    m.Why: (
        m.WhyReply(
            state=STATE,
            caller_key=KEY,
            signature="good",
            road="direct",
            roles=("@owner", "@paired"),
            decisions=(),
            explained=(WHY_ALLOWED, WHY_REFUSED),
            error=None,
        ),
    ),
    why.WhyAsk: (
        why.WhyAsked(
            who="gil@laptop",
            context="peer",
            allowed=True,
            chain=(why.Link(name="sender", text="gil@laptop", holds=True),),
            decision=WHY_ALLOWED,
        ),
    ),
    planning.InboxList: (planning.InboxReply(held=(HELD,)),),
    planning.InboxShow: (
        planning.InboxShown(
            state=HELD,
            source="1",
            needs=("target.fs.write:/a",),
            params=msgspec.Raw(b"null"),
            plan=planning.PlanState(
                files=(planning.PlannedFile(path="/a", mark="+", after_bytes=1, diff="+1\n"),),
                values=(planning.PlannedValue(key="k", mark="-", before="1"),),
                not_run=(planning.PlannedCall(call="caller.fs.write", argument="[]"),),
            ),
            result=msgspec.Raw(b"1"),
            output=("line",),
            rights=("fs.write /a  by policy/peer.csv:1",),
        ),
    ),
    schemas.SchemaList: (
        schemas.SchemaListReply(
            schemas=(
                schemas.SchemaState(
                    context="gil",
                    schema="/schema/contact.json",
                    files=("contacts/*.json",),
                    kv="contacts",
                    indexed=("city",),
                    problem=None,
                ),
            ),
            closed=(),
        ),
    ),
    schemas.SchemaCheck: (schemas.SchemaChecked(documents=2, found=0, misfits=(), problems=()),),
    storage.MountPut: (storage.MountReply(mount=MOUNT, changed=True),),
    storage.MountList: (storage.MountListReply(mounts=(MOUNT,)),),
    storage.SecretList: (storage.SecretListReply(secrets=(SECRET,)),),
    storage.SecretShow: (storage.SecretShown(secret=SECRET),),
    policies.PolicyCheck: (
        policies.PolicyChecked(files=("policy/gil.csv",), rules=4, problems=()),
    ),
    policy_tools.PolicyDiff: (
        policy_tools.PolicyDiffed(
            requests=9210,
            since_s=2_592_000,
            refused_count=14,
            allowed_count=0,
            refused=(
                policy_tools.ChangedRequests(
                    actor="gil@laptop",
                    context="peer",
                    action="fs.read",
                    objects=("/photos/a.jpg",),
                    distinct=14,
                    times=14,
                    before="policy/peer.csv:3: p, gil@laptop, peer, fs.read, /photos/**, allow",
                    after=None,
                ),
            ),
            allowed=(),
            skipped=(policy_tools.Skipped(reason="who asked is no peer any more", times=3),),
        ),
    ),
    policy_tools.PolicyUnused: (
        policy_tools.PolicyUnusedReply(
            requests=9210,
            since_s=2_592_000,
            rules=7,
            allow=(
                policy_tools.IdleRule(
                    rule="policy/peer.csv:4", text="p, laptop, peer, kv.read, x, allow"
                ),
            ),
            deny=(),
            skipped=(),
        ),
    ),
    road.TransportList: (
        road.TransportListReply(
            transports=(
                road.TransportState(
                    scheme="ws",
                    module="orvalho.transports.websocket",
                    install=None,
                    listening=("ws://0.0.0.0:4455",),
                    links=1,
                ),
                road.TransportState(
                    scheme="quic",
                    module="orvalho.transports.quic",
                    install="pip install 'orvalho[quic]'",
                    listening=(),
                    links=0,
                ),
            ),
            links=(
                road.LinkState(
                    peer="phone2",
                    path="direct 127.0.0.1:4455",
                    transport="ws",
                    used=True,
                    rtt_ms=1,
                    opened_at=1_700_000_000.0,
                ),
            ),
        ),
    ),
    seeing.FileList: (
        seeing.FileListReply(
            files=(
                seeing.QueuedFile(
                    file="f_01JD3K7M2Q8V5X9Z4B6N1C0F2H",
                    path="/home/gil/a.jpg",
                    to="phone2",
                    size_bytes=9,
                    state="waiting",
                    text="",
                    queued_at=1_700_000_000.0,
                    until=4_000_000_000.0,
                ),
            )
        ),
    ),
    seeing.FileCancel: (m.Note(text="/home/gil/a.jpg is taken back"),),
    road.DepotList: (
        road.DepotListReply(
            piles=(
                road.DepotPile(
                    recipient="phone2",
                    depositor="laptop",
                    count=3,
                    bytes=2048,
                    expires_at=4_000_000_000.0,
                ),
            )
        ),
    ),
    seeing.Metrics: (
        seeing.MetricsReply(
            up_s=61, rss_bytes=64_000_000, counters={"frames.refused": 3, "peers.online": 1}
        ),
    ),
    road.DepotRemove: (m.Note(text="3 kept for phone2 thrown away"),),
    m.WorkerList: (
        m.WorkerListReply(
            workers=(
                m.WorkerState(
                    worker=1,
                    pid=43,
                    contexts=("gil",),
                    running=0,
                    runs=7,
                    started_at=1_700_000_000.0,
                    rss_bytes=64_000_000,
                ),
            )
        ),
    ),
    mesh.Nodes: (
        mesh.NodesReply(
            nodes=(
                mesh.NodeState(
                    name="phone2",
                    key="ed25519:abc",
                    state="suspect",
                    known="via laptop",
                    relation=None,
                    is_introducer=False,
                    capabilities=("os=linux",),
                    labels=("env=home",),
                    contexts=("peer",),
                    addresses=("ws://192.0.2.1:4455",),
                    last_seen_at=1_700_000_000.0,
                    note="another one is called so",
                ),
            ),
            lan=(
                mesh.LanNode(
                    name="tv\x1b[31m", key="ed25519:abc", addresses=(), paired=False, revoked=False
                ),
            ),
            is_listening=True,
            problems=("laptop has revoked this device",),
        ),
    ),
    mesh.PeerRename: (m.Note(text="phone2 is called phone from now on"),),
    mesh.PeerSet: (m.Note(text="laptop may introduce devices", changed=False),),
    mesh.PeerRevoke: (m.Note(text="phone2 is revoked"),),
    m.ConfigShow: (
        m.ConfigReply(
            settings=(m.Setting(key="limits.wall", value='"30s"', origin="config.toml:3"),)
        ),
    ),
    m.ConfigSet: (m.Note(text="already so", changed=False),),
    policies.Audit: (
        policies.AuditEntry(
            seq=1,
            at=1_700_000_000.0,
            actor="gil@laptop",
            context="peer",
            action="fs.read",
            object="/a",
            allowed=False,
            rule=None,
            run=RUN,
            text="no rule speaks",
        ),
    ),
    metering.Quota: (
        metering.QuotaReply(
            quotas=(
                metering.QuotaState(
                    name="guests",
                    cpu_ms=250,
                    cpu_limit_ms=1000,
                    network_bytes=0,
                    network_limit_bytes=None,
                    memory_bytes=0,
                    memory_limit_bytes=32_000_000,
                    cores_limit=None,
                    running=1,
                    runs_limit=4,
                    waiting=0,
                    window_s=3600.0,
                    room_at=1_700_000_000.0,
                    queue=False,
                ),
            )
        ),
    ),
    metering.UsageSum: (
        metering.UsageReply(
            by="group",
            rows=(
                metering.Used(
                    of="guests",
                    names=(),
                    runs=3,
                    wall_ms=10,
                    cpu_ms=5,
                    memory_bytes=100,
                    output_bytes=2,
                    host_calls=1,
                    read_bytes=0,
                    written_bytes=0,
                    network_bytes=7,
                ),
            ),
            note="counted twice",
        ),
    ),
    metering.Events: (
        metering.Event(
            kind="script.ended",
            at=1_700_000_000.0,
            level="info",
            text="gil@laptop ran a\x1b[31m.js in peer: done",
            run=RUN,
            requester="gil@laptop",
            key=KEY,
            usage=metering.EventUsage(cpu_ms=3),
        ),
        metering.Event(kind="peer.lost", at=1_700_000_000.0, level="info", text="phone2 is gone"),
    ),
    **dict.fromkeys(
        (grants.GrantNew, grants.GrantNarrow, grants.GrantKeep, grants.GrantShow), (GRANT_REPLY,)
    ),
    grants.GrantList: (
        grants.GrantListReply(
            links=GRANT_REPLY.links,
            policy=("# grant g_1 of bob", "p, bob, peer, fs.read, /Pictures/**, allow"),
        ),
    ),
    grants.GrantRevoke: (m.Note(text="g_1 is revoked"),),
    grants.GrantForget: (m.Note(text="g_2 is kept no longer"),),
    metering.GroupAdd: (m.Note(text="phone2 is in @family now"),),
    metering.GroupRemove: (m.Note(text="phone2 is no longer in @family"),),
    m.Doctor: (
        m.DoctorReply(
            findings=(
                m.Finding(level="ok", text="keys are readable by you alone"),
                m.Finding(level="warning", text="no peers", hint="orvalho peer invite"),
            )
        ),
    ),
    asking.Ask: (
        asking.AskPlaced(
            name="all",
            here="peer@laptop",
            choices=(asking.AskChoice(to="peer@phone2", node="phone2", hops=1, why="direct"),),
            left_out=(asking.AskChoice(to="peer@tv", node="tv", hops=2, why="offline"),),
        ),
        asking.AskAnswer(
            to="peer@phone2",
            node="phone2",
            hops=1,
            state="done",
            run=RUN,
            result=msgspec.Raw(b'{"load": 0.5, "free_bytes": 5000}'),
            took_ms=12,
        ),
    ),
    m.Complete: (m.Completions(words=("peer@phone2", "peer@phone$(touch owned)")),),
}


class FakeDaemon:
    """Answers as CANNED says, or as a test put into `answers`; keeps what it was asked."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.asked: list[m.Request] = []
        self.answers: dict[type[m.Message], Callable[..., AsyncIterator[m.Reply]]] = {}

    async def answer(self, request: m.Request) -> AsyncIterator[m.Reply]:
        self.asked.append(request)
        kind = type(request)
        if kind in self.answers:
            async for reply in self.answers[kind](request):
                yield reply
            return
        replies = CANNED[kind]
        for canned in replies[:1] if getattr(request, "detach", False) else replies:
            yield canned

    def says(self, kind: type[m.Message], *replies: m.Message | Exception) -> None:
        """Answer requests of a kind with these; an exception is raised in its place."""

        async def answer(_request: m.Request) -> AsyncIterator[m.Reply]:
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
                yield reply

        self.answers[kind] = answer

    def last(self, kind: type[m.Message]) -> m.Message:
        return next(request for request in reversed(self.asked) if isinstance(request, kind))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def environ(home: Path) -> dict[str, str]:
    return {"ORVALHO_HOME": str(home), "PATH": os.environ["PATH"], "HOME": str(home)}


@pytest.fixture
def daemon(environ: dict[str, str]) -> Iterator[FakeDaemon]:
    fake = FakeDaemon(socket_path(environ, None))
    with anyio.from_thread.start_blocking_portal("asyncio") as portal:
        served = open_server(fake.socket, fake.answer)
        with portal.wrap_async_context_manager(served):
            yield fake


@pytest.fixture
def orvalho(environ: dict[str, str]) -> Callable[..., int]:
    """Run a command in this process; answers its exit status (its output is pytest's capsys)."""

    def call(*argv: str) -> int:
        return run(argv, environ)

    return call


@pytest.fixture
def shell(
    environ: dict[str, str], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command as a process of its own."""

    def call(*argv: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "orvalho", *argv],
            input=stdin,
            env=environ | more,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return call
