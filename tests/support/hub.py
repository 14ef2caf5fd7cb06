"""A Hub on this machine: an HTTP server that speaks what huggingface_hub asks for when it downloads."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ASKED = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)(/revision/[^/]+)?(?P<tree>/tree/[^/]+(/.*)?)?"
)
FILE = re.compile(r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/[^/]+/(?P<path>.+)")
PIECE = 1 << 16  # bytes


@contextlib.contextmanager
def local_hub(root: Path, pause: float = 0.0) -> Iterator[str]:
    """The address of a Hub of models/<org>/<name> and datasets/<org>/<name> under `root`.

    pause: seconds between two pieces of 64 KiB.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, root, pause))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, root: Path, pause: float, *given: Any) -> None:
        self.root, self.pause = root, pause
        super().__init__(*given)

    def log_message(self, *_: Any) -> None:
        """Nothing: tests read what the program prints."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if asked := ASKED.fullmatch(path):
            self._answer(asked)
        elif asked := FILE.fullmatch(path):
            self._file(self.root / (asked["kind"] or "models") / asked["repo"] / asked["path"])
        else:
            self._json({"error": "Repository not found"}, 404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Information on paths of a tree."""
        asked = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)/paths-info/.*", self.path)
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked
        folder = self.root / asked[1] / asked[2]
        self._json([entry for entry in _tree(folder) if entry["path"] in given["paths"]])

    def _answer(self, asked: re.Match[str]) -> None:
        folder = self.root / asked["kind"] / asked["repo"]
        if not folder.is_dir():
            self._json({"error": "Repository not found"}, 404)
        elif asked["tree"]:
            self._json(_tree(folder))
        else:
            names = [{"rfilename": entry["path"]} for entry in _tree(folder) if entry["type"] == "file"]
            about = {"id": asked["repo"], "sha": COMMIT, "siblings": names, "private": False}
            self._json(about | {"tags": [], "downloads": 0, "likes": 0, "gated": False, "disabled": False})

    def _file(self, path: Path) -> None:
        if not path.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = path.read_bytes()
        begin = int(re.fullmatch(r"bytes=(\d+)-.*", self.headers.get("Range", "bytes=0-"))[1])
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        if self.command == "GET":
            for start in range(begin, len(data), PIECE):
                self.wfile.write(data[start : start + PIECE])
                time.sleep(self.pause)

    def _json(self, value: Any, status: int = 200) -> None:
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)


def _tree(folder: Path) -> list[dict[str, Any]]:
    return [
        {"type": "file" if path.is_file() else "directory", "path": str(path.relative_to(folder)),
         "size": path.stat().st_size, "oid": hashlib.sha1(str(path).encode()).hexdigest()}
        for path in sorted(folder.rglob("*"))
    ]  # fmt: skip
