"""A real SeaweedFS cluster on 127.0.0.1: master, two volume servers, filer and S3 gateway, for the tests and benchmarks.

Needs the `weed` program (WEED_BIN, or on PATH); `weed_program()` is None where there is none. Everything lies below the
directory given and ends with the process that started it."""
import http.client
import json
import os
import pathlib
import shutil
import socket
import subprocess
import urllib.parse

import harness

GRPC_OFFSET = 10000
READY_SECONDS = 60


def weed_program():
    named = os.environ.get("WEED_BIN")
    if named:
        assert os.access(named, os.X_OK), f"WEED_BIN={named} is not a program that can be run"
        return named
    return shutil.which("weed")


def free_port():
    """A port of 127.0.0.1 that is free, as is the one 10000 above it (SeaweedFS's gRPC)."""
    while True:
        with socket.socket() as http_socket, socket.socket() as grpc_socket:
            http_socket.bind(("127.0.0.1", 0))
            port = http_socket.getsockname()[1]
            if port + GRPC_OFFSET > 65535:
                port = 20000 + port % 20000
                try:
                    with socket.socket() as again:
                        again.bind(("127.0.0.1", port))
                except OSError:
                    continue
            try:
                grpc_socket.bind(("127.0.0.1", port + GRPC_OFFSET))
            except OSError:
                continue
            return port


class Cluster:
    def __init__(self, directory, security=None, filer_flags=(), volume_flags=(), filers=1):
        self.weed = weed_program()
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.processes = {}
        self.commands = {}
        self.master = free_port()
        self.volumes = [free_port(), free_port()]
        self.metrics = [free_port(), free_port()]  # of the volume servers
        self.filers = [free_port() for _ in range(filers)]
        self.s3 = free_port()
        if security is not None:
            (self.directory / "security.toml").write_text(security)
        local = ("-ip=127.0.0.1", "-ip.bind=127.0.0.1")
        masters = f"127.0.0.1:{self.master}"
        # Small volumes and no reserve, so that several clusters fit the disk of a test machine.
        self._define("master", "master", *local, f"-port={self.master}", f"-mdir={self._folder('master')}",
                     "-volumeSizeLimitMB=1024", "-peers=none")
        for number, port in enumerate(self.volumes):
            self._define(f"volume{number}", "volume", *local, f"-port={port}", f"-dir={self._folder(f'volume{number}')}",
                         f"-mserver={masters}", "-max=40", "-minFreeSpace=1", "-metricsIp=127.0.0.1",
                         f"-metricsPort={self.metrics[number]}", *volume_flags)
        for number, port in enumerate(self.filers):
            self._define(f"filer{number}", "filer", *local, f"-port={port}", f"-master={masters}",
                         f"-defaultStoreDir={self._folder(f'filer{number}')}", *filer_flags)
        self._define("s3", "s3", "-ip.bind=127.0.0.1", f"-port={self.s3}", f"-filer=127.0.0.1:{self.filers[0]}",
                     "-port.iceberg=0", "-port.lance=0", "-iam=false")

    def _folder(self, name):
        folder = self.directory / name
        folder.mkdir(exist_ok=True)
        return folder

    def _define(self, name, *arguments):
        self.commands[name] = [self.weed, "-logtostderr=true", *map(str, arguments)]

    def start_one(self, name):
        with open(self.directory / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(self.commands[name], cwd=self.directory, stdout=log, stderr=log,
                                                    env={**os.environ, "HOME": str(self.directory)},
                                                    preexec_fn=harness.die_with_parent)

    def start(self):
        for name in self.commands:
            self.start_one(name)
        harness.wait_for(self.takes_writes, READY_SECONDS, f"the cluster takes writes (logs in {self.directory})")
        return self

    def takes_writes(self):
        for name, process in self.processes.items():
            assert process.poll() is None, f"weed {name} ended:\n{(self.directory / f'{name}.log').read_text()[-3000:]}"
        try:
            self.put("/.ready", b"ready")
            return self.get("/.ready") == b"ready"
        except OSError:
            return False

    def stop_one(self, name):
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self):
        for name in list(self.processes):
            self.stop_one(name)

    def __enter__(self):
        return self.start()

    def __exit__(self, error, *_):
        self.stop()
        if error is not None:
            for log in sorted(self.directory.glob("*.log")):
                print(f"--- {log}\n{log.read_text(errors='replace')[-3000:]}")

    def url(self, path="", options=""):
        filers = ",".join(f"127.0.0.1:{port}" for port in self.filers)
        return f"seaweedfs://{filers}{urllib.parse.quote(path)}{options}"

    def request(self, method, path, body=None, query="", headers=None, port=None):
        """Status and body of a request to the first filer."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.filers[0], timeout=60)
        try:
            connection.request(method, urllib.parse.quote(path) + query, body=body, headers=headers or {})
            reply = connection.getresponse()
            return reply.status, reply.read()
        except http.client.HTTPException as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()

    def put(self, path, data, query="", headers=None):
        status, body = self.request("PUT", path, data, query,
                                    {"Content-Type": "application/octet-stream", **(headers or {})})
        if status not in (200, 201):
            raise OSError(f"PUT {path}: HTTP {status} {body[:200]!r}")

    def get(self, path, **keywords):
        status, body = self.request("GET", path, **keywords)
        if status != 200:
            raise OSError(f"GET {path}: HTTP {status}")
        return body

    def volumes_of(self, path):
        """The numbers of the volumes that have a file's chunks."""
        entry = json.loads(self.get(path, query="?metadata=true"))
        return {chunk["fid"]["volume_id"] for chunk in entry["chunks"]}

    def delete(self, path):
        status, body = self.request("DELETE", path, query="?recursive=true")
        if status not in (200, 202, 204):
            raise OSError(f"DELETE {path}: HTTP {status} {body[:200]!r}")

    def shell(self, *commands):
        """Runs commands of `weed shell` and returns what it printed."""
        done = subprocess.run([self.weed, "shell", f"-master=127.0.0.1:{self.master}",
                               f"-filer=127.0.0.1:{self.filers[0]}"], cwd=self.directory, capture_output=True, text=True,
                              input="\n".join([*commands, "exit"]) + "\n", timeout=120, check=False)
        return done.stdout + done.stderr

    def volume_requests(self):
        """GETs that the volume servers have answered, by their own count; the sum of both."""
        count = 0
        for port in self.metrics:
            _, body = self.request("GET", "/metrics", port=port)
            for line in body.decode().splitlines():
                if line.startswith("SeaweedFS_volumeServer_request_total") and 'type="GET"' in line:
                    count += int(float(line.rsplit(" ", 1)[1]))
        return count
