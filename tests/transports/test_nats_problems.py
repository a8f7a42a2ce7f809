"""What is wrong with a real NATS server: each cause has its own words and its own remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import nats
import pytest
from nats.js.api import DiscardPolicy, StreamConfig

from orvalho.contexts.identity import Signer
from orvalho.contexts.nkeys import user_nkey
from orvalho.errors import Unavailable
from orvalho.transports.nats import NatsTransport
from orvalho.transports.nats_bucket import NatsBucket
from orvalho.transports.nats_problems import NoServer
from orvalho.transports.nats_stream import NatsCarrier
from tests.transports.nats_server import NatsServer, free_port
from tests.transports.test_nats import NOBODY, certificates, eventually

pytestmark = pytest.mark.anyio
ME, OTHER = Signer(b"m" * 32), Signer(b"o" * 32)


async def refusal(address: str) -> Unavailable:
    with pytest.raises(Unavailable) as refused:
        await NatsTransport(ME).dial(f"{address}/{NOBODY}")
    assert refused.value.where is not None, "the server is named"
    return refused.value


async def test_nothing_listens_there() -> None:
    port = free_port()
    error = await refusal(f"nats://127.0.0.1:{port}")
    assert isinstance(error, NoServer)
    assert "no NATS server answers" in error.message
    assert error.where == f"nats://127.0.0.1:{port}"
    assert "nats-server -c" in str(error.hint)


async def test_a_wrong_password_and_an_unknown_key(tmp_path: Path) -> None:
    with NatsServer(tmp_path, "authorization { user: alice, password: secret }") as server:
        error = await refusal(server.url.replace("//", "//alice:wrong@"))
        assert 'refuses this node as user "alice"' in error.message
        assert "password" in str(error.hint) and "wrong" not in f"{error.message}{error.hint}"
    other = user_nkey(OTHER.key)
    (tmp_path / "keys").mkdir()
    with NatsServer(
        tmp_path / "keys", f"authorization {{ users: [ {{ nkey: {other} }} ] }}"
    ) as server:
        error = await refusal(server.url)
        assert f"whose nkey is {user_nkey(ME.key)}" in error.message
        assert "orvalho nats config" in str(error.hint)


async def test_three_ways_in_which_tls_fails(tmp_path: Path) -> None:
    certificates(tmp_path)
    config = f'tls {{ cert_file: "{tmp_path}/cert.pem", key_file: "{tmp_path}/key.pem" }}'
    with NatsServer(tmp_path, config) as server:
        error = await refusal(f"nats+tls://127.0.0.1:{server.port}")
        assert "certificate is not believed" in error.message
        assert "?ca=" in str(error.hint)
        error = await refusal(server.url)
        assert "certificate is not believed" in error.message
        assert f"nats+tls://127.0.0.1:{server.port}" in str(error.hint)
    (tmp_path / "plain").mkdir()
    with NatsServer(tmp_path / "plain") as server:
        error = await refusal(f"nats+tls://127.0.0.1:{server.port}")
        assert "offers no TLS" in error.message
        assert "--tls" in str(error.hint)


async def told(server: NatsServer, does: Callable[[NatsCarrier], object]) -> Unavailable:
    """What the carrier says while it collects, or after `does`."""
    problems: list[Unavailable | None] = []
    carrier = NatsCarrier(NatsTransport(ME).server(server.url), "orvalho", problems.append)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(carrier.collect, lambda *_: None)
        does(carrier)
        await eventually(lambda: any(problems), "a problem is told")
        tasks.cancel_scope.cancel()
    return next(each for each in problems if each is not None)


async def test_jetstream_is_off(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        error = await told(server, lambda _: None)
        assert "JetStream is off" in error.message
        bucket = NatsBucket(NatsTransport(ME).server(server.url))
        with pytest.raises(Unavailable, match="JetStream is off"):
            async with bucket.joined(lambda *_: None):
                pass


async def test_the_stream_is_missing_and_not_ours_to_make(tmp_path: Path) -> None:
    nkey = user_nkey(ME.key)
    deny = '["$JS.API.STREAM.>"]'
    config = (
        f'jetstream {{ store_dir: "{tmp_path}/js" }}\n'
        f"authorization {{ users: [ {{ nkey: {nkey}, permissions: {{ publish: {{ deny: {deny} }} }}"
        " } ] }"
    )
    with NatsServer(tmp_path, config) as server:
        error = await told(server, lambda _: None)
        assert "stream orvalho is not there" in error.message
        assert "may not make it" in error.message
        assert "start the daemon" in str(error.hint)
        bucket = NatsBucket(NatsTransport(ME).server(server.url))
        with pytest.raises(Unavailable, match="bucket orvalho-nodes is not there"):
            async with bucket.joined(lambda *_: None):
                pass


async def test_the_stream_is_full_and_serves_again_when_there_is_room(tmp_path: Path) -> None:
    with NatsServer(tmp_path, f'jetstream {{ store_dir: "{tmp_path}/js" }}') as server:
        client = await nats.connect(server.url, allow_reconnect=False)
        stream = client.jetstream()
        await stream.add_stream(
            StreamConfig(
                name="orvalho", subjects=["orvalho.mail.*"], max_msgs=1, discard=DiscardPolicy.NEW
            )
        )
        problems: list[Unavailable | None] = []
        carrier = NatsCarrier(NatsTransport(ME).server(server.url), "orvalho", problems.append)
        await carrier.deposit(OTHER.key, b"1", b"one", 0.0)
        with pytest.raises(Unavailable, match="is full"):
            await carrier.deposit(OTHER.key, b"2", b"two", 0.0)
        full = problems[-1]
        assert full is not None and "max_file_store" in str(full.hint)
        await stream.purge_stream("orvalho")
        await carrier.deposit(OTHER.key, b"2", b"two", 0.0)
        assert problems[-1] is None
        await client.close()


async def test_a_node_that_the_server_does_not_let_speak_to_another_learns_so_at_once(
    tmp_path: Path,
) -> None:
    nkey, other = user_nkey(ME.key), user_nkey(OTHER.key)
    config = (
        f"authorization {{ users: [ {{ nkey: {nkey}, permissions: {{ publish:"
        f' {{ deny: ["orvalho.link.{other}.>"] }} }} }} ] }}'
    )
    words = "does not let this node speak to that one"
    with NatsServer(tmp_path, config) as server, pytest.raises(Unavailable, match=words):
        await NatsTransport(ME).dial(f"{server.url}/{other}")
