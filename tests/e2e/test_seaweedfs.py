"""A real SeaweedFS cluster under a real mount: every way it keeps a file, changes seen through its feed, servers that go.

Skipped, and said so, where no `weed` program is found (WEED_BIN or PATH)."""
import concurrent.futures
import os
import pathlib
import random
import re
import subprocess
import threading
import time

import pytest

import harness
import seaweed_cluster
from harness import KIB, MIB

pytestmark = pytest.mark.skipif(seaweed_cluster.weed_program() is None,
                                reason="no `weed` program: set WEED_BIN or put it on PATH to test a real SeaweedFS")
TESTS = harness.BIN.parent / "tests"


def bytes_of(seed, size):
    return random.Random(seed).randbytes(size)


@pytest.fixture(scope="module")
def cluster():
    with harness.temporary_directory() as directory:
        with seaweed_cluster.Cluster(pathlib.Path(directory) / "weed") as running:
            yield running


def test_the_store_contract_and_the_recorded_replies(cluster):
    environment = {**os.environ, "MLCACHE_TEST_SEAWEEDFS": f"127.0.0.1:{cluster.filers[0]}"}
    for program, cases in (("store_contract_test", "*/RealSeaweed"), ("store_unit_test", "SeaweedFixtures.*")):
        if not (TESTS / program).exists():
            pytest.skip(f"{TESTS / program} is not built")
        done = subprocess.run([TESTS / program, f"--gtest_filter={cases}"], env=environment, capture_output=True,
                              text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert re.search(r"\[  PASSED  \] [1-9]", done.stdout), done.stdout[-2000:]


def test_every_way_to_keep_a_file(host, cluster):
    files = {"big.bin": bytes_of(1, 9 * MIB + 17), "small": b"x", "empty": b"", "text.txt": b"compressible " * 50000,
             "odd name %41 + ü?#.bin": bytes_of(2, 100 * KIB)}
    for name, data in files.items():
        cluster.put(f"/kinds/{name}", data)
    cluster.put("/kinds/many.bin", bytes_of(3, 3 * MIB), query="?maxMB=1")
    files["many.bin"] = bytes_of(3, 3 * MIB)
    cluster.put("/kinds/dir/deep/file", b"deep")
    mountpoint = host.mount(cluster.url("/kinds"))
    assert sorted(os.listdir(mountpoint)) == sorted([*files, "dir"])
    for name, data in files.items():
        assert (mountpoint / name).stat().st_size == len(data), name
        assert (mountpoint / name).read_bytes() == data, name
    assert (mountpoint / "dir/deep/file").read_bytes() == b"deep"
    with pytest.raises(FileNotFoundError):
        (mountpoint / "absent").stat()
    # Warm, nothing is fetched again.
    before = host.total("store_read_bytes_total")
    for name, data in files.items():
        assert (mountpoint / name).read_bytes() == data, name
    assert host.total("store_read_bytes_total") == before


def test_what_weed_mount_wrote(host, cluster, workdir):
    """Overlapping chunks, holes, links and modes, written through SeaweedFS's own mount."""
    cluster.put("/written/.keep", b"")
    native = workdir / "native"
    native.mkdir()
    with open(workdir / "mount.log", "wb") as log:
        mount = subprocess.Popen([cluster.weed, "mount", f"-filer=127.0.0.1:{cluster.filers[0]}", f"-dir={native}",
                                  "-filer.path=/written", f"-cacheDir={workdir / 'weedcache'}", "-chunkSizeLimitMB=1"],
                                 cwd=cluster.directory, stdout=log, stderr=log, preexec_fn=harness.die_with_parent)
    try:
        harness.wait_for(lambda: harness.is_mounted(native), 30, "weed mount")
        expected = bytearray(bytes_of(4, 5 * MIB))
        with open(native / "overlaid", "wb") as file:
            file.write(expected)
            os.fsync(file.fileno())
            for number in range(12):
                offset = random.Random(number).randrange(5 * MIB - 200_000)
                piece = bytes_of(100 + number, 200_000)
                os.pwrite(file.fileno(), piece, offset)
                expected[offset:offset + len(piece)] = piece
                os.fsync(file.fileno())
        with open(native / "sparse", "wb") as file:
            os.pwrite(file.fileno(), b"begin", 0)
            os.pwrite(file.fileno(), b"end", 3 * MIB)
        os.symlink("overlaid", native / "link")
        os.link(native / "overlaid", native / "hard")
        os.chmod(native / "sparse", 0o640)
        os.truncate(native / "sparse", 4 * MIB)
        # Shortened in metadata alone: the last chunk's bytes stay on the volume servers.
        (native / "shortened").write_bytes(bytes_of(5, 3 * MIB))
        os.sync()
        os.truncate(native / "shortened", 2 * MIB + 12345)
        os.sync()
    finally:
        subprocess.run(["umount", native], check=False)
        mount.wait(30)
    mountpoint = host.mount(cluster.url("/written"))
    assert (mountpoint / "overlaid").read_bytes() == expected
    assert (mountpoint / "hard").read_bytes() == expected
    assert os.readlink(mountpoint / "link") == "overlaid"
    assert (mountpoint / "link").read_bytes() == expected
    assert (mountpoint / "overlaid").stat().st_nlink == 2
    shortened = bytes_of(5, 3 * MIB)[:2 * MIB + 12345]
    with open(mountpoint / "shortened", "rb") as file:
        assert os.pread(file.fileno(), 1000, 2 * MIB + 12000) == shortened[2 * MIB + 12000:]
    assert (mountpoint / "shortened").read_bytes() == shortened
    sparse = (mountpoint / "sparse").read_bytes()
    assert sparse == b"begin" + bytes(3 * MIB - 5) + b"end" + bytes(MIB - 3)
    assert (mountpoint / "sparse").stat().st_mode & 0o777 == 0o640


def test_a_remote_overwrite_is_seen_within_a_second(host, cluster):
    cluster.put("/feed/file", b"old")
    cluster.put("/feed/gone", b"x")
    mountpoint = host.mount(cluster.url("/feed"), options="ro,attr_ttl=3600s")
    assert (mountpoint / "file").read_bytes() == b"old"
    assert sorted(os.listdir(mountpoint)) == ["file", "gone"]
    for number in range(10):
        data = b"new %d" % number
        cluster.put("/feed/file", data)
        begin = time.monotonic()
        harness.wait_for(lambda data=data: (mountpoint / "file").read_bytes() == data, 5, "the new bytes")
        assert time.monotonic() - begin < 1
    cluster.delete("/feed/gone")
    cluster.put("/feed/born", b"y")
    harness.wait_for(lambda: sorted(os.listdir(mountpoint)) == ["born", "file"], 5, "the new listing")
    assert not (mountpoint / "gone").exists()


def test_readers_never_see_a_mix_of_versions(host, cluster):
    """A file of several chunks is overwritten again and again under eight readers."""
    size = 6 * MIB
    cluster.put("/mixed/file", b"\0" * size, query="?maxMB=1")
    mountpoint = host.mount(cluster.url("/mixed"), options="ro,attr_ttl=1s")
    stop = threading.Event()
    whole = []

    def read():
        while not stop.is_set():
            try:
                data = (mountpoint / "file").read_bytes()
            except OSError:
                continue
            assert len(data) == size and len(set(data[::4096])) == 1, "two versions in one read"
            whole.append(data[0])

    with concurrent.futures.ThreadPoolExecutor(8) as readers:
        running = [readers.submit(read) for _ in range(8)]
        try:
            for number in range(1, 60):
                cluster.put("/mixed/file", bytes([number]) * size, query="?maxMB=1")
        finally:
            stop.set()
        for reader in running:
            reader.result()
    assert len(set(whole)) > 3, "the readers saw the file change"
    harness.wait_for(lambda: (mountpoint / "file").read_bytes() == bytes([59]) * size, 5, "the last version")


def test_one_request_a_file(host, cluster):
    names = [f"f{number:03}" for number in range(200)]
    for name in names:
        cluster.put(f"/requests/{name}", bytes_of(name, 110 * KIB))
    mountpoint = host.mount(cluster.url("/requests"))
    before = cluster.volume_requests()
    assert sorted(os.listdir(mountpoint)) == names
    with concurrent.futures.ThreadPoolExecutor(8) as readers:
        data = list(readers.map(lambda name: (mountpoint / name).read_bytes(), names))
    assert all(piece == bytes_of(name, 110 * KIB) for name, piece in zip(names, data))
    assert cluster.volume_requests() - before == len(names), "one GET of a volume server a file"
    requests = host.stats()["store_requests_total"]
    assert harness.total(requests) <= 1.05 * len(names) + 5, requests


def test_a_volume_server_and_the_filer_go_and_come(hosts, cluster):
    host = hosts(flags=["--retry_attempts=2", "--connect_timeout=1s"])
    for number in range(20):
        cluster.put(f"/failures/f{number}", bytes_of(number, 200 * KIB), query="?replication=001")
    mountpoint = host.mount(cluster.url("/failures"), options="ro,attr_ttl=3600s")
    assert len(os.listdir(mountpoint)) == 20
    cluster.stop_one("volume1")
    try:
        for number in range(10):
            assert (mountpoint / f"f{number}").read_bytes() == bytes_of(number, 200 * KIB)
    finally:
        cluster.start_one("volume1")
    harness.wait_for(cluster.takes_writes, 60, "the volume server is back")
    known = set().union(*(cluster.volumes_of(f"/failures/f{number}") for number in range(10)))
    unread = [number for number in range(10, 20) if cluster.volumes_of(f"/failures/f{number}") <= known][:3]
    assert unread, "none of ten files lies on the volumes of ten others"
    cluster.stop_one("filer0")
    try:
        for number in range(10):  # their names and bytes are known
            assert (mountpoint / f"f{number}").read_bytes() == bytes_of(number, 200 * KIB)
        for number in unread:  # their names are, and where their volume is
            assert (mountpoint / f"f{number}").read_bytes() == bytes_of(number, 200 * KIB)
    finally:
        cluster.start_one("filer0")
    harness.wait_for(cluster.takes_writes, 60, "the filer is back")
    for number in range(20):
        assert (mountpoint / f"f{number}").read_bytes() == bytes_of(number, 200 * KIB)
    # The feed goes on after its break.
    cluster.put("/failures/f0", b"changed")
    harness.wait_for(lambda: (mountpoint / "f0").read_bytes() == b"changed", 20, "a change after the break")


def test_access_by_the_filer_alone(host, cluster):
    cluster.put("/byfiler/file", bytes_of(9, 5 * MIB))
    mountpoint = host.mount(cluster.url("/byfiler", "?access=filer"))
    assert (mountpoint / "file").read_bytes() == bytes_of(9, 5 * MIB)


def certificates(directory):
    """A certificate authority and one certificate for everybody, as SeaweedFS's own instructions have it."""
    directory.mkdir(parents=True)

    def openssl(*arguments):
        harness.run("openssl", *arguments, cwd=directory)
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test authority",
            "-keyout", "ca.key", "-out", "ca.crt")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=node", "-keyout", "node.key", "-out", "node.csr")
    (directory / "extensions").write_text("extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=DNS:node\n")
    openssl("x509", "-req", "-in", "node.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "extensions", "-out", "node.crt")


def test_a_secured_and_encrypted_cluster(hosts, workdir):
    """gRPC with mutual TLS, tokens for reads of volume servers, chunks encrypted at rest."""
    pki = workdir / "pki"
    certificates(pki)
    sections = "\n".join(f'[grpc.{name}]\ncert = "{pki}/node.crt"\nkey = "{pki}/node.key"'
                         for name in ("volume", "master", "filer", "s3", "client"))
    tokens = '[jwt.signing]\nkey = "write secret"\n[jwt.signing.read]\nkey = "read secret"\n'
    tls = f'[grpc]\nca = "{pki}/ca.crt"\n{sections}\n'
    with seaweed_cluster.Cluster(workdir / "weed", security=tls + tokens, filer_flags=["-encryptVolumeData"]) as cluster:
        data, text = bytes_of(11, 9 * MIB), b"compressible " * 100_000
        cluster.put("/secret/file", data)
        cluster.put("/secret/text.txt", text)
        url = cluster.url("/secret")

        (workdir / "full.toml").write_text(tls + tokens)
        full = hosts("full", flags=[f"--seaweedfs_security={workdir}/full.toml"])
        mountpoint = full.mount(url)
        assert (mountpoint / "file").read_bytes() == data
        assert (mountpoint / "text.txt").read_bytes() == text
        assert "trying elsewhere" not in full.log.read_text()

        # Without the tokens' key the filer is asked, which has it.
        (workdir / "tls.toml").write_text(tls)
        half = hosts("half", flags=[f"--seaweedfs_security={workdir}/tls.toml"])
        mountpoint = half.mount(url)
        assert (mountpoint / "file").read_bytes() == data
        assert "wants a token" in half.log.read_text()

        # Without certificates nothing is to be had, and it is said where.
        refused = hosts("bare", flags=["--retry_attempts=1"]).mount(url, check=False)
        assert refused.returncode != 0
        assert f"127.0.0.1:{cluster.filers[0] + seaweed_cluster.GRPC_OFFSET}" in refused.stderr
