"""What the benchmarks share: results as JSON lines, a known state of the page cache, processor time, datasets."""
import json
import os
import pathlib
import random
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/e2e"))
import harness  # noqa: E402,F401  (the same start and stop of daemon and mounts as the tests)

GIB = 1 << 30


def rounded(value):
    """Four decimals for every float, also inside dictionaries."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def report(name, **figures):
    print(json.dumps({"figure": name, **rounded(figures)}), flush=True)


def drop_caches():
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def touch_memory(size=6 * GIB):
    """Makes the guest's free memory real: a virtual machine's first touch of a page costs ten times its copying."""
    path = pathlib.Path("/dev/shm/mlcache-figures")
    try:
        with open(path, "wb") as file:
            for _ in range(size >> 24):
                file.write(bytes(1 << 24))
    finally:
        path.unlink(missing_ok=True)


def timed(*command):
    start = time.monotonic()
    subprocess.run([str(word) for word in command], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - start


def cpu_seconds(pid):
    """User and system seconds of a process so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def make_many(directory, files):
    """A tree of `files` small files, 1000 a directory."""
    rng = random.Random(7)
    for folder in range((files + 999) // 1000):
        path = directory / f"d{folder:04d}"
        path.mkdir(parents=True)
        for index in range(min(1000, files - folder * 1000)):
            (path / f"f{index:04d}").write_bytes(rng.randbytes(rng.randrange(200, 2000)))


def epoch(directory, *arguments):
    command = ["/usr/bin/python3", ROOT / "bench/read_epochs.py", directory, "--epochs", "1", *arguments]
    return json.loads(subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout)
