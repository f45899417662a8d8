"""Each wrong input gets the right exit code and a message that names what and how to mend it; nothing half-done stays."""
import os
import pathlib
import subprocess

import pytest

import harness
from harness import BIN
from logging_s3 import LoggingS3
from test_shared_cache import KEYS


def daemon(workdir, *flags):
    (workdir / "run").mkdir(exist_ok=True)
    return harness.run(BIN / "mlcached", f"--socket_dir={workdir / 'run'}", "--metrics_address=", *flags, check=False,
                       timeout=20)


def says(done, status, *words):
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    for word in words:
        assert str(word) in done.stdout + done.stderr, (word, done.stdout, done.stderr)


def test_daemon_flags(workdir):
    tier = workdir / "tier"
    tier.mkdir()
    says(daemon(workdir, "--no_such_flag=1"), 2, "no_such_flag")
    says(daemon(workdir, f"--flagfile={workdir}/missing.conf"), 2, "missing.conf")
    says(daemon(workdir, f"--tier={tier}:lots"), 2, "lots", "GiB")
    says(daemon(workdir, f"--tier={tier}"), 2, "DIR:SIZE")
    says(daemon(workdir, "positional"), 2, "positional")
    says(daemon(workdir, f"--tier={workdir}/absent:1GiB"), 1, "absent")
    says(daemon(workdir, f"--tier={tier}:1KiB"), 1, "tier")
    says(daemon(workdir, f"--tier={tier}:1GiB", "--metrics_address=999.1.1.1:x"), 2, "metrics_address")


def test_print_and_check_config(workdir):
    tier = workdir / "tier"
    tier.mkdir()
    says(daemon(workdir, f"--tier={tier}:1GiB", "--print_config"), 0, f"--tier={tier}:1GiB", "--socket_dir")
    says(daemon(workdir, f"--tier={tier}:1GiB", "--check_config"), 0)
    printed = daemon(workdir, f"--tier={tier}:1GiB", "--print_config").stdout
    (workdir / "again.conf").write_text(printed)
    says(daemon(workdir, f"--flagfile={workdir}/again.conf", "--check_config"), 0)


def test_a_tier_and_a_socket_have_one_owner(hosts, workdir):
    host = hosts()
    other = workdir / "other"
    other.mkdir()
    says(harness.run(BIN / "mlcached", f"--socket_dir={other}", f"--tier={host.tier}:1GiB", "--metrics_address=",
                     check=False), 1, host.tier, host.daemon.pid)
    (workdir / "tier2").mkdir()
    says(harness.run(BIN / "mlcached", f"--socket_dir={host.run}", f"--tier={workdir}/tier2:1GiB", "--metrics_address=",
                     check=False), 1, host.run)
    assert host.ctl("status").returncode == 0


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount a small tmpfs and to drop privileges")
def test_a_tier_on_a_full_disk_or_not_writable(workdir):
    small = workdir / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:
        (small / "fill").write_bytes(b"x" * (1 << 20))
        says(daemon(workdir, f"--tier={small}:64MiB"), 1, small)
        subprocess.run(["mount", "-o", "remount,ro", small], check=True)
        says(daemon(workdir, f"--tier={small}:64MiB"), 1, small)
    finally:
        subprocess.run(["umount", small], check=True)


def test_mount_command_line(host, workdir, source):
    url = f"file://{source}"
    mountpoint = workdir / "mnt"
    mountpoint.mkdir()
    socket_dir = f"--socket_dir={host.run}"

    def mount(*arguments):
        done = harness.run(BIN / "mlcache-mount", *arguments, check=False, timeout=20)
        assert not harness.is_mounted(mountpoint)
        return done
    says(mount(), 2, "store URL")
    says(mount(url), 2, "mountpoint")
    says(mount(url, mountpoint, socket_dir, "--frobnicate"), 2, "frobnicate")
    says(mount(url, mountpoint, socket_dir, "-o", "ro,atr_ttl=5"), 2, "atr_ttl", "attr_ttl")
    says(mount(url, mountpoint, socket_dir, "-o", "attr_ttl=soon"), 2, "attr_ttl", "soon")
    says(mount(url, mountpoint, socket_dir, "-o", "ml.cacheSize=big"), 2, "ml.cacheSize", "big")
    says(mount("gopher://x/y", mountpoint, socket_dir), 1, "gopher", "file://")
    says(mount("/just/a/path", mountpoint, socket_dir), 2, "file://")
    says(mount(f"file://{workdir}/absent", mountpoint, socket_dir), 1, "absent")
    says(mount("s3://bucket?acces_key=1", mountpoint, socket_dir), 1, "acces_key")
    says(mount(url, workdir / "nowhere", socket_dir), 1, "nowhere")
    (workdir / "a-file").write_bytes(b"")
    says(mount(url, workdir / "a-file", socket_dir), 1, "a-file")
    says(mount(url, mountpoint, f"--socket_dir={workdir}/no-daemon"), 3, "no-daemon", "mlcached")


def test_a_busy_mountpoint_is_refused(host, source):
    mountpoint = host.mount(f"file://{source}")
    says(harness.run(BIN / "mlcache-mount", f"file://{source}", mountpoint, f"--socket_dir={host.run}", check=False), 1,
         mountpoint)
    os.listdir(mountpoint)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to hide /dev/fuse")
def test_no_fuse_device(host, source, workdir):
    mountpoint = workdir / "mnt"
    mountpoint.mkdir()
    says(harness.run("unshare", "--mount", "sh", "-c",
                     f"mount -t tmpfs tmpfs /dev && exec {BIN}/mlcache-mount file://{source} {mountpoint} "
                     f"--socket_dir={host.run}", check=False), 1, "/dev/fuse")


def test_s3_without_bucket_or_credentials(hosts, source):
    with LoggingS3(source) as server:
        host = hosts(environment=KEYS)
        wrong = server.url.replace("s3://bucket", "s3://no-such-bucket")
        says(host.mount(wrong, check=False), 1, "no-such-bucket")
        says(host.mount(server.url.replace(str(server.http.server_port), "1"), check=False), 1, "127.0.0.1")
        bare = hosts("bare", environment={"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "HOME": "/nonexistent",
                                          "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"})
        says(bare.mount(server.url, check=False), 1, "AWS_ACCESS_KEY_ID")


def test_ctl_usage_and_exit_codes(host, source, workdir):
    says(host.ctl(check=False), 2, "VERB")
    says(host.ctl("frobnicate", check=False), 2, "frobnicate")
    says(host.ctl("warmup", check=False), 2, "PATH")
    says(host.ctl("stats", "--jsn", check=False), 2, "jsn")
    says(host.ctl("check", "/not/in/a/mount", check=False), 1, "/not/in/a/mount")
    says(harness.run(BIN / "mlcachectl", f"--socket_dir={workdir}/no-daemon", "status", check=False), 3, "no-daemon",
         "mlcached")
    (source / "good").write_bytes(b"x")
    harness.settle(source)
    mountpoint = host.mount(f"file://{source}")
    done = host.ctl("warmup", mountpoint / "good", mountpoint / "missing", check=False)
    says(done, 4, "missing")


def test_a_name_that_is_too_long_and_paths_through_files(host, source):
    (source / "file").write_bytes(b"x")
    harness.settle(source)
    mountpoint = host.mount(f"file://{source}")
    with pytest.raises(OSError) as caught:
        os.stat(mountpoint / ("y" * 256))
    assert caught.value.errno == 36
    with pytest.raises(NotADirectoryError):
        os.stat(mountpoint / "file" / "below")
    with pytest.raises(FileNotFoundError):
        os.stat(mountpoint / "missing")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to run a daemon as another user")
def test_a_root_the_daemon_cannot_read_is_refused_with_the_fix(workdir, source):
    os.chmod(workdir, 0o755)
    os.chmod(source, 0o700)
    host = harness.Host(workdir / "host")
    for path in (host.directory, host.run, host.tier):
        os.chown(path, 65534, 65534)
    daemon_process = subprocess.Popen(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", BIN / "mlcached", f"--socket_dir={host.run}",
         f"--tier={host.tier}:64MiB", "--metrics_address="], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=harness.die_with_parent)
    try:
        harness.wait_for(lambda: host.ctl("status", check=False).returncode == 0, 20, "the daemon answers")
        says(host.mount(f"file://{source}", check=False), 1, source, "ACL")
    finally:
        daemon_process.terminate()
        daemon_process.wait(10)
    assert pathlib.Path(source).exists()
