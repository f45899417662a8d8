"""Fixtures of the end-to-end tests."""
import contextlib
import pathlib

import pytest

import harness


@pytest.fixture
def workdir():
    with harness.temporary_directory() as directory:
        yield pathlib.Path(directory)


@pytest.fixture
def hosts(workdir):
    """A factory of hosts; all are taken down at the end, and their logs shown when the test failed."""
    made = []

    def make(name="host", **keywords):
        host = harness.Host(workdir / name, **keywords)
        made.append(host)
        return host.start()

    yield make
    for host in made:
        with contextlib.suppress(OSError):
            print(f"--- {host.log}\n{host.log.read_text(errors='replace')[-6000:]}")
        host.close()


@pytest.fixture
def host(hosts):
    return hosts()


@pytest.fixture
def source(workdir):
    directory = workdir / "source"
    directory.mkdir()
    return directory
