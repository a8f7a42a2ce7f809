"""Request -> operation: what answers each message of the local API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio.abc

from orvalho.control import asking, logic, mesh, pairing, policies, road, seeing, why
from orvalho.control import messages as control
from orvalho.daemon.config import LoadedConfig
from orvalho.daemon.handlers.script import ScriptHandler
from orvalho.daemon.house import House
from orvalho.daemon.nats_config import NatsConfigFile
from orvalho.daemon.operations.ask import AskOperations
from orvalho.daemon.operations.bench import BenchOperations
from orvalho.daemon.operations.config import ConfigOperations
from orvalho.daemon.operations.context import ContextOperations
from orvalho.daemon.operations.depot import DepotOperations
from orvalho.daemon.operations.files import FileOperations
from orvalho.daemon.operations.grant import GrantOperations
from orvalho.daemon.operations.inbox import InboxOperations
from orvalho.daemon.operations.key import KeyOperations
from orvalho.daemon.operations.libraries import LibraryOperations
from orvalho.daemon.operations.logic import LogicOperations
from orvalho.daemon.operations.metering import MeteringOperations
from orvalho.daemon.operations.nats import NatsOperations
from orvalho.daemon.operations.node import NodeOperations
from orvalho.daemon.operations.nodes import NodesOperations
from orvalho.daemon.operations.onward import Onward
from orvalho.daemon.operations.pair import PairOperations
from orvalho.daemon.operations.past import PastOperations
from orvalho.daemon.operations.peer import PeerOperations
from orvalho.daemon.operations.policy import PolicyOperations
from orvalho.daemon.operations.policy_tools import PolicyToolOperations
from orvalho.daemon.operations.reach import ReachOperations
from orvalho.daemon.operations.replay import ReplayOperations
from orvalho.daemon.operations.report import ReportOperations
from orvalho.daemon.operations.runs import RunOperations
from orvalho.daemon.operations.schemas import SchemaOperations
from orvalho.daemon.operations.script import ScriptOperations
from orvalho.daemon.operations.storage import StorageOperations
from orvalho.daemon.operations.trace import TraceOperations
from orvalho.daemon.operations.transport import TransportOperations
from orvalho.daemon.operations.why import WhyOperations
from orvalho.daemon.parting import Parting
from orvalho.daemon.tracing import Tracing
from orvalho.transports.catalog import Catalog

Table = dict[type[control.Message], Callable[[Any], Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Actors:
    """What operations set in motion beside the house's own rooms."""

    scripts: ScriptHandler
    tracing: Tracing
    parting: Parting
    announce: Callable[[], Awaitable[None]]
    restart: Callable[[], None]
    read_config: Callable[[], LoadedConfig]
    use_config: Callable[[LoadedConfig], None]
    nats_file: NatsConfigFile
    catalog: Catalog
    environ: Mapping[str, str]
    tasks: anyio.abc.TaskGroup


def table(house: House, ours: Actors) -> Table:
    """Request -> operation."""
    node = NodeOperations(house)
    context = ContextOperations(house, ours.announce)
    policy = PolicyOperations(house)
    config = ConfigOperations(house, ours.read_config, ours.use_config)
    run = RunOperations(house, ours.scripts)
    script = ScriptOperations(house, ours.scripts, run)
    logics = LogicOperations(house, ours.scripts.libraries)
    nats = NatsOperations(house, ours.nats_file)
    whys = WhyOperations(house, run.state)
    libraries = LibraryOperations(house, script.send)
    ours.scripts.onward = Onward(house, script, run, libraries).calls
    return {
        control.Status: node.status,
        control.DaemonStop: node.stop,
        control.Doctor: node.doctor,
        control.WorkerList: node.workers,
        control.Complete: node.complete,
        control.ContextNew: context.new,
        control.ContextList: context.list,
        control.ContextFiles: context.files,
        policies.GroupList: policy.list_groups,
        policies.GroupShow: policy.show_group,
        policies.PolicyCheck: policy.check,
        policies.Audit: policy.audit,
        control.ConfigShow: config.show,
        control.ConfigSet: config.set,
        control.ConfigUnset: config.unset,
        logic.ScriptImports: logics.imports,
        logic.LogicShow: logics.show,
        logic.ScriptCheck: script.check,
        control.ScriptSend: script.send,
        asking.Ask: AskOperations(house, script, run, ours.tasks).ask,
        control.Why: whys.why,
        why.WhyAsk: whys.ask,
        road.NatsConfig: nats.config,
        **run.table(),
        **InboxOperations(house, ours.scripts.holding).table(),
        **MeteringOperations(house).table(),
        **GrantOperations(house).table(),
        **PolicyToolOperations(house).table(),
        **StorageOperations(house).table(),
        **PastOperations(house).table(),
        **ReplayOperations(house).table(),
        **_peer_table(house, ours),
        **_road_table(house, ours),
        **libraries.table(),
        **SchemaOperations(house).table(),
        **TraceOperations(house, ours.tracing).table(),
    }


def _peer_table(house: House, ours: Actors) -> Table:
    peer = PeerOperations(house, ours.parting)
    pair = PairOperations(house)
    key = KeyOperations(house, ours.restart)
    return {
        control.PeerInvite: peer.invite,
        control.PeerAdd: peer.add,
        pairing.PairShow: pair.show,
        pairing.PairJoin: pair.join,
        pairing.NodePending: pair.pending,
        pairing.NodeApprove: pair.approve,
        pairing.NodeReject: pair.reject,
        pairing.KeyShow: key.show,
        pairing.KeyPhrase: key.phrase,
        pairing.KeyRotate: key.rotate,
        control.PeerList: peer.list,
        control.PeerRemove: peer.remove,
        mesh.PeerSet: peer.set,
        mesh.PeerRename: peer.rename,
        mesh.PeerRevoke: peer.revoke,
        mesh.Nodes: NodesOperations(house).nodes,
        control.Resolve: peer.resolve,
    }


def _road_table(house: House, ours: Actors) -> Table:
    reach = ReachOperations(house, ours.environ)
    depot = DepotOperations(house)
    bench = BenchOperations(house, ours.environ)
    reports = ReportOperations(house, ours.environ, NodeOperations(house))
    files = FileOperations(house, ours.tasks)
    ours.tasks.start_soon(files.queue.run)
    return {
        road.TransportList: TransportOperations(house, ours.catalog).list,
        road.DepotList: depot.list,
        road.DepotRemove: depot.remove,
        seeing.Ping: reach.ping,
        seeing.Netcheck: reach.netcheck,
        seeing.Bench: bench.bench,
        seeing.Echo: bench.echo,
        seeing.Bugreport: reports.report,
        seeing.Metrics: reports.metrics,
        seeing.FileSend: files.send,
        seeing.FileList: files.waiting,
        seeing.FileCancel: files.cancel,
    }
