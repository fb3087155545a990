"""A certificate authority and a proxy that speaks TLS with clients and plain TCP with the simulated exchange."""

import asyncio
import contextlib
import datetime as dt
import socket
import ssl
import threading
from pathlib import Path
from typing import NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CHUNK = 1 << 16
HELLO = 0x16
"""First byte of a TLS handshake."""


class Certificate(NamedTuple):
    """Files of a certificate and its key."""

    chain: Path
    key: Path


class Authority:
    """Vouches for names; its own certificate lies in ``file``."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        """Make a key and a certificate of its own."""
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Ballast test {name}")])
        made = self._builder(self._subject, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.file = folder / f"{name}.crt"
        self.file.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def certificate(self, host: str) -> Certificate:
        """Return a certificate for a host, as files."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        made = self._builder(subject, key).add_extension(names, critical=False).sign(self._key, hashes.SHA256())
        chain, secret = self._folder / f"{self._name}.{host}.crt", self._folder / f"{self._name}.{host}.private"
        chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return Certificate(chain, secret)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=30))
        )


class TlsProxy:
    """Listens on localhost; `swap` shows another certificate from now on and ends every connection.

    Attributes
    ----------
    refused
        Handshakes that clients broke off.
    plain
        Connections that did not begin as TLS does.
    """

    def __init__(self, target: str, certificate: Certificate) -> None:
        host, port = target.split(":")
        self._target = (host, int(port))
        self._context = context_of(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.refused = 0
        self.plain = 0
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._loop.call_soon_threadsafe(self._server.cancel)
        self._thread.join(10)
        self._loop.close()
        self._listener.close()

    def swap(self, certificate: Certificate) -> None:
        """Show this certificate from now on; what is connected is cut."""
        context = context_of(certificate)

        def change() -> None:
            self._context = context
            for task in self._tasks:
                task.cancel()

        self._loop.call_soon_threadsafe(change)

    async def _serve(self) -> None:
        self._server: asyncio.Task[None] = asyncio.ensure_future(self._accept())
        with contextlib.suppress(asyncio.CancelledError):
            await self._server
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self) -> None:
        self._listener.setblocking(False)
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            task = asyncio.ensure_future(self._converse(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _converse(self, client: socket.socket) -> None:
        first = await self._first(client)
        if first != HELLO:
            self.plain += first >= 0
            client.close()
            return
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, client, ssl=self._context)
        except (OSError, ssl.SSLError):
            self.refused += 1
            client.close()
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
        inner, outer = await asyncio.open_connection(*self._target)
        try:
            await asyncio.gather(copy(reader, outer), copy(inner, writer))
        finally:
            for one in (writer, outer):
                one.transport.abort()

    async def _first(self, client: socket.socket) -> int:
        """Look at a connection's first byte without taking it; -1 when there is none."""
        client.setblocking(False)
        for _ in range(500):
            with contextlib.suppress(BlockingIOError, OSError):
                seen = client.recv(1, socket.MSG_PEEK)
                return seen[0] if seen else -1
            await asyncio.sleep(0.01)
        return -1


def context_of(certificate: Certificate) -> ssl.SSLContext:
    """Return a server's context."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.chain, certificate.key)
    return context


async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Forward until one side ends, then end the other."""
    with contextlib.suppress(OSError):
        while data := await source.read(CHUNK):
            sink.write(data)
            await sink.drain()
    sink.close()
