#!/usr/bin/env python3
"""Writes an ImageNet-like tree of real JPEG files: DIR/train/classNNN/imgNNNNN.jpg.

Sizes follow ImageNet's (median about 110 KB, long tail); the same seed gives the same bytes. Without Pillow the files
hold noise behind a JPEG header, and the script says so.
"""
import argparse
import io
import multiprocessing
import os
import random
import sys

try:
    from PIL import Image
except ImportError:
    Image = None


def jpeg(seed):
    """One JPEG of 20 to 400 KB."""
    rng = random.Random(seed)
    size = int(min(400_000, max(20_000, rng.lognormvariate(11.55, 0.45))))
    if Image is None:
        return b"\xff\xd8\xff\xe0" + rng.randbytes(size - 6) + b"\xff\xd9"
    # Coarse noise enlarged compresses like a photograph; a JPEG reader stops at the end marker, so the rest of the
    # wanted size is a trailing comment of noise, as camera makers' trailing previews are.
    width, height = rng.choice([(500, 375), (375, 500), (500, 333), (400, 400)])
    coarse = Image.frombytes("RGB", (width // 8, height // 8), rng.randbytes((width // 8) * (height // 8) * 3))
    buffer = io.BytesIO()
    coarse.resize((width, height), Image.BILINEAR).save(buffer, "JPEG", quality=90)
    data = buffer.getvalue()
    return data + rng.randbytes(max(0, size - len(data)))


def write(job):
    path, seed = job
    with open(path, "wb") as file:
        return file.write(jpeg(seed))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    jobs = []
    for index in range(arguments.files):
        folder = os.path.join(arguments.directory, "train", f"class{index % arguments.classes:03d}")
        if index < arguments.classes:
            os.makedirs(folder, exist_ok=True)
        jobs.append((os.path.join(folder, f"img{index:05d}.jpg"), arguments.seed * 1_000_003 + index))
    if Image is None:
        print("make_dataset: Pillow is not importable: noise behind a JPEG header instead of pictures", file=sys.stderr)
    total = 0
    with multiprocessing.Pool() as pool:
        for done, count in enumerate(pool.imap_unordered(write, jobs, chunksize=16), 1):
            total += count
            if done % 200 == 0 or done == len(jobs):
                end = "\n" if done == len(jobs) or not sys.stderr.isatty() else "\r"
                print(f"  {done}/{len(jobs)} files, {total / 1e6:.0f} MB", end=end, file=sys.stderr)
    print(total)


if __name__ == "__main__":
    main()
