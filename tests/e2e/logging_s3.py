"""A small S3 server over a directory that logs what it sent: HEAD, GET with Range and If-Match, ListObjectsV2.

It checks no signatures; the contract suite does that against third-party servers. Its log is the witness against which
the daemon's counters are held.
"""
import hashlib
import http.server
import os
import pathlib
import re
import threading
import urllib.parse
from xml.sax.saxutils import escape


class LoggingS3:
    """Serves bucket `bucket` from `directory` on 127.0.0.1 until close(); use as a context manager."""

    def __init__(self, directory, bucket="bucket"):
        self.directory = pathlib.Path(directory)
        self.bucket = bucket
        self.lock = threading.Lock()
        self.body_bytes = 0        # of object bodies sent
        self.gets = []             # (key, first, last) of each object GET
        self.delay = 0.0           # seconds before each GET's body
        self.fail_next = 0         # answer so many requests with 503 SlowDown
        self.requests = {"head": 0, "get": 0, "list": 0}
        self.connections = 0       # taken
        self.hang_up = False       # close every connection without an answer
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def parse_request(self):
                if server.hang_up:
                    self.close_connection = True
                    return False
                return super().parse_request()

            def setup(self):
                super().setup()
                with server.lock:
                    server.connections += 1

            def do_HEAD(self):
                server.answer(self, body=False)

            def do_GET(self):
                server.answer(self, body=True)

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        self.http = Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"s3://{self.bucket}?endpoint=http://127.0.0.1:{self.http.server_port}&region=us-east-1"

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.http.shutdown()
        self.http.server_close()

    @staticmethod
    def etag(path):
        info = os.stat(path)
        return '"%s"' % hashlib.md5(f"{info.st_ino}/{info.st_size}/{info.st_mtime_ns}".encode()).hexdigest()

    def answer(self, request, body):
        url = urllib.parse.urlsplit(request.path)
        _, bucket, *rest = urllib.parse.unquote(url.path).split("/", 2)
        with self.lock:
            if self.fail_next > 0:
                self.fail_next -= 1
                return self.error(request, 503, "SlowDown", body)
        if bucket != self.bucket:
            return self.error(request, 404, "NoSuchBucket", body)
        key = rest[0] if rest else ""
        with self.lock:
            self.requests["head" if not body else "get" if key else "list"] += 1
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        if not key:
            return self.list(request, query)
        path = self.directory / key
        if not path.is_file() or key.endswith("/"):
            return self.error(request, 404, "NoSuchKey", body)
        return self.send_object(request, key, path, body)

    def error(self, request, status, code, body):
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/xml")
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        if body:
            request.wfile.write(text)

    def send_object(self, request, key, path, body):
        etag, size = self.etag(path), path.stat().st_size
        if request.headers.get("If-Match") not in (None, etag):
            return self.error(request, 412, "PreconditionFailed", body)
        first, last, status = 0, size - 1, 200
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if ranged:
            first, last, status = int(ranged[1]), min(int(ranged[2] or size - 1), size - 1), 206
            if first >= size:
                return self.error(request, 416, "InvalidRange", body)
        request.send_response(status)
        request.send_header("ETag", etag)
        request.send_header("Last-Modified", request.date_time_string(int(path.stat().st_mtime)))
        request.send_header("Content-Length", str(last - first + 1))
        if status == 206:
            request.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        request.end_headers()
        if not body:
            return None
        if self.delay:
            threading.Event().wait(self.delay)
        with self.lock:
            self.gets.append((key, first, last))
        with open(path, "rb") as file:
            left = last - first + 1
            file.seek(first)
            while left:
                piece = file.read(min(left, 1 << 18))
                request.wfile.write(piece)
                left -= len(piece)
                with self.lock:
                    self.body_bytes += len(piece)
        return None

    def list(self, request, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        limit, after = int(query.get("max-keys", 1000)), query.get("continuation-token", "")
        quote = (lambda text: urllib.parse.quote(text, safe="/")) if query.get("encoding-type") == "url" else str
        rows = {}
        for folder, _, names in os.walk(self.directory):
            for name in names:
                key = os.path.relpath(os.path.join(folder, name), self.directory)
                if key.startswith(prefix):
                    cut = key.find(delimiter, len(prefix)) if delimiter else -1
                    rows[key if cut < 0 else key[:cut + 1]] = cut < 0
        names = [name for name in sorted(rows) if name > after]
        page, more = names[:limit], len(names) > limit
        text = ["<?xml version='1.0' encoding='UTF-8'?><ListBucketResult>", f"<Name>{self.bucket}</Name>",
                f"<KeyCount>{len(page)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"]
        if query.get("encoding-type") == "url":
            text.append("<EncodingType>url</EncodingType>")
        if more:
            text.append(f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>")
        for name in page:
            if rows[name]:
                info = (self.directory / name).stat()
                text.append(f"<Contents><Key>{escape(quote(name))}</Key><ETag>{escape(self.etag(self.directory / name))}</ETag>"
                            f"<Size>{info.st_size}</Size><LastModified>{self.iso(info.st_mtime)}</LastModified></Contents>")
            else:
                text.append(f"<CommonPrefixes><Prefix>{escape(quote(name))}</Prefix></CommonPrefixes>")
        data = ("".join(text) + "</ListBucketResult>").encode()
        request.send_response(200)
        request.send_header("Content-Type", "application/xml")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    @staticmethod
    def iso(seconds):
        import datetime
        return datetime.datetime.fromtimestamp(int(seconds), datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
