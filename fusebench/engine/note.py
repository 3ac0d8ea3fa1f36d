"""A line that one process writes and another can read at any time, even if the writer hangs or is dead."""

from __future__ import annotations

import mmap
import os
import tempfile

_SIZE = 1024


class Note:
    """Shared memory that holds one short text.

    Parameters
    ----------
    fd : int, optional
        Of a note that another process has made.
    """

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            with tempfile.TemporaryFile() as file:
                file.truncate(_SIZE)
                fd = os.dup(file.fileno())
        self.fd = fd
        self._shared = mmap.mmap(fd, _SIZE)

    def write(self, text: str) -> None:
        """Replace the text; what is too long is cut."""
        content = text.encode()[: _SIZE - 1]
        self._shared[: len(content) + 1] = content + b"\0"

    def read(self) -> str:
        """The text; "" at first."""
        return self._shared[:].partition(b"\0")[0].decode(errors="replace")

    def close(self) -> None:
        """Give the memory back; the text stays while another process has it."""
        self._shared.close()
        os.close(self.fd)
