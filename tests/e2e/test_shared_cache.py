"""One cache for all jobs: counters agree with what the store saw (promises 3 and 4)."""
import concurrent.futures
import json
import os
import random
import subprocess
import sys
import threading
import time

import harness
from harness import KIB, MIB
from logging_s3 import LoggingS3

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret"}


def read_all(directory, seed=0):
    """Reads every file below `directory` with eight threads; the bytes read."""
    paths = [os.path.join(folder, name) for folder, folders, names in os.walk(directory) for name in names
             if ".mlcache" not in folder]
    assert paths

    def read(path):
        with open(path, "rb") as file:
            return len(file.read())
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return sum(pool.map(read, sorted(paths, key=lambda path: hash((seed, path)))))


def test_two_cold_mounts_and_eight_readers_fetch_each_byte_once(hosts, source):
    size = harness.make_tree(source, files=300)
    big = 21 * MIB + 3
    harness.make_file(source / "big", big)
    harness.settle(source)
    with LoggingS3(source) as server:
        host = hosts(environment=KEYS)
        mounts = [host.mount(server.url, name) for name in ("one", "two")]
        command = [sys.executable, harness.ROOT / "bench/read_epochs.py", "--plain", "--workers", "4", "--epochs", "1"]
        readers = [subprocess.Popen([*command, mountpoint], stdout=subprocess.PIPE, text=True) for mountpoint in mounts]
        rows = [json.loads(reader.communicate(timeout=120)[0]) for reader in readers]
        assert {row["bytes"] for row in rows} == {size + big}
        assert len({row["checksum"] for row in rows}) == 1
        assert host.total("store_read_bytes_total") == size + big
        assert server.body_bytes == size + big
        assert len(server.gets) == len(set(server.gets)), "a range was fetched twice"
        before = len(server.gets)
        for mountpoint in mounts:
            host.umount(mountpoint)
        again = host.mount(server.url, "three")
        assert read_all(again) == size + big
        assert host.total("store_read_bytes_total") == size + big
        assert len(server.gets) == before, "the second epoch asked the store"
        assert host.total("cache_hit_bytes_total") >= size + big


def test_random_reads_of_a_file_larger_than_the_cache_fetch_their_blocks_alone(hosts, source):
    block, size = 64 * KIB, 96 * MIB
    data = harness.make_file(source / "huge", size).read_bytes()
    harness.settle(source)
    host = hosts(tier_size="64MiB")
    mountpoint = host.mount(f"file://{source}")
    random_offsets = random.Random(7)
    asked = set()
    with open(mountpoint / "huge", "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for _ in range(150):
            at = random_offsets.randrange(block, size - 8 * KIB)
            assert os.pread(file.fileno(), 8 * KIB, at) == data[at:at + 8 * KIB]
            # The kernel asks for whole pages.
            asked.update(range(at // 4096 * 4096 // block, (at + 8 * KIB - 1) // block + 1))
    assert host.total("store_read_bytes_total") <= 1.1 * block * len(asked)


def test_prefix_mounts_share_objects(host, source):
    harness.make_tree(source / "a", files=20)
    outer = host.mount(f"file://{source}", "outer")
    assert read_all(outer / "a") == (fetched := host.total("store_read_bytes_total"))
    inner = host.mount(f"file://{source}/a", "inner")
    read_all(inner)
    assert host.total("store_read_bytes_total") == fetched


def test_the_budget_holds_at_every_instant(hosts, source):
    budget = 96 * MIB
    harness.make_tree(source, files=1200, mean=100 * KIB)
    harness.make_file(source / "huge", 150 * MIB)
    harness.settle(source)
    host = hosts(tier_size=str(budget))
    mountpoint = host.mount(f"file://{source}")
    worst, done = [0], threading.Event()

    def watch():
        while not done.is_set():
            used = 0
            for folder, _, names in os.walk(host.tier):
                for name in names + ["."]:
                    try:
                        used += os.lstat(os.path.join(folder, name)).st_blocks * 512
                    except FileNotFoundError:
                        pass
            worst[0] = max(worst[0], used)
            time.sleep(0.005)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert read_all(mountpoint) == read_all(source)
        assert harness.digest(mountpoint / "huge") == harness.digest(source / "huge")
        run_dry = harness.tree_digest(source)
        assert harness.tree_digest(mountpoint) == run_dry
    finally:
        done.set()
        watcher.join()
    assert 0 < worst[0] <= budget, f"{worst[0]} of {budget}"
    assert host.total("tier_used_bytes") <= budget


def test_warmup_check_and_evict_agree_to_the_byte(host, source):
    size = harness.make_tree(source, files=60)
    mountpoint = host.mount(f"file://{source}")
    progress = [json.loads(line) for line in host.ctl("warmup", "--progress=json", mountpoint).stdout.splitlines()]
    assert progress[-1]["bytes_done"] == size and progress[-1]["files_done"] == 60
    assert host.total("store_read_bytes_total") == size
    assert read_all(mountpoint) == size
    assert host.total("store_read_bytes_total") == size
    whole = f"60 files: 60 complete, 0 in part, 0 not cached; {size:,} of {size:,} bytes"
    assert whole in host.ctl("check", mountpoint).stdout
    host.ctl("evict", mountpoint / "class0")
    assert "12 files: 0 complete, 0 in part, 12 not cached; 0 of " in host.ctl("check", mountpoint / "class0").stdout
    host.umount(mountpoint)
    mountpoint = host.mount(f"file://{source}")
    left = sum(path.stat().st_size for path in (source / "class0").iterdir())
    assert read_all(mountpoint) == size
    assert host.total("store_read_bytes_total") == size + left


def test_slow_down_is_retried_and_counted_apart(hosts, source):
    size = harness.make_tree(source, files=30)
    with LoggingS3(source) as server:
        host = hosts(environment=KEYS)
        mountpoint = host.mount(server.url)
        os.listdir(mountpoint / "class0")
        server.fail_next = 3
        assert read_all(mountpoint) == size
        stats = host.stats()
        assert harness.total(stats["store_read_bytes_total"]) == size
        assert harness.total(stats["store_retries_total"]) >= 1
