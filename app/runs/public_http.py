"""HTTP to addresses that strangers named: only to the public internet, checked at the moment of connecting (ADR-0014)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Self

import httpx

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host, in the order of preference; raises `OSError` if it has none."""

# What Python's table calls global and is not: IETF protocol assignments (cloud metadata among them), 6to4 relays, Azure's
# platform address, 6to4 and documentation. Source: the IANA special-purpose registries and the clouds' manuals.
_NOT_PUBLIC = tuple(
    ip_network(text) for text in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "2002::/16", "2001::/23", "3fff::/20")
)
_GLOBAL_UNICAST = ip_network("2000::/3")
_NAT64 = ip_network("64:ff9b::/96")


class AddressRefused(Exception):
    """The host has no address that we connect to."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet: not private, loopback, link-local, multicast, reserved or metadata.

    An IPv6 address that stands for an IPv4 one is judged by that one.
    """
    ip = _unwrapped(ip_address(address))
    if any(ip in network for network in _NOT_PUBLIC if network.version == ip.version):
        return False
    if ip.version == 6 and ip not in _GLOBAL_UNICAST:
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _unwrapped(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(ip, IPv4Address):
        return ip
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip


def literal_address(host: str) -> str | None:
    """The IP address that a host's name spells out, in any way that resolvers understand (`127.1`); None: it is a name."""
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None


def host_of(url: httpx.URL) -> str:
    """The host as it is resolved: ASCII, lower case, without the dot of the root."""
    return url.raw_host.decode("ascii").lower().removesuffix(".")


def port_of(url: httpx.URL) -> int:
    """The port, the scheme's own if none is named."""
    return url.port if url.port is not None else 443 if url.scheme == "https" else 80


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """Hosts that may be reached wherever they are; `url in allowed` asks.

    Args:
        entries: Host and port; None: any port.
    """

    entries: frozenset[tuple[str, int | None]] = frozenset()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The hosts of a list like `hooks.internal,10.0.0.7:8080,[::1]:9000`.

        Raises:
            ValueError: An entry is neither `host` nor `host:port`.
        """
        entries = set()
        for number, entry in enumerate(filter(None, (part.strip() for part in text.split(","))), start=1):
            try:
                url = httpx.URL(f"http://{entry}")
            except httpx.InvalidURL:
                url = httpx.URL("")
            if not url.host or url.userinfo or url.raw_path != b"/" or url.fragment or not 0 < port_of(url) < 65536:
                raise ValueError(f"entry {number} must be host or host:port")
            entries.add((host_of(url), 80 if entry.endswith(":80") else url.port))
        return cls(frozenset(entries))

    def __contains__(self, url: httpx.URL) -> bool:
        return bool({(host_of(url), port_of(url)), (host_of(url), None)} & self.entries)


async def resolve(host: str, port: int) -> list[str]:
    """The addresses that the system's resolver knows."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class PublicOnlyTransport(httpx.AsyncBaseTransport):
    """Connects to the very address that it has checked, so that a name which changes its mind in between changes nothing.

    The name stays in the Host header and in the TLS handshake, and the certificate must be the name's.

    Args:
        inner: Connects. It must not keep connections, since they are to addresses and would serve another name's requests.
        allowed: Hosts that need not be public.
        resolve: Asked once per request.

    Raises:
        AddressRefused: No address of the host is public.
        httpx.ConnectError: The host cannot be resolved, or none of its addresses answers.
    """

    def __init__(self, inner: httpx.AsyncBaseTransport, allowed: AllowedHosts, resolve: Resolve = resolve) -> None:
        self._inner = inner
        self._allowed = allowed
        self._resolve = resolve

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request to the first public address that lets us connect."""
        host = host_of(request.url)
        try:
            addresses = await self._resolve(host, port_of(request.url))
        except (OSError, UnicodeError) as exc:
            raise httpx.ConnectError(f"{host} cannot be resolved") from exc
        if request.url not in self._allowed:
            addresses = [address for address in addresses if is_public(address)]
        failure: Exception = AddressRefused(f"{host} has no public address")
        for address in addresses:
            try:
                return await self._inner.handle_async_request(_pinned(request, host, address))
            except httpx.ConnectError as exc:
                failure = exc
        raise failure

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()


def connecting() -> httpx.AsyncHTTPTransport:
    """A transport that keeps no connection and knows of no proxy; `SSL_CERT_FILE` names other authorities than the usual ones."""
    return httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=None, max_keepalive_connections=0))


def _pinned(request: httpx.Request, host: str, address: str) -> httpx.Request:
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": host},
    )
