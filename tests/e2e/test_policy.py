"""Which bytes the cache keeps when the data does not fit, through real mounts."""
import os
import random

import pytest

import harness
from harness import MIB

FILES = 1000


@pytest.fixture
def dataset(source):
    """{relative path: size} of some 100 MB of small files in ten folders."""
    rng = random.Random(1)
    sizes = {}
    for index in range(FILES):
        name = f"class{index % 10}/sample{index:05d}.bin"
        sizes[name] = rng.randrange(60 * harness.KIB, 140 * harness.KIB)
        harness.make_file(source / name, sizes[name])
    harness.settle(source)
    return sizes


def read(path):
    """Reads a file and has the kernel forget its pages, so that the next epoch asks the cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        total = 0
        while data := os.read(descriptor, MIB):
            total += len(data)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return total
    finally:
        os.close(descriptor)


def shuffled(names, rng):
    """Endless shuffled epochs."""
    while True:
        yield from rng.sample(names, len(names))


def fetched(host):
    return host.total("store_read_bytes_total")


def kept(host):
    """Bytes of the dataset that the cache holds now."""
    return fetched(host) - host.total("evicted_bytes_total") - host.total("bypass_bytes_total")


def start(hosts, dataset, policy="auto"):
    """A host whose tier holds about half of the dataset beside its index."""
    overhead = 11 * MIB
    return hosts(tier_size=str(sum(dataset.values()) // 2 + overhead),
                 flags=[f"--eviction={policy}", "--free_space_floor=0"])


def test_one_job_hits_what_the_cache_holds(hosts, source, dataset):
    host = start(hosts, dataset)
    mount = host.mount(f"file://{source}")
    names, size, epochs = list(dataset), sum(dataset.values()), 4
    order = shuffled(names, random.Random(2))
    after, shares = [], []
    for _ in range(epochs):
        for name in (next(order) for _ in names):
            assert read(mount / name) == dataset[name]
        after.append(fetched(host))
        shares.append(kept(host) / size)
    f = min(shares)
    assert 0.4 < f < 0.6, shares
    hit_rate = 1 - (after[-1] - after[0]) / (size * (epochs - 1))
    print(f"one job: f {f:.3f}, byte hit rate of later epochs {hit_rate:.3f}, store bytes "
          f"{after[-1] / (size + (epochs - 1) * (1 - f) * size):.3f} of the least possible")
    assert hit_rate >= 0.98 * f
    assert after[-1] <= 1.02 * (size + (epochs - 1) * (1 - f) * size)


def test_two_jobs_out_of_step_share_more_than_half(hosts, source, dataset):
    host = start(hosts, dataset)
    mounts = [host.mount(f"file://{source}", name) for name in ("first", "second")]
    names, size = list(dataset), sum(dataset.values())
    orders = [shuffled(names, random.Random(seed)) for seed in (3, 4)]
    for name in (next(orders[0]) for _ in range(FILES // 2)):  # the first job has a head start of half an epoch
        read(mounts[0] / name)
    before = 0
    for epoch in range(5):
        if epoch == 3:  # both have shown where their epochs turn
            before = fetched(host)
        for _ in names:
            for mount, order in zip(mounts, orders):
                read(mount / next(order))
    hit_rate = 1 - (fetched(host) - before) / (2 * 2 * size)
    f = kept(host) / size
    print(f"two jobs: f {f:.3f}, byte hit rate {hit_rate:.3f}")
    assert f < 0.53
    assert hit_rate >= 0.60


def test_what_was_kept_before_a_restart_serves_the_first_epoch_after_it(hosts, source, dataset):
    host = start(hosts, dataset)
    mount = host.mount(f"file://{source}")
    names, size = list(dataset), sum(dataset.values())
    order = shuffled(names, random.Random(5))
    for name in (next(order) for _ in range(2 * FILES)):
        read(mount / name)
    share = kept(host) / size
    assert host.stop() == 0
    host.start()
    for name in (next(order) for _ in names):
        read(mount / name)
    assert 1 - fetched(host) / size >= 0.95 * share


def test_an_unknown_policy_is_refused_with_the_names(workdir):
    done = harness.run(harness.BIN / "mlcached", f"--tier={workdir}/tier:64MiB", "--eviction=mru", "--check_config",
                       check=False)
    assert done.returncode == 2
    assert "auto, lru, s3fifo, epoch or pinned" in done.stderr
