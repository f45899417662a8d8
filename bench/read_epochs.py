#!/usr/bin/env python3
"""Reads a tree the way a training job does and prints one JSON line an epoch.

With PyTorch a DataLoader (several workers, shuffled, batches); without it a multi-process reader of the same shape, and
the line says which. Each epoch's checksum (sum of CRC-32 over all files) does not depend on the order.
"""
import argparse
import json
import multiprocessing
import os
import random
import sys
import time
import zlib

try:
    import torch
    import torch.utils.data
except ImportError:
    torch = None


def find_files(directory):
    """Every regular file below `directory`, control files of the mount left out."""
    found = []
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if name != ".mlcache")
        found.extend(os.path.join(folder, name) for name in sorted(names))
    return found


def read_file(path):
    """(bytes read, CRC-32)."""
    with open(path, "rb") as file:
        data = file.read()
    return len(data), zlib.crc32(data)


class Files:
    """A map-style dataset: item i is file i's length and CRC."""

    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return read_file(self.paths[index])


def epoch_with_torch(paths, workers, batch, seed):
    generator = torch.Generator()
    generator.manual_seed(seed)
    loader = torch.utils.data.DataLoader(Files(paths), batch_size=batch, shuffle=True, num_workers=workers,
                                         generator=generator)
    count = total = checksum = 0
    for sizes, crcs in loader:
        count += len(sizes)
        total += int(sizes.sum())
        checksum += int(crcs.sum())
    return count, total, checksum


def epoch_plain(paths, workers, batch, seed):
    order = list(paths)
    random.Random(seed).shuffle(order)
    count = total = checksum = 0
    with multiprocessing.Pool(workers) as pool:
        for size, crc in pool.imap_unordered(read_file, order, chunksize=max(1, batch // 4)):
            count += 1
            total += size
            checksum += crc
    return count, total, checksum


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="do not use PyTorch even if it is there")
    arguments = parser.parse_args()
    use_torch = torch is not None and not arguments.plain
    paths = find_files(arguments.directory)
    if not paths:
        sys.exit(f"read_epochs: no files below {arguments.directory}")
    for epoch in range(arguments.epochs):
        start = time.monotonic()
        read = epoch_with_torch if use_torch else epoch_plain
        count, total, checksum = read(paths, arguments.workers, arguments.batch, arguments.seed + epoch)
        seconds = time.monotonic() - start
        print(json.dumps({"epoch": epoch, "reader": "torch" if use_torch else "plain", "files": count, "bytes": total,
                          "checksum": checksum, "seconds": round(seconds, 3), "files_per_s": round(count / seconds, 1),
                          "bytes_per_s": round(total / seconds)}), flush=True)


if __name__ == "__main__":
    main()
