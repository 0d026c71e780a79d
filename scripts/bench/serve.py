"""Load on the server: requests and tokens per second, latency at 1, 4 and 16 clients, memory.

    python scripts/bench/serve.py [--model DIR] [--clients 1,4,16] [--requests 32] [--new_tokens 32]
        [--max_batch 8]

Starts ``llava.serve.api`` on a free port of this machine, with a tiny checkpoint unless --model is
given, and asks about made clips through the client of the OpenAI protocol, as streams. Each clip is
asked about several times. Prints one line of JSON per number of clients: nothing may be lost, and
the answer to a question must not depend on the load.
"""

import argparse
import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from openai import OpenAI

from clips import made_clip
from llava.model.tiny import write_tiny_checkpoint

NUM_CLIPS = 4
_START_SECONDS = 300


class Reply(NamedTuple):
    """One answer, as a client saw it."""

    question: int
    text: str
    new_tokens: int
    first_seconds: float
    seconds: float


def free_port() -> int:
    """Return a port of this machine that nothing listens to."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def running_server(*arguments: str) -> Iterator[tuple[str, int]]:
    """Run the server; gives its address and process id, and ends it.

    Raises:
        RuntimeError: if it does not start.
    """
    port = free_port()
    command = [sys.executable, "-m", "llava.serve.api", "--port", str(port), *arguments]
    process = subprocess.Popen(command)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start: {' '.join(command)}")
            time.sleep(0.2)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


def ask(client: OpenAI, number: int, clip: str, new_tokens: int) -> Reply:
    """Ask one question about a clip, as a stream."""
    started = time.perf_counter()
    content: Any = [
        {"type": "video_url", "video_url": {"url": clip}},
        {"type": "text", "text": f"What happens? ({number % (2 * NUM_CLIPS)})"},
    ]
    stream = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": content}],
        max_tokens=new_tokens,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, first, tokens = "", 0.0, 0
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            first = first or time.perf_counter() - started
            text += chunk.choices[0].delta.content
        if chunk.usage is not None:
            tokens = chunk.usage.completion_tokens
    seconds = time.perf_counter() - started
    return Reply(number % (2 * NUM_CLIPS), text, tokens, first or seconds, seconds)


def resident_bytes(process_id: int) -> int:
    """Return the memory of a process."""
    fields = Path(f"/proc/{process_id}/status").read_text(encoding="utf-8").splitlines()
    [line] = [row for row in fields if row.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def cpu_seconds(process_id: int) -> float:
    """Return the processor time of a process and of the children that it has waited for."""
    fields = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def load(
    address: str, clips: list[str], clients: int, requests: int, new_tokens: int
) -> tuple[list[Reply], float]:
    """Ask all questions by so many clients at a time; returns answers and seconds."""
    client = OpenAI(base_url=f"{address}/v1", api_key="none", timeout=600, max_retries=0)
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        waiting = [
            pool.submit(ask, client, number, clips[number % len(clips)], new_tokens)
            for number in range(requests)
        ]
        replies = [item.result() for item in waiting]
    return replies, time.perf_counter() - started


def main() -> int:
    """Run the benchmark; returns 0, or 1 where an answer was lost or depends on the load."""
    parser = argparse.ArgumentParser(description="Load on the server.")
    parser.add_argument("--model", type=Path, help="checkpoint (default: a tiny one)")
    parser.add_argument("--clients", default="1,4,16", help="clients at a time, several by commas")
    parser.add_argument("--requests", type=int, default=32, help="requests per number of clients")
    parser.add_argument("--new_tokens", type=int, default=32, help="tokens per answer at most")
    parser.add_argument("--max_batch", type=int, default=8, help="answers generated together")
    args = parser.parse_args()
    known: dict[int, str] = {}
    is_good = True
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or Path(folder) / "model"
        if args.model is None:
            write_tiny_checkpoint(model)
        clips = []
        for number in range(NUM_CLIPS):
            path = made_clip(Path(folder), "h264", 240, 320, 60 + number)
            content = base64.b64encode(path.read_bytes()).decode()
            clips.append(f"data:video/mp4;base64,{content}")
        options = ["--model-path", str(model), "--num-images", "2"]
        options += ["--max-batch", str(args.max_batch)]
        with running_server(*options) as (address, process):
            load(address, clips, 1, NUM_CLIPS, 2)  # warm up
            for clients in map(int, args.clients.split(",")):
                before = cpu_seconds(process)
                replies, seconds = load(address, clips, clients, args.requests, args.new_tokens)
                for reply in replies:
                    is_good &= known.setdefault(reply.question, reply.text) == reply.text
                is_good &= len(replies) == args.requests
                latencies = [reply.seconds for reply in replies]
                row = {
                    "clients": clients,
                    "answered": len(replies),
                    "cpu_seconds_per_request": (cpu_seconds(process) - before) / len(replies),
                    "requests_per_second": len(replies) / seconds,
                    "tokens_per_second": sum(reply.new_tokens for reply in replies) / seconds,
                    "first_token_seconds": float(np.median([r.first_seconds for r in replies])),
                    "latency_seconds": float(np.median(latencies)),
                    "latency_95_seconds": float(np.quantile(latencies, 0.95)),
                    "server_mib": resident_bytes(process) / 2**20,
                    "answers_equal": is_good,
                }
                print(json.dumps({name: _rounded(value) for name, value in row.items()}))
    return 0 if is_good else 1


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
