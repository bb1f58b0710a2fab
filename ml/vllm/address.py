"""Where a vLLM server may be: on this machine or a private network, unless the operator says otherwise.

A server that loads files by name and answers whoever reaches it must not be on the open internet, and prompts must not
go there. Guarantees: the name is resolved here and the address that was checked is the one that is connected to; one
public address among those of a name refuses the name; link-local addresses, where clouds keep their secrets, are
always refused. A public server, where it is allowed, is reached by https only.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit

from ml.errors import SpecError, UnavailableError

SETTING = "ENGINE_VLLM_URL"
_PRIVATE = tuple(
    ip_network(net) for net in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
)
Resolve = Callable[[str, int], list[str]]


@dataclass(frozen=True, kw_only=True)
class Address:
    """A checked URL; `ip` finds out where it is now."""

    host: str
    port: int
    path: str
    """What every path of the API begins with; "" mostly."""
    is_tls: bool
    may_be_public: bool = False

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}{self.path}"


def address_of(url: str, *, may_be_public: bool = False) -> Address:
    """Raises SpecError for anything but http(s)://host[:port][/path]."""
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _refused(url, f"it is no URL ({error})") from None
    if parts.scheme not in ("http", "https") or not host:
        raise _refused(url, "it must begin with http:// or https:// and name a host")
    if "@" in parts.netloc:
        raise _refused("https://…@…", "a name or password in it is not used")
    if parts.query or parts.fragment:
        raise _refused(url, "it must end with the path")
    path = parts.path.rstrip("/").removesuffix("/v1")
    is_tls = parts.scheme == "https"
    return Address(
        host=host, port=port or (443 if is_tls else 80), path=path, is_tls=is_tls, may_be_public=may_be_public
    )


def _refused(url: str, why: str) -> SpecError:
    return SpecError(
        f"{SETTING} is {url!r:.200}: {why}.", hint=f"Give the server's address, as in {SETTING}=http://10.0.0.5:8000.",
        field=SETTING,
    )  # fmt: skip


def resolved(host: str, port: int) -> list[str]:
    """All addresses of a name. Raises OSError."""
    found: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


def ip_of(address: Address, resolve: Resolve = resolved) -> str:
    """The address to connect to. Raises SpecError for one that must not be asked, UnavailableError for none."""
    try:
        ips = resolve(address.host, address.port)
    except (OSError, UnicodeError) as error:
        raise UnavailableError(
            f"The vLLM server's name {address.host} is not known ({error}).", hint=f"Check {SETTING}."
        ) from error
    for ip in ips:
        _check(address, ip)
    if not ips:
        raise UnavailableError(f"The vLLM server's name {address.host} has no address.", hint=f"Check {SETTING}.")
    return ips[0]


def _check(address: Address, text: str) -> None:
    ip = _plain(text)
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        raise _refused(address.url, f"{ip} is no server's address")
    if any(ip in network for network in _PRIVATE):
        return
    if not address.may_be_public:
        raise SpecError(
            f"{SETTING} is {address.url}, which is {ip}: not on this machine and not on a private network.",
            hint="Put vLLM on a private network; ENGINE_VLLM_PUBLIC=1 allows an https server elsewhere.", field=SETTING,
        )  # fmt: skip
    if not address.is_tls:
        raise _refused(address.url, f"{ip} is not on a private network, and prompts would go there unencrypted")


def _plain(text: str) -> IPv4Address | IPv6Address:
    ip = ip_address(text)
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip
