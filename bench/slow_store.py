"""An S3 server over a directory with a latency and a bandwidth that all its connections share, for the benchmarks."""
import os
import re
import sys
import threading
import time

from common import harness  # noqa: F401  (puts tests/e2e on the path)

from logging_s3 import LoggingS3  # noqa: E402

PIECE = 256 << 10


class SlowStore(LoggingS3):
    """Each answer begins `latency` seconds after its request; bodies go out at `bytes_per_s` in all, piece by piece."""

    def __init__(self, directory, latency, bytes_per_s):
        self.latency = latency
        self.bytes_per_s = bytes_per_s
        self.free_at = 0.0   # when the way is free again
        super().__init__(directory)

    def reserve(self, size):
        """Waits for the time that `size` bytes have the way for themselves to be over."""
        with self.lock:
            begin = max(time.monotonic(), self.free_at)
            self.free_at = begin + size / self.bytes_per_s
            end = self.free_at
        left = end - time.monotonic()
        if left > 0:
            time.sleep(left)

    def answer(self, request, body):
        time.sleep(self.latency)
        return super().answer(request, body)

    def send_object(self, request, key, path, body):
        ranged = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if not body or not ranged:
            return super().send_object(request, key, path, body)
        etag, size = self.etag(path), path.stat().st_size
        if request.headers.get("If-Match") not in (None, etag):
            return self.error(request, 412, "PreconditionFailed", body)
        first, last = int(ranged[1]), min(int(ranged[2]), size - 1)
        request.send_response(206)
        request.send_header("ETag", etag)
        request.send_header("Last-Modified", request.date_time_string(int(path.stat().st_mtime)))
        request.send_header("Content-Length", str(last - first + 1))
        request.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        request.end_headers()
        with self.lock:
            self.gets.append((key, first, last))
        sent = 0
        with open(path, "rb") as file:
            while first + sent <= last:
                piece = min(PIECE, last + 1 - first - sent)
                self.reserve(piece)
                while piece > 0:
                    count = os.sendfile(request.connection.fileno(), file.fileno(), first + sent, piece)
                    sent += count
                    piece -= count
        with self.lock:
            self.body_bytes += sent
        return None


def main():
    """slow_store.py DIRECTORY LATENCY BYTES_PER_S: serves until its standard input ends; prints its URL."""
    directory, latency, bytes_per_s = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    with SlowStore(directory, latency, bytes_per_s) as store:
        print(store.url, store.http.server_port, flush=True)
        done = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
        done.wait()


if __name__ == "__main__":
    main()
