"""A changing store: a handle keeps its version, a re-open sees the new one, nothing is ever mixed (promise 1)."""
import os
import threading
import time

import harness
from harness import MIB


def test_reopen_sees_a_rewrite_within_the_ttl(host, source):
    path = source / "file"
    path.write_bytes(b"old" * 1000)
    harness.settle(source)
    mountpoint = host.mount(f"file://{source}", options="ro,attr_ttl=1s")
    assert (mountpoint / "file").read_bytes() == b"old" * 1000
    inode = os.stat(mountpoint / "file").st_ino
    path.write_bytes(b"newer" * 2000)
    harness.wait_for(lambda: (mountpoint / "file").read_bytes() == b"newer" * 2000, 4, "the new version")
    assert os.stat(mountpoint / "file").st_size == 10000
    assert os.stat(mountpoint / "file").st_ino == inode, "st_ino names the path"


def test_an_open_handle_never_sees_a_mix(host, source):
    path = source / "file"
    path.write_bytes(b"a" * (12 * MIB))
    harness.settle(source)
    mountpoint = host.mount(f"file://{source}", options="ro,attr_ttl=1s")
    with open(mountpoint / "file", "rb", buffering=0) as file:
        first = os.pread(file.fileno(), MIB, 0)
        path.write_bytes(b"b" * (12 * MIB))
        seen = {first[:1]}
        for offset in range(0, 12 * MIB, MIB):
            try:
                seen |= set(map(bytes, {os.pread(file.fileno(), MIB, offset)[:1]}))
            except OSError:
                pass
        assert seen == {b"a"}
    harness.wait_for(lambda: open(mountpoint / "file", "rb").read(1) == b"b", 5, "the new version")


def test_a_writer_that_never_stops_yields_errors_but_no_mix(host, source):
    path = source / "busy"
    size = 6 * MIB
    path.write_bytes(b"\0" * size)
    harness.settle(source)
    mountpoint = host.mount(f"file://{source}", options="ro,attr_ttl=0")
    stop = threading.Event()

    def writer():
        number = 1
        while not stop.is_set():
            temporary = source / ".tmp"
            temporary.write_bytes(bytes([number % 250 + 1]) * size)
            os.rename(temporary, path)
            number += 1
            time.sleep(0.02)
    thread = threading.Thread(target=writer)
    thread.start()
    whole = 0
    try:
        for _ in range(40):
            try:
                data = (mountpoint / "busy").read_bytes()
            except OSError:
                continue
            assert len(set(data[::4096])) <= 1, "two versions in one read"
            whole += len(data) == size
    finally:
        stop.set()
        thread.join()
    harness.settle(source)
    assert (mountpoint / "busy").read_bytes() == path.read_bytes()


def test_new_and_removed_files_show_within_the_ttl(host, source):
    (source / "dir").mkdir()
    (source / "dir/old").write_bytes(b"1")
    harness.settle(source)
    mountpoint = host.mount(f"file://{source}", options="ro,attr_ttl=1s")
    assert os.listdir(mountpoint / "dir") == ["old"]
    assert not (mountpoint / "dir/new").exists()
    (source / "dir/new").write_bytes(b"22")
    (source / "dir/old").unlink()
    harness.wait_for(lambda: os.listdir(mountpoint / "dir") == ["new"], 4, "the listing changes")
    harness.wait_for(lambda: (mountpoint / "dir/new").exists(), 4, "the new file")
    assert (mountpoint / "dir/new").read_bytes() == b"22"
    harness.wait_for(lambda: not (mountpoint / "dir/old").exists(), 4, "the old one goes")


def test_invalidate_shows_a_change_at_once_on_an_immutable_mount(host, source):
    path = source / "file"
    path.write_bytes(b"old")
    harness.settle(source)
    mountpoint = host.mount(f"file://{source}", options="ro,immutable")
    assert (mountpoint / "file").read_bytes() == b"old"
    path.write_bytes(b"new!")
    harness.settle(source)
    assert (mountpoint / "file").read_bytes() == b"old"
    host.ctl("invalidate", mountpoint)
    harness.wait_for(lambda: (mountpoint / "file").read_bytes() == b"new!", 5, "the new version")
