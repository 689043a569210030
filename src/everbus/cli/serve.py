"""``everbus serve``: a Modbus server in the foreground."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from everbus import __version__
from everbus.aio.server import Server
from everbus.cli.helping import HelpfulCommand
from everbus.cli.output import CommandFailure, ExitCode, write_line
from everbus.client.endpoint import DEFAULT_SERVER_ENDPOINT, parse_endpoint
from everbus.errors import ServerStateError
from everbus.limits import DESCRIPTOR_RESERVE, Limits
from everbus.observe import Event
from everbus.resources import raise_descriptor_limit
from everbus.service.audit import AuditSink
from everbus.service.authorize import ALLOW_ALL, Policy
from everbus.service.local import LocalDevice
from everbus.service.units import Units

if TYPE_CHECKING:
    from everbus.aio.serial import SerialOptions

__all__ = ["command"]

_OWN_DESCRIPTORS = 32
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_DEMO_STEP_S = 0.5
_DEMO_PERIOD_S = 20.0
_SERVER_PORT = parse_endpoint(DEFAULT_SERVER_ENDPOINT).port
_DEFAULTS = Limits()


@click.command("serve", cls=HelpfulCommand)
@click.option(
    "--listen",
    "urls",
    multiple=True,
    metavar="URL",
    help="Where to listen, again for more: tcp://host:port, udp://[::1]:port, unix:///path; RTU or ASCII frames: "
    "rtu+tcp://host:port, rtu:///dev/ttyUSB0?baudrate=9600&parity=N, ascii+tcp:// and ascii:// likewise. "
    f"Port 0 is any free one.  [default: {DEFAULT_SERVER_ENDPOINT}]",
)
@click.option(
    "--wait-for-port", is_flag=True, help="Start though a serial port is not there; it is opened when it comes."
)
@click.option(
    "--unit",
    "units",
    multiple=True,
    type=click.IntRange(0, 255),
    metavar="N",
    help="Answer this unit, again for more; each has data of its own.  [default: one device for every unit]",
)
@click.option(
    "--max-connections",
    type=click.IntRange(1),
    default=_DEFAULTS.max_connections,
    show_default=True,
    metavar="N",
    help="Connections in all; lowered to what the descriptor limit allows.",
)
@click.option(
    "--max-connections-per-peer",
    type=click.IntRange(1),
    metavar="N",
    help="Connections of one address.  [default: half of all]",
)
@click.option(
    "--full",
    type=click.Choice(["evict", "refuse"]),
    default=_DEFAULTS.full,
    show_default=True,
    help="When full: end an idle connection, or refuse the newcomer.",
)
@click.option(
    "--stop-timeout",
    "stop_timeout_s",
    type=click.FloatRange(0),
    default=_DEFAULTS.stop_timeout_s,
    show_default=True,
    metavar="S",
    help="Seconds for busy connections to finish when the server stops.",
)
@click.option(
    "--loop",
    "event_loop",
    type=click.Choice(["asyncio", "uvloop"]),
    default="asyncio",
    show_default=True,
    help="The event loop; uvloop is faster and needs pip install 'everbus[uvloop]'.",
)
@click.option(
    "--policy",
    "policy_source",
    metavar="FILE",
    help="Who may do what: a TOML file, or read-only, operator, engineer, the ready-made ones; see everbus policy.",
)
@click.option(
    "--audit",
    "audit_path",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Write every write to this file, as JSON Lines, and every denial to FILE.denied; they rotate.",
)
@click.option("--demo", is_flag=True, help="Move some values: coil 0 blinks, input registers 0 to 2 count and swing.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How lines on stderr look.",
)
def command(
    *,
    urls: tuple[str, ...],
    wait_for_port: bool,
    units: tuple[int, ...],
    event_loop: str,
    policy_source: str | None,
    audit_path: str | None,
    demo: bool,
    log_format: str,
    **bounds: Any,
) -> int:
    """Serve Modbus: all 65,536 items of each table, zeros at first, readable and writable.

    Stops on SIGTERM or Ctrl-C: idle connections close at once, busy ones after their answer. A
    second signal stops at once.

    Examples:
        everbus serve --demo

        everbus serve --listen tcp://0.0.0.0:502 --listen udp://0.0.0.0:502 --unit 1 --unit 2

        everbus serve --listen rtu+tcp://0.0.0.0:4001
    """
    limits = Limits(**bounds)
    make_loop = _loop_factory(event_loop)
    policy = _policy(policy_source)
    _log_to_stderr(log_format)
    devices = {unit: LocalDevice() for unit in units}
    one_for_all = LocalDevice()
    endpoints = [parse_endpoint(url, _SERVER_PORT) for url in urls]
    raise_descriptor_limit(limits.max_connections + DESCRIPTOR_RESERVE + _OWN_DESCRIPTORS)
    with _audit(audit_path) as audit:
        server = Server(
            Units(devices or one_for_all),
            *endpoints,
            limits=limits,
            policy=policy,
            audit=audit,
            serial=_serial_options() if wait_for_port else None,
        )
        shown = list(devices.values()) or [one_for_all]
        _stop_on_signals(server)
        with asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(_serve(server, shown if demo else [], log_format, units))
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # it ends anyway
    return 0


def _policy(source: str | None) -> Policy:
    """The policy of a file, or of a ready-made name; without one everybody may do everything."""
    if source is None:
        return ALLOW_ALL
    from everbus.cli.policy import load_policy  # noqa: PLC0415  where there is none it is not loaded

    return load_policy(source)


def _audit(path: str | None) -> AbstractContextManager[AuditSink | None]:
    """Where the audit trail goes; leaving it writes what is queued."""
    if path is None:
        return nullcontext()
    from everbus.aio.audit import AuditFile  # noqa: PLC0415  as above

    return AuditFile(path)


def _serial_options() -> SerialOptions:
    from everbus.aio.serial import SerialOptions  # noqa: PLC0415  as above

    return SerialOptions(wait_for_port=True)


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the event loop; None: asyncio's own."""
    if name == "asyncio":
        return None
    try:
        uvloop: Any = import_module(name)
    except ImportError as error:
        hint = f"pip install 'everbus[{name}]', or leave --loop out"
        raise CommandFailure(ExitCode.USAGE, "usage", f"--loop {name}: it is not installed", hint) from error
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _stop_on_signals(server: Server) -> None:
    """The first signal stops it gracefully, the second at once; at any time, the start included."""
    seen = 0

    def on_signal(*_: object) -> None:
        nonlocal seen
        seen += 1
        server.request_stop(at_once=seen > 1)

    for number in _SIGNALS:
        signal.signal(number, on_signal)


async def _serve(server: Server, moving: list[LocalDevice], log_format: str, units: tuple[int, ...]) -> None:
    try:
        await server.start()
    except ServerStateError:
        return  # told to stop before it had begun
    _announce(server, log_format, units)
    demo = asyncio.create_task(_move(moving)) if moving else None
    try:
        await server.serve_forever()
    finally:
        if demo is not None:
            demo.cancel()


async def _move(devices: list[LocalDevice]) -> None:
    """Give a newcomer something that lives."""
    step = 0
    while True:
        angle = 2 * math.pi * step * _DEMO_STEP_S / _DEMO_PERIOD_S
        wave = [round(500 + 500 * math.sin(angle)), round(2150 + 150 * math.cos(angle))]
        for device in devices:
            device.bank.write_coils(0, [step % 2])
            device.bank.write_discrete_inputs(0, [wave[0] > 500])
            device.bank.write_input_registers(0, [step & 0xFFFF, *wave])
        step += 1
        await asyncio.sleep(_DEMO_STEP_S)


def _announce(server: Server, log_format: str, units: tuple[int, ...]) -> None:
    """One line when ready, with the limits in force."""
    limits = server.limits
    figures = {
        "max_connections": limits.max_connections,
        "max_connections_per_peer": limits.max_connections_per_peer,
        "full": limits.full,
        "idle_timeout_s": limits.idle_timeout_s,
        "frame_timeout_s": limits.frame_timeout_s,
        "write_timeout_s": limits.write_timeout_s,
        "handler_timeout_s": limits.handler_timeout_s,
        "max_in_flight": limits.max_in_flight,
        "max_buffered_bytes": limits.max_buffered_bytes,
        "stop_timeout_s": limits.stop_timeout_s,
    }
    if log_format == "json":
        ready = {"event": "ready", "version": __version__, "endpoints": list(server.endpoints), "limits": figures}
        line = json.dumps({"time": _timestamp(), "level": "info", **ready, "units": list(units) or "all"})
    else:
        shown = figures.items()
        who = f"units {', '.join(map(str, units))}" if units else "every unit"
        words = ", ".join(
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown
        )
        line = f"everbus {__version__} ready on {', '.join(server.endpoints)} for {who}; {words}"
    write_line(line)


def _timestamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {"time": _timestamp(), "level": record.levelname.lower()}
        event = getattr(record, "event", None)
        if isinstance(event, Event):
            entry |= {"event": event.kind.value, "peer": event.peer, "reason": event.reason}
            entry["connection"] = event.connection_id
        entry["message"] = record.getMessage()
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def _log_to_stderr(log_format: str) -> None:
    handler = logging.StreamHandler()
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S%z")
    handler.setFormatter(_JsonFormatter() if log_format == "json" else formatter)
    logging.raiseExceptions = False  # a full disk under stderr must not make each line a traceback
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
