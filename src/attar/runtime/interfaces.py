"""The network between machines: which interface leads there, where nobody has said so. Needs no torch."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from contextlib import suppress

from attar.errors import ConfigError

VARIABLE = "GLOO_SOCKET_IFNAME"
_ADDRESS_OF = 0x8915
"""SIOCGIFADDR of Linux: an interface's IPv4 address."""


def names_of_interfaces() -> str:
    """The network interfaces of this machine, but its loopback."""
    names = [name for _, name in socket.if_nameindex() if name != "lo"]
    return ", ".join(names) or "no interface but lo"


def choose_interface(host: str) -> None:
    """Let gloo take the interface by which this machine reaches `host`, unless someone has named one.

    By itself it takes that of the machine's own name, which is often 127.0.0.1. Raises ConfigError where one is named
    that is not there.
    """
    known = [name for _, name in socket.if_nameindex()]
    if named := os.environ.get(VARIABLE):
        if missing := [name for name in named.split(",") if name.strip() not in known]:
            raise ConfigError(
                f"{VARIABLE} names the network interface {missing[0]!r}, which this machine does not have",
                expected=f"one of {', '.join(known)}",
                fix=f"export {VARIABLE}=NAME on each machine, of the network between them (`ip addr` lists them)",
            )
        return
    if found := interface_to(host):
        os.environ[VARIABLE] = found


def interface_to(host: str) -> str | None:
    """The name of the interface by which packets to `host` leave; None where that can't be found out."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((host, 9))  # of UDP: nothing is sent
        address = asking.getsockname()[0]
        for _, name in socket.if_nameindex():
            with suppress(OSError):
                told = fcntl.ioctl(asking.fileno(), _ADDRESS_OF, struct.pack("256s", name.encode()[:15]))
                if socket.inet_ntoa(told[20:24]) == address:
                    return name
    return None
