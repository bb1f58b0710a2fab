"""Which servers an engine may ask: this machine and private networks, unless the operator says otherwise."""

from __future__ import annotations

import pytest

from ml.errors import SpecError, UnavailableError
from ml.vllm.address import address_of, ip_of


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://10.0.0.5:8000", "http://10.0.0.5:8000"),
        ("http://gpu.internal:8000/v1/", "http://gpu.internal:8000"),
        ("https://gpu.internal/vllm", "https://gpu.internal:443/vllm"),
        ("http://[fd00::7]:8000", "http://[fd00::7]:8000"),
    ],
)
def test_an_address_is_read_as_people_write_it(url: str, shown: str) -> None:
    assert address_of(url).url == shown


@pytest.mark.parametrize(
    "url",
    ["", "gpu.internal:8000", "ftp://gpu", "http://", "http://gpu:x", "http://gpu/?a=1", "http://gpu/#a",
     "http://[fd00::7", "file:///etc/passwd"],
)  # fmt: skip
def test_anything_else_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(SpecError, match="ENGINE_VLLM_URL") as found:
        address_of(url)
    assert "http://10.0.0.5:8000" in found.value.hint


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(SpecError) as found:
        address_of("http://me:s3cret@10.0.0.5:8000")
    assert "s3cret" not in str(found.value.as_dict())


@pytest.mark.parametrize(
    "ip", ["127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.7.7", "::1", "fd12::1", "::ffff:10.0.0.1"]
)
def test_private_addresses_are_asked(ip: str) -> None:
    assert ip_of(address_of("http://gpu:8000"), lambda host, port: [ip]) == ip


@pytest.mark.parametrize("ip", ["8.8.8.8", "172.32.0.1", "2001:4860::8888", "100.64.0.1", "::ffff:8.8.8.8"])
def test_public_ones_need_leave_and_https(ip: str) -> None:
    with pytest.raises(SpecError, match="not on a private network"):
        ip_of(address_of("https://gpu"), lambda host, port: [ip])
    with pytest.raises(SpecError, match="unencrypted"):
        ip_of(address_of("http://gpu", may_be_public=True), lambda host, port: [ip])
    assert ip_of(address_of("https://gpu", may_be_public=True), lambda host, port: [ip]) == ip


@pytest.mark.parametrize("ip", ["169.254.169.254", "fe80::1", "0.0.0.0", "224.0.0.1", "::"])
def test_addresses_that_are_no_server_s_are_never_asked(ip: str) -> None:
    with pytest.raises(SpecError, match="no server's address"):
        ip_of(address_of("https://gpu", may_be_public=True), lambda host, port: [ip])


def test_one_public_address_among_a_name_s_refuses_the_name() -> None:
    with pytest.raises(SpecError, match=r"8\.8\.8\.8"):
        ip_of(address_of("http://gpu"), lambda host, port: ["10.0.0.1", "8.8.8.8"])


def test_a_name_is_looked_up_anew_for_each_connection() -> None:
    """DNS rebinding: what was private at the start is checked again when it is used."""
    answers = iter([["10.0.0.1"], ["8.8.8.8"]])
    address = address_of("http://gpu")
    assert ip_of(address, lambda host, port: next(answers)) == "10.0.0.1"
    with pytest.raises(SpecError):
        ip_of(address, lambda host, port: next(answers))


def test_an_unknown_name_is_unavailable() -> None:
    def nobody(host: str, port: int) -> list[str]:
        raise OSError("Name or service not known")

    with pytest.raises(UnavailableError, match="not known"):
        ip_of(address_of("http://gpu"), nobody)
