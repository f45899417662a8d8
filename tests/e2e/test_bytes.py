"""Every byte, name and attribute through a mount is the store's (promise 1)."""
import ctypes
import mmap
import os
import random
import subprocess
import threading

import harness
from harness import KIB, MIB

CHUNK = 4 * MIB
BLOCK = 64 * KIB
SIZES = [0, 1, 2, 4095, 4096, 4097, BLOCK - 1, BLOCK, BLOCK + 1, MIB - 1, MIB, MIB + 1, CHUNK - 1, CHUNK, CHUNK + 1,
         2 * CHUNK - 1, 2 * CHUNK, 3 * CHUNK + 12345, 40 * MIB + 7]
NAMES = ["with space", "tab\there", "new\nline", "ünïcödé-文件-🐟", "-dash", "quote'\"", "back\\slash", "per%20cent", "plus+",
         "x" * 255, "#hash?query&x=1", "trailing.", "..hidden", "*star*"]


def test_tree_of_all_sizes_and_names_is_identical(host, source):
    for size in SIZES:
        harness.make_file(source / "sizes" / f"size-{size}", size)
    for name in NAMES:
        harness.make_file(source / "names" / name, 1000 + len(name))
        (source / "dirs" / name).mkdir(parents=True)
    (source / "names" / os.fsdecode(b"latin1-\xe9")).write_bytes(b"bytes, not text")
    (source / "empty-directory").mkdir()
    (source / "link-to-file").symlink_to("sizes/size-4097")
    (source / "link-to-directory").symlink_to("names")
    (source / "dangling").symlink_to("nowhere")
    os.chmod(source / "sizes/size-1", 0o640)
    os.utime(source / "sizes/size-2", (1_000_000_000, 1_000_000_001))
    with open(source / "sparse", "wb") as file:
        file.truncate(100 * MIB)
        file.seek(50 * MIB)
        file.write(b"island")
    harness.settle(source)
    first = host.mount(f"file://{source}", "first")
    second = host.mount(f"file://{source}", "second")
    expected = harness.tree_digest(source)
    assert harness.tree_digest(first) == expected
    assert harness.tree_digest(second) == expected
    assert harness.tree_digest(first) == expected


def test_random_reads_by_many_threads_match(host, source):
    data = harness.make_file(source / "big", 37 * MIB + 11).read_bytes()
    harness.settle(source)
    path = host.mount(f"file://{source}") / "big"
    failures = []

    def reader(seed):
        rng = random.Random(seed)
        with open(path, "rb", buffering=0) as file:
            for _ in range(60):
                offset = rng.randrange(len(data) + 10)
                length = rng.choice([1, 100, 4096, 70000, 1 << 20, 3 << 20])
                got = os.pread(file.fileno(), length, offset)
                if got != data[offset:offset + length]:
                    failures.append((seed, offset, length, len(got)))
    threads = [threading.Thread(target=reader, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[:5]


def test_mmap_cold_and_warm(host, source):
    data = harness.make_file(source / "mapped", 9 * MIB + 5).read_bytes()
    harness.settle(source)
    path = host.mount(f"file://{source}") / "mapped"
    for _ in range(2):
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
            order = list(range(0, len(data), 4096))
            random.Random(3).shuffle(order)
            assert all(view[at:at + 100] == data[at:at + 100] for at in order)
            assert bytes(view) == data


def test_direct_io(host, source):
    data = harness.make_file(source / "direct", 5 * MIB + 123).read_bytes()
    harness.settle(source)
    path = host.mount(f"file://{source}") / "direct"
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        buffer = mmap.mmap(-1, MIB)
        got = b""
        while True:
            count = os.preadv(descriptor, [buffer], len(got))
            got += buffer[:count]
            if count < len(buffer):
                break
        assert got == data
    finally:
        os.close(descriptor)


def test_read_after_fork_shares_the_offset(host, source):
    data = harness.make_file(source / "forked", 3 * MIB).read_bytes()
    harness.settle(source)
    descriptor = os.open(host.mount(f"file://{source}") / "forked", os.O_RDONLY)
    try:
        assert os.read(descriptor, 1000) == data[:1000]
        child = os.fork()
        if child == 0:
            os._exit(0 if os.read(descriptor, 1000) == data[1000:2000] else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert os.read(descriptor, 1000) == data[2000:3000]
    finally:
        os.close(descriptor)


def test_holes_seek_and_sendfile(host, source):
    data = harness.make_file(source / "file", 2 * MIB + 1).read_bytes()
    harness.settle(source)
    path = host.mount(f"file://{source}") / "file"
    with open(path, "rb") as file, open(source.parent / "copy", "wb") as copy:
        assert file.seek(0, os.SEEK_END) == len(data)
        sent = 0
        while sent < len(data):
            sent += os.sendfile(copy.fileno(), file.fileno(), sent, len(data) - sent)
    assert (source.parent / "copy").read_bytes() == data


def test_a_one_gib_file_streams_whole(hosts, source):
    big = source / "one-gib"
    with open(big, "wb") as file:
        block = random.Random(5).randbytes(MIB)
        for index in range(1024):
            file.write(index.to_bytes(8, "little") + block[8:])
    harness.settle(source)
    host = hosts(tier_size="2GiB")
    mountpoint = host.mount(f"file://{source}")
    assert harness.digest(mountpoint / "one-gib") == harness.digest(big)
    assert host.total("store_read_bytes_total") == 1 << 30


def test_exec_from_the_mount(host, source):
    program = source / "program"
    program.write_bytes(open("/bin/true", "rb").read())
    os.chmod(program, 0o755)
    harness.settle(source)
    assert subprocess.run([host.mount(f"file://{source}") / "program"], check=False).returncode == 0


def test_writes_are_refused_read_only(host, source):
    harness.make_file(source / "file", 10)
    harness.settle(source)
    mountpoint = host.mount(f"file://{source}")
    attempts = [lambda: open(mountpoint / "file", "r+b"), lambda: open(mountpoint / "new", "wb"),
                lambda: os.mkdir(mountpoint / "d"), lambda: os.unlink(mountpoint / "file"),
                lambda: os.rename(mountpoint / "file", mountpoint / "g"), lambda: os.chmod(mountpoint / "file", 0o600),
                lambda: os.truncate(mountpoint / "file", 0), lambda: os.setxattr(mountpoint / "file", "user.x", b"y")]
    for attempt in attempts:
        try:
            attempt()
        except OSError as error:
            assert error.errno in (30, 95), error  # EROFS, or EOPNOTSUPP of the xattr
        else:
            raise AssertionError("a read-only mount took a change")


def test_seekdir_and_large_directory(host, source):
    for index in range(3000):
        (source / f"entry-{index:04d}").write_bytes(b"x" * (index % 7))
    harness.settle(source)
    mountpoint = host.mount(f"file://{source}")
    names = sorted(os.listdir(source))
    assert sorted(name for name in os.listdir(mountpoint)) == names
    libc = ctypes.CDLL(None, use_errno=True)
    libc.opendir.restype = ctypes.c_void_p
    libc.telldir.argtypes = libc.closedir.argtypes = [ctypes.c_void_p]
    libc.telldir.restype = ctypes.c_long
    libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
    libc.readdir.argtypes = [ctypes.c_void_p]
    libc.readdir.restype = ctypes.c_void_p

    def next_name(stream):
        entry = libc.readdir(stream)
        return ctypes.string_at(entry + 19) if entry else None
    stream = libc.opendir(os.fsencode(mountpoint))
    places = {}
    while True:
        at = libc.telldir(stream)
        name = next_name(stream)
        if name is None:
            break
        places[name] = at
    for name in random.Random(1).sample(sorted(places), 50):
        libc.seekdir(stream, places[name])
        assert next_name(stream) == name
    libc.closedir(stream)
