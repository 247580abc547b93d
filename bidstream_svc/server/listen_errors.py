"""The message for an address on which the service cannot listen: the setting, the reason and a way out."""

import errno
import os
import socket

from bidstream_svc.addresses import ListenAddress, SystemdAddress, TcpAddress
from bidstream_svc.config import env_name
from bidstream_svc.core.errors import ListenError


def listen_error(address: ListenAddress, error: OSError, field: str) -> ListenError:
    """Return the error for an address in a setting.

    Args:
        address: the address.
        error: what was raised when it was opened.
        field: field name of the setting, which is also its flag.
    """
    variable = env_name(field)
    choices = f"--{field.replace('_', '-')} or {variable}"
    return ListenError(f"{variable}: {describe_listen_error(address, error, choices)}")


def describe_listen_error(address: ListenAddress, error: OSError, choices: str) -> str:
    """Return the reason and a way out.

    Args:
        address: the address.
        error: what was raised when it was opened.
        choices: how another address can be given.
    """
    reason = error.strerror or str(error)
    # socket.create_server and asyncio name the address a second time.
    if error.errno is not None and "while attempting" in reason:
        reason = os.strerror(error.errno)
    words = [f"cannot listen on {address}: {reason[:1].lower()}{reason[1:]}", *_cause(address, error)]
    if not isinstance(address, SystemdAddress):
        words.append(f"choose another with {choices}")
    return "; ".join(words)


def _cause(address: ListenAddress, error: OSError) -> list[str]:
    if isinstance(address, SystemdAddress):
        return [f"the socket unit needs FileDescriptorName={address.name}"]
    if isinstance(error, socket.gaierror):
        return ["the host name cannot be resolved"]
    if not isinstance(address, TcpAddress):
        return []
    match error.errno:
        case errno.EADDRINUSE:
            return ["another process has it"]
        case errno.EACCES | errno.EPERM:
            return ["ports below 1024 need root or the capability CAP_NET_BIND_SERVICE"]
        case errno.EADDRNOTAVAIL:
            return ["this host does not have the address"]
    return []
