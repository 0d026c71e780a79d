"""Live senders on this machine, by the ffmpeg program: RTSP, SRT, UDP and growing play lists.

RTSP has a small server here: ffmpeg cannot serve it. It relays the RTP packets that ffmpeg makes.
"""

import shutil
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

FFMPEG = shutil.which("ffmpeg")

_WAIT_SECONDS = 20.0


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """Return a port that nothing uses now."""
    with socket.socket(socket.AF_INET, kind) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for_udp(port: int) -> None:
    """Wait until a process of this machine listens on a UDP port."""
    wanted, deadline = f":{port:04X}", time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        lines = Path("/proc/net/udp").read_text(encoding="ascii").splitlines()[1:]
        if any(line.split()[1].endswith(wanted) for line in lines):
            return
        time.sleep(0.01)
    raise TimeoutError(f"nothing listens on UDP port {port}")


@contextmanager
def sending(clip: Path, *output: str, before: Sequence[str] = ()) -> Generator[subprocess.Popen]:
    """Send a clip with ffmpeg, without encoding it again."""
    assert FFMPEG is not None
    command = [FFMPEG, "-loglevel", "error", "-nostdin", *before, "-i", str(clip), "-c", "copy"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*command, *output], **quiet)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(_WAIT_SECONDS)


class RtspServer(socketserver.ThreadingTCPServer):
    """Serves a clip by RTSP, RTP interleaved in TCP, to one caller after the other.

    Args:
        clip: what each caller gets, from its beginning.
        folder: for the description of the stream.
        keep: by the number of the connection and of an RTP packet, whether that is passed on; None
            ends the connection there.
        before: options of ffmpeg for reading; by default slow enough that no packet is lost on the
            way from ffmpeg to here.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self,
        clip: Path,
        folder: Path,
        keep: Callable[[int, int], bool | None] = lambda *_: True,
        *,
        before: Sequence[str] = ("-readrate", "8"),
    ) -> None:
        super().__init__(("127.0.0.1", 0), _RtspConnection)
        self.clip, self.keep, self.before = clip, keep, before
        self.num_connections = 0
        description = folder / "clip.sdp"
        flags = ("-frames:v", "1", "-f", "rtp", "-sdp_file", str(description))
        with sending(clip, *flags, f"rtp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}") as process:
            process.wait(_WAIT_SECONDS)
        lines = description.read_text(encoding="utf-8").splitlines()
        lines = [line for line in lines if not line.startswith(("c=", "SDP:"))]
        self.description = "\r\n".join([*lines, "a=control:trackID=0", ""])

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.server_address[1]}/live"

    def __enter__(self) -> "RtspServer":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        self.server_close()


class _RtspConnection(socketserver.StreamRequestHandler):
    server: RtspServer

    def handle(self) -> None:
        while request := self._request():
            method, number = request
            extra, body = "", ""
            if method == "OPTIONS":
                extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            elif method == "DESCRIBE":
                body = self.server.description
                extra = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            elif method == "SETUP":
                extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
            answer = f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{extra}\r\n{body}"
            self.wfile.write(answer.encode())
            if method == "PLAY":
                self._play()
                return

    def _request(self) -> tuple[str, str] | None:
        lines: list[str] = []
        while line := self.rfile.readline().decode().strip():
            lines.append(line)
        if not lines:
            return None
        numbers = [line.partition(":")[2].strip() for line in lines if line.startswith("CSeq")]
        return lines[0].split()[0], numbers[0]

    def _play(self) -> None:
        """Relay what ffmpeg sends, until it ends."""
        turn = self.server.num_connections
        self.server.num_connections += 1
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as media,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control,
        ):
            for found in (media, control):
                found.bind(("127.0.0.1", 0))
                found.settimeout(0.2)
            ports = [found.getsockname()[1] for found in (media, control)]
            target = f"rtp://127.0.0.1:{ports[0]}?rtcpport={ports[1]}"
            count = 0
            with sending(
                self.server.clip, "-f", "rtp", target, before=self.server.before
            ) as process:
                while True:
                    try:
                        packet = media.recv(1 << 16)
                    except TimeoutError:
                        if process.poll() is not None:
                            return
                        continue
                    keep = self.server.keep(turn, count)
                    count += 1
                    if keep is None:
                        return
                    if keep:
                        header = b"$\x00" + len(packet).to_bytes(2, "big")
                        self.wfile.write(header + packet)
