"""A real S3 server on the loopback, and a proxy before it that fails as networks do."""

import itertools
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

BUCKET = "bucket"


@contextmanager
def s3_server() -> Generator[str]:
    """Give the address of an S3 server of this machine with one empty bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        address = f"http://{host}:{port}"
        # The servers of one process share their buckets.
        urlopen(Request(f"{address}/moto-api/reset", method="POST")).close()
        store: Any = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
        store.create_bucket(Bucket=BUCKET)
        yield address
    finally:
        server.stop()


def fill_bucket(server: str, folder: Path, prefix: str = "") -> None:
    """Put the files of a folder into the bucket, under a prefix and their paths in the folder."""
    import boto3

    store: Any = boto3.client(
        "s3",
        endpoint_url=server,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.upload_file(str(path), BUCKET, f"{prefix}{path.relative_to(folder)}")


def use_s3(patch: pytest.MonkeyPatch, address: str) -> None:
    """Have the library of s3:// find a server and credentials, by its own ways."""
    if "s3fs" in sys.modules:
        # It keeps connections by address alone, those of another test's server, too.
        sys.modules["s3fs"].S3FileSystem.clear_instance_cache()
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_ENDPOINT_URL", address)
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@dataclass
class Faults:
    """What a proxy does to requests, by their number from 0; counts what it saw.

    Attributes:
        kind: ``error`` (answers 500), ``cut`` (ends the connection in the body), ``slow`` (waits
            before it answers) or "" of a request; it gets its number, method and path.
        seen: method, path and range of each request.
        given: faults that were given.
    """

    kind: Callable[[int, str, str], str] = lambda _number, _method, _path: ""
    slow_seconds: float = 0.2
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    given: list[str] = field(default_factory=list)


@contextmanager
def faulty_proxy(server: str, faults: Faults) -> Generator[str]:
    """Give the address of a proxy that passes requests on to a server, or fails."""
    host, _, port = server.removeprefix("http://").partition(":")
    numbers = itertools.count()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            """Stay silent."""

        def _pass_on(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            faults.seen.append((self.command, self.path, self.headers.get("Range") or ""))
            kind = faults.kind(next(numbers), self.command, self.path)
            if kind:
                faults.given.append(kind)
            if kind == "slow":
                time.sleep(faults.slow_seconds)
            if kind == "error":
                self._answer(500, [("Content-Type", "text/plain")], b"")
                return
            connection = HTTPConnection(host, int(port), timeout=30)
            connection.request(self.command, self.path, content, dict(self.headers))
            response = connection.getresponse()
            body = response.read()
            connection.close()
            headers = [
                (name, value)
                for name, value in response.getheaders()
                if name.lower() not in ("connection", "transfer-encoding", "content-length")
            ]
            length = response.getheader("Content-Length") if self.command == "HEAD" else None
            self._answer(response.status, headers, body, length, is_cut=kind == "cut")

        def _answer(
            self,
            status: int,
            headers: list[tuple[str, str]],
            body: bytes,
            length: str | None = None,
            *,
            is_cut: bool = False,
        ) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if is_cut else body)
            if is_cut:
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass_on

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            """Say nothing of connections that the client gave up."""

    with Server(("127.0.0.1", 0), Handler) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}"
        finally:
            proxy.shutdown()
            thread.join()


def closed_port() -> int:
    """Return a port of the loopback that nothing listens on."""
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as server:
        return int(server.server_address[1])
