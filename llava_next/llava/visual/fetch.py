"""Download a file from the web, within limits, and without reaching what only this machine reaches.

With ``public_only``, every address of a host must be a public one. The connection goes to the
address that was checked, not to what the name resolves to a moment later, and each redirect is
checked like the first URL.
"""

import ipaddress
import socket
import time
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

_CHUNK_BYTES = 1 << 16
_MAX_REDIRECTS = 5
_TUNNELS = tuple(
    map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16"))
)
"""IPv6 networks whose addresses stand for IPv4 addresses, which may be private."""


class FetchError(ValueError):
    """A URL was refused, or its file could not be downloaded; the message holds no content."""


def is_url(source: object) -> bool:
    """Return whether this is the text of a web address."""
    return isinstance(source, str) and source.startswith(("http://", "https://"))


def fetch(
    url: str,
    target: Path,
    *,
    max_bytes: int = 1 << 30,
    limit_seconds: float = 60.0,
    public_only: bool = False,
) -> None:
    """Download a file.

    Args:
        url: address, http or https.
        target: file to write.
        max_bytes: larger files are refused, even if their header says less.
        limit_seconds: limit of the whole download.
        public_only: refuse hosts of private, local and reserved networks.

    Raises:
        FetchError: if the URL is refused, or the download fails or exceeds a limit.
    """
    deadline = time.monotonic() + limit_seconds
    for _ in range(_MAX_REDIRECTS):
        redirect = _fetch_once(url, target, max_bytes, deadline, public_only)
        if redirect is None:
            return
        url = urljoin(url, redirect)
    raise FetchError(f"a URL was redirected more than {_MAX_REDIRECTS} times")


def _fetch_once(
    url: str, target: Path, max_bytes: int, deadline: float, public_only: bool
) -> str | None:
    """Download, or return where the server says that the file is."""
    parts = urlsplit(url)
    host = parts.hostname
    if parts.scheme not in ("http", "https") or not host or parts.username:
        raise FetchError("a URL must be http or https, with a host and without a user")
    address, headers, extensions = url, {"Accept-Encoding": "identity"}, {}
    if public_only:
        checked = _public_address(host, parts.port or {"http": 80, "https": 443}[parts.scheme])
        name = f"[{checked}]" if ":" in checked else checked
        port = f":{parts.port}" if parts.port else ""
        address = parts._replace(netloc=f"{name}{port}").geturl()
        headers["Host"] = parts.netloc
        extensions["sni_hostname"] = host
    httpx = _http_library()
    try:
        with (
            httpx.Client(timeout=10, trust_env=not public_only) as client,
            client.stream("GET", address, headers=headers, extensions=extensions) as response,
        ):
            if response.is_redirect:
                return response.headers.get("location", "")
            if response.status_code != httpx.codes.OK:
                raise FetchError(f"the server of a URL answered {response.status_code}")
            length = response.headers.get("content-length", "")
            if length.isdigit() and (len(length) > 15 or int(length) > max_bytes):
                raise FetchError(f"the file of a URL has more than {max_bytes} bytes")
            _write(response, target, max_bytes, deadline)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
        raise FetchError(f"a URL could not be downloaded ({type(error).__name__})") from error
    return None


def _http_library() -> Any:
    """Return httpx, or httpx2, which newer releases of huggingface_hub bring."""
    for name in ("httpx", "httpx2"):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise FetchError("web addresses need httpx: pip install httpx")


def _write(response: Any, target: Path, max_bytes: int, deadline: float) -> None:
    size = 0
    with target.open("wb") as file:
        for chunk in response.iter_raw(_CHUNK_BYTES):
            size += len(chunk)
            if size > max_bytes:
                raise FetchError(f"the file of a URL has more than {max_bytes} bytes")
            if time.monotonic() > deadline:
                raise FetchError("a URL took too long to download")
            file.write(chunk)


def _public_address(host: str, port: int) -> str:
    """Return an address of a host, all of whose addresses are public."""
    try:
        found = {row[4][0] for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        addresses = [ipaddress.ip_address(str(text).partition("%")[0]) for text in sorted(found)]
    except (OSError, ValueError, UnicodeError) as error:
        raise FetchError("the host of a URL has no address") from error
    for address in addresses:
        inner = getattr(address, "ipv4_mapped", None) or address
        is_tunnelled = any(inner in network for network in _TUNNELS)
        if not inner.is_global or inner.is_multicast or is_tunnelled:
            raise FetchError("the host of a URL is not on the public internet")
    return str(addresses[0])
