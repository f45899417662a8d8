"""Starts the real programs for the end-to-end tests and takes everything down again, whatever a test does."""
import contextlib
import ctypes
import hashlib
import json
import os
import pathlib
import random
import signal
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("MLCACHE_BIN", ROOT / "build/release/bin"))
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PR_SET_PDEATHSIG = 1


def die_with_parent():
    """In the child before exec: the kernel kills it when the test process goes."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def wait_for(condition, seconds=10.0, what="condition"):
    """Polls until `condition()` is true and returns its value; fails naming `what`."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def total(value):
    """The sum over all labels of one metric of `stats --json`."""
    return sum(map(total, value.values())) if isinstance(value, dict) else value or 0


def is_mounted(path):
    escaped = str(path).replace(" ", "\\040")
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        return any(line.split(" ")[4] == escaped for line in mounts)


def run(*command, check=True, timeout=120, **keywords):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=timeout, **keywords)
    if check:
        assert done.returncode == 0, f"{command} gave {done.returncode}:\n{done.stdout}{done.stderr}"
    return done


def process_exists(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Host:
    """One host: a daemon (which may be stopped, killed and started again) and its mounts, in a directory of its own."""

    def __init__(self, directory, tier_size="1GiB", flags=(), environment=None, uid=None):
        self.directory = pathlib.Path(directory)
        self.run = self.directory / "run"
        self.tier = self.directory / "tier"
        self.log = self.directory / "mlcached.log"
        self.tiers = f"{self.tier}:{tier_size}"
        # Tests count what the server sent; a hedged read would be sent twice. A test's own flags come after and win.
        self.flags = ["--hedge_percent=0", *flags]
        self.environment = {**os.environ, **(environment or {})}
        self.daemon = None
        self.mounts = []
        for path in (self.run, self.tier):
            path.mkdir(parents=True, exist_ok=True)
        # Everything runs as that user; root's tests look at what an ordinary user sees.
        self.as_user = []
        if uid is not None:
            self.as_user = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
            for path in (self.directory, self.run, self.tier):
                os.chown(path, uid, uid)

    def start(self):
        with open(self.log, "ab") as log:
            self.daemon = subprocess.Popen(
                [*self.as_user, BIN / "mlcached", f"--socket_dir={self.run}", f"--tier={self.tiers}", "--metrics_address=", *self.flags],
                stdout=log, stderr=log, env=self.environment, preexec_fn=die_with_parent)

        def answers():
            assert self.daemon.poll() is None, f"mlcached ended:\n{self.log.read_text(errors='replace')[-4000:]}"
            return self.ctl("status", check=False).returncode == 0
        wait_for(answers, 20, "the daemon answers")
        return self

    def stop(self, how=signal.SIGTERM, timeout=20):
        """Ends the daemon and returns its exit status."""
        self.daemon.send_signal(how)
        status = self.daemon.wait(timeout)
        self.daemon = None
        return status

    def kill(self):
        return self.stop(signal.SIGKILL)

    def ctl(self, *arguments, check=True, **keywords):
        return run(BIN / "mlcachectl", f"--socket_dir={self.run}", *arguments, check=check, **keywords)

    def stats(self):
        return json.loads(self.ctl("stats", "--json").stdout)

    def total(self, name):
        return total(self.stats().get(name, 0))

    def mount(self, url, name="mnt", options="ro", check=True, environment=None, flags=()):
        """Mounts `url` at directory/name; the mountpoint, or with check=False the finished process."""
        mountpoint = self.directory / name
        mountpoint.mkdir(exist_ok=True)
        if self.as_user:
            os.chown(mountpoint, self.directory.stat().st_uid, self.directory.stat().st_gid)
        done = run(*self.as_user, BIN / "mlcache-mount", url, mountpoint, f"--socket_dir={self.run}", "-o", options, *flags,
                   check=check,
                   env={**os.environ, **(environment or {})})
        if not check:
            return done
        assert is_mounted(mountpoint)
        self.mounts.append(mountpoint)
        return mountpoint

    def umount(self, mountpoint):
        run("umount", mountpoint)
        self.mounts.remove(mountpoint)

    def mount_processes(self, mountpoint):
        """Pids of the keeper and the server of a mount, by command line."""
        found = []
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if words[0].endswith(b"mlcache-mount") and os.fsencode(mountpoint) in words:
                    found.append(int(entry.name))
        return sorted(found)

    def server_pid(self, mountpoint):
        """The pid of the mount's FUSE server: the child of its keeper."""
        pids = set(self.mount_processes(mountpoint))
        for pid in pids:
            with contextlib.suppress(OSError):
                parent = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                if parent in pids:
                    return pid
        return None

    def close(self):
        for mountpoint in list(self.mounts):
            subprocess.run(["umount", "-l", mountpoint], capture_output=True, check=False)
        for mountpoint in list(self.mounts):
            for pid in self.mount_processes(mountpoint):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.terminate()
            try:
                self.daemon.wait(15)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait()


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def tree_digest(directory):
    """{relative path: what it is}: kind, mode, size, mtime, target and content of everything below `directory`."""
    found = {}
    for folder, folders, names in os.walk(os.fsencode(directory)):
        folders[:] = [name for name in folders if name != b".mlcache"]
        for name in folders + names:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            content = None
            if os.path.islink(path):
                content = os.readlink(path)
            elif os.path.isfile(path):
                content = (info.st_size, digest(path))
            found[os.path.relpath(path, os.fsencode(directory))] = (
                info.st_mode, info.st_uid, info.st_gid, int(info.st_mtime), content)
    return found


def make_file(path, size, seed=0):
    """`size` bytes that differ at every offset and for every seed; the CRC of a swapped block would show."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"{seed}/{path.name}/{size}")
    with open(path, "wb") as file:
        left = size
        while left:
            piece = min(left, 8 * MIB)
            file.write(rng.randbytes(piece))
            left -= piece
    return path


def settle(directory):
    """Ages every file below `directory` past the 2 s during which a file store distrusts it; waits only if it must."""
    newest = 0.0
    for folder, _, names in os.walk(directory):
        for name in names:
            info = os.lstat(os.path.join(folder, name))
            newest = max(newest, info.st_ctime, info.st_mtime)
    time.sleep(max(0.0, newest + 2.1 - time.time()))


def make_tree(directory, files=200, seed=1, mean=40 * KIB, folders=5):
    """A small dataset; its total size in bytes."""
    rng = random.Random(seed)
    size = 0
    for index in range(files):
        length = rng.randrange(1, 2 * mean)
        make_file(pathlib.Path(directory) / f"class{index % folders}" / f"sample{index:05d}.bin", length, seed)
        size += length
    settle(directory)
    return size


def temporary_directory():
    """On a real disk: tmpfs and overlay behave differently as a tier."""
    return tempfile.TemporaryDirectory(prefix="mlcache-e2e.", dir=os.environ.get("TMPDIR", "/var/tmp"))
