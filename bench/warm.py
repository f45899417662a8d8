#!/usr/bin/env python3
"""Measures what reading cached data costs: native and each way of serving it, interleaved in one run.

    bench/warm                     everything, on an idle machine: a quarter of an hour, 10 GiB of disk
    bench/warm --quick             small sizes, one round: shows that it works, its figures mean little
    bench/warm --rows NAME…        only these rows, of: sequential random_4k random_128k mmap readers over_memory
                                   page_cache files_4k files_110k epoch find cold

Prints one JSON line a row, then a table with each way's ratio to native: medians of the rounds, in each of which every way
has its turn, after one that is not counted. The ways: passthrough, noopen and cached (`-o open_mode=`), default (a mount
without any option), sealed (`-o immutable,allow_other,seal=on`), and beside them the peers that are found: JuiceFS
(`juicefs` in PATH or JUICEFS_BIN; tuned, over local files and SQLite) and SeaweedFS's mount (`weed` in PATH or WEED_BIN,
and the filer of a running cluster in WEED_FILER=HOST:PORT). What cannot be had is left out with the reason. Needs root.

over_memory is 16 readers, the page cache dropped before each round, in a memory cgroup of a quarter of the file where one
is delegated. page_cache counts copies of the data over the whole host. cold is one reader: a file that the cache has not
(cold), one that it has but no mount's pages (from_tier), and what a bare FUSE program reaches serving from memory.
"""
import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import typing

from common import GIB, ROOT, drop_caches, epoch, harness, make_many, report, timed, touch_memory
from ways import OPTIONS, LeftOut, Way, bare_loop, find_peers, mount_way, serving_mode

KIB, MIB = 1 << 10, 1 << 20


@dataclasses.dataclass
class Sizes:
    """How much a sample reads: enough for some tenths of a second where it is native."""
    large: int = GIB
    passes: int = 4              # over the large file
    random: int = 400_000        # 4 KiB reads of a reader; a twentieth of that at 128 KiB
    files: int = 5_000           # in each tree of small files
    file_passes: int = 4         # over them
    many: int = 100_000          # in the tree that is listed
    readers: tuple = (1, 2, 4, 8, 16)
    mounts: int = 4              # of the same data


QUICK = Sizes(large=64 * MIB, passes=1, random=10_000, files=300, file_passes=2, many=3_000, readers=(1, 16), mounts=2)


def program(name, arguments):
    """A built program: of --bin, or else of this tree."""
    for directory in (arguments.bin, ROOT / "build/release/bin"):
        if (directory / name).exists():
            return directory / name
    raise LeftOut(f"{name} is not built (ninja -C build/release {name})")


# --- samples: each reads one way once and says how fast, and how many bytes ----------------------------------------------

@dataclasses.dataclass
class Sample:
    rate: float
    bytes: int = 0
    checksum: int = 0    # equal for equal bytes; 0: not taken


class Bench:
    def __init__(self, arguments, work):
        self.arguments, self.work = arguments, work
        self.sizes = QUICK if arguments.quick else Sizes()
        self.reader = program("mlcache-bench-reader", arguments)
        self.table = []
        self.failed = False

    def read(self, operation, readers, block, count, path, per_second="bytes", **keywords):
        row = json.loads(harness.run(self.reader, operation, readers, block, count, path, timeout=600, **keywords).stdout)
        return Sample(row[per_second] / row["seconds"], row["bytes"], row["sum"])

    def sequential(self, way, readers=2):
        return self.read("sequential", readers, MIB, self.sizes.passes, way.path / "big")

    def random(self, way, block, count):
        return self.read("random", 2, block, count, way.path / "big", "operations")

    def mapped(self, way):
        return self.read("mmap", 2, MIB, self.sizes.passes, way.path / "big")

    def files(self, way):
        return self.read("files", 2, 256 * KIB, self.sizes.file_passes, way.path, "operations")

    def find(self, way):
        return Sample(self.sizes.many / timed("find", way.path, "-size", "+1000"))

    def epoch(self, way):
        row = epoch(way.path)
        return Sample(row["files_per_s"], row["bytes"], row["checksum"])

    # --- rows ------------------------------------------------------------------------------------------------------------

    def interleave(self, row, unit, ways, sample, warm=True, **more):
        """Runs `sample` over all ways, round after round, and reports the medians."""
        rates = {way.name: [] for way in ways}
        cpu, size, checksums = dict.fromkeys(rates, 0.0), dict.fromkeys(rates, 0), {}
        for turn in range(-1 if warm else 0, self.arguments.rounds):
            first = turn % len(ways)
            for way in ways[first:] + ways[:first]:
                before = way.cpu()
                result = sample(way)
                if turn >= 0:
                    rates[way.name].append(result.rate)
                    cpu[way.name] += max(0.0, way.cpu() - before)
                    size[way.name] += result.bytes
                checksums[way.name] = result.checksum
        assert len(set(checksums.values())) == 1, f"{row}: not the same bytes: {checksums}"
        self.finish(row, unit, {name: statistics.median(values) for name, values in rates.items()},
                    server_cpu_s_per_gib={way.name: cpu[way.name] / (size[way.name] / GIB) for way in ways
                                          if way.processes and size[way.name]}, **more)

    def finish(self, row, unit, medians, baseline="native", **more):
        ratios = {name: value / medians[baseline] for name, value in medians.items() if name != baseline}
        report(row, unit=unit, rounds=self.arguments.rounds, median=medians, ratio_to=baseline, ratio=ratios, **more)
        self.table.append((row, unit, baseline, medians, ratios, more.get("server_cpu_s_per_gib", {})))

    def readers(self, view):
        for readers in self.sizes.readers:
            self.interleave(f"readers_{readers}", "bytes/s", view.ways, lambda way, count=readers: self.sequential(way, count))

    def over_memory(self, view):
        """16 readers of four times the memory that their pages may take, from the disk."""
        with memory_group(self.sizes.large // 4) as (group, limit):
            def sample(way):
                drop_caches()
                return self.read("sequential", 16, MIB, 1, way.path / "big",
                                 preexec_fn=group and (lambda: (group / "cgroup.procs").write_text(str(os.getpid()))))
            self.interleave("over_memory", "bytes/s", view.ways, sample, warm=False, limit=limit)

    def epochs(self, view):
        """What training sees; of our ways those that a user gets without choosing a mode."""
        ways = [way for way in view.ways if not OPTIONS.get(way.name, "").startswith("open_mode")]
        self.interleave("epoch", "files/s", ways, self.epoch)

    def page_cache(self, view):
        """Pages used on the whole host, in copies of the dataset, once 1 to 4 mounts of it were read."""
        copies = {count: {} for count in range(1, self.sizes.mounts + 1)}
        for way in view.ways:
            if way.name == "native":
                mounts = [way] * self.sizes.mounts
            elif way.name in OPTIONS:
                mounts = [way] + [mount_way(view.host, way.name, view.source, f"{way.path.name}-{index}")
                                  for index in range(1, self.sizes.mounts)]
            else:
                continue    # a peer shares nothing between mounts
            samples = {count: [] for count in copies}
            for _ in range(self.arguments.rounds):
                for count, found in samples.items():
                    drop_caches()
                    before = cached_bytes()
                    for mount in mounts[:count]:
                        self.read("sequential", 1, MIB, 1, mount.path / "big")
                    found.append((cached_bytes() - before) / self.sizes.large)
            for count, found in samples.items():
                copies[count][way.name] = statistics.median(found)
            for mount in mounts[1:]:
                if mount is not way:
                    view.host.umount(mount.path)
        for count, medians in copies.items():
            self.finish(f"page_cache_{count}_mounts", "copies", medians)

    def cold(self, view):
        """A large file that is not in the cache, and one that is but whose pages are not: beside a bare FUSE loop."""
        file = view.source / "big"
        rates, cpu = {}, {}
        for _ in range(self.arguments.rounds):
            file.read_bytes()
            with contextlib.ExitStack() as stack:
                for threads in (1, 2):
                    way = bare_loop(program("mlcache-bench-fuse-loop", self.arguments), file, self.work, threads, stack)
                    self.cold_sample(way, "file", rates, cpu)
                host = stack.enter_context(contextlib.closing(harness.Host(self.work / "host-cold", tier_size="4GiB").start()))
                for name, options in (("cold", ""), ("from_tier", "open_mode=cached")):
                    mountpoint = host.mount(f"file://{view.source}", options=options)
                    way = Way(name, mountpoint, [host.daemon.pid, *host.mount_processes(mountpoint)])
                    self.cold_sample(way, "big", rates, cpu)
                    host.umount(mountpoint)
                assert host.total("store_read_bytes_total") == self.sizes.large, "fetched once: by the first of the two"
            shutil.rmtree(self.work / "host-cold")
        medians = {name: statistics.median(values) for name, values in rates.items()}
        self.finish("cold", "bytes/s", medians, max((name for name in medians if name.startswith("bare")), key=medians.get),
                    server_cpu_s_per_gib={name: statistics.median(values) for name, values in cpu.items()})

    def cold_sample(self, way, name, rates, cpu):
        if not self.arguments.quick:
            touch_memory(3 * GIB)
        before = way.cpu()
        result = self.read("sequential", 1, MIB, 1, way.path / name)
        rates.setdefault(way.name, []).append(result.rate)
        cpu.setdefault(way.name, []).append(max(0.0, way.cpu() - before) / (result.bytes / GIB))


def cached_bytes():
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Cached:"):
            return int(line.split()[1]) * KIB
    raise AssertionError("no Cached in /proc/meminfo")


@contextlib.contextmanager
def memory_group(limit):
    """A memory cgroup for the readers, and its limit in words; (None, why) where none can be made. The servers stay outside."""
    own = next((line[3:].strip("/") for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), "")
    parent = pathlib.Path("/sys/fs/cgroup") / own
    group = parent / f"mlcache-bench.{os.getpid()}"
    why = "none: no memory cgroup v2 is delegated to this process; each round starts with the page cache dropped"
    try:
        if "memory" not in (parent / "cgroup.controllers").read_text().split():
            raise OSError
        (parent / "cgroup.subtree_control").write_text("+memory")
        group.mkdir()
    except OSError:
        yield None, why
        return
    try:
        (group / "memory.max").write_text(str(limit))
        yield group, f"memory.max={limit}"
    finally:
        group.rmdir()


def make_large(directory, sizes):
    harness.make_file(directory / "big", sizes.large)


def make_files(size):
    def make(directory, sizes):
        for index in range(sizes.files):
            folder = directory / f"d{index % 10}"
            folder.mkdir(exist_ok=True)
            (folder / f"f{index:05d}").write_bytes(os.urandom(size))
    return make


@dataclasses.dataclass
class Dataset:
    make: typing.Callable
    rows: dict               # name → what measures it, called with the bench and a View
    with_peers: bool = True


@dataclasses.dataclass
class View:
    """A dataset while it is mounted in every way."""
    ways: list
    host: harness.Host
    source: pathlib.Path


def plain_row(name, unit, sample):
    return lambda bench, view: bench.interleave(name, unit, view.ways, lambda way: sample(bench, way))


DATASETS = {
    "large": Dataset(make_large, {
        "sequential": plain_row("sequential", "bytes/s", Bench.sequential),
        "random_4k": plain_row("random_4k", "reads/s", lambda bench, way: bench.random(way, 4 * KIB, bench.sizes.random)),
        "random_128k": plain_row("random_128k", "reads/s", lambda bench, way: bench.random(way, 128 * KIB, bench.sizes.random // 20)),
        "mmap": plain_row("mmap", "bytes/s", Bench.mapped),
        "readers": Bench.readers, "over_memory": Bench.over_memory, "page_cache": Bench.page_cache, "cold": Bench.cold}),
    "files-4k": Dataset(make_files(4 * KIB), {"files_4k": plain_row("files_4k", "files/s", Bench.files)}),
    "files-110k": Dataset(make_files(110 * KIB), {"files_110k": plain_row("files_110k", "files/s", Bench.files), "epoch": Bench.epochs}),
    "many": Dataset(lambda directory, sizes: make_many(directory, sizes.many),
                    {"find": plain_row("find", "files/s", Bench.find)}, with_peers=False),
}
ROWS = [row for dataset in DATASETS.values() for row in dataset.rows]


def run_dataset(bench, host, peers, name, wanted):
    """Makes a dataset, has it cached, shows it in every way, and measures its rows."""
    dataset, source = DATASETS[name], bench.work / name
    source.mkdir()
    dataset.make(source, bench.sizes)
    harness.settle(source)
    host.ctl("warmup", f"file://{source}", "--progress=none", timeout=1200)
    view = View([Way("native", source)], host, source)
    for option in OPTIONS:
        try:
            view.ways.append(mount_way(host, option, source, f"{name}-{option}"))
        except LeftOut as reason:
            report(option, dataset=name, left_out=str(reason))
    if dataset.with_peers:
        view.ways += [peer.serve(source) for peer in peers]
    for peer in peers if not dataset.with_peers else ():
        report(peer.name, dataset=name, left_out="copying so many files into it takes too long")
    for row in wanted:
        try:
            dataset.rows[row](bench, view)
        except LeftOut as reason:
            report(row, left_out=str(reason))
        except AssertionError as error:    # a reader or a mount failed: the other rows are worth having all the same
            bench.failed = True
            report(row, failed=str(error))
    report("served", dataset=name, mode={way.name: serving_mode(way) for way in view.ways if way.name in OPTIONS})
    for mountpoint in list(host.mounts):
        host.umount(mountpoint)


def print_table(table):
    """What each row is compared to, in its unit, and the others as ratios to it; then the servers' processor time."""
    for native in (True, False):
        print_columns("row, native, ratios to it" if native else "row, bare FUSE loop, ratios to it", [
            (f"{row}: {in_words(medians[baseline], unit)}" + ("" if native else f" ({baseline})"), ratios)
            for row, unit, baseline, medians, ratios, _ in table if (baseline == "native") == native])
        print_columns("processor seconds of the servers per GiB",
                      [(row, cpu) for row, _, baseline, _, _, cpu in table if cpu and (baseline == "native") == native])


def print_columns(head, rows):
    names = list(dict.fromkeys(name for _, values in rows for name in values))
    if not rows:
        return
    print("\n" + head.ljust(48) + "".join(name.rjust(max(11, len(name) + 2)) for name in names))
    for label, values in rows:
        cells = (f"{values[name]:.2f}" if name in values else "-" for name in names)
        print(label.ljust(48) + "".join(cell.rjust(max(11, len(name) + 2)) for name, cell in zip(names, cells)))


def in_words(value, unit):
    if unit == "bytes/s":
        return f"{value / 1e9:.2f} GB/s"
    return f"{value:,.0f} {unit}" if value > 100 else f"{value:.2f} {unit}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, metavar="NAME", help="which rows; default all")
    parser.add_argument("--rounds", type=int, help="rounds to take the median of (5)")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round unless --rounds")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin", help="the built programs")
    parser.add_argument("--dir", default="/var/tmp", help="scratch space on a real disk")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 5)
    if os.geteuid() != 0:
        parser.error("needs root: it mounts file systems and drops the page cache")
    harness.BIN = arguments.bin
    with contextlib.ExitStack() as stack:
        work = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlcache-warm.", dir=arguments.dir)))
        try:
            bench = Bench(arguments, work)
        except LeftOut as reason:
            parser.error(str(reason))
        host = stack.enter_context(contextlib.closing(harness.Host(work / "host", tier_size="16GiB").start()))
        peers = find_peers(work, stack)
        for name, dataset in DATASETS.items():
            wanted = [row for row in dataset.rows if row in arguments.rows]
            if wanted:
                run_dataset(bench, host, peers, name, wanted)
        print_table(bench.table)
    return 1 if bench.failed else 0


if __name__ == "__main__":
    sys.exit(main())
