"""What /proc says about ourselves, and that it says nothing about what is not there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine import procfs

LOOPBACKS = [("udp", "127.0.0.1"), ("tcp", "127.0.0.1"), ("udp", "::1"), ("tcp", "::1")]
BUSY = "import sys\nx = sum(i * i for i in range(4_000_000))\nprint('done', flush=True)\nsys.stdin.read()"


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_our_own_cpu_time_is_what_the_process_clock_says() -> None:
    before = procfs.usage_alone(os.getpid())
    burn(0.1)
    after = procfs.usage_alone(os.getpid())
    assert before is not None
    assert after is not None
    assert 0.05 <= after.cpu_seconds - before.cpu_seconds <= 5
    assert after.resident > 1 << 20


def test_a_childs_cpu_counts_while_it_lives_and_after() -> None:
    before = procfs.usage(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"done\n"
        live = procfs.usage(os.getpid())
        alone = procfs.usage(child.pid)
        child.communicate()
    reaped = procfs.usage(os.getpid())
    assert before is not None
    assert live is not None
    assert alone is not None
    assert reaped is not None
    assert alone.cpu_seconds >= 0.1
    assert live.cpu_seconds - before.cpu_seconds >= alone.cpu_seconds - 0.05
    assert reaped.cpu_seconds >= live.cpu_seconds
    assert procfs.usage(child.pid) is None


@pytest.mark.parametrize(("protocol", "host"), LOOPBACKS)
def test_the_holder_of_a_port_is_found(protocol: procfs.Protocol, host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    with socket.socket(family, kind) as sock:
        sock.bind((host, 0))
        if protocol == "tcp":
            sock.listen()
        port = sock.getsockname()[1]
        held = procfs.holder(protocol, host, port)
        assert held is not None
        assert held.pid == os.getpid()
        assert str(os.getpid()) in str(held)
    assert procfs.holder(protocol, host, port) is None


def test_a_wildcard_holds_every_address() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))
        held = procfs.holder("udp", "127.0.0.1", sock.getsockname()[1])
        assert held is not None
        assert held.pid == os.getpid()


def test_another_address_does_not_hold_the_port() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.2", 0))
        assert procfs.holder("udp", "127.0.0.1", sock.getsockname()[1]) is None


def test_the_opener_of_a_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert procfs.opener(path) is None
    with path.open("w"):
        assert procfs.opener(path) == os.getpid()
    assert procfs.opener(path) is None
