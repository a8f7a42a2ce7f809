"""A node, running for the length of a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from orvalho.peers.node import Node
from orvalho.peers.node_config import NodeConfig
from orvalho.peers.relay import SCHEME


@asynccontextmanager
async def open_node(config: NodeConfig) -> AsyncIterator[Node]:
    """A running node; leaving the block stops all that it started.

    It listens from the start, but nothing is heard or sent before the block first waits: what is
    registered until then by `handle`, `hear` and `answer` misses nothing.

    Raises:
        InvalidInput, Unavailable: an address to listen on is none, or is taken.
    """
    ready = asyncio.Event()
    async with anyio.create_task_group() as tasks:
        node = Node(config, tasks)
        await node.load()
        async with AsyncExitStack() as stack:
            listeners = [
                await stack.enter_async_context(node.listen(address)) for address in config.listen
            ]
            node.listening = tuple(each.address for each in listeners)
            node.addresses = tuple(config.advertise(node.listening))
            await stack.enter_async_context(node.listen(f"{SCHEME}://"))
            tasks.start_soon(node.run, ready)
            asyncio.get_running_loop().call_soon(ready.set)
            try:
                yield node
            finally:
                await node.finish()
                tasks.cancel_scope.cancel()
