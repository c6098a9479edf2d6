"""`basedev serve`: the warm servers, which builds start and use by themselves."""

from __future__ import annotations

from ..checkout import Checkout
from ..engines import Progress
from ..errors import SetupError
from ..servers import Server, Servers
from ..storage import Storage
from .builders import builder_for
from .images import base_of


def start(checkout: Checkout, storage: Storage, progress: Progress) -> Server:
    """Starts the server on a checkout's base image, unless it runs. Raises SetupError when it can't."""
    builder = builder_for(checkout, storage, progress, server=True)
    builder.start_server()
    found = [one for one in Servers(storage).running() if one.base_id == builder.base.id]
    if not found:
        raise SetupError(f"no server can be started: {builder.server}")
    return found[0]


def servers_of(checkout: Checkout | None, storage: Storage) -> list[Server]:
    """The servers that run on a checkout's base image; None: all of the cache directory. Nothing is made for it.

    Raises SetupError when `init` was never run in the checkout, or its Julia is missing or unsuitable.
    """
    servers = Servers(storage)
    servers.sweep()
    found = servers.running()
    if checkout is None:
        return found
    name = base_of(checkout)
    checkout.check_adopted()
    return [one for one in found if one.base_id == name]


def stop(servers: list[Server], storage: Storage) -> None:
    """Ends servers. Builds that they have begun go on."""
    Servers(storage).stop(*servers)
