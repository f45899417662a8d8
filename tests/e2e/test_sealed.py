"""Sealed views with the real programs: what a job sees of them, and that nothing is left."""
import os
import pathlib
import signal
import subprocess

import pytest

import harness
from harness import KIB, MIB, make_file, make_tree, settle, tree_digest, wait_for

OPTIONS = "ro,immutable,allow_other,seal=on"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a view takes root's privileges")


def shown(mountpoint):
    """The types of what is mounted at `mountpoint`, the topmost last."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        lines = [line.split(" ") for line in table]
    return [line[line.index("-") + 1] for line in lines if line[4] == str(mountpoint)]


def sealed_text(host, mountpoint):
    for line in host.ctl("mounts").stdout.splitlines():
        if line.startswith(f"{mountpoint} "):
            for mark in (" yes: ", " in part: ", " no: "):
                if mark in line:
                    return line[line.index(mark) + 1:].strip()
    return ""


def wait_sealed(host, mountpoint, seconds=30):
    wait_for(lambda: shown(mountpoint) == ["overlay"], seconds,
             f"sealed; it says: {sealed_text(host, mountpoint)}")


def views(host):
    directory = host.tier / "views"
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def loop_devices():
    return subprocess.run(["losetup", "-n", "-O", "NAME"], capture_output=True, text=True, check=False).stdout


def expect_nothing_left(host, mountpoint, loops):
    wait_for(lambda: shown(mountpoint) == [], 10, "the mountpoint is free")
    wait_for(lambda: host.mount_processes(mountpoint) == [], 10, "the mount's processes end")
    wait_for(lambda: views(host) == [], 10, "the view's files go")
    assert loop_devices() == loops


@pytest.fixture
def source(workdir):
    directory = workdir / "data"
    make_tree(directory, files=60, mean=30 * KIB)
    make_file(directory / "large.bin", 9 * MIB + 17)
    (directory / "empty").touch()
    (directory / "deep/er").mkdir(parents=True)
    make_file(directory / "deep/er/odd \n name", 100)
    os.symlink("er/odd \n name", directory / "deep/link")
    os.link(directory / "large.bin", directory / "twin.bin")
    os.chmod(directory / "empty", 0o600)
    settle(directory)
    return directory


def test_sealed_from_warmup_to_umount(host, source):
    loops = loop_devices()
    expected = tree_digest(source)
    mountpoint = host.mount(f"file://{source}", options=OPTIONS)
    before = open(mountpoint / "large.bin", "rb")
    assert "warmup" in sealed_text(host, mountpoint) or shown(mountpoint) == ["fuse.mlcache"]
    host.ctl("warmup", mountpoint)
    wait_sealed(host, mountpoint)
    wait_for(lambda: sealed_text(host, mountpoint).startswith("yes: "), 10, "the mount has told of it")
    assert tree_digest(mountpoint) == expected
    assert before.read() == (source / "large.bin").read_bytes(), "a descriptor of before lives on"
    before.close()

    # The FUSE server stopped: reads, lookups and listings go on.
    server = host.server_pid(mountpoint)
    os.kill(server, signal.SIGSTOP)
    try:
        done = subprocess.run(["sh", "-c", 'cd "$1" && find . -type f | sort | xargs -d "\\n" cat 2>/dev/null | wc -c; ls none',
                               "sh", str(mountpoint / "class0")], capture_output=True, text=True, timeout=20, check=False)
    finally:
        os.kill(server, signal.SIGCONT)
    assert int(done.stdout) == sum(path.stat().st_size for path in (source / "class0").iterdir())
    assert "No such file" in done.stderr

    # The daemon killed: the same, and the next one takes the view over without verifying or fetching anything.
    host.kill()
    assert tree_digest(mountpoint) == expected
    host.start()
    wait_for(lambda: sealed_text(host, mountpoint).startswith("yes: "), 20, "the view is adopted")
    assert shown(mountpoint) == ["overlay"]
    assert len(views(host)) == 1
    assert host.total("store_read_bytes_total") == 0
    # The server killed: its successor tells of the view again.
    os.kill(host.server_pid(mountpoint), signal.SIGKILL)
    wait_for(lambda: sealed_text(host, mountpoint).startswith("yes: "), 20, "the successor tells of the view")
    assert tree_digest(mountpoint) == expected

    host.umount(mountpoint)
    expect_nothing_left(host, mountpoint, loops)


def test_sealed_by_order_and_back(host, source):
    mountpoint = host.mount(f"file://{source}", options="ro,immutable,allow_other,seal=off")
    refused = host.ctl("seal", mountpoint / "no-such-mount/../..", check=False)
    assert refused.returncode == 1
    none = host.ctl("seal", mountpoint, check=False)
    assert none.returncode == 1 and "mlcachectl warmup" in none.stderr
    host.ctl("warmup", mountpoint)
    assert shown(mountpoint) == ["fuse.mlcache"], "seal=off"
    assert "sealed: yes:" in host.ctl("seal", mountpoint).stdout
    assert shown(mountpoint) == ["overlay"]
    held = open(mountpoint / "large.bin", "rb")
    assert "no: unsealed by order" in host.ctl("seal", "--off", mountpoint).stdout
    assert shown(mountpoint) == ["fuse.mlcache"]
    assert held.read() == (source / "large.bin").read_bytes()
    assert len(views(host)) == 1, "kept for the file that is open"
    held.close()
    wait_for(lambda: views(host) == [], 10, "the view's files go")
    host.ctl("seal", mountpoint)

    # Evicted: the view goes first, and the bytes are fetched again.
    host.ctl("evict", mountpoint / "large.bin")
    assert shown(mountpoint) == ["fuse.mlcache"]
    assert "evicted or invalidated" in sealed_text(host, mountpoint)
    assert (mountpoint / "large.bin").read_bytes() == (source / "large.bin").read_bytes()

    # Invalidated: a change at the store is then seen.
    host.ctl("warmup", mountpoint)
    host.ctl("seal", mountpoint)
    make_file(source / "large.bin", MIB, seed=7)
    settle(source)
    host.ctl("invalidate", mountpoint)
    assert shown(mountpoint) == ["fuse.mlcache"]
    assert (mountpoint / "large.bin").read_bytes() == (source / "large.bin").read_bytes()
    # The keeper's end takes everything along.
    host.ctl("warmup", mountpoint)
    host.ctl("seal", mountpoint)
    loops = loop_devices()
    os.kill(min(host.mount_processes(mountpoint)), signal.SIGTERM)
    host.mounts.remove(mountpoint)
    expect_nothing_left(host, mountpoint, loops)


def test_in_part(host, source):
    """What is not complete falls through, and needs the server; what is sealed does not."""
    mountpoint = host.mount(f"file://{source}", options="ro,immutable,allow_other,seal=off")
    host.ctl("warmup", mountpoint / "class1", mountpoint / "deep")
    said = host.ctl("seal", mountpoint).stdout
    assert "in part" in said
    assert shown(mountpoint) == ["overlay"]
    server = host.server_pid(mountpoint)
    os.kill(server, signal.SIGSTOP)
    try:
        done = subprocess.run(["sh", "-c", 'cat "$1"/class1/* "$1"/deep/er/* | wc -c', "sh", str(mountpoint)],
                              capture_output=True, text=True, timeout=20, check=False)
    finally:
        os.kill(server, signal.SIGCONT)
    wanted = [*(source / "class1").iterdir(), *(source / "deep/er").iterdir()]
    assert int(done.stdout) == sum(path.stat().st_size for path in wanted)
    assert tree_digest(mountpoint) == tree_digest(source)
    # All of it was read now: by order the view is made anew, whole.
    host.ctl("warmup", mountpoint)
    assert "yes:" in host.ctl("seal", mountpoint).stdout
    assert tree_digest(mountpoint) == tree_digest(source)
    host.umount(mountpoint)
    wait_for(lambda: views(host) == [], 10, "the view's files go")


@pytest.mark.parametrize("options, why", [
    ("ro,immutable,seal=on", "allow_other"),
    ("ro,allow_other,seal=on", "immutable"),
])
def test_refusals_are_told(host, source, options, why):
    mountpoint = host.mount(f"file://{source}", options=options)
    host.ctl("warmup", mountpoint)
    wait_for(lambda: why in sealed_text(host, mountpoint), 10, "the reason is shown")
    done = host.ctl("seal", mountpoint, check=False)
    assert done.returncode == 1 and why in done.stderr
    assert shown(mountpoint) == ["fuse.mlcache"]


def test_space_is_kept_and_given_up_under_contention(hosts, workdir):
    host = hosts(tier_size="96MiB")
    first, second = workdir / "first", workdir / "second"
    for index in range(12):
        make_file(first / f"f{index}", 4 * MIB, seed=index)
    for index in range(24):
        make_file(second / f"s{index}", 4 * MIB, seed=100 + index)
    settle(first)
    settle(second)
    mountpoint = host.mount(f"file://{first}", name="first-mnt", options=OPTIONS)
    host.ctl("warmup", mountpoint)
    wait_sealed(host, mountpoint)
    pages = host.total("tier_used_bytes")
    assert pages >= 48 * MIB
    other = host.mount(f"file://{second}", name="second-mnt")
    # Far more than is free beside the sealed one: it is unsealed, and says so.
    for path in sorted(other.iterdir()):
        if path.is_file():
            assert path.read_bytes() == (second / path.name).read_bytes()
    wait_for(lambda: shown(mountpoint) == ["fuse.mlcache"], 20, "unsealed for the space")
    assert "needed the space" in sealed_text(host, mountpoint)
    assert tree_digest(mountpoint) == tree_digest(first)
    assert host.total("tier_used_bytes") <= 96 * MIB


def test_four_mounts_share_one_page_cache(host, source):
    points = [host.mount(f"file://{source}", name=f"mnt{index}", options=OPTIONS) for index in range(4)]
    host.ctl("warmup", points[0])
    for point in points:
        wait_sealed(host, point)
    inodes = set()
    for point in points:
        with open(point / "large.bin", "rb") as file:
            file.read()
    objects = [path for path in pathlib.Path(host.tier / "objects").rglob("*") if path.is_file()]
    assert {os.stat(path).st_nlink for path in objects} == {5}, "one file, a link for each view"
    for point in points:
        inodes.add((point / "large.bin").read_bytes() == (source / "large.bin").read_bytes())
    assert inodes == {True}
    for point in points:
        host.umount(point)
    wait_for(lambda: views(host) == [], 10, "the views' files go")
    assert harness.is_mounted(points[0]) is False
