"""Configuration -> every object, kind -> handler, request -> operation: the one place that knows
every room."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
from anyio import to_thread

from orvalho.contexts.commit import Committer
from orvalho.contexts.contents import Contents
from orvalho.contexts.context import Contexts
from orvalho.contexts.groups import Groups
from orvalho.contexts.identity import Identity, Key, certify
from orvalho.contexts.mounts import tree_words
from orvalho.contexts.names import Address
from orvalho.contexts.refused import RefusedKeys, open_refused_keys
from orvalho.contexts.secrets import Secrets
from orvalho.contexts.trust import Peer, TrustBook, open_trust_book
from orvalho.control import messages as control
from orvalho.control.server import open_server
from orvalho.daemon import addresses, bodies, file_words, library_words
from orvalho.daemon import config as configuration
from orvalho.daemon.broker import Broker
from orvalho.daemon.config import LoadedConfig
from orvalho.daemon.feed import Feed
from orvalho.daemon.greeting import greet, read_greeting, read_rest
from orvalho.daemon.handlers.caller import CallerHandler
from orvalho.daemon.handlers.files import FileHandler, sweep_drafts
from orvalho.daemon.handlers.libraries import LibraryHandler
from orvalho.daemon.handlers.ping import NOTHING, PING, answer_ping, hear_nothing
from orvalho.daemon.handlers.script import ScriptHandler
from orvalho.daemon.handlers.trees import TreeHandler
from orvalho.daemon.hints import Book, Hints
from orvalho.daemon.home import Home
from orvalho.daemon.house import House
from orvalho.daemon.lan import Lan
from orvalho.daemon.limits import make_quotas, shared_quotas, storage_limits
from orvalho.daemon.load import LOAD, Loads
from orvalho.daemon.mesh import Mesh, MeshParts
from orvalho.daemon.migrations import MIGRATIONS
from orvalho.daemon.mounts import Mounts
from orvalho.daemon.nats_side import NatsSide
from orvalho.daemon.operations.pair import admit
from orvalho.daemon.operations.table import Actors, table
from orvalho.daemon.parting import Parting
from orvalho.daemon.past import Past
from orvalho.daemon.peer_words import unapproved
from orvalho.daemon.probes import Probes
from orvalho.daemon.retention import Retention
from orvalho.daemon.run_news import publish_peer
from orvalho.daemon.services import Services
from orvalho.daemon.settings import Config
from orvalho.daemon.succession import heir_by, node_certificate, succeed, write_succession
from orvalho.daemon.tracing import TRACE, Tracing
from orvalho.daemon.tree_asks import ask_tree
from orvalho.daemon.watch import Changed, watch_files
from orvalho.errors import InvalidInput, Untrusted
from orvalho.peers import tally
from orvalho.peers.frames import Hello
from orvalho.peers.keeping import DepotTerms
from orvalho.peers.node import Node
from orvalho.peers.node_config import NodeConfig
from orvalho.peers.opening import open_node
from orvalho.peers.pairing import Paired
from orvalho.peers.relay import RelayTerms
from orvalho.peers.sending import Undelivered
from orvalho.policies.audit import Audit
from orvalho.policies.book import PolicyBook
from orvalho.policies.grant_book import GrantBook
from orvalho.policies.ledger import Ledger
from orvalho.policies.quota import parse_size
from orvalho.runtime.job import Jobs
from orvalho.runtime.workers.pool import open_workers
from orvalho.scripts.library import Libraries
from orvalho.scripts.runs import Runs
from orvalho.store import CommitHook, Store, open_store
from orvalho.transports.catalog import Catalog

_log = logging.getLogger(__name__)

# Scripts of one peer that may wait for their turn here; more are told to come again.
_WAITING_PER_PEER = 10_000


class Daemon:
    """A running daemon: until it is told to stop, by a signal or a request."""

    def __init__(self) -> None:
        self._stopped = anyio.Event()
        self.grace_s = 5.0
        # Whether another one is to come in its place, in this process.
        self.is_to_restart = False

    def stop(self, grace_s: float = 5.0) -> None:
        self.grace_s = grace_s
        self.is_to_restart = False
        self._stopped.set()

    def restart(self) -> None:
        """Stop, and begin anew: the keys have changed."""
        self.stop()
        # Afterwards: a signal to stop that comes now still ends the process.
        self.is_to_restart = True

    async def until_stopped(self) -> None:
        await self._stopped.wait()


@asynccontextmanager
async def open_daemon(
    home: Home,
    loaded: LoadedConfig,
    environ: Mapping[str, str],
    on_commit: CommitHook | None = None,
    catalog: Catalog | None = None,
) -> AsyncIterator[Daemon]:
    """Everything, wired and running, for the length of the block. `catalog` are the transports,
    if not just ours and the installed ones.

    Raises:
        OrvalhoError: a file, key, database or address does not allow a start.
    """
    daemon = Daemon()
    identity = Identity.load(home.keys)
    async with open_store(home.database, MIGRATIONS, on_commit) as store:
        book = await open_trust_book(store)
        refused_keys = await open_refused_keys(store)
        async with (
            open_workers(
                contexts_per_worker=loaded.config.workers.contexts_per_worker,
                cache=home.cache / "compiled",
            ) as workers,
            anyio.create_task_group() as tasks,
        ):
            wiring = _Wiring(
                home,
                loaded,
                environ,
                identity=identity,
                store=store,
                book=book,
                refused_keys=refused_keys,
                jobs=Jobs(workers),
                daemon=daemon,
                tasks=tasks,
                catalog=catalog or Catalog(),
            )
            async with open_node(wiring.node_config()) as node:
                house = wiring.build(node)
                wiring.wire_handlers(house)
                house.problems["mounts"] = await house.mounts.read()
                await house.committer.recover()
                await house.grants.load()
                await wiring.scripts.resume()
                await house.mesh.load()
                await to_thread.run_sync(sweep_drafts, home.state, time.time())
                async with open_server(home.socket, wiring.answer):
                    tasks.start_soon(wiring.watch)
                    tasks.start_soon(wiring.see_peers)
                    tasks.start_soon(house.mesh.run)
                    if house.lan is not None:
                        tasks.start_soon(house.lan.run)
                    tasks.start_soon(wiring.nats.run, house.mesh)
                    tasks.start_soon(Retention(house).run)
                    tasks.start_soon(house.committer.run)
                    tasks.start_soon(wiring.probes.run, lambda: house.policy.probes)
                    tasks.start_soon(house.past.begin)
                    _log.info(
                        "daemon.started",
                        extra={"node": house.name, "listening": list(node.addresses)},
                    )
                    yield daemon
                    await wiring.settle(daemon.grace_s)
                tasks.cancel_scope.cancel()


class _Wiring:
    """Holds what is made on the way to a House."""

    scripts: ScriptHandler
    probes: Probes
    _caller: CallerHandler
    _parting: Parting

    def __init__(
        self,
        home: Home,
        loaded: LoadedConfig,
        environ: Mapping[str, str],
        *,
        identity: Identity,
        store: Store,
        book: TrustBook,
        refused_keys: RefusedKeys,
        jobs: Jobs,
        daemon: Daemon,
        tasks: anyio.abc.TaskGroup,
        catalog: Catalog,
    ) -> None:
        self._home = home
        self._loaded = loaded
        self._environ = environ
        self._identity = identity
        self._store = store
        self._book = book
        self._refused = refused_keys
        self._hints = Hints(loaded.config.mesh.bootstrap)
        self._jobs = jobs
        self._daemon = daemon
        self._tasks = tasks
        self.nats = NatsSide(home.state, loaded.config, identity.node, book, self._note_nats)
        self._catalog = self.nats.extend(catalog)
        self._house: House | None = None
        self._operations: dict[type[control.Message], Callable[[Any], Any]] = {}

    # ---- build ------------------------------------------------------------------------------

    def node_config(self) -> NodeConfig:
        config, identity = self._loaded.config, self._identity
        certificate = certify(identity.owner, "node", config.name, identity.node.key, time.time())
        return NodeConfig(
            name=config.name,
            signer=identity.node,
            noise_static=identity.noise_static(),
            owner_key=identity.owner.key,
            certificate=certificate,
            formerly=frozenset(identity.former_keys),
            succession=write_succession(identity, certificate, time.time()),
            heir=heir_by(self._book, self._refused),
            on_succeeded=self._on_succeeded,
            listen=addresses.usable(config.listen),
            advertise=addresses.advertised,
            store=self._store,
            blobs=self._home.state / "blobs",
            book=Book(self._book, self._hints),
            check_certificate=node_certificate,
            on_greeting=self._on_greeting,
            on_paired=self._on_paired,
            on_undelivered=self._on_undelivered,
            pairing_port=config.pairing.port,
            carrier=self.nats.carrier(),
            catalog=self._catalog,
            depot=DepotTerms(
                keeps_for=lambda key: self._settings.depot.enabled and self._is_own(key),
                kept_by=self._is_own,
                quota=self._depot_quota,
            ),
            relay=RelayTerms(
                passes=lambda key: self._settings.relay.enabled and self._is_own(key),
                asks=self._is_own,
            ),
            quota=tally.Quota(
                count=config.delivery.per_peer_count,
                bytes=parse_size(config.delivery.per_peer_bytes),
            ),
        )

    @property
    def _settings(self) -> Config:
        """As they are now: they may be read again while we run."""
        return (self._house.settings if self._house else self._loaded).config

    def _is_own(self, node_key: Key) -> bool:
        peer = self._book.by_key(node_key)
        return peer is not None and peer.relation == "own"

    def _depot_quota(self) -> tally.Quota:
        depot = self._settings.depot
        return tally.Quota(count=depot.per_peer_count, bytes=parse_size(depot.per_peer_bytes))

    def build(self, node: Node) -> House:
        config, home = self._loaded.config, self._home
        contexts = Contexts(
            home.contexts,
            self._identity,
            storage_limits(config.quota),
            now=time.time(),
        )
        secrets = Secrets(home.state / "secrets", self._identity.secrets_key())
        groups = Groups(home.groups)
        groups_read = groups.reload()
        probes = self.probes = Probes(lambda: self._settings.policy.readings)
        policy = PolicyBook(
            home.config, lambda: [context.name for context in contexts.list()], probes.readings
        )
        committer = Committer(self._store, contexts, Contents(self._store, home.contents))
        house = House(
            home=home,
            settings=self._loaded,
            identity=self._identity,
            store=self._store,
            trust=self._book,
            groups=groups,
            contexts=contexts,
            committer=committer,
            past=Past.make(self._store, contexts, committer),
            secrets=secrets,
            mounts=Mounts(home, contexts, secrets, self._mount_quota, self._ask_tree),
            policy=policy,
            grants=GrantBook(self._store),
            broker=Broker(lambda: self._settings.policy.broker),
            audit=Audit(self._store),
            ledger=Ledger(
                config.workers.runs_at_once,
                config.workers.runs_at_once_per_peer,
                waiting_per_subject=_WAITING_PER_PEER,
            ),
            quotas=make_quotas(self._store, config.quota),
            jobs=self._jobs,
            node=node,
            refused=self._refused,
            mesh=self._mesh(node, contexts),
            lan=self._lan(node) if config.mesh.beacons else None,
            runs=Runs(self._store),
            libraries=Libraries(self._home.libraries),
            services=Services(self._jobs, self._tasks),
            feed=Feed(),
            started_at=time.time(),
            stop=self._daemon.stop,
            answer_caller=self._answer_caller,
        )
        house.problems["policy"] = policy.problems
        house.problems["groups"] = groups_read.problems
        node.set_greeting(greet(contexts.list(), config.node.labels, config.context))
        self._house = house
        self._note_nats()
        return house

    def _mount_quota(self) -> tuple[int, int]:
        limits = storage_limits(self._settings.quota)
        return limits.disk_bytes, limits.disk_files

    async def _ask_tree(self, address: Address, caller: str, asked: tree_words.Question) -> bytes:
        return await ask_tree(self._built, address, caller, asked)

    def _mesh(self, node: Node, contexts: Contexts) -> Mesh:
        return Mesh(
            MeshParts(
                identity=self._identity,
                store=self._store,
                trust=self._book,
                refused=self._refused,
                node=node,
                contexts=contexts,
                config=lambda: self._built.settings.config if self._house else self._loaded.config,
                check=node_certificate,
                part=self._part,
            )
        )

    def _lan(self, node: Node) -> Lan:
        config = self._loaded.config
        return Lan(
            signer=self._identity.node,
            name=config.name,
            port=config.mesh.beacon_port,
            node=node,
            trust=self._book,
            hints=self._hints,
            interfaces=addresses.interfaces,
        )

    async def _part(self, peer: Peer) -> None:
        await self._parting.part(peer)

    def wire_handlers(self, house: House) -> None:
        self.scripts = ScriptHandler(house, self._tasks)
        self._caller = caller = CallerHandler(house)
        self._parting = Parting(house, self.scripts, caller)
        node = house.node
        node.handle("script.run", self.scripts.run)
        node.handle("script.plan", self.scripts.run)
        node.handle("script.held", caller.held)
        node.handle("script.cancel", self.scripts.cancel)
        node.answer(bodies.ASK, self.scripts.bodies.answer)
        node.handle("script.ended", caller.ended)
        node.fold("script.ended", caller.fold_ended)
        node.hear("script.output", caller.output)
        node.answer("caller.call", caller.call)
        tracing = Tracing(house, self.scripts.is_running)
        node.answer(TRACE, tracing.answer)
        files = FileHandler(house, self._tasks)
        node.answer(file_words.OFFER, files.offer)
        node.answer(file_words.PART, files.part)
        node.answer(file_words.FINISH, files.finish)
        libraries = LibraryHandler(house)
        node.answer(library_words.LIST, libraries.list)
        node.answer(library_words.SHOW, libraries.show)
        node.answer(library_words.PART, libraries.part)
        node.answer(library_words.SERVICES, libraries.services)
        node.answer(tree_words.ASK, TreeHandler(house).answer)
        node.answer(PING, answer_ping)
        node.answer(LOAD, Loads(house).answer)
        node.hear(NOTHING, hear_nothing)
        self._operations = table(
            house,
            Actors(
                scripts=self.scripts,
                tracing=tracing,
                parting=self._parting,
                announce=self._announce,
                restart=self._daemon.restart,
                read_config=self._read_config,
                use_config=self.use_config,
                nats_file=self.nats.file,
                catalog=self._catalog,
                environ=self._environ,
                tasks=self._tasks,
            ),
        )

    def answer(self, request: control.Request) -> AsyncIterator[control.Reply]:
        operation = self._operations[type(request)]
        replies: AsyncIterator[control.Reply] = operation(request)
        return replies

    # ---- what happens while it runs ---------------------------------------------------------

    @property
    def _built(self) -> House:
        assert self._house is not None, "peers speak only once the house stands"
        return self._house

    async def _on_greeting(self, peer: Key, hello: Hello) -> None:
        """A peer says where it listens and which contexts it holds."""
        house = self._built
        known = house.trust.by_key(peer)
        if known is None:
            return
        house.trust.seen(peer, time.time())
        try:
            contexts = read_greeting(hello.greeting, peer)
            house.greeted[peer] = read_rest(hello.greeting)
        except Untrusted as error:
            _log.warning("greeting.refused", extra={"peer": known.name, "why": str(error)})
            return
        await house.trust.update_addresses(peer, hello.addresses)
        await house.trust.update_contexts(peer, contexts)
        # It lets us in, so it has approved of us.
        await house.trust.reintroduce(peer, unapproved(known.introduced, is_held=False))

    async def _on_paired(self, paired: Paired) -> bool:
        return await admit(self._built, paired)

    async def _on_succeeded(self, old: Key, new: Key) -> None:
        await succeed(self._built, old, new)

    def _on_undelivered(self, connection: sqlite3.Connection, mail: Undelivered) -> None:
        """On the store's thread, in the transaction that gives the envelope up."""
        self._caller.stage_undelivered(connection, mail)

    async def _answer_caller(self, sender: Key, body: bytes) -> bytes:
        return await self._caller.call(sender, body)

    def _note_nats(self) -> None:
        if (house := self._house) is None:
            return
        found = self.nats.problems()
        house.problems["nats"] = tuple(text for text, _ in found)
        house.hints = {text: hint for text, hint in found if hint}

    async def _announce(self) -> None:
        self._greet()

    def _greet(self) -> None:
        house = self._built
        config = house.settings.config
        house.node.set_greeting(greet(house.contexts.list(), config.node.labels, config.context))

    async def watch(self) -> None:
        """Policy, groups and settings are read again when their files change."""
        async for changed in watch_files(self._home.config):
            try:
                await self._reload(changed)
            except Exception:  # noqa: BLE001 -- the top of a task that must go on
                _log.exception("reload.failed")

    async def see_peers(self) -> None:
        """When each peer was last there, for `status`."""
        house = self._built
        with house.node.watch() as events:
            async for event in events:
                house.trust.seen(event.peer, event.at)
                publish_peer(house, event)

    async def _reload(self, changed: Changed) -> None:
        if changed.policy:
            await self._reload_policy()
        if changed.groups:
            house = self._built
            read = await to_thread.run_sync(house.groups.reload)
            house.problems["groups"] = read.problems
            for change in read.changes:
                _log.info("group changed: %s", change)
        if changed.mounts:
            self._built.problems["mounts"] = await self._built.mounts.read()
        if changed.config:
            self._reload_config()

    async def _reload_policy(self) -> None:
        house = self._built
        reloaded = await to_thread.run_sync(house.policy.reload)
        house.problems["policy"] = reloaded.problems
        self.probes.stir()
        for problem in reloaded.problems:
            _log.error("policy kept as it was: %s", problem)
        if not reloaded.problems and (reloaded.added or reloaded.removed):
            _log.info("policy reloaded: +%d -%d rules", reloaded.added, reloaded.removed)

    def _read_config(self) -> LoadedConfig:
        return configuration.load(self._home.config, self._environ, {})

    def _reload_config(self) -> None:
        house = self._built
        try:
            self.use_config(self._read_config())
        except InvalidInput as error:
            house.problems["config"] = (f"{error.where}: {error}",)
            _log.error("settings kept as they were: %s", error)

    def use_config(self, loaded: LoadedConfig) -> None:
        """Put settings into force, but for the name and the addresses of this run."""
        house = self._built
        house.problems["config"] = ()
        if loaded.settings == house.settings.settings:
            return
        house.settings = LoadedConfig(
            configuration.with_identity_of(loaded.config, house.settings.config), loaded.settings
        )
        config = loaded.config
        logging.getLogger("orvalho").setLevel(config.log.level.upper())
        house.jobs.workers.contexts_per_worker = config.workers.contexts_per_worker
        house.ledger.resize(config.workers.runs_at_once, config.workers.runs_at_once_per_peer)
        house.quotas.use(shared_quotas(config.quota))
        house.contexts.set_limits(storage_limits(config.quota))
        self._hints.use(config.mesh.bootstrap)
        house.node.refresh()
        house.mesh.stir()
        self._greet()
        _log.info("settings reloaded")

    async def settle(self, grace_s: float) -> None:
        """Let what runs come to its end, for a while."""
        with anyio.move_on_after(grace_s):
            await self.scripts.until_idle()
            # What is edited by hand from now on is seen to be that.
            await self._built.committer.settle()
