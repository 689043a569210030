"""Where the figures about a process come from: ``/proc`` where that exists, psutil elsewhere.

``everbus.resources`` is the door to this; it says what each figure means.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import struct
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from everbus.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

__all__ = ["Descriptors", "ProcSystem", "PsutilSystem", "System", "is_this_process", "this_system"]

_INET_LINE: Final = re.compile(rb"^ *\d+: (\S+) \S+ (\S\S) \S+ \S+ \S+ +\d+ +\d+ ([1-9]\d*) ", re.MULTILINE)
"""Local address, state and inode; TIME_WAIT has no inode, no process holds it."""

_UNIX_LINE: Final = re.compile(rb"^[0-9a-f]+: \S+ \S+ ([0-9A-F]{8}) \S+ \S+ +(\d+) ?(.*)$", re.MULTILINE)
"""Flags, inode and path."""

_TCP_LISTEN: Final = b"0A"
_UNIX_LISTENS: Final = 1 << 16
"""__SO_ACCEPTCON, in the flags."""

_TABLES: Final = ("unix", "tcp", "tcp6", "udp", "udp6")
_BLOCK_BYTES: Final = 1 << 14

_SOCK_STREAM: Final = 1


@dataclass(frozen=True, slots=True)
class Descriptors:
    """Open descriptors of one process, or of several added up.

    Args:
        total: all of them; where kinds cannot be told apart, more than their sum.
        listening: sockets that accept connections, TCP and Unix.
        tcp, udp, unix: the other sockets by family; TCP ones that are connected.
        files: regular files, directories and devices.
        pipes: unnamed pipes.
        other: event and timer descriptors, sockets without a connection, and all else.
    """

    total: int = 0
    listening: int = 0
    tcp: int = 0
    udp: int = 0
    unix: int = 0
    files: int = 0
    pipes: int = 0
    other: int = 0

    def __add__(self, more: Descriptors) -> Descriptors:
        return Descriptors(*(getattr(self, f.name) + getattr(more, f.name) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class _Socket:
    kind: str
    address: str = ""


_NO_SOCKET: Final = _Socket("other")


class System(Protocol):
    """One way to look at processes; ``pid`` None is this process.

    Every method raises ProcessLookupError where there is no such process or it has ended, and
    PermissionError where it belongs to someone else.
    """

    def count(self, pid: int | None) -> int:
        """Open descriptors."""
        ...

    def kinds(self, pid: int | None) -> Descriptors:
        """Open descriptors, by kind."""
        ...

    def listening(self, pid: int | None) -> list[str]:
        """The address of each listening socket, in no order."""
        ...

    def memory(self, pid: int | None) -> int:
        """Resident bytes."""
        ...

    def tree(self, pid: int) -> list[int]:
        """The process and its descendants, itself first."""
        ...


class ProcSystem:
    """Reads /proc.

    Args:
        root: where it is mounted.
    """

    def __init__(self, root: str = "/proc") -> None:
        self._root = root

    def count(self, pid: int | None) -> int:
        """Open descriptors."""
        names = self._descriptor_names(pid)
        return len(names) - 1 if is_this_process(pid) else len(names)  # less the one that lists them

    def kinds(self, pid: int | None) -> Descriptors:
        """Open descriptors, by kind."""
        targets = self._targets(pid)
        sockets = self._sockets(pid, targets)
        counts = dict.fromkeys((f.name for f in fields(Descriptors)), 0)
        counts["total"] = len(targets)
        for target in targets:
            counts[_kind(target, sockets)] += 1
        return Descriptors(**counts)

    def listening(self, pid: int | None) -> list[str]:
        """The address of each listening socket, in no order."""
        targets = self._targets(pid)
        sockets = self._sockets(pid, targets)
        found = (sockets.get(_inode(target), _NO_SOCKET) for target in targets)
        return [socket.address for socket in found if socket.kind == "listening"]

    def memory(self, pid: int | None) -> int:
        """Resident bytes."""
        resident = int(self._read(pid, "statm").split()[1])
        if not resident:
            self._check_alive(pid)
        return resident * os.sysconf("SC_PAGE_SIZE")

    def tree(self, pid: int) -> list[int]:
        """The process and its descendants, itself first."""
        self._check_alive(pid)
        children: dict[int, list[int]] = {}
        for name in os.listdir(self._root):
            if name.isdigit():
                try:
                    parent = int(self._stat(int(name))[1])
                except ProcessLookupError:
                    continue
                children.setdefault(parent, []).append(int(name))
        return _descendants(pid, children)

    def _path(self, pid: int | None, name: str) -> str:
        return f"{self._root}/{'self' if pid is None else pid}/{name}"

    def _read(self, pid: int | None, name: str) -> bytes:
        try:
            with open(self._path(pid, name), "rb") as file:
                return file.read()
        except (FileNotFoundError, ProcessLookupError):
            _no_process(pid)

    def _stat(self, pid: int | None) -> list[bytes]:
        """State, parent and so on: what follows the name, which may hold blanks and brackets."""
        return self._read(pid, "stat").rpartition(b")")[2].split()

    def _check_alive(self, pid: int | None) -> None:
        if self._stat(pid)[0] in (b"Z", b"X"):
            raise ProcessLookupError(f"process {pid} has ended (and was not reaped yet)")

    def _descriptor_names(self, pid: int | None) -> list[str]:
        try:
            names = os.listdir(self._path(pid, "fd"))
        except (FileNotFoundError, ProcessLookupError):
            _no_process(pid)
        except PermissionError:
            self._check_alive(pid)
            _not_allowed(pid)
        if not names:
            self._check_alive(pid)
        return names

    def _targets(self, pid: int | None) -> list[str]:
        targets = []
        for name in self._descriptor_names(pid):
            try:
                targets.append(os.readlink(self._path(pid, f"fd/{name}")))
            except (FileNotFoundError, ProcessLookupError):
                continue  # closed meanwhile, as the one that listed them always is
            except PermissionError:
                _not_allowed(pid)
        if not targets:
            self._check_alive(pid)
        return targets

    def _sockets(self, pid: int | None, targets: list[str]) -> dict[str, _Socket]:
        """The sockets among these targets, by inode.

        The tables are those of the process's network namespace. They can be long (a busy machine
        holds tens of thousands of closed connections), so reading ends when all are found.
        """
        sought = {inode for target in targets if (inode := _inode(target))}
        found: dict[str, _Socket] = {}
        for name in _TABLES:
            if not sought:
                break
            with closing(self._table(pid, name)) as blocks:
                for block in blocks:
                    for inode, socket in _parse(name, block):
                        if inode in sought:
                            sought.remove(inode)
                            found[inode] = socket
                    if not sought:
                        break
        return found

    def _table(self, pid: int | None, name: str) -> Generator[bytes, None, None]:
        """Whole lines of one table, some at a time."""
        try:
            with open(self._path(pid, f"net/{name}"), "rb") as file:
                while lines := file.readlines(_BLOCK_BYTES):
                    yield b"".join(lines)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESRCH, errno.EINVAL):
                raise
            self._check_alive(pid)  # if it is, the kernel has no such family


def _parse(name: str, block: bytes) -> Iterator[tuple[str, _Socket]]:
    if name == "unix":
        for flags, inode, path in _UNIX_LINE.findall(block):
            listens = bool(int(flags, 16) & _UNIX_LISTENS)
            yield inode.decode(), _Socket("listening", os.fsdecode(path)) if listens else _Socket("unix")
    else:
        for address, state, inode in _INET_LINE.findall(block):
            listens = state == _TCP_LISTEN and name.startswith("tcp")
            yield inode.decode(), _Socket("listening", _address(address)) if listens else _Socket(name[:3])


def _inode(target: str) -> str:
    return target[8:-1] if target.startswith("socket:") else ""


def _kind(target: str, sockets: dict[str, _Socket]) -> str:
    if target.startswith("socket:"):
        return sockets.get(_inode(target), _NO_SOCKET).kind
    if target.startswith("pipe:"):
        return "pipes"
    return "files" if target.startswith("/") else "other"


def _address(text: bytes) -> str:
    """``0100007F:139C`` is 127.0.0.1:5020: 32-bit words in the order of the machine, then the port."""
    words, _, port = text.partition(b":")
    packed = b"".join(struct.pack("=I", int(words[at : at + 8], 16)) for at in range(0, len(words), 8))
    return _join(str(ipaddress.ip_address(packed)), int(port, 16))


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _descendants(pid: int, children: dict[int, list[int]]) -> list[int]:
    tree = [pid]
    for member in tree:
        tree.extend(children.get(member, ()))
    return tree


def is_this_process(pid: int | None) -> bool:
    """Whether ``pid`` means the process that asks."""
    return pid is None or pid == os.getpid()


def _no_process(pid: int | None) -> NoReturn:
    raise ProcessLookupError(f"there is no process {pid}")


def _not_allowed(pid: int | None) -> NoReturn:
    raise PermissionError(f"process {pid} may not be looked at: run as its user or as root")


class PsutilSystem:
    """Asks psutil, which cannot tell pipes from other descriptors, nor a listening Unix socket.

    Raises:
        ConfigurationError: psutil is not installed.
    """

    def __init__(self) -> None:
        try:
            self._psutil: Any = import_module("psutil")
        except ImportError as error:
            raise ConfigurationError(
                "without /proc it takes psutil to look at a process: pip install 'everbus[cli]'"
            ) from error

    def count(self, pid: int | None) -> int:
        """Open descriptors."""
        with self._process(pid) as process:
            return _psutil_count(process)

    def kinds(self, pid: int | None) -> Descriptors:
        """Open descriptors, by kind."""
        with self._process(pid) as process:
            total = _psutil_count(process)
            counts = dict.fromkeys(("listening", "tcp", "udp", "unix", "other"), 0)
            for socket in process.net_connections(kind="all"):
                counts[self._socket_kind(socket)] += 1
            files = len(process.open_files())
        rest = max(0, total - files - sum(counts.values()))
        counts["other"] += rest
        return Descriptors(total=total, files=files, **counts)

    def listening(self, pid: int | None) -> list[str]:
        """The address of each listening socket, in no order."""
        with self._process(pid) as process:
            found = process.net_connections(kind="all")
        return [_psutil_address(socket.laddr) for socket in found if self._socket_kind(socket) == "listening"]

    def memory(self, pid: int | None) -> int:
        """Resident bytes."""
        with self._process(pid) as process:
            return int(process.memory_info().rss)

    def tree(self, pid: int) -> list[int]:
        """The process and its descendants, itself first."""
        with self._process(pid) as process:
            return [pid, *(child.pid for child in process.children(recursive=True))]

    def _socket_kind(self, socket: Any) -> str:
        if socket.status == self._psutil.CONN_LISTEN:
            return "listening"
        if not isinstance(socket.laddr, tuple):
            return "unix"
        if socket.type == _SOCK_STREAM:
            return "tcp" if socket.raddr else "other"
        return "udp"

    @contextmanager
    def _process(self, pid: int | None) -> Iterator[Any]:
        try:
            process = self._psutil.Process(pid)
            if process.status() == self._psutil.STATUS_ZOMBIE:
                raise ProcessLookupError(f"process {pid} has ended (and was not reaped yet)")
            yield process
        except self._psutil.NoSuchProcess:
            _no_process(pid)
        except self._psutil.AccessDenied:
            _not_allowed(pid)


def _psutil_count(process: Any) -> int:
    return int(process.num_fds() if hasattr(process, "num_fds") else process.num_handles())


def _psutil_address(address: Any) -> str:
    return _join(*address) if isinstance(address, tuple) else str(address)


@cache
def this_system() -> System:
    """The source that this machine has.

    Raises:
        ConfigurationError: it has no /proc, and psutil is not installed.
    """
    return ProcSystem() if os.path.isdir("/proc/self/fd") else PsutilSystem()
