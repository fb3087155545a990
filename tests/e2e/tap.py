"""A wire tap: forwards TCP to the exchange and keeps every byte that the daemon sends."""

import contextlib
import selectors
import socket
import threading
from typing import Self

CHUNK = 1 << 16


class Tap:
    """Listens on loopback, forwards both ways, remembers what clients sent."""

    def __init__(self, target: str) -> None:
        """Forward to ``target``, "host:port"."""
        host, port = target.split(":")
        self._target = (host, int(port))
        self._server = socket.create_server(("127.0.0.1", 0))
        self.base = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._sent = bytearray()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._server.close()

    @property
    def sent(self) -> bytes:
        """Everything that clients have sent so far."""
        return bytes(self._sent)

    def _run(self) -> None:
        chosen = selectors.DefaultSelector()
        chosen.register(self._server, selectors.EVENT_READ)
        peers: dict[socket.socket, socket.socket] = {}
        clients: set[socket.socket] = set()
        while not self._stop.is_set():
            for key, _ in chosen.select(0.05):
                one = key.fileobj
                assert isinstance(one, socket.socket)
                if one is self._server:
                    client, _ = one.accept()
                    try:
                        server = socket.create_connection(self._target)
                    except OSError:
                        client.close()
                        continue
                    clients.add(client)
                    peers |= {client: server, server: client}
                    chosen.register(client, selectors.EVENT_READ)
                    chosen.register(server, selectors.EVENT_READ)
                elif one in peers and not self._forward(one, peers[one], keep=one in clients):
                    for end in (one, peers[one]):
                        chosen.unregister(end)
                        peers.pop(end, None)
                        end.close()
        for end in peers:
            end.close()
        chosen.close()

    def _forward(self, one: socket.socket, other: socket.socket, *, keep: bool) -> bool:
        data = b""
        with contextlib.suppress(OSError):
            data = one.recv(CHUNK)
            if keep:
                self._sent += data
            other.sendall(data)
        return bool(data)
