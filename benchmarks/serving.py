#!/usr/bin/env python3
"""The server of pipelines/serve.py under load: many clients at once, many requests in turn.

python benchmarks/serving.py

python benchmarks/serving.py --clients 10 --requests 200 --side 64

python benchmarks/serving.py --too-large 5000 --timeout-s 2

It starts a server on this machine and measures over real connections. Memory is that of
its processes (resident, without what they share), after every twentieth of the requests.
With --too-large it sends one wide image of that side instead, which takes longer than
--timeout-s, and looks which process answers the next request.
"""

import argparse
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import psutil
import requests
from skimage import data

from sddusr.config.arguments import parse_args
from sddusr.imaging.encoding import encode_png

ROOT = Path(__file__).resolve().parents[1]
SHOWN = ("Upscaling", "Front", "Proxy", "Controller")
"""Substrings of the names of the processes to measure."""
MARGIN = 0.25
"""Of the tele image's view, on each side."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--side", type=int, default=256, help="rows and columns of the wide image")
    parser.add_argument("--max-queued", type=int, default=4)
    parser.add_argument("--timeout-s", type=float, default=300.0)
    parser.add_argument(
        "--too-large", type=int, default=0, help="rows and columns of a wide image beyond it"
    )
    parser.add_argument("--checkpoint", default="compact")
    given = parse_args(parser)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}/"
    with tempfile.TemporaryDirectory() as folder:
        server = start(address, given, Path(folder))
        try:
            if given.too_large:
                exceed(address, given, Path(folder))
            else:
                measure(address, given)
        finally:
            server.send_signal(signal.SIGTERM)
            print(f"ended by SIGTERM with code {server.wait(timeout=300)}")
        print(f"files left in its temporary folder: {len(files_in(Path(folder)))}")


def start(address: str, given: argparse.Namespace, folder: Path) -> subprocess.Popen[bytes]:
    """The server, answering."""
    port = address.rstrip("/").rpartition(":")[2]
    command = [sys.executable, str(ROOT / "pipelines" / "serve.py"), "--port", port]
    command += ["--checkpoint", given.checkpoint, "--max-queued", str(given.max_queued)]
    command += ["--timeout-s", str(given.timeout_s)]
    began = time.monotonic()
    with (folder / "log").open("w") as log:
        environment = os.environ | {"TMPDIR": str(folder), "RAY_TMPDIR": "/tmp"}
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    while "health  http" not in (folder / "log").read_text():
        if server.poll() is not None:
            raise SystemExit((folder / "log").read_text()[-2000:])
        time.sleep(0.5)
    print(f"started in {time.monotonic() - began:.0f} s")
    return server


def measure(address: str, given: argparse.Namespace) -> None:
    files, box = pair(given.side)
    print(f"wide {given.side}x{given.side}, {os.cpu_count()} cores")

    def ask(_number: int) -> tuple[int, float, str]:
        began = time.monotonic()
        answer = requests.post(f"{address}upscale", files=files, data=box, timeout=3600)
        return answer.status_code, time.monotonic() - began, answer.headers.get("Retry-After", "")

    ask(0)
    with ThreadPoolExecutor(given.clients) as pool:
        began = time.monotonic()
        answers = list(pool.map(ask, range(given.clients)))
    statuses = dict(sorted(Counter(status for status, _, _ in answers).items()))
    print(f"{given.clients} clients at once: {statuses} in {time.monotonic() - began:.1f} s")
    refused = [(seconds, after) for status, seconds, after in answers if status == 429]
    if refused:
        slowest = max(seconds for seconds, _ in refused)
        delays = sorted({retry_after for _, retry_after in refused})
        print(f"  429 within {slowest:.2f} s, Retry-After {', '.join(delays)}")
    took = []
    step = max(1, given.requests // 20)
    print(f"{'requests':>8}  " + "  ".join(f"{name:>15}" for name in SHOWN) + "   (MB)")
    for number in range(given.requests + 1):
        if number % step == 0:
            held = memory()
            print(f"{number:>8}  " + "  ".join(f"{held[name]:>15.0f}" for name in SHOWN))
        if number < given.requests:
            status, seconds, _ = ask(number)
            assert status == 200, status
            took.append(seconds)
    print(
        f"{given.requests} in turn: median {statistics.median(took):.2f} s, "
        f"slowest {max(took):.2f} s"
    )


def exceed(address: str, given: argparse.Namespace, folder: Path) -> None:
    """An image that takes too long, and a small one afterwards."""
    before = [process.pid for process in processes_of("Upscaling")]
    files, _ = pair(given.too_large)  # without its box: it is looked for, which takes longest
    print(f"wide {given.too_large}x{given.too_large}, --timeout-s {given.timeout_s:g}")
    began = time.monotonic()
    answer = requests.post(f"{address}upscale", files=files, timeout=3600)
    print(f"{answer.status_code} after {time.monotonic() - began:.1f} s: {answer.text}")
    print(f"files left in its temporary folder: {len(files_in(folder))}")
    began = time.monotonic()
    files, box = pair(given.side)
    answer = requests.post(f"{address}upscale", files=files, data=box, timeout=3600)
    after = [process.pid for process in processes_of("Upscaling")]
    print(f"{answer.status_code} for {given.side}x{given.side}, {time.monotonic() - began:.1f} s")
    print(f"the same process: {before == after}; {len(before)} before, {len(after)} now")


def pair(side: int) -> tuple[dict[str, bytes], dict[str, str]]:
    """Files of a wide and a tele image, and the box of the second."""
    scene = cv2.resize(data.coffee(), (2 * side, 2 * side), interpolation=cv2.INTER_AREA)
    edge = round(2 * side * MARGIN) // 4 * 4
    tele = scene[edge : 2 * side - edge, edge : 2 * side - edge].copy()
    wide = cv2.resize(scene, (side, side), interpolation=cv2.INTER_AREA)
    box = f"{edge},{2 * side - edge},{edge},{2 * side - edge}"
    return {"wide": encode_png(wide), "tele": encode_png(tele)}, {"box": box}


def memory() -> dict[str, float]:
    """Megabytes of this server's processes, by the part of their name."""
    return {part: sum(map(private_mb, processes_of(part))) for part in SHOWN}


def private_mb(process: psutil.Process) -> float:
    """Resident, without what it shares; 0 where the process has ended meanwhile."""
    try:
        return process.memory_full_info().uss / 1e6
    except psutil.Error:
        return 0.0


def processes_of(part: str) -> list[psutil.Process]:
    """Ray processes started by this one, by a part of their name."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            name = " ".join(process.cmdline()).rstrip("\0").lower()
            if name.startswith("ray::") and part.lower() in name:
                found.append(process)
    return found


def files_in(folder: Path) -> list[Path]:
    """Uploads and results that are still there."""
    kept = ("log", "lock")
    return [file for file in folder.rglob("*") if file.is_file() and file.name not in kept]


if __name__ == "__main__":
    main()
