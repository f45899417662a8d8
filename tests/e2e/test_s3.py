"""S3 as a daemon meets it: TLS, requests for each byte, a store that dies and comes back, keys from files."""
import os
import ssl
import subprocess
import time

import harness
from logging_s3 import LoggingS3
from test_shared_cache import KEYS, read_all


def make_certificate(directory):
    """A self-signed certificate for 127.0.0.1 and its key, in one file."""
    path = directory / "server.pem"
    harness.run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", path, "-out", directory / "ca.pem",
                "-days", "2", "-subj", "/CN=mlcache test", "-addext", "subjectAltName=IP:127.0.0.1")
    with open(path, "a", encoding="ascii") as file:
        file.write((directory / "ca.pem").read_text())
    return path, directory / "ca.pem"


def test_https_with_a_private_authority(hosts, source, workdir):
    size = harness.make_tree(source, files=20)
    certificate, authority = make_certificate(workdir)
    with LoggingS3(source) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
        url = server.url.replace("http://", "https://")
        trusting = hosts("trusting", environment={**KEYS, "AWS_CA_BUNDLE": str(authority)})
        assert read_all(trusting.mount(url)) == size
        refused = hosts("wary", environment={**KEYS, "AWS_CA_BUNDLE": ""}).mount(url, check=False)
        assert refused.returncode == 1 and "AWS_CA_BUNDLE" in refused.stderr, refused.stderr
        absent = hosts("absent", environment={**KEYS, "AWS_CA_BUNDLE": "/no/such/file"}).mount(url, check=False)
        assert absent.returncode == 1 and "/no/such/file" in absent.stderr, absent.stderr


def test_a_cold_epoch_asks_once_for_each_file_and_once_for_each_directory(hosts, source):
    files, folders = 400, 8
    for folder in range(folders):
        for number in range(files // folders):
            harness.make_file(source / f"class{folder}" / f"{number:04}.jpg", 20_000 + number)
    harness.settle(source)
    with LoggingS3(source) as server:
        host = hosts(environment=KEYS)
        mountpoint = host.mount(server.url)
        before = dict(server.requests)
        assert read_all(mountpoint) == server.body_bytes
        asked = {kind: server.requests[kind] - before[kind] for kind in server.requests}
        # The walk lists the root and each directory.
        assert asked["list"] <= folders + 1, asked
        assert asked["get"] == files, asked
        assert asked["head"] <= files // 100, asked
        warm = dict(server.requests)
        read_all(mountpoint, seed=1)
        assert server.requests == warm, "a warm epoch within attr_ttl asked the store"


def test_a_cold_epoch_by_a_list_of_names_never_looks_twice(hosts, source):
    """A framework that has its names from an index file never lists; the daemon does, when lookups come fast enough."""
    files = 300
    paths = [f"data/{number:04}.npy" for number in range(files)]
    for path in paths:
        harness.make_file(source / path, 9_000)
    harness.settle(source)
    with LoggingS3(source) as server:
        host = hosts(environment=KEYS)
        mountpoint = host.mount(server.url, options="ro,attr_ttl=600s")
        before = dict(server.requests)
        for path in paths:
            assert len((mountpoint / path).read_bytes()) == 9_000
        asked = {kind: server.requests[kind] - before[kind] for kind in server.requests}
        assert asked["get"] == files
        # How soon a listing answers for the rest depends on how fast this host asks.
        assert asked["head"] <= files and asked["list"] <= 2, asked


def test_a_dead_store_answers_quickly_while_cached_data_goes_on(hosts, source):
    harness.make_tree(source / "cached", files=20)
    harness.make_tree(source / "not_cached", files=60)
    harness.settle(source)
    with LoggingS3(source) as server:
        host = hosts(environment=KEYS, flags=["--retry_attempts=3", "--retry_initial_backoff=20ms"])
        mountpoint = host.mount(server.url, options="ro,attr_ttl=3600s")
        size = read_all(mountpoint / "cached")
        names = [path for path in (mountpoint / "not_cached").rglob("*") if path.is_file()]
        server.hang_up = True
        failed = 0
        end = time.monotonic() + 30
        while host.total("store_circuit_open") == 0:
            assert time.monotonic() < end, "the breaker never opened"
            for name in names[:5]:
                try:
                    name.read_bytes()
                except OSError:
                    failed += 1
        assert failed > 0
        asked = server.connections
        for name in names:
            try:
                name.read_bytes()
                raise AssertionError("bytes from a dead store")
            except OSError:
                pass
        assert server.connections - asked < 3 * len(names) // 2, "a dead store was asked as if it lived"
        assert read_all(mountpoint / "cached") == size, "cached data must go on"
        server.hang_up = False

        def lives():
            try:
                return names[0].read_bytes()
            except OSError:
                return None
        harness.wait_for(lives, 20, "the store is found alive again")
        assert host.total("store_circuit_open") == 0
        assert read_all(mountpoint / "not_cached") > 0


def test_each_byte_is_counted_once_beside_hedged_reads(hosts, source):
    files = 160
    for number in range(files):
        harness.make_file(source / f"{number:04}", 30_000)
    harness.settle(source)
    with LoggingS3(source) as server:
        host = hosts(environment=KEYS, flags=["--hedge_percent=100"])
        mountpoint = host.mount(server.url, options="ro,attr_ttl=600s")
        paths = sorted(path for path in mountpoint.iterdir() if path.is_file())
        for path in paths[:150]:
            path.read_bytes()
        server.delay = 2.0  # far above the 99th percentile of what came before
        assert paths[150].read_bytes() == (source / paths[150].name).read_bytes()
        server.delay = 0.0
        assert host.total("store_hedges_total") >= 1
        read_all(mountpoint)
        assert host.total("store_read_bytes_total") == files * 30_000
        assert host.total("store_hedged_bytes_total") <= 30_000 * host.total("store_hedges_total")


def test_keys_from_a_systemd_credential_and_never_in_logs(hosts, source, workdir):
    harness.make_tree(source, files=3)
    (workdir / "aws").write_text("[default]\naws_access_key_id=AKID\naws_secret_access_key=not-to-be-seen\n")
    nothing = {name: "" for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SHARED_CREDENTIALS_FILE")}
    with LoggingS3(source) as server:
        host = hosts(environment={**nothing, "CREDENTIALS_DIRECTORY": str(workdir), "HOME": "/nonexistent"},
                     flags=["--v=2"])
        assert read_all(host.mount(server.url)) == server.body_bytes
        shown = host.log.read_text() + host.ctl("stats", "--json").stdout + host.ctl("status").stdout
        assert "not-to-be-seen" not in shown
        assert os.fsencode("not-to-be-seen") not in subprocess.run(
            ["ps", "-eo", "args"], capture_output=True, check=True).stdout
