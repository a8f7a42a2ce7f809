"""`orvalho init`: a new home, from an empty directory to a node that can be started."""

from __future__ import annotations

import getpass
import random
import re
import socket
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import tomlkit

from orvalho.contexts.device_id import device_id
from orvalho.contexts.identity import Identity, read_phrase
from orvalho.contexts.names import check_label
from orvalho.daemon.addresses import has_ipv6
from orvalho.daemon.home import Home
from orvalho.daemon.settings import DEFAULT_PORT
from orvalho.errors import Conflict, InvalidInput
from orvalho.policies.shipped import write_context, write_defaults

# Below the range from which systems take the ports of outgoing connections.
_PORTS: Final = range(DEFAULT_PORT + 1, 10_000)
_CONFIG: Final = """\
# Orvalho's settings. `orvalho config show --origin` lists every key and where its value comes from;
# further files go into conf.d/*.toml and win over this one.

"""


def initialise(
    home: Home,
    name: str | None,
    listen: str | None,
    environ: Mapping[str, str],
    phrase: str | None = None,
) -> Iterator[str]:
    """Make the keys, the configuration, the policy and a first context named after the user.
    Yields the lines for the owner. A home that exists is left as it is. With a recovery phrase the
    keys are those that it stands for.

    Raises:
        InvalidInput: the name is not a label, the address not a URL, or the phrase none.
        Conflict: the home exists, and has other keys than the phrase's.
    """
    seed, rotation = read_phrase(phrase) if phrase is not None else (None, 0)
    # When they happened is forgotten; that they did is what counts.
    rotations = (0.0,) * rotation
    if home.is_initialised:
        identity = Identity.load(home.keys)
        if seed is not None and Identity(seed, rotations).node.key != identity.node.key:
            raise Conflict(
                "this home has keys of its own already: restore into another one",
                where=str(home.keys),
                hint="orvalho init --restore --home DIR",
            )
        yield f"already initialised: device id {device_id(identity.node.key)}"
        yield f"  config  {home.config}"
        yield from _ignored(home, name, listen)
        return
    label = check_label(name or _as_label(socket.gethostname().split(".")[0], "node"))
    user = check_label(_as_label(environ.get("USER") or getpass.getuser(), "me"))
    # A port written down: peers remember where to find this node. Found before anything is made:
    # what fails leaves nothing behind.
    address = _with_port(listen or "ws://0.0.0.0", usual=home.root is None)
    for directory in (home.config, home.state, home.data):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for directory in (home.policy, home.groups, home.config / "conf.d", home.contexts):
        directory.mkdir(exist_ok=True, mode=0o700)
    document = tomlkit.document()
    document["name"] = label
    document["context"] = user
    document["listen"] = [address]
    if listen is None and has_ipv6():
        # A network may have IPv6 alone; the same port is one thing less to remember.
        document["listen"] = [address, address.replace("0.0.0.0", "[::]")]  # noqa: S104
    _write_new(home.config / "config.toml", _CONFIG + tomlkit.dumps(document))
    write_defaults(home.config)
    make_context_files(home, user)
    # The seed last: with it the home counts as initialised, so a crash before it is repeated.
    identity = Identity.create(home.keys, seed, rotations)
    done = "restored" if seed else "initialised"
    yield f"{done} {label}: device id {device_id(identity.node.key)}"
    yield f"  config  {home.config}"
    yield f"  keys    {home.keys}"
    yield f"  context {home.contexts / user}"


def _ignored(home: Home, name: str | None, listen: str | None) -> Iterator[str]:
    """What was asked of a home that is there already, and is otherwise in it."""
    try:
        there = tomllib.loads((home.config / "config.toml").read_text())
    except (OSError, ValueError):
        there = {}
    if name is not None and there.get("name") != name:
        yield f"  ignored --name {name}: this node is called {there.get('name')}"
    if listen is not None and there.get("listen") not in (listen, [listen]):
        yield f"  ignored --listen {listen}: orvalho config set listen {listen}"


def make_context_files(home: Home, name: str) -> None:
    """The tree and the policy file of a new context; what is there already stays."""
    for directory in (name, f"{name}/shared", f"{name}/inbox"):  # what the default policy names
        (home.contexts / directory).mkdir(exist_ok=True, mode=0o700)
    write_context(home.config, name)


def _write_new(file: Path, text: str) -> None:
    if not file.exists():
        file.write_text(text)


def _as_label(text: str, fallback: str) -> str:
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return label[:63] or fallback


def _with_port(address: str, *, usual: bool) -> str:
    """The address with its port. Where it says none or 0: the `usual` one if that is free, else
    any that is; a further home of this machine (`--home`) never takes the usual one away."""
    url = urlsplit(address)
    try:
        port = url.port
    except ValueError as error:
        raise InvalidInput(f"{address} has no valid port", hint="ws://0.0.0.0:4455") from error
    if not url.scheme or not url.hostname:
        raise InvalidInput(
            f'"{address}" is not an address to listen on', hint="--listen ws://0.0.0.0:4455"
        )
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    options = f"?{url.query}" if url.query else ""
    return f"{url.scheme}://{host}:{port or _free_port(url.hostname, usual=usual)}{options}"


def _free_port(host: str, *, usual: bool) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    others = random.sample(_PORTS, 100)
    for port in [DEFAULT_PORT, *others] if usual else others:
        with socket.socket(family) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise InvalidInput(f"no port of {host} is free", hint="--listen ws://0.0.0.0:PORT")
