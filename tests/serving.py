"""A web server on this machine that fails as servers do, for the tests of what fetches."""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server:
    """Files of a folder.

    Attributes
    ----------
    address : str
    plan : dict
        What goes wrong at the next requests for a path, in order: a status such as 404 or 503, or "drop"
        (after half the bytes), "short" (half the bytes as if they were all), "other" (other bytes of that
        length), "long", "slow", "whole" (as if ranges were unknown), "part" (one that was not asked for),
        "empty" (no answer at all).
    asked : list of (path, range)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan: dict[str, list[object]] = defaultdict(list)
        self.always: object = None
        self.asked: list[tuple[str, str]] = []
        self.address = ""


@contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Serve `folder` on a free port until the block ends."""
    served = Server(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0].lstrip("/")
            wanted = self.headers.get("Range", "")
            served.asked.append((path, wanted))
            trouble = served.plan[path].pop(0) if served.plan[path] else served.always
            file = served.folder / path
            if trouble == "empty":
                self.connection.close()
            elif isinstance(trouble, int) or not file.is_file():
                self.send_response(trouble if isinstance(trouble, int) else 404)
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self.answer(file.read_bytes(), wanted, trouble)

        def answer(self, content: bytes, wanted: str, trouble: object) -> None:
            match = re.fullmatch(r"bytes=(\d+)-", wanted)
            start = int(match.group(1)) if match and trouble != "whole" else 0
            if trouble == "part":
                start = max(0, start - 1) or 1
            if trouble == "other":
                content = bytes(b ^ 255 for b in content)
            if trouble == "long":
                content += b"more"
            body = content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            half = body[: len(body) // 2]
            self.send_header("Content-Length", str(len(half if trouble == "short" else body)))
            self.end_headers()
            if trouble in ("drop", "short", "slow"):
                self.wfile.write(half)
                self.wfile.flush()
                if trouble == "slow":
                    time.sleep(1.0)
                return
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    served.address = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        httpd.shutdown()
        httpd.server_close()
