#!/usr/bin/env python3
"""Measures what the README claims, on this machine, against native and raw limits taken in the same run.

    bench/figures.py [NAME…]       names: find start memory restart cold readers; default: all
    --bin DIR                      the built binaries (build/release/bin)
    --files N                      size of the large tree (100000)
    --dir DIR                      scratch space (a real disk; about 6 GiB)

The cold figures need nginx (deploy/unpack-tools nginx, as bench/run does) as a fast object server; they are left out, and say so, without it.
Needs root (mounts, drop_caches). Run on an idle machine: ratios are of one run, medians of several rounds.
"""
import argparse
import json
import os
import pathlib
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from common import GIB, ROOT, cpu_seconds, drop_caches, epoch, harness, make_many, report, timed, touch_memory

KEYS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}


def rss_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0


def figure_find(arguments, work):
    """find over the large tree: native and through a mount, cold and warm, without and with reading attributes."""
    source = work / "many"
    if not source.exists():
        make_many(source, arguments.files)
    harness.settle(source)
    rounds = {"native_cold": [], "native_attributes_cold": [], "native_warm": [], "cold": [], "warm": [],
              "attributes_after_names": [], "attributes_cold": []}
    for last in (False, False, True):
        host = harness.Host(work / "host-find", tier_size="2GiB").start()
        try:
            drop_caches()
            rounds["native_attributes_cold"].append(timed("find", source, "-size", "+1000"))
            drop_caches()
            rounds["native_cold"].append(timed("find", source))
            rounds["native_warm"].append(timed("find", source))
            drop_caches()
            mountpoint = host.mount(f"file://{source}", options="ro,attr_ttl=600s")
            rounds["cold"].append(timed("find", mountpoint))
            rounds["warm"].append(timed("find", mountpoint))
            if last:  # a look-up for each file: once will do
                rounds["attributes_after_names"].append(timed("find", mountpoint, "-size", "+1000"))
        finally:
            host.close()
            shutil.rmtree(work / "host-find")
    host = harness.Host(work / "host-find", tier_size="2GiB").start()
    try:
        mountpoint = host.mount(f"file://{source}", options="ro,attr_ttl=600s")
        drop_caches()
        rounds["attributes_cold"].append(timed("find", mountpoint, "-size", "+1000"))
    finally:
        host.close()
        shutil.rmtree(work / "host-find")
    median = {key: statistics.median(values) for key, values in rounds.items()}
    report("find", files=arguments.files, **{f"{key}_s": value for key, value in median.items()},
           cold_over_native_attributes_cold=median["cold"] / median["native_attributes_cold"],
           cold_over_native_cold=median["cold"] / median["native_cold"],
           attributes_cold_over_native=median["attributes_cold"] / median["native_attributes_cold"],
           warm_over_native_warm=median["warm"] / median["native_warm"])


def figure_start_and_memory(arguments, work):
    """Shim memory after reading all of the large tree; then the start of a daemon that has all of it cached."""
    source = work / "many"
    if not source.exists():
        make_many(source, arguments.files)
    harness.settle(source)
    host = harness.Host(work / "host-start", tier_size="4GiB").start()
    try:
        mountpoint = host.mount(f"file://{source}", options="ro,attr_ttl=600s")
        start = time.monotonic()
        for folder, _, names in os.walk(mountpoint):
            for name in names:
                with open(os.path.join(folder, name), "rb") as file:
                    file.read()
        seconds = time.monotonic() - start
        server = host.server_pid(mountpoint)
        keeper = (set(host.mount_processes(mountpoint)) - {server}).pop()
        report("memory", files=arguments.files, read_seconds=seconds, server_rss_mib=rss_bytes(server) / 2**20,
               keeper_rss_mib=rss_bytes(keeper) / 2**20, daemon_rss_mib=rss_bytes(host.daemon.pid) / 2**20)
        time.sleep(3)
        for how in ("stop", "kill"):
            getattr(host, how)()
            drop_caches()
            start = time.monotonic()
            host.start()
            report("start", files=arguments.files, after=how, seconds=time.monotonic() - start)
    finally:
        host.close()
        shutil.rmtree(work / "host-start")


def figure_restart(arguments, work):
    """DataLoader throughput before and after a restart of the daemon with a warm cache."""
    del arguments
    source = work / "images"
    if not source.exists():
        subprocess.run([sys.executable, ROOT / "bench/make_dataset.py", source, "--files", "2000"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    harness.settle(source)
    host = harness.Host(work / "host-restart", tier_size="2GiB").start()
    try:
        mountpoint = host.mount(f"file://{source}", options="ro,ml.trainingMode")
        cold = epoch(mountpoint)["files_per_s"]
        before = [epoch(mountpoint)["files_per_s"] for _ in range(3)]
        time.sleep(2)
        host.stop()
        host.start()
        after = [epoch(mountpoint)["files_per_s"] for _ in range(3)]
        native = epoch(source)["files_per_s"]
        report("restart", cold_files_per_s=cold, warm_files_per_s=statistics.median(before),
               after_restart_files_per_s=after[0], ratio=after[0] / statistics.median(before),
               native_files_per_s=native, store_bytes_after=host.total("store_read_bytes_total"),
               verified_bytes_after=host.total("verified_bytes_total"))
    finally:
        host.close()
        shutil.rmtree(work / "host-restart")


class Nginx:
    """A flat bucket of a directory's files, served by nginx: ranged GETs, HEAD, and one fixed listing."""

    def __init__(self, directory, work, port=18099):
        program = shutil.which("nginx")
        if program is None:
            raise FileNotFoundError("nginx")
        self.base = f"http://127.0.0.1:{port}"
        self.url = f"s3://bucket?endpoint={self.base}&region=us-east-1"
        names = sorted(path for path in directory.iterdir() if path.is_file())
        rows = "".join(f"<Contents><Key>{path.name}</Key><ETag>&quot;{int(path.stat().st_mtime):x}-{path.stat().st_size:x}"
                       f"&quot;</ETag><Size>{path.stat().st_size}</Size><LastModified>2026-01-01T00:00:00.000Z"
                       "</LastModified></Contents>" for path in names)
        root = work / "nginx"
        (root / "www").mkdir(parents=True, exist_ok=True)
        (root / "www/list.xml").write_text(
            "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult><Name>bucket</Name>"
            f"<IsTruncated>false</IsTruncated><KeyCount>{len(names)}</KeyCount>{rows}</ListBucketResult>")
        (root / "nginx.conf").write_text(
            f"daemon off; worker_processes 2; pid {root}/pid; error_log {root}/error.log; user root;\n"
            "events { worker_connections 512; }\n"
            f"http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; client_body_temp_path {root};\n"
            f"proxy_temp_path {root}; fastcgi_temp_path {root}; uwsgi_temp_path {root}; scgi_temp_path {root};\n"
            f"server {{ listen 127.0.0.1:{port};\n"
            f"location ~ ^/bucket/?$ {{ root {root}/www; try_files /list.xml =404; default_type application/xml; }}\n"
            f"location /bucket/ {{ alias {directory}/; }} }} }}\n")
        self.process = subprocess.Popen([program, "-c", root / "nginx.conf", "-p", root], preexec_fn=harness.die_with_parent)
        harness.wait_for(lambda: subprocess.run(["curl", "-sfo", "/dev/null", f"{self.base}/bucket/{names[0].name}", "-r", "0-0"],
                                                check=False).returncode == 0, 10, "nginx answers")

    def close(self):
        self.process.terminate()
        self.process.wait(10)


def read_parallel(paths, readers):
    """`readers` processes read their share of `paths` in 1 MiB steps; (bytes per second, CPU seconds of the readers)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    children = []
    for index in range(readers):
        child = os.fork()
        if child == 0:
            buffer = bytearray(1 << 20)
            for path in paths[index::readers]:
                with open(path, "rb", buffering=0) as file:
                    while file.readinto(buffer):
                        pass
            os._exit(0)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    seconds = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (sum(os.path.getsize(path) for path in paths) / seconds,
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def cold_server(work):
    source = work / "bucket"
    if not source.exists():
        source.mkdir(parents=True)
        block = random.Random(3).randbytes(1 << 20)
        for index in range(16):
            with open(source / f"part{index:02d}", "wb") as file:
                for _ in range(64):
                    file.write(block)
        with open(source / "big", "wb") as file:
            for _ in range(1024):
                file.write(block)
    harness.settle(source)
    for path in source.iterdir():
        path.read_bytes()  # the server's page cache is warm: the network path is what is measured
    return source, Nginx(source, work)


def figure_cold(arguments, work):
    """Cold sequential read of 1 GiB through a mount against raw parallel GETs from the same server."""
    source, server = cold_server(work)
    try:
        raw, mounted = [], []
        for _ in range(3):
            row = json.loads(subprocess.run([arguments.bin / "mlcache-raw-get", f"{server.base}/bucket/big", str(GIB), "8"],
                                            capture_output=True, text=True, check=True).stdout)
            raw.append((row["bytes_per_s"], row["cpu_seconds"]))
            host = harness.Host(work / "host-cold", tier_size="3GiB", environment=KEYS).start()
            try:
                mountpoint = host.mount(server.url)
                shim = host.server_pid(mountpoint)
                touch_memory()
                speed, reader_cpu = read_parallel([mountpoint / "big"], 1)
                mounted.append((speed, cpu_seconds(host.daemon.pid), cpu_seconds(shim), reader_cpu))
                assert host.total("store_read_bytes_total") == GIB
            finally:
                host.close()
                shutil.rmtree(work / "host-cold")
        raw_speed = statistics.median(row[0] for row in raw)
        speed, daemon_cpu, shim_cpu, reader_cpu = sorted(mounted)[1]
        report("cold", bytes=GIB, raw_bytes_per_s=raw_speed, raw_cpu_s_per_gib=statistics.median(row[1] for row in raw),
               bytes_per_s=speed, ratio=speed / raw_speed, daemon_cpu_s_per_gib=daemon_cpu, shim_cpu_s_per_gib=shim_cpu,
               reader_cpu_s_per_gib=reader_cpu)
    finally:
        server.close()


def figure_readers(arguments, work):
    """Cold reads of 16 x 64 MiB by 1 to 16 readers at once."""
    del arguments
    source, server = cold_server(work)
    try:
        for readers in (1, 2, 4, 8, 16):
            host = harness.Host(work / "host-readers", tier_size="3GiB", environment=KEYS).start()
            try:
                mountpoint = host.mount(server.url)
                paths = sorted(mountpoint / path.name for path in source.iterdir() if path.name.startswith("part"))
                touch_memory()
                speed, reader_cpu = read_parallel(paths, readers)
                report("readers", readers=readers, bytes_per_s=speed, reader_cpu_s_per_gib=reader_cpu,
                       daemon_cpu_s_per_gib=cpu_seconds(host.daemon.pid),
                       shim_cpu_s_per_gib=cpu_seconds(host.server_pid(mountpoint)))
            finally:
                host.close()
                shutil.rmtree(work / "host-readers")
    finally:
        server.close()


FIGURES = {"find": figure_find, "start": figure_start_and_memory, "restart": figure_restart, "cold": figure_cold,
           "readers": figure_readers}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*FIGURES, []], help="which figures; default all")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--dir", default="/var/tmp")
    arguments = parser.parse_args()
    harness.BIN = arguments.bin
    with tempfile.TemporaryDirectory(prefix="mlcache-figures.", dir=arguments.dir) as directory:
        for name in arguments.names or FIGURES:
            try:
                FIGURES[name](arguments, pathlib.Path(directory))
            except FileNotFoundError as error:
                report(name, left_out=f"{error} is not installed")


if __name__ == "__main__":
    main()
