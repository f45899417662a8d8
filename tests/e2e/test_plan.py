"""A job declares the order in which it will read: prefetch follows it, exactly."""
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import warnings

import pytest

import harness
from harness import KIB, MIB
from logging_s3 import LoggingS3
from test_shared_cache import KEYS

sys.path.insert(0, str(harness.ROOT / "python"))
import mlcache_plan  # noqa: E402

PYTHON = "/usr/bin/python3"  # the distribution's, with python3-torch
FILES = 200


@pytest.fixture
def server(source):
    """A store with latency that logs what it is asked for."""
    for number in range(FILES):
        harness.make_file(source / f"class{number % 5}" / f"{number:04}.bin", 20_000 + number)
    harness.settle(source)
    with LoggingS3(source) as store:
        store.delay = 0.02
        yield store


def shuffled(seed=1):
    names = [f"class{number % 5}/{number:04}.bin" for number in range(FILES)]
    random.Random(seed).shuffle(names)
    return names


def declare(host, mountpoint, names, *options, check=True):
    return host.ctl("plan", mountpoint, "-f", "-", *options, input="".join(name + "\n" for name in names), check=check)


def shown(host, mountpoint, stream=""):
    streams = json.loads(host.ctl("plan", mountpoint, "--show", "--json").stdout)["streams"]
    return next((row for row in streams if row["stream"] == stream), None)


def fetched_keys(server):
    with server.lock:
        return [key for key, _, _ in server.gets]


def wait_ahead(host, mountpoint, files):
    """Until so many files were fetched that nobody has read: a job that computes for longer than the store takes."""
    harness.wait_for(lambda: shown(host, mountpoint)["ahead_files"] >= files, 30, f"{files} files ahead of the reader")


def content(source, names):
    return {name: (source / name).read_bytes() for name in names}


def read_at_the_plans_pace(host, server, mountpoint, names, expected):
    """Reads in order, always with some files ahead; how many were at the store before their reader asked."""
    before = 0
    for number, name in enumerate(names):
        if number % 8 == 0:
            wait_ahead(host, mountpoint, min(16, len(names) - number))
        before += name in fetched_keys(server)
        assert (mountpoint / name).read_bytes() == expected[name]
    return before


@pytest.mark.parametrize("mode", ["auto", "noopen", "cached"])
def test_declared_files_are_fetched_before_their_reader_asks(hosts, source, server, mode):
    host = hosts(environment=KEYS)
    mountpoint = host.mount(server.url, options=f"ro,attr_ttl=600s,open_mode={mode}")
    names = shuffled()
    expected = content(source, names)
    size = sum(map(len, expected.values()))
    requests = dict(server.requests)
    done = declare(host, mountpoint, names)
    assert done.stdout == f"{FILES} files accepted\n"
    assert read_at_the_plans_pace(host, server, mountpoint, names, expected) >= FILES * 95 // 100
    row = harness.wait_for(lambda: (row := shown(host, mountpoint)) and row["left"] == 0 and row, what="all was read")
    assert row["files"] == row["position"] == FILES
    assert row["prefetched"] >= FILES * 95 // 100, row
    assert row["prefetched"] + row["late"] == FILES, row
    [plan] = json.loads((mountpoint / ".mlcache/stats").read_text())["mount"]["plans"]
    assert plan == {key: row[key] for key in plan}
    # Each byte once, and the order followed: no GET is more than the files under way out of its place.
    gets = fetched_keys(server)
    assert sorted(gets) == sorted(names)
    assert server.body_bytes == size
    place = {name: number for number, name in enumerate(names)}
    assert max(abs(place[name] - number) for number, name in enumerate(gets)) <= 16
    assert server.requests["head"] - requests["head"] <= 5, "names are looked up by listing their directories"
    # All that was fetched ahead was read; what came late was fetched for its reader.
    stats = host.stats()
    assert harness.total(stats["prefetch_issued_bytes_total"]) >= size * 95 // 100
    assert stats["prefetch_used_bytes_total"] == stats["prefetch_issued_bytes_total"]
    assert harness.total(stats["prefetch_wasted_bytes_total"]) == 0
    assert harness.total(stats["plan_files_total"]) == FILES
    assert row["ahead_files"] == row["ahead_bytes"] == 0


def test_the_number_of_workers_is_the_mounts(hosts, source, server):
    host = hosts(environment=KEYS)
    mountpoint = host.mount(server.url, options="ro,attr_ttl=600s,ml.prefetchWorkers=1")
    names = shuffled()
    declare(host, mountpoint, names[:40])
    wait_ahead(host, mountpoint, 40)
    assert fetched_keys(server) == names[:40], "one at a time, in order"


def test_a_plan_is_replaced_midway_and_appended_to(hosts, source, server):
    host = hosts(environment=KEYS)
    mountpoint = host.mount(server.url, options="ro,attr_ttl=600s")
    names = shuffled()
    expected = content(source, names)
    declare(host, mountpoint, names[:60])
    read_at_the_plans_pace(host, server, mountpoint, names[:30], expected)
    wait_ahead(host, mountpoint, 30)
    declare(host, mountpoint, names[40:80])  # what was fetched of it stays
    wait_ahead(host, mountpoint, 40)
    assert shown(host, mountpoint)["files"] == 40
    declare(host, mountpoint, names[80:100], "--append")
    assert shown(host, mountpoint)["files"] == 60
    read_at_the_plans_pace(host, server, mountpoint, names[40:100], expected)
    row = harness.wait_for(lambda: (row := shown(host, mountpoint)) and row["left"] == 0 and row, what="all was read")
    assert row["prefetched"] >= 57, row
    assert len(fetched_keys(server)) == len(set(fetched_keys(server))) == 100
    host.ctl("plan", mountpoint, "--clear")
    assert host.ctl("plan", mountpoint).stdout == "no plan\n"


def test_a_reader_that_leaves_the_plan_reads_on_and_the_plan_finds_it_again(hosts, source, server):
    host = hosts(environment=KEYS)
    mountpoint = host.mount(server.url, options="ro,attr_ttl=600s")
    names = shuffled()
    expected = content(source, names)
    declare(host, mountpoint, names[:150])
    wait_ahead(host, mountpoint, 50)
    for name in [*names[150:], *reversed(names[100:150]), *names[:20:2]]:  # unplanned, backwards, every other one
        assert (mountpoint / name).read_bytes() == expected[name]
    row = harness.wait_for(lambda: (row := shown(host, mountpoint)) and row["left"] == 150 - 60 and row, what="reads seen")
    assert row["position"] == 150
    assert read_at_the_plans_pace(host, server, mountpoint, names[30:100], expected) >= 65
    assert shown(host, mountpoint)["unknown"] == 0
    assert len(fetched_keys(server)) == len(set(fetched_keys(server))), "each byte once, whoever asks"


def test_ranks_have_a_plan_each(hosts, source, server):
    host = hosts(environment=KEYS)
    mountpoint = host.mount(server.url, options="ro,attr_ttl=600s")
    names = shuffled()
    for rank in range(4):
        declare(host, mountpoint, names[rank::4], f"--stream=rank{rank}")
    harness.wait_for(lambda: len(fetched_keys(server)) == FILES, 30, "all is fetched")
    for name in names:
        (mountpoint / name).read_bytes()
    for rank in range(4):
        row = harness.wait_for(lambda: (row := shown(host, mountpoint, f"rank{rank}")) and row["left"] == 0 and row)
        assert row["files"] == FILES // 4
        assert row["prefetched"] + row["late"] == FILES // 4
    host.ctl("plan", mountpoint, "--clear", "--stream=rank1")
    assert "rank1" not in host.ctl("plan", mountpoint).stdout


def test_what_is_ahead_stays_a_part_of_the_cache(hosts, source):
    size = MIB // 2
    for number in range(120):
        harness.make_file(source / f"{number:03}", size)
    harness.settle(source)
    with LoggingS3(source) as server:
        host = hosts(tier_size="32MiB", environment=KEYS)
        mountpoint = host.mount(server.url, options="ro,attr_ttl=600s")
        names = [f"{number:03}" for number in range(120)]
        declare(host, mountpoint, names)
        wait_ahead(host, mountpoint, 4)  # a sixteenth of the cache is 2 MiB
        assert len(fetched_keys(server)) == 4
        for number, name in enumerate(names):
            wait_ahead(host, mountpoint, min(4, 120 - number))
            assert len((mountpoint / name).read_bytes()) == size
        row = shown(host, mountpoint)
        assert row["prefetched"] >= 114, row
        assert server.body_bytes == 120 * size, "nothing was evicted before it was read"


def test_unknown_files_are_named_and_bad_input_is_clear(hosts, source, server):
    host = hosts(environment=KEYS)
    mountpoint = host.mount(server.url, options="ro,attr_ttl=600s")
    names = shuffled()[:4]
    done = declare(host, mountpoint, [names[0], "class0/absent", str(mountpoint / names[1]), "/elsewhere/x", "../up",
                                      "./" + names[2]], check=False)
    assert done.returncode == 4, done.stderr
    assert done.stdout == "4 files accepted, 3 unknown\n"
    for named in ("class0/absent", "/elsewhere/x", "../up"):
        assert f"{named}: " in done.stderr, done.stderr
    wait_ahead(host, mountpoint, 3)
    row = harness.wait_for(lambda: (row := shown(host, mountpoint)) and row["unknown"] and row)
    assert [file["path"] for file in row["unknown_files"]] == [str(mountpoint / "class0/absent")]
    assert "class0/absent" in host.log.read_text()

    def fails(code, *arguments, **keywords):
        failed = host.ctl("plan", *arguments, check=False, **keywords)
        assert failed.returncode == code, failed
        return failed.stderr
    assert "MOUNTPOINT" in fails(2, mountpoint, mountpoint)
    assert "exclude" in fails(2, mountpoint, "--show", "--clear")
    assert "--append" in fails(2, mountpoint, "--append")
    assert "no mountpoint" in fails(1, mountpoint / "class0")
    assert "not below a live mount" in fails(1, "/usr")
    assert "/no/such/list" in fails(1, mountpoint, "-f", "/no/such/list")
    assert "empty" in fails(1, mountpoint, "-f", "-", input="")
    assert "'..'" in fails(1, mountpoint, "-f", "-", input="../a\n")
    assert shown(host, mountpoint)["files"] == 4, "a list of nothing but mistakes changes nothing"
    nul = host.ctl("plan", mountpoint, "-f", "-", "-0", input="a\nb\0" + names[3] + "\0", check=False)
    assert nul.returncode == 4 and "a\\nb" in nul.stderr, nul


def test_the_mount_ends_while_its_plan_runs(hosts, source, server):
    host = hosts(environment=KEYS)
    server.delay = 0.2
    mountpoint = host.mount(server.url, options="ro,attr_ttl=600s")
    declare(host, mountpoint, shuffled())
    harness.wait_for(lambda: fetched_keys(server), what="the plan has begun")
    host.umount(mountpoint)
    harness.wait_for(lambda: host.total("mounts") == 0, what="the session has ended")
    assert host.ctl("plan", mountpoint, check=False).returncode == 1
    harness.wait_for(lambda: host.total("fetches_in_flight") == host.total("fetch_queue_depth") == 0, what="nothing runs")
    assert len(fetched_keys(server)) < FILES
    assert host.stop() == 0


def test_a_plan_is_forgotten_with_the_daemon_or_the_server(hosts, source, server):
    host = hosts(environment=KEYS)
    mountpoint = host.mount(server.url, options="ro,attr_ttl=600s")
    names = shuffled()
    expected = content(source, names)
    declare(host, mountpoint, names)
    wait_ahead(host, mountpoint, 20)
    host.kill()
    host.start()
    assert (mountpoint / names[0]).read_bytes() == expected[names[0]]
    assert host.ctl("plan", mountpoint).stdout == "no plan\n"
    declare(host, mountpoint, names)  # as the next epoch does
    assert read_at_the_plans_pace(host, server, mountpoint, names[:50], expected) >= 45
    os.kill(host.server_pid(mountpoint), signal.SIGKILL)
    for name in names[50:60]:
        assert (mountpoint / name).read_bytes() == expected[name]
    harness.wait_for(lambda: host.ctl("plan", mountpoint, check=False).stdout == "no plan\n", what="the plan is forgotten")


def test_a_million_files_are_taken(hosts, source, server, workdir):
    host = hosts(environment=KEYS)
    mountpoint = host.mount(server.url, options="ro,attr_ttl=600s")
    known = shuffled()
    names = known + known + [f"class{number % 1000}/n{number:08}_{number % 97}.JPEG" for number in range(1_300_000 - 2 * FILES)]
    (workdir / "list").write_text("".join(name + "\n" for name in names))

    def resident():
        status = (pathlib.Path("/proc") / str(host.daemon.pid) / "status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * KIB
    before = resident()
    done = host.ctl("plan", mountpoint, "-f", workdir / "list")
    assert done.stdout == "1,300,000 files accepted\n"
    assert shown(host, mountpoint)["files"] == 1_300_000
    print("resident bytes a file:", (resident() - before) / 1_300_000)
    assert resident() - before < 1_300_000 * 150
    wait_ahead(host, mountpoint, FILES)
    host.ctl("plan", mountpoint, "--clear")


# The Python helper.

@pytest.fixture
def told(workdir, monkeypatch):
    """What a stand-in for mlcachectl was called with: (arguments, paths) each time."""
    program = workdir / "mlcachectl"
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$*\" >>$0.calls\ncat >>$0.calls\nprintf '\\n' >>$0.calls\nexit $(cat $0.exit)\n")
    program.chmod(0o755)
    (workdir / "mlcachectl.exit").write_text("0")
    monkeypatch.setenv("MLCACHECTL", str(program))
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("MLCACHE_SOCKET_DIR", raising=False)
    monkeypatch.setattr(mlcache_plan, "_warned", set())

    def calls():
        lines = (workdir / "mlcachectl.calls").read_text().splitlines()
        return [(arguments, paths.split("\0")[:-1]) for arguments, paths in zip(lines[::2], lines[1::2])]
    return calls


PATHS = [f"d/{number}" for number in range(100)]


def test_helper_declares_and_yields_the_same(told):
    order = random.Random(3).sample(range(100), 100)
    sampler = mlcache_plan.plan_for(order, PATHS, "/mnt/x")
    assert len(sampler) == 100
    assert list(sampler) == order
    assert told() == [("plan -f - -0 --stream= -- /mnt/x", [f"d/{index}" for index in order])]
    assert list(sampler) == order, "the next epoch declares again"
    assert len(told()) == 2
    sampler.resume(97)
    assert list(sampler) == order[97:]
    assert told()[2][1] == [f"d/{index}" for index in order[97:]]
    assert list(sampler) == order


def test_helper_takes_batches_functions_and_samples_of_several_files(told):
    batches = mlcache_plan.plan_for([[3, 1], [2]], lambda index: [f"{index}.jpg", f"{index}.txt"], "/mnt/x", stream="val")
    assert list(batches) == [[3, 1], [2]]
    assert told() == [("plan -f - -0 --stream=val -- /mnt/x",
                       ["3.jpg", "3.txt", "1.jpg", "1.txt", "2.jpg", "2.txt"])]


def test_helper_declares_endless_samplers_window_by_window(told):
    def endless():
        while True:
            yield from range(7)
    taken = []
    for index in mlcache_plan.plan_for(endless(), PATHS, "/mnt/x", window=5):
        taken.append(index)
        if len(taken) == 11:
            break
    assert taken == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3]
    assert [arguments.count("--append") for arguments, _ in told()] == [0, 1, 1]
    assert [path for _, paths in told() for path in paths][:11] == [f"d/{index}" for index in taken]


def test_helper_respects_epochs_and_ranks_of_a_distributed_sampler(told):
    class Distributed:
        """Shuffles as torch's does: by seed and epoch, a stride a rank."""

        def __init__(self, rank):
            self.rank, self.epoch = rank, 0

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            return iter(random.Random(self.epoch).sample(range(100), 100)[self.rank::4])

        def __len__(self):
            return 25

    seen = []
    for epoch in range(2):
        for rank in range(4):
            sampler = mlcache_plan.plan_for(Distributed(rank), PATHS, "/mnt/x")
            sampler.set_epoch(epoch)
            assert sampler.epoch == epoch, "what the sampler has is passed through"
            plain = Distributed(rank)
            plain.set_epoch(epoch)
            seen.append(list(sampler))
            assert seen[-1] == list(plain)
    assert [arguments.split()[4] for arguments, _ in told()] == [f"--stream=rank{rank}" for rank in range(4)] * 2
    assert [paths for _, paths in told()] == [[f"d/{index}" for index in order] for order in seen]


def test_helper_never_fails_the_job(told, workdir, monkeypatch):
    order = [2, 0, 1]
    (workdir / "mlcachectl.exit").write_text("3")
    sampler = mlcache_plan.plan_for(order, PATHS, "/mnt/x")
    with pytest.warns(RuntimeWarning, match="ended with 3"):
        assert list(sampler) == order
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(sampler) == order, "warned once"
    monkeypatch.setenv("MLCACHECTL", "/no/such/program")
    with pytest.warns(RuntimeWarning, match="/no/such/program"):
        assert list(sampler) == order
    monkeypatch.delenv("MLCACHECTL")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.warns(RuntimeWarning, match="no mlcachectl in PATH"):
        assert list(sampler) == order


TRAIN = """
import sys, zlib
import torch.utils.data
from torch.utils.data.distributed import DistributedSampler
import mlcache_plan

class Files(torch.utils.data.Dataset):
    def __init__(self, mountpoint, names):
        self.mountpoint, self.names = mountpoint, names
    def __len__(self):
        return len(self.names)
    def __getitem__(self, index):
        with open(self.mountpoint + "/" + self.names[index], "rb") as file:
            return index, zlib.crc32(file.read())

def main():
    names = sys.stdin.read().split()
    files = Files(sys.argv[1], names)
    plain, inner = (DistributedSampler(files, num_replicas=2, rank=1, shuffle=True, seed=5) for _ in range(2))
    planned = mlcache_plan.plan_for(inner, names, sys.argv[1])
    for epoch in range(2):
        planned.set_epoch(epoch)
        plain.set_epoch(epoch)
        loader = torch.utils.data.DataLoader(files, sampler=planned, batch_size=8, num_workers=2,
                                             multiprocessing_context=sys.argv[2])
        seen = [int(index) for indices, crcs in loader for index in indices]
        assert seen == list(plain), "not the order of the sampler"
        print(epoch, len(seen))

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_pytorch_dataloader_reads_what_it_declared(hosts, source, server, workdir, start):
    host = hosts(environment=KEYS)
    mountpoint = host.mount(server.url, options="ro,ml.trainingMode,open_mode=passthrough")
    names = shuffled()
    environment = {**os.environ, "MLCACHECTL": str(harness.BIN / "mlcachectl"), "MLCACHE_SOCKET_DIR": str(host.run),
                   "PYTHONPATH": str(harness.ROOT / "python")}
    (workdir / "train.py").write_text(TRAIN)
    done = subprocess.run([PYTHON, "-W", "error::RuntimeWarning:mlcache_plan", workdir / "train.py", mountpoint, start],
                          input="\n".join(names), env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()] == [["0", "100"], ["1", "100"]]
    row = harness.wait_for(lambda: (row := shown(host, mountpoint, "rank1")) and row["left"] == 0 and row, what="all was read")
    assert row["files"] == 100, "the second epoch's plan"
    assert row["late"] + row["prefetched"] + row["present"] == 100, row
    stats = host.stats()
    assert harness.total(stats["plan_files_total"]) == 200
    assert len(fetched_keys(server)) == len(set(fetched_keys(server)))
    assert harness.total(stats["prefetch_wasted_bytes_total"]) == 0
    assert stats["prefetch_used_bytes_total"] == stats["prefetch_issued_bytes_total"]
