"""Tells mlcache in which order a job will read its files, so that each is there just before it is read.

    import mlcache_plan
    sampler = mlcache_plan.plan_for(DistributedSampler(dataset), dataset.paths, "/mnt/imagenet")
    loader = DataLoader(dataset, sampler=sampler, num_workers=8)

Iterating the wrapped sampler declares the order through `mlcachectl plan` and then yields the very same indices. Nothing
here is needed to read, and nothing here fails a job: where mlcache is not at hand a warning is given once.

`mlcachectl` is found as $MLCACHECTL or in PATH; $MLCACHE_SOCKET_DIR names the daemon's socket directory if it is not
/run/mlcache. Needs Python 3.9 and nothing else.
"""
import itertools
import os
import shutil
import subprocess
import warnings

__all__ = ["declare", "plan_for", "PlannedSampler"]

DECLARE_TIMEOUT_S = 120
WINDOW = 1_000_000  # indices declared at a time; a sampler without an end is declared window by window
_PARTLY_DONE = 4    # mlcachectl's exit code when some files are unknown

_warned = set()


def _warn_once(kind, message):
    if kind not in _warned:
        _warned.add(kind)
        warnings.warn(f"mlcache: {message}; the job reads on without a plan", RuntimeWarning, stacklevel=3)


def declare(paths, mountpoint, stream="", append=False):
    """Declares `paths` (absolute below `mountpoint`, or relative to it) as the coming reading order.

    Takes the place of the stream's plan, or comes behind it. For a tf.data job: declare the list that
    `Dataset.from_tensor_slices` gets, once an epoch. True if mlcache took it; False, after a warning, if not.
    """
    program = os.environ.get("MLCACHECTL") or shutil.which("mlcachectl")
    if not program:
        _warn_once("program", "no mlcachectl in PATH (or $MLCACHECTL)")
        return False
    command = [program]
    if os.environ.get("MLCACHE_SOCKET_DIR"):
        command.append("--socket_dir=" + os.environ["MLCACHE_SOCKET_DIR"])
    command += ["plan", "-f", "-", "-0", f"--stream={stream}"]
    if append:
        command.append("--append")
    command += ["--", os.fspath(mountpoint)]
    text = b"".join(os.fsencode(path) + b"\0" for path in paths)
    if not text:
        return False
    try:
        done = subprocess.run(command, input=text, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              timeout=DECLARE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        _warn_once("run", f"running {program} failed: {error}")
        return False
    said = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode == _PARTLY_DONE:
        _warn_once("unknown", f"some files of the plan are unknown: {said[0] if said else ''}")
        return True
    if done.returncode != 0:
        _warn_once("refused", f"{program} plan ended with {done.returncode}: {said[0] if said else ''}")
        return False
    return True


class PlannedSampler:
    """A sampler (or batch sampler) that declares what it is about to yield. Everything else it passes through."""

    def __init__(self, sampler, files, mountpoint, stream=None, window=WINDOW):
        self.sampler = sampler
        self._path_of = files if callable(files) else files.__getitem__
        self._mountpoint = mountpoint
        self._stream = stream
        self._window = window
        self._skip = 0

    def resume(self, steps):
        """The next iteration leaves out the first `steps` items of the sampler, as a job does that goes on with an epoch."""
        self._skip = steps

    def set_epoch(self, epoch):
        """As DistributedSampler has it; without effect on samplers that have no epochs."""
        inner = getattr(self.sampler, "set_epoch", None)
        if inner is not None:
            inner(epoch)

    def __iter__(self):
        skip, self._skip = self._skip, 0
        items = itertools.islice(iter(self.sampler), skip, None)
        append = False
        while window := list(itertools.islice(items, self._window)):
            declare(self._paths(window), self._mountpoint, self._name(), append)
            append = True
            yield from window

    def __len__(self):
        return max(0, len(self.sampler) - self._skip)

    def __getattr__(self, name):
        if name == "sampler":  # not there yet, as while it is unpickled
            raise AttributeError(name)
        return getattr(self.sampler, name)

    def _name(self):
        """Ranks that share a mount have a plan each."""
        if self._stream is not None:
            return self._stream
        rank = getattr(self.sampler, "rank", None)
        if rank is None:
            rank = os.environ.get("RANK")
        return "" if rank is None else f"rank{rank}"

    def _paths(self, items):
        for item in items:
            for index in item if isinstance(item, (list, tuple)) else (item,):
                path = self._path_of(index)
                if isinstance(path, (str, bytes, os.PathLike)):
                    yield path
                else:
                    yield from path  # a sample of several files


def plan_for(sampler_or_indices, files, mountpoint, stream=None, window=WINDOW):
    """A sampler that yields the same indices and declares their files first.

    `sampler_or_indices`: anything that can be iterated, each time anew (a sampler, a batch sampler, a list).
    `files`: the path of each index, as a sequence or a function; an index may have several paths, in reading order.
    `stream`: the name of the plan among those of the mount; by default "rankN" of a DistributedSampler or $RANK, else "".
    """
    return PlannedSampler(sampler_or_indices, files, mountpoint, stream, window)
