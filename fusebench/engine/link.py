"""Messages between two processes: bytes in frames, with file descriptors, whose reading need not block."""

from __future__ import annotations

import math
import os
import select
import socket
import struct
import time
from collections.abc import Sequence

_MAGIC = b"fsb1"
_HEAD = struct.Struct(">4sQ")
_LONGEST = 1 << 30
_CHUNK = 1 << 16
_FDS = 8


class Garbled(OSError):
    """Bytes that are no message: another hand has written to the socket."""


class Link:
    """One end of a connection.

    Parameters
    ----------
    sock : socket
        Connected, of the Unix family.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._held = bytearray()
        self.fds: list[int] = []  # that came along and nobody has taken

    @staticmethod
    def pair() -> tuple[Link, Link]:
        """Two ends."""
        one, other = socket.socketpair()
        return Link(one), Link(other)

    @classmethod
    def of(cls, fd: int) -> Link:
        """The end that a file descriptor is."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        """Of the socket; -1 once closed."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close this end."""
        self._sock.close()
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def send(self, content: bytes, fds: Sequence[int] = ()) -> None:
        """Send a message; the other end gets copies of `fds`.

        Raises
        ------
        OSError
            The other end is gone.
        """
        head = _HEAD.pack(_MAGIC, len(content))
        if fds:
            socket.send_fds(self._sock, [head], fds)
            self._sock.sendall(content)
        else:
            self._sock.sendall(head + content)

    def receive(self, seconds: float | None = None) -> bytes | None:
        """Next message; None where it is not there after `seconds`.

        Raises
        ------
        EOFError
            The other end is closed.
        Garbled
            The bytes are no message.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while (message := self._first()) is None:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not _readable(self._sock, left):
                return None
            self._read()
            if end is not None and time.monotonic() > end and self._first() is None:
                return None
        del self._held[: _HEAD.size + len(message)]
        return message

    def waits(self, seconds: float) -> bool:
        """True as soon as there is something to receive, be it the end; False after `seconds` without."""
        return bool(self._held) or _readable(self._sock, seconds)

    def _first(self) -> bytes | None:
        if len(self._held) < _HEAD.size:
            if not _MAGIC.startswith(bytes(self._held[:4])):
                raise Garbled("the bytes are no message")
            return None
        magic, length = _HEAD.unpack_from(self._held)
        if magic != _MAGIC or length > _LONGEST:
            raise Garbled("the bytes are no message")
        end = _HEAD.size + length
        return bytes(self._held[_HEAD.size : end]) if len(self._held) >= end else None

    def _read(self) -> None:
        data, fds, *_ = socket.recv_fds(self._sock, _CHUNK, _FDS)
        self.fds += fds
        if not data:
            raise EOFError
        self._held += data


def _readable(sock: socket.socket, seconds: float | None) -> bool:
    waiting = select.poll()  # `select` itself knows no descriptor above 1023
    waiting.register(sock, select.POLLIN)
    return bool(waiting.poll(None if seconds is None else math.ceil(seconds * 1e3)))
