"""A data hub on this machine: the few addresses that fetching a repository asks for."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """One repository of data, and how well it is served.

    Attributes:
        repository: its name, with owner.
        files: content by path.
        endpoint: address of the server.
        cuts: path to how often its transfer is still cut in the middle; counts down.
        damaged: paths of files that arrive with a byte changed.
        requests: path, and where in the file its range begins, of every file asked for.
    """

    repository: str
    files: dict[str, bytes]
    endpoint: str = ""
    cuts: dict[str, int] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    requests: list[tuple[str, int]] = field(default_factory=list)

    def tree(self) -> list[dict[str, object]]:
        """What the repository holds, all of it as large files."""
        rows: list[dict[str, object]] = []
        for path, content in self.files.items():
            digest, size = hashlib.sha256(content).hexdigest(), len(content)
            lfs = {"oid": digest, "size": size, "pointerSize": 130}
            rows.append({"type": "file", "path": path, "size": size, "oid": "0" * 40, "lfs": lfs})
        return rows

    def children(self, folder: str) -> list[dict[str, object]]:
        """What is directly in one of its folders; "" is the first one."""
        names = {path.rpartition("/")[0] for path in self.files} - {""}
        rows = [{"type": "directory", "path": name, "oid": "0" * 40} for name in names]
        return [r for r in (*self.tree(), *rows) if str(r["path"]).rpartition("/")[0] == folder]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        repository = self.hub.repository
        if path == f"/api/datasets/{repository}":
            self._json({"id": repository, "sha": COMMIT})
        elif path.startswith(f"/api/datasets/{repository}/tree/"):
            folder = path.split("/tree/", 1)[1].partition("/")[2]
            is_whole = "recursive=true" in self.path.lower()
            self._json(self.hub.tree() if is_whole else self.hub.children(folder))
        elif path.startswith(f"/api/datasets/{repository}/revision/"):
            names = [{"rfilename": name} for name in self.hub.files]
            self._json({"id": repository, "sha": COMMIT, "siblings": names})
        elif path.startswith(f"/datasets/{repository}/resolve/"):
            self._file(path.split("/resolve/", 1)[1].split("/", 1)[1])
        else:
            self._end(404, b"")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Tell of the paths that are asked for."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
        self._json([row for row in self.hub.tree() if row["path"] in asked])

    def _json(self, value: object) -> None:
        self._end(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str) -> None:
        if name not in self.hub.files:
            self._end(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        content = self.hub.files[name]
        digest = hashlib.sha256(content).hexdigest()
        if name in self.hub.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        asked = self.headers.get("Range")
        first, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
        start, end = int(first), int(last) + 1 if last else len(content)
        headers = {
            "ETag": f'"{digest}"',
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": str(len(content)),
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        if asked:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        if self.command == "GET":
            self.hub.requests.append((name, start))
        cut = self.command == "GET" and self.hub.cuts.get(name, 0) > 0
        if cut:
            self.hub.cuts[name] -= 1
        self._end(206 if asked else 200, content[start:end], headers, cut=cut)

    def _end(
        self, code: int, body: bytes, headers: dict[str, str] | None = None, *, cut: bool = False
    ) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = cut

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: requests are kept in the hub."""


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve a repository while the block runs."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield hub
        server.shutdown()
        thread.join()
