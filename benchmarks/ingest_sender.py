"""A raw websocket server that writes pre-encoded Binance frames as fast as they are read; run as a process of its own."""

import base64
import hashlib
import json
import socket
import struct
import sys
import threading
import time

from benchmarks.ingest import BASES, CHILD_TIMEOUT_S, FIRST_ID, MESSAGES, pin

AHEAD_MS = 5_000
"""The trades' time runs ahead of the clients' clock by this, so that trades, not time, close the bars."""


def trade_text(number: int, start_ms: int, *, combined: bool) -> bytes:
    """Return one trade as Binance writes it; ids are contiguous per symbol, times advance by 0.1 ms."""
    base = BASES[number % len(BASES)]
    order = number // len(BASES)
    price, size, at = 100.0 + (order % 97) * 0.01, 0.001 + (number % 89) * 0.01, start_ms + number // 10
    name, trade = f"{base}USDT", 4_000_000_000 + order
    if not combined:
        return (
            f'{{"e":"trade","E":{at + 2},"s":"{name}","t":{trade},"p":"{price:.8f}","q":"{size:.8f}",'
            f'"b":{25_000_000_000 + number},"a":{25_000_000_100 + number},"T":{at},"m":true,"M":true}}'
        ).encode()
    return (
        f'{{"stream":"{name.lower()}@aggTrade","data":{{"e":"aggTrade","E":{at + 2},"s":"{name}","a":{FIRST_ID + order},'
        f'"p":"{price:.8f}","q":"{size:.8f}","f":{trade},"l":{trade},"T":{at},"m":true,"M":true}}}}'
    ).encode()


def frame(payload: bytes) -> bytes:
    """Return a text frame from server to client."""
    size = len(payload)
    return (b"\x81" + bytes([size]) if size < 126 else b"\x81\x7e" + struct.pack(">H", size)) + payload


def read_request(connection: socket.socket) -> bytes:
    """Return the payload of the next text frame of a client."""

    def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = connection.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    while True:
        head = exactly(2)
        size = head[1] & 127
        size = struct.unpack(">H", exactly(2))[0] if size == 126 else size
        mask = exactly(4)
        payload = bytes(byte ^ mask[at & 3] for at, byte in enumerate(exactly(size)))
        if head[0] & 15 == 1:
            return payload


def serve(connection: socket.socket, payload: bytes, *, asked: bool) -> None:
    """Shake hands, wait for a subscription if one is due, and write everything as fast as it is read."""
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = b""
        while b"\r\n\r\n" not in head:
            more = connection.recv(4096)
            if not more:
                return
            head += more
        key = next(
            line.split(b":", 1)[1].strip()
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"sec-websocket-key")
        )
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + accept
            + b"\r\n\r\n"
        )
        if asked:
            number = json.loads(read_request(connection))["id"]
            connection.sendall(frame(json.dumps({"result": None, "id": number}).encode()))
            time.sleep(0.3)
        connection.sendall(payload)
        connection.recv(1 << 20)
        time.sleep(CHILD_TIMEOUT_S)
    except (OSError, EOFError):
        pass
    finally:
        connection.close()


def send(style: str) -> None:
    """Listen on a free port, print it, and serve each client that comes."""
    pin(1)
    start_ms = time.time_ns() // 1_000_000 + AHEAD_MS
    combined = style != "ccxt.pro"
    payload = b"".join(frame(trade_text(number, start_ms, combined=combined)) for number in range(MESSAGES))
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(
            target=serve, args=(connection, payload), kwargs={"asked": style != "cryptofeed"}, daemon=True
        ).start()


if __name__ == "__main__":
    send(sys.argv[1])
