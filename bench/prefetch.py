#!/usr/bin/env python3
"""One sequential reader of a far store: what look-ahead is worth, against a mount without it and raw parallel GETs.

    bench/run prefetch [flags]
    --latency S --bandwidth B/S --size BYTES    the store (0.02, 400e6, 1 GiB)
    --rounds N                                  of each way; medians are printed (3)
    --way NAME                                  only this one, may be repeated: raw, default, off

The store is bench/slow_store.py: each answer begins after the latency, all connections share the bandwidth. The reader
reads 1 MiB at a time through a fresh daemon and mount. One JSON line a way: bytes a second, that over the bandwidth,
requests, and of mounts how long reads waited, what was fetched ahead and used, and processor time. Needs root. Run on an idle machine:
the store, the daemon and the reader share its cores.
"""
import argparse
import contextlib
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from common import GIB, ROOT, cpu_seconds, harness, report, touch_memory

KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
WAYS = {"raw": None, "default": "ro", "off": "ro,ml.optimization=false"}


@contextlib.contextmanager
def slow_store(directory, latency, bandwidth):
    """(store URL, port) of a server in a process of its own."""
    server = subprocess.Popen([sys.executable, ROOT / "bench/slow_store.py", directory, str(latency), str(bandwidth)],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=harness.die_with_parent)
    try:
        url, port = server.stdout.readline().split()
        yield url, int(port)
    finally:
        server.stdin.close()
        server.wait(10)


def read_raw(arguments, port):
    done = subprocess.run([arguments.bin / "mlcache-raw-get", f"http://127.0.0.1:{port}/bucket/big", str(arguments.size),
                           "8"], capture_output=True, text=True, check=True)
    return {"bytes_per_s": json.loads(done.stdout)["bytes_per_s"]}


def read_mounted(arguments, url, options, work):
    host = harness.Host(work / "host", tier_size=str(2 * arguments.size + GIB), environment=KEYS).start()
    try:
        path = host.mount(url, options=options) / "big"
        touch_memory(3 * arguments.size)
        buffer = bytearray(1 << 20)
        start = time.monotonic()
        with open(path, "rb", buffering=0) as file:
            size = 0
            while count := file.readinto(buffer):
                size += count
        seconds = time.monotonic() - start
        assert size == arguments.size
        assert host.total("store_read_bytes_total") == size
        issued = host.total("prefetch_issued_bytes_total")
        return {"bytes_per_s": size / seconds, "requests": harness.total(host.stats()["store_requests_total"]["ok"]["read"]),
                "stall_s": host.total("read_stall_seconds_total"), "ahead": issued / size,
                "accuracy": host.total("prefetch_used_bytes_total") / issued if issued else None,
                "daemon_cpu_s": cpu_seconds(host.daemon.pid), "shim_cpu_s": cpu_seconds(host.server_pid(path.parent))}
    finally:
        host.close()
        shutil.rmtree(work / "host")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.02)
    parser.add_argument("--bandwidth", type=float, default=400e6)
    parser.add_argument("--size", type=int, default=GIB)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", action="append", choices=WAYS)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    parser.add_argument("--dir", default="/var/tmp")
    arguments = parser.parse_args()
    harness.BIN = arguments.bin
    speeds = {}
    with tempfile.TemporaryDirectory(prefix="mlcache-prefetch.", dir=arguments.dir) as directory:
        work = pathlib.Path(directory)
        (work / "bucket").mkdir()
        harness.make_file(work / "bucket/big", arguments.size)
        with slow_store(work / "bucket", arguments.latency, arguments.bandwidth) as (url, port):
            for way in arguments.way or WAYS:
                rows = [read_raw(arguments, port) if way == "raw" else read_mounted(arguments, url, WAYS[way], work)
                        for _ in range(arguments.rounds)]
                row = sorted(rows, key=lambda one: one["bytes_per_s"])[len(rows) // 2]
                speeds[way] = statistics.median(one["bytes_per_s"] for one in rows)
                report("prefetch", way=way, latency_s=arguments.latency, bandwidth=arguments.bandwidth,
                       bytes=arguments.size, **row, of_bandwidth=row["bytes_per_s"] / arguments.bandwidth)
    if "default" in speeds and len(speeds) > 1:
        report("prefetch-ratios", **{f"default_over_{way}": speeds["default"] / speed
                                     for way, speed in speeds.items() if way != "default"})


if __name__ == "__main__":
    main()
