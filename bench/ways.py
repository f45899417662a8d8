"""The ways in which bench/warm shows a dataset: ours, the peers that the machine has, and a bare FUSE loop."""
import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import typing

from common import cpu_seconds, harness, report

OPTIONS = {"passthrough": "open_mode=passthrough", "noopen": "open_mode=noopen", "cached": "open_mode=cached", "default": "",
           "sealed": "immutable,allow_other,seal=on"}


class LeftOut(Exception):
    """This way or row cannot be measured here; the message says why."""


def spawn(*command, log):
    with open(log, "ab") as output:
        return subprocess.Popen([str(word) for word in command], stdout=output, stderr=output,
                                preexec_fn=harness.die_with_parent)


def with_children(pid):
    """A process and those that it started."""
    children = [int(child) for thread in pathlib.Path(f"/proc/{pid}/task").iterdir()
                for child in (thread / "children").read_text().split()]
    return [pid, *(inner for child in children for inner in with_children(child))]


@dataclasses.dataclass
class Way:
    """A dataset as it is shown at `path`; `processes` are those that serve it."""
    name: str
    path: pathlib.Path
    processes: typing.Sequence[int] = ()

    def cpu(self):
        """Seconds so far; what served a sealed view may have left."""
        return sum(cpu_seconds(pid) for pid in self.processes if harness.process_exists(pid))


def mount_type(path):
    """The file system type that is visible at a mountpoint."""
    found = None
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ")
        if before.split()[4] == str(path):
            found = after.split()[0]
    return found


def is_sealed(mountpoint, seconds):
    """Whether a sealed view is shown at the mountpoint, or comes within `seconds`."""
    try:
        return harness.wait_for(lambda: mount_type(mountpoint) == "overlay", seconds, "sealed")
    except AssertionError:
        return False


def seal(host, mountpoint):
    """Sees to it that a sealed view is shown at the mountpoint: the mount's own doing, or else asked for."""
    if host.ctl("seal", "--help", check=False).returncode != 0:
        if not is_sealed(mountpoint, 1):
            raise LeftOut("no overlay appeared at the mountpoint: these programs have no `mlcachectl seal`")
        return
    if is_sealed(mountpoint, 20):
        return
    try:
        answer = host.ctl("seal", mountpoint, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        raise LeftOut("no overlay appeared at the mountpoint, and `mlcachectl seal` did not end within 60 s") from None
    if not is_sealed(mountpoint, 20):
        raise LeftOut(f"no overlay appeared at the mountpoint: `mlcachectl seal` said: {(answer.stderr or answer.stdout).strip()}")


def mount_way(host, name, source, where):
    """Mounts `source`, which the cache holds, in one of our own ways."""
    try:
        mountpoint = host.mount(f"file://{source}", name=where, options=OPTIONS[name],
                                flags=[f"--log_file={host.directory / where}.log"])
    except AssertionError as error:
        raise LeftOut(f"it does not mount: {str(error).strip().splitlines()[-1]}") from None
    if name == "sealed":
        try:
            seal(host, mountpoint)
        except LeftOut:
            host.umount(mountpoint)
            raise
    return Way(name, mountpoint, [host.daemon.pid, *host.mount_processes(mountpoint)])


class Peer:
    """Another file system's mount, beside ours over the same bytes, which are copied into it."""
    name = ""

    def __init__(self, base, *command):
        self.log = base / "log"
        self.mountpoint = base / "mnt"
        self.mountpoint.mkdir(parents=True)
        self.process = spawn(*command, log=self.log)
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            try:
                harness.wait_for(lambda: mount_type(self.mountpoint), 30, "mounted")
            except AssertionError:
                raise LeftOut(f"it does not mount: {self.log.read_text(errors='replace')[-500:]}") from None
            self.directory = pathlib.Path(tempfile.mkdtemp(prefix="mlcache-bench.", dir=self.mountpoint))
            undo.pop_all()

    def serve(self, source):
        shutil.copytree(source, self.directory / source.name)
        return Way(self.name, self.directory / source.name, with_children(self.process.pid))

    def close(self):
        if mount_type(self.mountpoint):
            shutil.rmtree(self.directory, ignore_errors=True)
            subprocess.run(["umount", "-l", self.mountpoint], check=False)
        self.process.terminate()
        self.process.wait(30)


class JuiceFS(Peer):
    """A volume of its own on this disk, mounted as its documentation tunes it for reading."""
    name = "juicefs"

    def __init__(self, work):
        juicefs = os.environ.get("JUICEFS_BIN") or shutil.which("juicefs")
        if juicefs is None:
            raise LeftOut("no juicefs in PATH or JUICEFS_BIN")
        base = work / "juicefs"
        base.mkdir()
        database = f"sqlite3://{base}/meta.db"
        harness.run(juicefs, "format", "--storage", "file", "--bucket", base / "store", "--trash-days", "0", database, "bench")
        super().__init__(base, juicefs, "mount", "--no-usage-report", "--no-syslog", "--cache-dir", base / "cache",
                         "--cache-size", "16G", "--open-cache", "3600s", "--attr-cache", "3600s", "--entry-cache", "3600s",
                         "--dir-entry-cache", "3600s", "--prefetch", "4", database, base / "mnt")


class Weed(Peer):
    """A directory of a running SeaweedFS cluster, mounted with its caches of metadata and chunks."""
    name = "weed"

    def __init__(self, work):
        weed, filer = os.environ.get("WEED_BIN") or shutil.which("weed"), os.environ.get("WEED_FILER")
        if weed is None:
            raise LeftOut("no weed in PATH or WEED_BIN")
        if filer is None:
            raise LeftOut("no cluster: set WEED_FILER=HOST:PORT to a filer")
        base = work / "weed"
        super().__init__(base, weed, "mount", f"-filer={filer}", f"-dir={base}/mnt", f"-cacheDir={base}/cache",
                         "-cacheCapacityMB=16384", "-cacheMetaTtlSec=3600")


def serving_mode(way):
    """How a mount's files were served in the end: what `auto` chose."""
    if way.name == "sealed":
        return "sealed" if mount_type(way.path) == "overlay" else "no longer sealed"
    log = pathlib.Path(f"{way.path}.log").read_text(errors="replace")
    return next(reversed(re.findall(r"files are served in mode (\w+)", log)), "not told")


def bare_loop(loop, file, work, threads, stack):
    """The bare FUSE program's mount, with the readahead that ours have, until `stack` is left."""
    mountpoint = work / f"bare-{threads}"
    mountpoint.mkdir(exist_ok=True)
    process = spawn(loop, file, mountpoint, threads, log=work / "bare.log")
    stack.callback(process.wait, 20)
    stack.callback(subprocess.run, ["umount", "-l", mountpoint], check=False)
    harness.wait_for(lambda: harness.is_mounted(mountpoint), 20, f"{loop} mounts")
    device = os.stat(mountpoint).st_dev
    pathlib.Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb").write_text("1024")
    return Way(f"bare_{threads}_thread" + "s" * (threads > 1), mountpoint, [process.pid])


def find_peers(work, stack):
    """The peers that can be mounted here, until `stack` is left."""
    found = []
    for peer in (JuiceFS, Weed):
        try:
            found.append(stack.enter_context(contextlib.closing(peer(work))))
        except LeftOut as reason:
            report(peer.name, left_out=str(reason))
    return found
