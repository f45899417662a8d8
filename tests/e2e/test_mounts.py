"""What a mount is to the rest of the system: attributes, df, xattrs, access rights, fstab, tools."""
import contextlib
import os
import pathlib
import stat
import subprocess

import pytest

import harness
from harness import BIN, MIB
from test_shared_cache import read_all

NOBODY = 65534
root_only = pytest.mark.skipif(os.getuid() != 0, reason="needs root")


def options_of(mountpoint):
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        for line in mounts:
            fields = line.split(" ")
            if fields[4] == str(mountpoint):
                return line
    return ""


def test_attributes_and_df_are_true(host, source):
    harness.make_tree(source, files=10)
    mountpoint = host.mount(f"file://{source}")
    for path in source.rglob("*"):
        real, seen = path.lstat(), (mountpoint / path.relative_to(source)).lstat()
        for name in ("st_mode", "st_uid", "st_gid", "st_mtime_ns", "st_size"):
            if name == "st_size" and stat.S_ISDIR(real.st_mode):
                continue
            assert getattr(seen, name) == getattr(real, name), (path, name)
        assert seen.st_blocks * 512 >= seen.st_size or stat.S_ISDIR(seen.st_mode)
    real, seen = os.statvfs(source), os.statvfs(mountpoint)
    assert seen.f_blocks * seen.f_frsize == pytest.approx(real.f_blocks * real.f_frsize, rel=0.01)
    assert seen.f_namemax == 255


def test_mount_is_nosuid_nodev_and_named(host, source):
    line = options_of(host.mount(f"file://{source}"))
    assert "nosuid" in line and "nodev" in line and "fuse.mlcache" in line and f"file://{source}" in line, line


def test_xattrs_tell_version_and_cached_fraction(host, source):
    harness.make_file(source / "file", 8 * MIB)
    harness.settle(source)
    mountpoint = host.mount(f"file://{source}", options="ro,attr_ttl=0")
    path = mountpoint / "file"
    assert {"user.mlcache.version", "user.mlcache.cached"} <= set(os.listxattr(path))
    before = os.getxattr(path, "user.mlcache.cached")
    version = os.getxattr(path, "user.mlcache.version")
    assert version
    path.read_bytes()
    assert os.getxattr(path, "user.mlcache.cached") != before
    assert os.getxattr(path, "user.mlcache.version") == version
    for name in ("user.nothing", "trusted.overlay.redirect", "security.capability"):
        with pytest.raises(OSError) as caught:
            os.getxattr(path, name)
        assert caught.value.errno in (61, 95)


def test_stats_file_and_hidden_control_directory(host, source):
    (source / "file").write_bytes(b"x")
    harness.settle(source)
    mountpoint = host.mount(f"file://{source}")
    assert os.listdir(mountpoint) == ["file"]
    text = (mountpoint / ".mlcache/stats").read_text()
    assert "store_read_bytes_total" in text


@root_only
def test_other_users_and_file_modes(host, source, workdir):
    (source / "public").write_bytes(b"p")
    (source / "secret").write_bytes(b"s")
    os.chmod(source / "secret", 0o600)
    harness.settle(source)
    for directory in (workdir, source, host.directory):
        os.chmod(directory, 0o755)
    private = host.mount(f"file://{source}", "private")
    shared = host.mount(f"file://{source}", "shared", options="ro,allow_other")

    def as_nobody(path):
        return subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", path],
                              capture_output=True, check=False)
    assert as_nobody(shared / "public").stdout == b"p"
    assert as_nobody(shared / "secret").returncode != 0
    assert as_nobody(private / "public").returncode != 0
    assert (shared / "secret").read_bytes() == b"s"


@root_only
def test_mount_command_and_fstab(host, source, workdir):
    """mount(8) finds mount.mlcache in /sbin: a private overlay puts it there for this test."""
    (source / "file").write_bytes(b"x")
    harness.settle(source)
    mountpoint = workdir / "fstab mount"
    mountpoint.mkdir()
    helper = workdir / "sbin"
    helper.mkdir()
    (helper / "mount.mlcache").symlink_to(BIN / "mount.mlcache")
    fstab = workdir / "fstab"
    escaped = str(mountpoint).replace(" ", "\\040")
    fstab.write_text(f"file://{source} {escaped} mlcache ro,noauto,_netdev,x-systemd.automount,socket_dir={host.run},"
                     "attr_ttl=5 0 0\n")
    script = (f"mount -t overlay -o lowerdir={helper}:/usr/sbin overlay /usr/sbin && mount -T {fstab} '{mountpoint}' && "
              f"cat '{mountpoint}/file' && setpriv --reuid=65534 --regid=65534 --clear-groups ls '{mountpoint}' && "
              f"findmnt -n -o OPTIONS '{mountpoint}' && umount '{mountpoint}' && ! mountpoint -q '{mountpoint}'")
    os.chmod(workdir, 0o755)
    os.chmod(source, 0o755)
    done = harness.run("unshare", "--mount", "--propagation", "private", "sh", "-c", script, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "allow_other" in done.stdout and "default_permissions" in done.stdout


def test_ordinary_tools_work(host, source, workdir):
    harness.make_tree(source, files=30)
    (source / "link").symlink_to("class0")
    mountpoint = host.mount(f"file://{source}")
    harness.run("rsync", "-a", f"{mountpoint}/", f"{workdir}/copy/")
    harness.run("diff", "-r", "--no-dereference", source, workdir / "copy")
    harness.run("tar", "-C", mountpoint, "-cf", workdir / "all.tar", ".")
    find = harness.run("find", mountpoint, "-type", "f").stdout
    assert len(find.splitlines()) == 30
    harness.run("cp", "-a", mountpoint, workdir / "copied")
    assert harness.tree_digest(workdir / "copied") == harness.tree_digest(source)


def test_an_s3_mount_is_identical_too(hosts, source):
    from logging_s3 import LoggingS3
    from test_shared_cache import KEYS
    harness.make_tree(source, files=50)
    for name in ("with space", "ünï-文件", "a+b%20c", "x" * 200, "#?&="):
        harness.make_file(source / "names" / name, 5000)
    harness.make_file(source / "big", 9 * MIB + 1)
    with LoggingS3(source) as server:
        host = hosts(environment=KEYS)
        mountpoint = host.mount(server.url)
        assert {key: value[4] for key, value in harness.tree_digest(mountpoint).items()} == {
            key: value[4] for key, value in harness.tree_digest(source).items()}
        assert read_all(mountpoint) == server.body_bytes


def test_walks_of_names_and_of_attributes_see_the_tree(host, source):
    """A directory store is listed by names first; what a later walk reads of attributes is the source's all the same."""
    harness.make_tree(source, files=400, mean=100, folders=20)
    (source / "class1" / "link").symlink_to("nowhere")
    mountpoint = host.mount(f"file://{source}")

    def walk(root, form):
        found = harness.run("find", root, "-not", "-path", "*/.mlcache*", "-printf", form).stdout
        return sorted(found.splitlines())
    for form in (r"%P %y\n", r"%P %y %s %m %U %T@ %l\n", r"%P %y\n"):
        seen, real = walk(mountpoint, form), walk(source, form)
        if "%s" in form:  # a directory's size is the file system's own affair
            seen, real = ([line for line in lines if " d " not in line] for lines in (seen, real))
        assert seen == real


@contextlib.contextmanager
def fuse_device(workdir, mode):
    """/dev/fuse with that mode, in this mount namespace alone."""
    node = workdir / "fuse"
    os.mknod(node, stat.S_IFCHR | 0o600, pathlib.Path("/dev/fuse").stat().st_rdev)
    os.chmod(node, mode)
    harness.run("mount", "--bind", node, "/dev/fuse")
    try:
        yield
    finally:
        harness.run("umount", "-l", "/dev/fuse")  # a live mount keeps its own descriptor
        node.unlink()


@root_only
def test_ordinary_user_mounts_reads_and_unmounts(hosts, source, workdir):
    """Daemon, mount and reader are one ordinary user; fusermount3 does what needs privilege."""
    size = harness.make_tree(source, files=20)
    (source / "private").write_bytes(b"root's alone")
    os.chmod(source / "private", 0o600)
    harness.settle(source)
    for directory in (workdir, source):
        os.chmod(directory, 0o755)
    host = hosts(uid=NOBODY)
    with fuse_device(workdir, 0o666):
        mountpoint = host.mount(f"file://{source}")
        line = options_of(mountpoint)
        assert f"user_id={NOBODY}" in line and "nosuid" in line and "nodev" in line, line
        for pid in host.mount_processes(mountpoint):
            assert os.stat(f"/proc/{pid}").st_uid == NOBODY
        copied = harness.run(*host.as_user, "sh", "-c", f"cat '{mountpoint}'/class*/* | cksum; cat {source}/class*/* | cksum")
        through, directly = copied.stdout.splitlines()
        assert through == directly
        assert host.total("store_read_bytes_total") == size
        assert harness.run(*host.as_user, "cat", mountpoint / "private", check=False).returncode != 0
        with pytest.raises(PermissionError):  # nobody else, not even root: no allow_other
            os.listdir(mountpoint)
        harness.run(*host.as_user, "fusermount3", "-u", mountpoint)
        host.mounts.remove(mountpoint)
        harness.wait_for(lambda: not host.mount_processes(mountpoint), what="keeper and server leave")
        assert not harness.is_mounted(mountpoint)


@root_only
def test_ordinary_user_is_told_what_a_closed_device_needs(hosts, source, workdir):
    for directory in (workdir, source):
        os.chmod(directory, 0o755)
    host = hosts(uid=NOBODY)
    with fuse_device(workdir, 0o600):
        refused = host.mount(f"file://{source}", check=False)
    assert refused.returncode == 1, refused.stderr
    assert "/dev/fuse" in refused.stderr and "chmod 0666 /dev/fuse" in refused.stderr, refused.stderr
    assert not harness.is_mounted(host.directory / "mnt")
