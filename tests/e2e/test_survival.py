"""Whatever dies, no application sees an error and no byte is wrong (promises 2, 5 and 8)."""
import errno
import os
import random
import signal
import subprocess
import threading
import time

import pytest

import harness
from harness import KIB, MIB
from logging_s3 import LoggingS3
from test_shared_cache import KEYS, read_all


class Readers:
    """Threads that read random pieces and compare them until stopped; `errors` must stay empty."""

    def __init__(self, mountpoint, source, count=4):
        self.errors, self.reads, self.worst = [], 0, 0.0
        self.stopped = threading.Event()
        self.files = [(path.relative_to(source), path.read_bytes()) for path in sorted(source.rglob("*")) if path.is_file()]
        self.threads = [threading.Thread(target=self.loop, args=(mountpoint, seed)) for seed in range(count)]
        for thread in self.threads:
            thread.start()

    def loop(self, mountpoint, seed):
        rng = random.Random(seed)
        while not self.stopped.is_set():
            name, data = rng.choice(self.files)
            start = time.monotonic()
            try:
                descriptor = os.open(mountpoint / name, os.O_RDONLY)
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                    offset = rng.randrange(len(data))
                    if os.pread(descriptor, 100_000, offset) != data[offset:offset + 100_000]:
                        self.errors.append((name, offset, "wrong bytes"))
                finally:
                    os.close(descriptor)
            except OSError as error:
                self.errors.append((name, error))
            self.reads += 1
            self.worst = max(self.worst, time.monotonic() - start)

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join(60)
        assert not self.errors, self.errors[:5]
        assert self.reads > 0


def test_ten_kills_of_the_fuse_server_under_load(host, source):
    harness.make_tree(source, files=80, mean=300 * KIB)
    mountpoint = host.mount(f"file://{source}", options="ro,attr_ttl=0")
    readers = Readers(mountpoint, source)
    for _ in range(10):
        before = readers.reads
        old = harness.wait_for(lambda: host.server_pid(mountpoint), what="a server")
        os.kill(old, signal.SIGKILL)
        harness.wait_for(lambda old=old: host.server_pid(mountpoint) not in (None, old), what="a successor")
        harness.wait_for(lambda before=before: readers.reads > before + 20, 20, "reads go on")
    readers.stop()


def test_kills_of_the_daemon_under_load(host, source):
    harness.make_tree(source, files=80, mean=300 * KIB)
    mountpoint = host.mount(f"file://{source}", options="ro,attr_ttl=0")
    readers = Readers(mountpoint, source)
    for round_number in range(5):
        before = readers.reads
        harness.wait_for(lambda before=before: readers.reads > before + 20, 20, "reads before the kill")
        host.kill() if round_number % 2 else host.stop()
        host.start()
        before = readers.reads
        harness.wait_for(lambda before=before: readers.reads > before + 20, 20, "reads after the restart")
    readers.stop()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_restarted_daemon_keeps_its_cache_and_verifies_nothing_again(host, source, how):
    size = harness.make_tree(source, files=120)
    mountpoint = host.mount(f"file://{source}")
    assert read_all(mountpoint) == size
    time.sleep(2.5)  # the cache commits in groups of at most 1 s; a kill may lose what is younger
    getattr(host, how)()
    host.start()
    host.umount(mountpoint)
    mountpoint = host.mount(f"file://{source}", "again")
    assert read_all(mountpoint) == size
    stats = host.stats()
    assert harness.total(stats.get("store_read_bytes_total", 0)) == 0
    assert harness.total(stats.get("verified_bytes_total", 0)) == 0
    assert harness.total(stats.get("cache_hit_bytes_total", 0)) >= size


def test_corrupted_cache_is_never_served(host, source):
    size = harness.make_tree(source, files=40)
    mountpoint = host.mount(f"file://{source}")
    assert read_all(mountpoint) == size
    expected = harness.tree_digest(source)
    host.stop()
    damaged = 0
    for path in sorted((host.tier / "objects").rglob("*")):
        if path.is_file() and path.stat().st_size > 100:
            os.chmod(path, 0o600)
            with open(path, "r+b") as file:
                file.seek(50)
                byte = file.read(1)
                file.seek(50)
                file.write(bytes([byte[0] ^ 0xFF]))
            damaged += 1
    assert damaged >= 40
    host.start()
    host.umount(mountpoint)
    mountpoint = host.mount(f"file://{source}", "again")
    assert harness.tree_digest(mountpoint) == expected
    assert host.total("corrupt_blocks_total") >= 40


def test_operations_wait_for_the_daemon_and_a_killed_reader_ends(host, source):
    # A file each: a reader that waits for another one's lookup of the same name waits in the kernel, beyond any signal.
    harness.make_file(source / "victims", 1000)
    data = harness.make_file(source / "waiters", 3 * MIB).read_bytes()
    harness.settle(source)
    mountpoint = host.mount(f"file://{source}", options="ro,attr_ttl=0")
    host.kill()
    victim = subprocess.Popen(["cat", mountpoint / "victims"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    waiter = subprocess.Popen(["cat", mountpoint / "waiters"], stdout=subprocess.PIPE)
    time.sleep(1)
    assert victim.poll() is None and waiter.poll() is None
    victim.kill()
    victim.wait(10)
    host.start()
    assert waiter.communicate(timeout=20)[0] == data
    assert waiter.returncode == 0


def test_io_timeout_ends_the_wait(host, source):
    harness.make_file(source / "file", 1000)
    harness.settle(source)
    mountpoint = host.mount(f"file://{source}", options="ro,attr_ttl=0,io_timeout=2s")
    host.kill()
    start = time.monotonic()
    with pytest.raises(OSError) as caught:
        open(mountpoint / "file", "rb").read()
    assert caught.value.errno in (errno.ETIMEDOUT, errno.EIO)
    assert 1.5 < time.monotonic() - start < 6
    host.start()
    harness.wait_for(lambda: (mountpoint / "file").exists(), 10, "the mount works again")
    assert len((mountpoint / "file").read_bytes()) == 1000


def test_a_hanging_store_does_not_make_readers_unkillable(hosts, source):
    harness.make_file(source / "slow", MIB)
    harness.settle(source)
    with LoggingS3(source) as server:
        host = hosts(environment=KEYS)
        mountpoint = host.mount(server.url)
        server.delay = 30
        victim = subprocess.Popen(["cat", mountpoint / "slow"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(1)
        assert victim.poll() is None
        victim.kill()
        victim.wait(10)


def test_unmount_leaves_nothing(host, source):
    harness.make_tree(source, files=5)
    mountpoint = host.mount(f"file://{source}")
    read_all(mountpoint)
    pids = host.mount_processes(mountpoint)
    assert len(pids) >= 2
    host.umount(mountpoint)
    harness.wait_for(lambda: not any(map(harness.process_exists, pids)), 5, "keeper and server are gone")
    assert not harness.is_mounted(mountpoint)
    harness.wait_for(lambda: host.total("mounts") == 0, 5, "the session is gone")
    assert host.total("slots_in_use") == 0


def test_an_unmount_while_the_daemon_is_away(host, source):
    harness.make_tree(source, files=5)
    mountpoint = host.mount(f"file://{source}")
    host.kill()
    pids = host.mount_processes(mountpoint)
    host.umount(mountpoint)
    harness.wait_for(lambda: not any(map(harness.process_exists, pids)), 5, "keeper and server are gone")


def test_daemon_stops_cleanly_on_sigterm(host, source):
    harness.make_tree(source, files=5)
    mountpoint = host.mount(f"file://{source}")
    read_all(mountpoint)
    start = time.monotonic()
    assert host.stop() == 0
    assert time.monotonic() - start < 10
    assert not (host.run / "session.sock").exists() and not (host.run / "control.sock").exists()
