"""A server that twenty clients at once feed with what is meant to exhaust it.

python tests/faults/hostile.py                   # about three minutes on two idle cores
python tests/faults/hostile.py --only uploads    # pictures, questions, slow

It searches a folder with small and very large pictures with the checkpoint that comes with swan. Each kind of
load has a server of its own. Its memory has to stay under 1.5 GB, and under 2 GB if all kinds come together.
A client that asks politely has to be answered within a second.
"""

from __future__ import annotations

import argparse
import http.client
import io
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

Request = Callable[[str, random.Random], int]  # to an address; returns the status of the answer

CLIENTS = 20
MOST_MEMORY, MOST_TOGETHER = 1500, 2000  # MB
MOST_SECONDS = 1.0  # for each polite request
LARGE, SIDE = 12, 8000  # pictures of the folder, and their side in pixels
LARGE_UPLOAD = 5000  # side in pixels of an upload that is just allowed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="of each kind of load")
    parser.add_argument("--only", action="append", choices=list(KINDS))
    options = parser.parse_args()
    failures = []
    with tempfile.TemporaryDirectory(prefix="swan-hostile-") as folder:
        write_embeddings(Path(folder))
        for kind in options.only or KINDS:
            print(kind, flush=True)
            server, address = started(Path(folder))
            try:
                failures += attack(server, address, options.seconds, kind)
            finally:
                server.terminate()
                server.wait(30)
    for failure in failures:
        print(f"FAILED {failure}")
    raise SystemExit(1 if failures else 0)


def swan(folder: Path, *arguments: str, **options: Any) -> subprocess.Popen:
    """A command in a process of its own."""
    environment = {**os.environ, "SWAN_ROOT": str(folder / "root"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "swancli", *arguments], env=environment, text=True, **options
    )


def write_embeddings(folder: Path) -> None:
    """Embeddings of small and large pictures."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(40):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(pictures / f"a{number:02}.png")
    large = Image.new("RGB", (SIDE, SIDE), (90, 120, 60))
    large.save(pictures / "b0.png")
    large.save(pictures / "b1.jpg")
    for number in range(2, LARGE):
        copy = pictures / f"b{number}.{'jpg' if number % 2 else 'png'}"
        os.link(pictures / ("b1.jpg" if number % 2 else "b0.png"), copy)
    assert swan(folder, "embed", f"--images={pictures}").wait() == 0


def started(folder: Path) -> tuple[subprocess.Popen, str]:
    """A server, and its host and port."""
    server = swan(folder, "serve", "--port=0", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    address = re.search(r"http://(\S+)", server.stdout.readline())[1]
    asks(address, "GET", "/api/search?text=boats")
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # what loading took does not count
    return server, address


def attack(server: subprocess.Popen, address: str, seconds: float, kind: str) -> list[str]:
    """What went wrong while hostile clients and a polite one ask at once."""
    before, until = peak(server), time.monotonic() + seconds
    given: Counter[str] = Counter()
    asked = (address, until, KINDS[kind], given)
    hostile = [threading.Thread(target=client, args=(*asked, seed)) for seed in range(CLIENTS)]
    for thread in hostile:
        thread.start()
    waits: dict[str, list[float]] = {}
    polite = ("/api/search?text=boats+in+a+harbor", "/?text=a+river", "/api/search?like=3", "/image/3")
    number = 0
    while time.monotonic() < until:
        path = polite[number % len(polite)]
        began = time.monotonic()
        status = asks(address, "GET", path)
        waits.setdefault(path, []).append(time.monotonic() - began)
        if status != 200:
            return [f"{kind}: {path}: {status}"]
        time.sleep(0.1)
        number += 1
    for thread in hostile:
        thread.join(90)
    failures = []
    for path, each in waits.items():
        print(f"  {path}: {len(each)} answers, median {np.median(each):.3f} s, slowest {max(each):.3f} s")
        if max(each) > MOST_SECONDS:
            failures.append(f"{kind}: {path}: {max(each):.2f} s")
    print(
        "  answers to hostile requests:", ", ".join(f"{status}: {count}" for status, count in given.items())
    )
    print(f"  memory: {before} MB before, {peak(server)} MB at its peak")
    if peak(server) > (MOST_TOGETHER if kind == "together" else MOST_MEMORY):
        failures.append(f"{kind}: {peak(server)} MB")
    if given["500"] or server.poll() is not None:
        failures.append(f"{kind}: the server failed")
    return failures


def peak(server: subprocess.Popen) -> int:
    """The most memory that a process has taken, in MB."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{server.pid}/status").read_text())[1]) // 1000


def asks(address: str, method: str, path: str, body: bytes | None = None) -> int:
    """The status of a request's answer."""
    connection = http.client.HTTPConnection(address, timeout=120)
    connection.request(method, path, body=body)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def client(address: str, until: float, requests: Sequence[Request], given: Counter[str], seed: int) -> None:
    """Sends one hostile request after the other, and counts the answers."""
    choose = random.Random(seed)
    while time.monotonic() < until:
        try:
            given[str(choose.choice(requests)(address, choose))] += 1
        except (OSError, http.client.HTTPException) as error:
            given[type(error).__name__] += 1


def upload(address: str, choose: random.Random) -> int:
    return asks(address, "POST", "/api/image", choose.choice(UPLOADS))


def large_picture(address: str, choose: random.Random) -> int:
    return asks(
        address, "GET", f"/image/{40 + choose.randrange(LARGE)}?size={choose.choice(['small', 'large'])}"
    )


def long_question(address: str, choose: random.Random) -> int:
    texts = "&".join(f"text={quote('a b ' * 24)}{choose.randrange(99)}" for _ in range(19))
    return asks(address, "GET", f"/api/search?{texts}&not=trees&top_k=1000&files={quote('*a' * 20)}*")


def too_long_question(address: str, choose: random.Random) -> int:
    return asks(address, "GET", "/api/search?" + "&".join(["text=" + "ab+" * 600] * 20))


def slow_upload(address: str, choose: random.Random) -> int:
    """Sends most of an upload, waits, and hangs up."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        head = f"POST /api/image HTTP/1.1\r\nHost: {address}\r\nContent-Length: {19 * 2**20}\r\n\r\n"
        connection.sendall(head.encode() + bytes(choose.choice([1, 18 * 2**20])))
        time.sleep(10)
    return 0


# ---------------------------------------------------------------------------------------------------------
# files


def encoded(kind: str, side: int, mode: str = "RGB", **options: object) -> bytes:
    """An image of one colour as a file."""
    written = io.BytesIO()
    Image.new(mode, (side, side)).save(written, kind, **options)
    return written.getvalue()


def tiff(data: bytes, compression: int, description: bytes = b"", side: int = 64) -> bytes:
    """A grey TIFF of one strip, side x side pixels as its tags say."""
    count = 10 if description else 9
    end = 8 + 2 + 12 * count + 4
    fields = [(256, 3, 1, side), (257, 3, 1, side), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]
    if description:
        fields.append((270, 2, len(description), end + len(data)))
    fields += [(273, 4, 1, end), (277, 3, 1, 1), (278, 3, 1, side), (279, 4, 1, len(data))]
    tags = b"".join(struct.pack("<HHII", *field) for field in fields)
    return b"II*\0" + struct.pack("<IH", 8, count) + tags + bytes(4) + data + description


def ome(side: int) -> bytes:
    """A TIFF of one pixel whose metadata claims an image of side x side pixels."""
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    text = (
        f'<?xml version="1.0"?><OME xmlns="{schema}"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        f'DimensionOrder="XYCZT" Type="uint8" SizeX="{side}" SizeY="{side}" SizeC="1" SizeZ="1" SizeT="1">'
        '<Channel ID="c" SamplesPerPixel="1"/><TiffData/></Pixels></Image></OME>\0'
    )
    return tiff(b"\0", 1, text.encode(), side=1)


def overlapping(size: int = 2**20) -> bytes:
    """A TIFF of 64 directories, each of whose tags claims the whole file."""
    first = tiff(bytes(64 * 64), 1)
    own = first[10 : 10 + 12 * 9]
    claims = b"".join(
        struct.pack("<HHII", tag, 1, size, 0) for tag in (320, 324, 325, 338, 33550, 33922, 34264, 42112)
    )
    written = first
    for number in range(64):
        link = 4 if number == 0 else len(written) - 4
        written = written[:link] + struct.pack("<I", len(written)) + written[link + 4 :]
        written += struct.pack("<H", 17) + own + claims + bytes(4)
    return written.ljust(size, b"\0")


def masked(side: int) -> bytes:
    """A TIFF of 64 x 64 whose mask consists of one tile of side x side."""
    data = tiff(bytes(64 * 64), 1)
    strip = zlib.compress(bytes(2**20))
    start = len(data) + len(strip)
    fields = [(254, 4, 4), (256, 3, 64), (257, 3, 64), (258, 3, 1), (259, 3, 8), (262, 3, 4), (277, 3, 1)]
    fields += [(322, 4, side), (323, 4, side), (324, 4, len(data)), (325, 4, len(strip))]
    tags = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in fields)
    link = 8 + 2 + 12 * 9
    data = data[:link] + struct.pack("<I", start) + data[link + 4 :]
    return data + strip + struct.pack("<H", len(fields)) + tags + bytes(4)


def made_uploads() -> list[bytes]:
    """Files that are small and claim much, large ones that are allowed, and damaged ones."""
    strip = encoded("JPEG2000", 12_000, "L", no_jp2=True)
    allowed = [encoded(kind, LARGE_UPLOAD) for kind in ("PNG", "JPEG", "WEBP")]
    return [
        tiff(strip, 34712),
        tiff(strip, 33003),
        tiff(encoded("JPEG", 12_000, "L"), 7),
        ome(20_000),
        overlapping(),
        masked(20_000),
        encoded("PNG", 12_000, "1"),
        encoded("GIF", 12_000, "P"),
        encoded("JPEG2000", 12_000, "L"),
        *allowed,
        *(data[: len(data) // 2] for data in allowed),
        b"P6 9999 9999 255\n",
        bytes(20 * 2**20),
    ]


UPLOADS = made_uploads()
KINDS: dict[str, Sequence[Request]] = {
    "uploads": [upload],
    "pictures": [large_picture],
    "questions": [long_question, too_long_question],
    "slow": [slow_upload],
}
KINDS["together"] = [*[upload] * 4, *[large_picture] * 2, *KINDS["questions"], slow_upload]


if __name__ == "__main__":
    main()
