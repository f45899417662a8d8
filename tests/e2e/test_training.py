"""The main job: a PyTorch DataLoader over two mounts of one daemon, and the README's quickstart."""
import json
import os
import subprocess

import pytest

import harness

READER = harness.ROOT / "bench/read_epochs.py"
PYTHON = "/usr/bin/python3"  # the distribution's, with python3-torch


def epochs(mountpoint, *arguments):
    command = [PYTHON, READER, mountpoint, "--workers", "2", *arguments]
    return subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True)


def test_two_dataloaders_share_one_cache(hosts, source):
    size = int(harness.run(PYTHON, harness.ROOT / "bench/make_dataset.py", source, "--files", "300").stdout)
    harness.settle(source)
    host = hosts()
    url = f"file://{source}"
    jobs = [host.mount(url, name, options=f"ro,job={name},ml.trainingMode") for name in ("job1", "job2")]
    readers = [epochs(job, "--epochs", "2") for job in jobs]
    rows = [json.loads(line) for reader in readers for line in reader.communicate(timeout=300)[0].splitlines()]
    assert [row["reader"] for row in rows] == ["torch"] * 4, "the tests install python3-torch"
    assert {(row["files"], row["bytes"]) for row in rows} == {(300, size)}
    local = json.loads(harness.run(PYTHON, READER, source, "--epochs", "1", "--plain").stdout)
    assert {row["checksum"] for row in rows} == {local["checksum"]}
    assert host.total("store_read_bytes_total") == size
    host.stop()
    host.start()
    again = json.loads(epochs(jobs[0], "--epochs", "1").communicate(timeout=120)[0])
    assert again["checksum"] == local["checksum"]
    assert host.total("store_read_bytes_total") == 0
    assert host.total("verified_bytes_total") == 0


@pytest.mark.parametrize("own_data", [False, True], ids=["made-here", "own-store"])
def test_quickstart_runs_and_leaves_nothing(workdir, source, own_data):
    arguments = []
    if own_data:
        harness.make_tree(source, files=40)
        arguments = [f"file://{source}"]
    scratch = workdir / "tmp"
    scratch.mkdir()
    done = harness.run(harness.ROOT / "quickstart", *arguments, timeout=900,
                       env={**os.environ, "MLCACHE_FILES": "120", "TMPDIR": str(scratch)})
    assert "the store was asked for" in done.stdout
    assert "(1.000 x the dataset)" in done.stdout, done.stdout
    assert list(scratch.iterdir()) == []
    assert "mlcache-quickstart" not in open("/proc/self/mountinfo").read()
