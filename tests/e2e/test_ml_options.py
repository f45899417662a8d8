"""The ml.* mount options through real mounts: each changes what the store is asked for, or is refused clearly."""
import json
import os

import harness
from harness import MIB
from logging_s3 import LoggingS3

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


def read(path, size=None):
    """Reads the first `size` bytes, or all, in steps of 1 MiB."""
    with open(path, "rb", buffering=0) as file:
        total = 0
        while size is None or total < size:
            data = file.read(MIB)
            if not data:
                break
            total += len(data)
        return total


def of_mount(mountpoint):
    return json.loads((mountpoint / ".mlcache/stats").read_text())["mount"]


def test_optimization_false_fetches_only_what_is_read(hosts, source):
    harness.make_file(source / "big", 64 * MIB)
    with LoggingS3(source) as s3:
        host = hosts(environment=KEYS)
        plain = host.mount(s3.url, "plain", options="ro,open_mode=cached,ml.optimization=false")
        assert read(plain / "big", 12 * MIB) == 12 * MIB
        # The kernel reads ahead by itself, a few MiB; nothing of ours comes on top.
        assert max(last for _, _, last in s3.gets) < 24 * MIB
        assert host.total("prefetch_issued_bytes_total") == 0
        assert host.total("sequential_detected_total") == 0
        assert of_mount(plain)["optimization"] is False
        assert read(plain / "big") == 64 * MIB
        assert host.total("store_read_bytes_total") == 64 * MIB  # cache and single flight stay
        assert len(s3.gets) == 16  # a chunk each


def test_by_default_a_run_is_fetched_ahead_and_all_of_it_used(hosts, source):
    harness.make_file(source / "big", 128 * MIB)
    with LoggingS3(source) as s3:
        host = hosts(environment=KEYS)
        mountpoint = host.mount(s3.url, options="ro,open_mode=cached")
        assert read(mountpoint / "big") == 128 * MIB
        issued = host.total("prefetch_issued_bytes_total")
        assert issued >= 64 * MIB
        assert host.total("prefetch_used_bytes_total") >= 0.95 * issued
        assert host.total("store_read_bytes_total") == 128 * MIB
        assert host.total("read_stall_seconds_total") > 0
        assert of_mount(mountpoint)["read_stall_seconds"] > 0
        assert of_mount(mountpoint)["prefetch_accuracy"] >= 0.95


def test_no_prefetch_workers_no_prefetch(hosts, source):
    harness.make_file(source / "big", 32 * MIB)
    with LoggingS3(source) as s3:
        host = hosts(environment=KEYS)
        assert read(host.mount(s3.url, options="ro,open_mode=cached,ml.prefetchWorkers=0") / "big") == 32 * MIB
        assert host.total("prefetch_issued_bytes_total") == 0
        assert host.total("sequential_detected_total") >= 1


def test_training_mode_asks_no_more_and_an_explicit_ttl_wins(hosts, source):
    harness.make_tree(source, files=20)
    with LoggingS3(source) as s3:
        host = hosts(environment=KEYS)
        kept = host.mount(s3.url, "kept", options="ro,ml.trainingMode,job=kept")
        asked_again = host.mount(s3.url, "again", options="ro,ml.trainingMode,attr_ttl=0s,job=again")
        for mountpoint in (kept, asked_again):
            assert len(harness.tree_digest(mountpoint)) >= 20
        for mountpoint, more in ((kept, False), (asked_again, True)):
            before = s3.requests["head"] + s3.requests["list"]
            for folder, _, names in os.walk(mountpoint):
                for name in names:
                    os.stat(os.path.join(folder, name))
            assert (s3.requests["head"] + s3.requests["list"] > before) == more, mountpoint


def test_dataset_path_is_known_before_anybody_looks(hosts, source):
    harness.make_tree(source / "train", files=60, folders=6)
    with LoggingS3(source) as s3:
        host = hosts(environment=KEYS)
        mountpoint = host.mount(s3.url, options="ro,ml.trainingMode,ml.datasetPath=/train")
        harness.wait_for(lambda: "metadata of 60 files in 7 directories loaded ahead" in host.log.read_text(), 20,
                         "the daemon has loaded the dataset's metadata")
        before = dict(s3.requests)
        for folder, _, names in os.walk(mountpoint / "train"):
            for name in names:
                os.stat(os.path.join(folder, name))
        after = s3.requests
        assert (after["head"], after["list"]) == (before["head"], before["list"])


def test_bad_values_are_refused_and_named(host, source):
    harness.make_tree(source, files=2)
    url = f"file://{source}"
    for options, code, words in [
            ("ro,ml.optimization=maybe", 2, ["ml.optimization", "maybe", "true or false"]),
            ("ro,ml.prefetchWorkers=5000", 2, ["ml.prefetchWorkers", "1024"]),
            ("ro,ml.datasetPath=/nowhere", 1, ["ml.datasetPath=/nowhere", "no such directory"])]:
        done = host.mount(url, options=options, check=False)
        assert done.returncode == code, done
        for word in words:
            assert word in done.stderr, done.stderr
