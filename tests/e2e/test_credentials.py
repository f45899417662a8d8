"""credential=NAME: whose keys read the store, who may ask for them, and that cached bytes stay with their keys."""
import os
import re

import pytest

import harness
from logging_s3 import LoggingS3
from test_mounts import NOBODY, fuse_device, root_only

SECRETS = ("secret-of-a", "secret-of-b")


class WitnessS3(LoggingS3):
    """Remembers the ids of the keys that requests were signed with."""

    def __init__(self, directory):
        self.key_ids = set()
        super().__init__(directory)

    def answer(self, request, body):
        signed = re.search(r"Credential=([^/]+)/", request.headers.get("Authorization", ""))
        self.key_ids.add(signed[1] if signed else "none")
        return super().answer(request, body)


@pytest.fixture
def profiles(workdir):
    """The daemon's flags and environment for two teams, and no keys of its own."""
    keys = workdir / "aws"
    keys.write_text(f"[a]\naws_access_key_id = KEYA\naws_secret_access_key = {SECRETS[0]}\n"
                    f"[team-b]\naws_access_key_id = KEYB\naws_secret_access_key = {SECRETS[1]}\n")
    table = workdir / "credentials"
    table.write_text(f"[team-a]\nuids = {NOBODY}\naws_profile = a\n[team-b]\nuids = 12345\n")
    os.chmod(table, 0o644)
    environment = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SHARED_CREDENTIALS_FILE": str(keys),
                   "AWS_PROFILE": ""}
    return {"flags": [f"--credentials={table}"], "environment": environment}


def test_profiles_choose_keys_and_keep_their_bytes_apart(hosts, source, profiles):
    size = harness.make_tree(source, files=10)
    with WitnessS3(source) as server:
        host = hosts(**profiles)
        refused = host.mount(server.url, check=False)
        assert refused.returncode == 1 and not server.key_ids, refused.stderr
        one = host.mount(server.url, "one", options="ro,credential=team-a")
        harness.run("cp", "-r", f"{one}/.", source.parent / "copy")
        assert server.key_ids == {"KEYA"} and server.body_bytes == size
        again = host.mount(server.url, "again", options="ro,credential=team-a")
        harness.run("diff", "-r", "--exclude=.mlcache", again, source)
        assert server.body_bytes == size
        other = host.mount(server.url, "other", options="ro,credential=team-b")
        harness.run("diff", "-r", "--exclude=.mlcache", other, source)
        assert server.key_ids == {"KEYA", "KEYB"} and server.body_bytes == 2 * size
        log = host.log.read_text(errors="replace") + host.ctl("mounts").stdout + host.ctl("stats", "--json").stdout
        assert not any(secret in log for secret in SECRETS)


def test_profiles_are_refused_by_name(hosts, source, profiles, workdir):
    with WitnessS3(source) as server:
        host = hosts(**profiles)
        unknown = host.mount(server.url, options="ro,credential=team-c", check=False)
        assert unknown.returncode == 1 and "team-c" in unknown.stderr and "team-a, team-b" in unknown.stderr
        local = host.mount(f"file://{source}", options="ro,credential=team-a", check=False)
        assert local.returncode == 1 and "s3://" in local.stderr
        plain = hosts("plain").mount(server.url, options="ro,credential=team-a", check=False)
        assert plain.returncode == 1 and "--credentials" in plain.stderr
        bad = workdir / "bad"
        bad.write_text("[a]\nuids = alice\n")
        checked = harness.run(harness.BIN / "mlcached", f"--tier={host.tiers}", f"--socket_dir={workdir}",
                              f"--credentials={bad}", "--check_config", check=False)
        assert checked.returncode == 1 and f"{bad}:2" in checked.stderr, checked.stderr
        assert not server.key_ids


@root_only
def test_profiles_are_for_the_users_they_list(hosts, source, workdir, profiles):
    harness.make_file(source / "file", 1000)
    for directory in (workdir, source):
        os.chmod(directory, 0o755)
    with WitnessS3(source) as server, fuse_device(workdir, 0o666):
        host = hosts(**profiles)  # root's daemon
        for directory in (host.directory, host.run):
            os.chmod(directory, 0o755)
        mountpoint = host.directory / "user"
        mountpoint.mkdir()
        os.chown(mountpoint, NOBODY, NOBODY)

        as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]

        def mount_as_nobody(options, url=server.url):
            return harness.run(*as_nobody, harness.BIN / "mlcache-mount", url, mountpoint, f"--socket_dir={host.run}",
                               "-o", options, check=False)
        for options, url, said in (("ro,credential=team-b", server.url, "team-b"), ("ro", server.url, "lets mount"),
                                   ("ro", server.url + "&profile=a", "credential=NAME")):
            refused = mount_as_nobody(options, url)
            assert refused.returncode == 1 and said in refused.stderr, refused.stderr
        assert not server.key_ids
        assert mount_as_nobody("ro,credential=team-a").returncode == 0
        host.mounts.append(mountpoint)
        harness.run(*as_nobody, "cmp", mountpoint / "file", source / "file")
        assert server.key_ids == {"KEYA"}
