"""Complete files are read by the kernel itself (passthrough) or opened without us (no-open): same bytes, same promises."""
import ctypes
import errno
import mmap
import os
import pathlib
import random
import signal
import threading
import time

import pytest

import harness
from harness import KIB, MIB


def mode_of(host, mountpoint):
    """The serving mode in the mount's log."""
    lines = [line for line in log_of(mountpoint).read_text().splitlines() if "files are served in mode" in line]
    return lines[-1].split("in mode ")[1].split(",")[0] if lines else ""


def log_of(mountpoint):
    return mountpoint.parent / f"{mountpoint.name}.log"


def mount(host, source, name="mnt", options="ro"):
    mountpoint = host.directory / name
    mountpoint.mkdir(exist_ok=True)
    harness.run(harness.BIN / "mlcache-mount", f"file://{source}", mountpoint, f"--socket_dir={host.run}",
                f"--log_file={host.directory / f'{name}.log'}", "-o", options)
    host.mounts.append(mountpoint)
    return mountpoint


def whole_hits(host):
    """Bytes of files that were opened to be read without us."""
    return sum(host.stats()["cache_hit_bytes_total"].get("whole", {}).values())


def reads(host):
    """READs that came to the daemon."""
    return harness.total(host.stats()["requests_total"].get("read", 0))


def drop_pages(path):
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.fixture
def large(source):
    path = harness.make_file(source / "large.bin", 24 * MIB + 4321)
    harness.settle(source)
    return path


def read_until_complete(path, data):
    """Reads by a handle that stays on the ordinary way, and returns it."""
    handle = open(path, "rb")
    assert handle.read() == data
    # Readers get their bytes before these are in the cache.
    whole = f"{len(data)}/{len(data)}"
    harness.wait_for(lambda: os.getxattr(path, "user.mlcache.cached").decode() == whole, what="the file is complete")
    return handle


def test_passthrough_reads_come_to_nobody(host, source, large):
    mountpoint = mount(host, source)
    data = large.read_bytes()
    path = mountpoint / large.name
    read_until_complete(path, data).close()
    assert mode_of(host, mountpoint) == "passthrough"
    before = reads(host)
    for _ in range(3):
        drop_pages(path)
        assert path.read_bytes() == data
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == data
    assert reads(host) == before
    harness.wait_for(lambda: whole_hits(host) >= 7 * len(data), what="every open is counted")


def test_a_small_file_is_whole_at_its_first_open(host, source):
    path = harness.make_file(source / "small.bin", 110_000)
    harness.settle(source)
    mountpoint = mount(host, source)
    before = reads(host)
    assert (mountpoint / path.name).read_bytes() == path.read_bytes()
    assert reads(host) == before
    assert host.total("store_read_bytes_total") == 110_000
    assert harness.total(host.stats()["store_requests_total"].get("ok", {}).get("read", 0)) <= 1


def test_a_reopen_takes_no_word_with_the_daemon(host, source):
    path = harness.make_file(source / "small.bin", 50_000)
    harness.settle(source)
    mountpoint = mount(host, source, options="ro,immutable")
    data = path.read_bytes()
    assert (mountpoint / path.name).read_bytes() == data
    host.kill()  # nobody is there to be asked
    for _ in range(50):
        assert (mountpoint / path.name).read_bytes() == data
    host.start()


def test_opens_are_told_to_the_cache_in_batches(host, source):
    path = harness.make_file(source / "small.bin", 50_000)
    harness.settle(source)
    mountpoint = mount(host, source)
    for _ in range(100):
        (mountpoint / path.name).read_bytes()
    harness.wait_for(lambda: whole_hits(host) == 100 * 50_000, what="every open is counted")


def test_turns_to_passthrough_while_a_slow_handle_is_open(host, source, large):
    """One mode a nodeid: the slow handle keeps its own, a new open gets another nodeid with the same st_ino (trap 1)."""
    data = large.read_bytes()
    mountpoint = mount(host, source)
    path = mountpoint / large.name
    slow = read_until_complete(path, data)
    before = reads(host)
    with open(path, "rb") as fast:
        os.posix_fadvise(fast.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert fast.read() == data
        assert reads(host) == before, "read by the kernel"
        assert os.fstat(fast.fileno()).st_ino == os.fstat(slow.fileno()).st_ino
        slow.seek(0)
        assert slow.read() == data
        with mmap.mmap(slow.fileno(), 0, prot=mmap.PROT_READ) as a, mmap.mmap(fast.fileno(), 0, prot=mmap.PROT_READ) as b:
            assert a[:] == b[:] == data
    slow.close()


def test_an_open_without_a_lookup_sees_no_error(host, source, large):
    """By /proc/self/fd there is no name to look up again, and ESTALE would be the application's to see."""
    data = large.read_bytes()
    mountpoint = mount(host, source)
    slow = read_until_complete(mountpoint / large.name, data)
    for _ in range(3):
        with open(f"/proc/self/fd/{slow.fileno()}", "rb") as again:
            assert again.read() == data
    slow.close()


def test_o_direct_reads_of_a_complete_file(host, source, large):
    data = large.read_bytes()
    mountpoint = mount(host, source)
    read_until_complete(mountpoint / large.name, data).close()
    descriptor = os.open(mountpoint / large.name, os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, MIB)
    assert os.preadv(descriptor, [buffer], 4 * MIB) == MIB
    assert buffer[:] == data[4 * MIB:5 * MIB]
    os.close(descriptor)


def test_a_lent_file_cannot_be_written_by_any_way(host, source, large):
    """The kernel re-opens what was lent with the application's flags (trap 3): the read-only mount refuses."""
    mountpoint = mount(host, source)
    path = mountpoint / large.name
    data = large.read_bytes()
    read_until_complete(path, data).close()
    held = open(path, "rb")
    remount, nosuid, nodev = 32, 2, 4  # as root may, whatever the mount was made as
    assert ctypes.CDLL(None).mount(b"none", os.fsencode(mountpoint), None, remount | nosuid | nodev, None) == 0
    for flags in (os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_TRUNC):
        with pytest.raises(OSError):
            os.open(path, flags)
    with pytest.raises(OSError):
        mmap.mmap(held.fileno(), 0, prot=mmap.PROT_WRITE, flags=mmap.MAP_SHARED)
    assert held.read() == data
    held.close()
    server = host.server_pid(mountpoint)
    lent = [link for link in pathlib.Path(f"/proc/{server}/fd").iterdir() if "/objects" in os.readlink(link)]
    assert not lent, "descriptors are handed on, not kept"


def test_a_mapping_that_outlives_everything_keeps_its_bytes(host, source, large):
    """RELEASE does not end a mapping (trap 2): evicted, its space is charged and its bytes stay until it goes."""
    data = large.read_bytes()
    mountpoint = mount(host, source)
    path = mountpoint / large.name
    read_until_complete(path, data).close()
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    used = harness.wait_for(lambda: host.total("tier_used_bytes") >= len(data) and host.total("tier_used_bytes"), 10,
                            "the gauge, which follows once a second")
    host.ctl("evict", path)
    assert mapped[:] == data
    time.sleep(2.5)
    assert host.total("tier_used_bytes") > used - MIB, "still charged"
    harness.run("umount", "-l", mountpoint)
    host.mounts.remove(mountpoint)
    assert mapped[:] == data
    mapped.close()
    harness.wait_for(lambda: host.total("tier_used_bytes") < used - len(data) + MIB, 10, "the space comes free")


def test_eviction_makes_room_under_lent_files(hosts, source):
    """Idle registrations are revoked when the space is wanted; the budget holds throughout."""
    host = hosts(tier_size="96MiB")
    paths = [harness.make_file(source / f"{i}.bin", 12 * MIB) for i in range(16)]
    harness.settle(source)
    mountpoint = mount(host, source)
    for _ in range(2):
        for path in paths:
            assert (mountpoint / path.name).read_bytes() == path.read_bytes()
            taken = int(harness.run("du", "-sB1", host.tier).stdout.split()[0])
            assert taken <= 96 * MIB, taken
    assert host.total("evicted_bytes_total") > 0
    assert mode_of(host, mountpoint) == "passthrough"


def test_a_new_version_while_the_old_is_read_by_the_kernel(host, source, large):
    mountpoint = mount(host, source, options="ro,attr_ttl=0")
    path = mountpoint / large.name
    old = large.read_bytes()
    read_until_complete(path, old).close()
    held = open(path, "rb")
    assert held.read(10) == old[:10]
    replacement = harness.make_file(source / "new", 3 * MIB, seed=9)
    os.rename(replacement, large)
    new = large.read_bytes()
    harness.settle(source)
    assert path.read_bytes() == new
    held.seek(0)
    assert held.read() == old, "an open handle keeps its version"
    held.close()


def test_ten_kills_of_the_server_in_each_mode(host, source):
    """Backing ids and open counts survive the server; no reader sees an error."""
    harness.make_tree(source, files=40, mean=200 * KIB)
    expected = {path.relative_to(source): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    for mode in ("passthrough", "noopen", "cached"):
        mountpoint = mount(host, source, f"mnt-{mode}", f"ro,open_mode={mode},attr_ttl=0")
        errors, done, stop = [], [0], threading.Event()

        def loop(seed):
            rng = random.Random(seed)
            names = sorted(expected)
            while not stop.is_set():
                name = rng.choice(names)
                try:
                    if (mountpoint / name).read_bytes() != expected[name]:
                        errors.append((name, "wrong bytes"))
                except OSError as error:
                    errors.append((name, error))
                done[0] += 1

        threads = [threading.Thread(target=loop, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            old = harness.wait_for(lambda: host.server_pid(mountpoint), what="a server")
            os.kill(old, signal.SIGKILL)
            harness.wait_for(lambda old=old: host.server_pid(mountpoint) not in (None, old), what="a successor")
            before = done[0]
            harness.wait_for(lambda before=before: done[0] > before + 20, 20, "reads go on")
        stop.set()
        for thread in threads:
            thread.join(60)
        assert not errors, (mode, errors[:5])
        host.umount(mountpoint)


def test_complete_files_stay_readable_while_the_daemon_is_dead(host, source, large):
    mountpoint = mount(host, source, options="ro,immutable")
    data = large.read_bytes()
    path = mountpoint / large.name
    read_until_complete(path, data).close()
    assert path.read_bytes() == data
    held = open(path, "rb")
    host.kill()
    drop_pages(path)
    assert held.read() == data
    assert path.read_bytes() == data
    held.close()
    host.start()
    assert path.read_bytes() == data


def test_noopen_keeps_opens_in_the_kernel(host, source):
    size = harness.make_tree(source, files=60)
    mountpoint = mount(host, source, options="ro,open_mode=noopen,attr_ttl=600s")
    expected = harness.tree_digest(source)
    assert harness.tree_digest(mountpoint) == expected
    opens = harness.total(host.stats()["requests_total"].get("open", 0))
    before = reads(host)
    for _ in range(2):
        assert harness.tree_digest(mountpoint) == expected
    assert harness.total(host.stats()["requests_total"].get("open", 0)) == opens <= 1
    assert reads(host) == before
    assert host.total("store_read_bytes_total") == size
    assert mode_of(host, mountpoint) == "noopen"
    # Neither do closes and reads: with the server stopped, all of it goes on.
    files = [path for path in sorted(mountpoint.rglob("*")) if path.is_file() and ".mlcache" not in path.parts][:20]
    server = host.server_pid(mountpoint)
    for path in files:
        path.read_bytes()
    os.kill(server, signal.SIGSTOP)
    try:
        harness.run("md5sum", *files, timeout=5)
    finally:
        os.kill(server, signal.SIGCONT)
    first = (mountpoint / ".mlcache/stats").read_text()
    assert '"open_mode": "noopen"' in first
    assert (mountpoint / ".mlcache/stats").read_text() != first, "each open shows its own moment"


def test_noopen_keeps_one_copy_in_the_page_cache(host, source):
    """The mount's kernel keeps what it read; the object files' own pages go as soon as they are on the disk."""
    size = harness.make_tree(source, files=60, mean=100 * KIB)
    mountpoint = mount(host, source, options="ro,open_mode=noopen")

    def resident():
        objects = [str(path) for path in (host.tier / "objects").rglob("*") if path.is_file()]
        return sum(map(int, harness.run("fincore", "-b", "-n", "-o", "RES", *objects).stdout.split()))

    for _ in range(2):
        for path in sorted(mountpoint.rglob("*.bin")):
            path.read_bytes()
    assert host.total("store_read_bytes_total") == size
    harness.wait_for(lambda: resident() < size / 20, 10, "the daemon's copy leaves the page cache")


def test_noopen_shows_a_new_version_within_attr_ttl(host, source):
    path = harness.make_file(source / "a.bin", 100_000)
    gone = harness.make_file(source / "b.bin", 6 * MIB)
    harness.settle(source)
    mountpoint = mount(host, source, options="ro,open_mode=noopen,attr_ttl=200ms")
    assert (mountpoint / "a.bin").read_bytes() == path.read_bytes()
    held = open(mountpoint / "b.bin", "rb")
    start = held.read(100)
    os.posix_fadvise(held.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    old = gone.read_bytes()
    assert old[:100] == start
    harness.make_file(source / "new", 80_000, seed=4).rename(path)
    harness.make_file(source / "newer", 6 * MIB, seed=4).rename(gone)
    new = path.read_bytes()
    harness.settle(source)
    harness.wait_for(lambda: (mountpoint / "a.bin").read_bytes() == new, 5, "the new version")
    host.ctl("evict", mountpoint / "b.bin")
    os.posix_fadvise(held.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        tail = os.pread(held.fileno(), 100_000, 5 * MIB)
        assert tail == old[5 * MIB:5 * MIB + 100_000], "the old version, or none"
    except OSError as error:
        assert error.errno == errno.EIO
    held.close()


def test_auto_chooses_by_the_tree(host, source):
    small, big = source / "small", source / "big"
    harness.make_tree(small, files=150, mean=20 * KIB)
    for i in range(3):
        harness.make_file(big / f"{i}.bin", 5 * MIB)
    harness.settle(source)
    of_small = mount(host, small, "mnt-small")
    of_big = mount(host, big, "mnt-big")
    for _ in range(2):
        assert harness.tree_digest(of_small) == harness.tree_digest(small)
        assert harness.tree_digest(of_big) == harness.tree_digest(big)
    assert mode_of(host, of_small) == "noopen"
    assert mode_of(host, of_big) == "passthrough"


def test_cached_is_the_way_where_it_is_asked_for(host, source, large):
    mountpoint = mount(host, source, options="ro,open_mode=cached")
    data = large.read_bytes()
    for _ in range(2):
        assert (mountpoint / large.name).read_bytes() == data
    assert mode_of(host, mountpoint) == "cached"
    assert whole_hits(host) == 0


def test_many_openers_of_partial_complete_changing_and_evicted_files(hosts, source):
    """0 errors and only right bytes, whatever state a file is in when it is opened, read or mapped."""
    host = hosts(tier_size="128MiB")
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    sizes = [7000, 110_000, 900_000, 3 * MIB, 9 * MIB, 20 * MIB, 33 * MIB, 40 * MIB]
    paths = [harness.make_file(source / f"f{i}.bin", size) for i, size in enumerate(sizes)]
    changing = harness.make_file(source / "changing.bin", 2 * MIB, seed=0)
    harness.settle(source)
    versions = {changing.read_bytes()}
    contents = {path.name: path.read_bytes() for path in paths}
    mounts = [mount(host, source, "a", "ro,attr_ttl=100ms"), mount(host, source, "b", "ro,attr_ttl=100ms,open_mode=passthrough"),
              mount(host, source, "c", "ro,attr_ttl=100ms,open_mode=cached")]
    stop, errors, done = threading.Event(), [], [0]

    def check(name, got, offset, length):
        if name == changing.name:
            return any(version[offset:offset + length] == got for version in versions)
        return contents[name][offset:offset + length] == got

    def loop(number):
        rng = random.Random(f"{seed}/{number}")
        held = []
        while not stop.is_set():
            name = rng.choice([*contents, changing.name])
            path = rng.choice(mounts) / name
            try:
                descriptor = os.open(path, os.O_RDONLY)
                size = os.fstat(descriptor).st_size
                offset = rng.randrange(size)
                length = rng.choice([100, 5000, 300_000, 2 * MIB])
                # (A mapping tells of a version that is gone by SIGBUS, so the changing file is not mapped.)
                if rng.random() < 0.3 and name != changing.name:
                    with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as mapped:
                        got = mapped[offset:offset + length]
                else:
                    got = os.pread(descriptor, length, offset)
                if not check(name, got, offset, length):
                    errors.append((str(path), offset, "wrong bytes"))
                if rng.random() < 0.3:
                    held.append(descriptor)
                else:
                    os.close(descriptor)
                if len(held) > 5:
                    os.close(held.pop(rng.randrange(len(held))))
            except OSError as error:
                # A version that has been replaced and was not cached whole cannot be had any more (docs/semantics.md).
                if not (name == changing.name and error.errno == errno.EIO):
                    errors.append((str(path), error))
            done[0] += 1
        for descriptor in held:
            os.close(descriptor)

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    rng = random.Random(seed)
    end = time.monotonic() + 12
    round_number = 0
    while time.monotonic() < end:
        round_number += 1
        host.ctl("evict", mounts[0] / rng.choice([*contents]))
        if round_number % 8 == 0:
            harness.make_file(source / "next", 2 * MIB, seed=round_number)
            versions.add((source / "next").read_bytes())
            os.rename(source / "next", changing)
        time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not errors, (seed, len(errors), errors[:5])
    assert done[0] > 200
    assert host.total("tier_used_bytes") <= 128 * MIB
