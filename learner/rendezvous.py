"""The store at which processes meet: bound before it is announced, so that nobody else can take its port."""

from __future__ import annotations

import socket
from datetime import timedelta

import torch.distributed as dist


def listen(host: str, port: int = 0) -> tuple[socket.socket, int]:
    """Bind a listening socket to `host`, on a free port for 0. The store that takes it over listens there only."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(128)
    return listener, listener.getsockname()[1]


def store_over(listener: socket.socket, host: str, world_size: int, timeout: timedelta) -> dist.TCPStore:
    """Serve a rendezvous store from an already bound socket; returns at once, before anyone joined."""
    port = listener.getsockname()[1]
    return dist.TCPStore(
        host,
        port,
        world_size,
        is_master=True,
        timeout=timeout,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
        use_libuv=True,
    )
