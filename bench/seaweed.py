#!/usr/bin/env python3
"""Cold reads of a real SeaweedFS cluster through mlcache, against raw GETs from its volume servers and `weed mount`.

    bench/seaweed.py [NAME…]       names: sequential files list; default: all
    --weed FILE                    the `weed` program (else WEED_BIN, or PATH); without one nothing is measured
    --size BYTES --files N --entries N   of the large file (1 GiB), the small ones (2000 of 110 KiB), the listing (100000)
    --rounds N                     of each figure (1): the medians are printed
    --dir DIR                      scratch space (a real disk; about 6 GiB)

Cluster, mounts and readers share this machine. `weed mount` is tuned as an expert would: -cacheMetaTtlSec=3600, tree
listed first. Caches of ours and of weed mount are empty and the kernel's dropped before each round. Needs root.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import tempfile
import time

from common import drop_caches, harness, report, touch_memory
import seaweed_cluster  # common has put tests/e2e on the path

KIB, MIB = 1 << 10, 1 << 20
READERS = 8
SMALL = 110 * KIB


class WeedMount:
    """`weed mount` of the whole filer in a directory of its own, with an empty cache."""

    def __init__(self, cluster, work):
        self.directory = work / "weed-mount"
        self.cache = work / "weed-cache"
        for path in (self.directory, self.cache):
            path.mkdir(parents=True)
        with open(work / "weed-mount.log", "ab") as log:
            self.process = subprocess.Popen(
                [cluster.weed, "mount", f"-filer=127.0.0.1:{cluster.filers[0]}", f"-dir={self.directory}",
                 f"-cacheDir={self.cache}", "-cacheCapacityMB=8192", "-cacheMetaTtlSec=3600"],
                cwd=cluster.directory, stdout=log, stderr=log, preexec_fn=harness.die_with_parent)
        harness.wait_for(lambda: harness.is_mounted(self.directory), 30, "weed mount")

    def __enter__(self):
        return self.directory

    def __exit__(self, *_):
        subprocess.run(["umount", self.directory], check=False)
        self.process.wait(30)
        self.directory.rmdir()
        shutil.rmtree(self.cache)


class OurMount:
    def __init__(self, cluster, work):
        self.work = work / "host"
        self.host = harness.Host(self.work, tier_size="4GiB").start()
        self.directory = self.host.mount(cluster.url(), options="ro,attr_ttl=3600s")

    def __enter__(self):
        return self.directory

    def __exit__(self, *_):
        self.host.close()
        shutil.rmtree(self.work)


def chunk_urls(cluster, directory):
    """URLs on the volume servers of all chunks of the files in a directory, through the filer's HTTP metadata."""
    volumes = {}
    urls = []
    for name in sorted(os.listdir(directory[1])):
        _, body = cluster.request("GET", f"{directory[0]}/{name}", query="?metadata=true")
        for chunk in json.loads(body)["chunks"]:
            file_id = chunk["file_id"]
            volume = file_id.split(",")[0]
            if volume not in volumes:
                _, found = cluster.request("GET", "/dir/lookup", query=f"?volumeId={volume}", port=cluster.master)
                volumes[volume] = json.loads(found)["locations"][0]["url"]
            urls.append(f"http://{volumes[volume]}/{file_id}")
    return urls


def file_reader(paths):
    buffer, total = bytearray(MIB), 0
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while got := file.readinto(buffer):
                total += got
    return total


def in_parallel(pool, function, items, readers):
    """Seconds and bytes of `readers` processes that share the items; the processes are there before."""
    list(pool.map(int, range(readers * 4)))
    start = time.monotonic()
    total = sum(pool.map(function, [items[number::readers] for number in range(readers)]))
    return time.monotonic() - start, total


def raw_gets(urls):
    """Seconds and bytes of GETs of all URLs by READERS threads on kept-alive connections, bytes thrown away."""
    done = subprocess.run([harness.BIN / "mlcache-raw-list", str(READERS)], input="\n".join(urls), capture_output=True,
                          text=True, check=True)
    figures = json.loads(done.stdout)
    return figures["seconds"], figures["bytes"]


def compare(arguments, cluster, work, remote, readers, size):
    """{way: seconds}: medians of reading everything in `remote` cold."""
    with WeedMount(cluster, work) as mount:
        urls = chunk_urls(cluster, (remote, f"{mount}{remote}"))
    seconds = {"raw": [], "mlcache": [], "weed_mount": []}
    for _ in range(arguments.rounds):
        with concurrent.futures.ProcessPoolExecutor(max(readers, READERS)) as pool:
            # The same bytes are in the page cache of the volume servers for each way.
            raw_gets(urls)
            elapsed, total = raw_gets(urls)
            assert total == size, (total, size)
            seconds["raw"].append(elapsed)
            for way, mounted in (("mlcache", OurMount), ("weed_mount", WeedMount)):
                touch_memory()
                with mounted(cluster, work) as mount:
                    paths = [os.path.join(f"{mount}{remote}", name) for name in os.listdir(f"{mount}{remote}")]
                    for path in paths:
                        os.stat(path)
                    elapsed, total = in_parallel(pool, file_reader, paths, readers)
                    assert total == size, (way, total, size)
                    seconds[way].append(elapsed)
    return {way: statistics.median(values) for way, values in seconds.items()}


def figure_sequential(arguments, cluster, work):
    """One large file, read by one reader from begin to end; raw: its chunks by eight at once."""
    cluster.put("/large/file", os.urandom(arguments.size))
    seconds = compare(arguments, cluster, work, "/large", 1, arguments.size)
    rates = {f"{way}_mb_s": arguments.size / 1e6 / value for way, value in seconds.items()}
    report("seaweed sequential", bytes=arguments.size, **rates, over_weed_mount=seconds["weed_mount"] / seconds["mlcache"],
           of_raw=seconds["raw"] / seconds["mlcache"])
    cluster.delete("/large")


def figure_files(arguments, cluster, work):
    """Small files, by eight readers."""
    with concurrent.futures.ThreadPoolExecutor(4) as writers:
        list(writers.map(lambda number: cluster.put(f"/small/f{number:05}", os.urandom(SMALL)), range(arguments.files)))
    seconds = compare(arguments, cluster, work, "/small", READERS, arguments.files * SMALL)
    rates = {f"{way}_files_s": arguments.files / value for way, value in seconds.items()}
    report("seaweed files", files=arguments.files, readers=READERS, **rates,
           over_weed_mount=seconds["weed_mount"] / seconds["mlcache"], of_raw=seconds["raw"] / seconds["mlcache"])


def figure_list(arguments, cluster, work):
    """One directory of very many entries, listed with their types and sizes (ls -l), cold."""
    with concurrent.futures.ThreadPoolExecutor(8) as writers:
        list(writers.map(lambda number: cluster.put(f"/many/entry-{number:07}", b"x"), range(arguments.entries)))
    seconds = {}
    for way, mounted in (("mlcache", OurMount), ("weed_mount", WeedMount)):
        values = []
        for _ in range(arguments.rounds):
            with mounted(cluster, work) as mount:
                drop_caches()
                start = time.monotonic()
                with os.scandir(f"{mount}/many") as entries:
                    count = sum(1 for entry in entries if entry.stat(follow_symlinks=False).st_size == 1)
                values.append(time.monotonic() - start)
                assert count == arguments.entries, (way, count)
        seconds[way] = statistics.median(values)
    report("seaweed list", entries=arguments.entries, **{f"{way}_s": value for way, value in seconds.items()},
           over_weed_mount=seconds["weed_mount"] / seconds["mlcache"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    figures = {"sequential": figure_sequential, "files": figure_files, "list": figure_list}
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--weed", default=seaweed_cluster.weed_program())
    parser.add_argument("--size", type=int, default=1 << 30)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--dir", default="/var/tmp")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in figures]
    if unknown:
        parser.error(f"unknown figure '{unknown[0]}': choose from {', '.join(figures)}")
    if arguments.weed is None:
        print("seaweed figures: left out, no `weed` program (set WEED_BIN, give --weed, or put it on PATH)")
        return
    os.environ["WEED_BIN"] = arguments.weed
    work = pathlib.Path(tempfile.mkdtemp(prefix="mlcache-seaweed-", dir=arguments.dir))
    try:
        with seaweed_cluster.Cluster(work / "cluster") as cluster:
            version = subprocess.run([arguments.weed, "version"], capture_output=True, text=True, check=True).stdout
            report("seaweed cluster", version=re.search(r"\d+\.\d+", version.split("GB", 1)[-1]).group(0))
            for name in arguments.names or figures:
                figures[name](arguments, cluster, work)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
