"""The tree of commands, each loaded when it is called."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Final

import click

from everbus import __version__
from everbus.cli.helping import HelpfulGroup
from everbus.cli.output import CommandFailure, ExitCode, fail
from everbus.errors import ExceptionResponseError, ModbusError, ModbusTimeoutError, NetworkError, PeerError

__all__ = ["command", "run"]

_COMMANDS: Final = ("cert", "explain", "identify", "policy", "probe", "read", "scan", "serve", "soak", "watch", "write")


class _LazyGroup(HelpfulGroup):
    """Commands by name: ``everbus.cli.NAME:command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        found = import_module(f"everbus.cli.{cmd_name}").command
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches  # noqa: PLC0415  for mistakes only

            near = get_close_matches(args[0], _COMMANDS, 1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", error.ctx) from error


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="everbus", message="%(prog)s %(version)s")
def command() -> None:
    """Modbus that stays up: serve it, prove it, explain it.

    Start a server with moving values:  everbus serve --demo

    Ask a device:  everbus read tcp://127.0.0.1:5020 h@0:4

    See its values move:  everbus watch tcp://127.0.0.1:5020 h@0:4

    Off by one, words swapped?  everbus probe tcp://127.0.0.1:5020 h@100

    Prove that a server leaks nothing:  everbus soak tcp://127.0.0.1:5020

    Read a frame:  everbus explain 000100000006010300000001
    """


def run(arguments: Sequence[str]) -> int:
    """Run a command; return its exit code. A user's mistake is one line and a hint, never a traceback."""
    try:
        result = command.main(list(arguments), prog_name="everbus", standalone_mode=False)
    except SystemExit:  # nobody reads what click prints, the help
        return ExitCode.OK
    except (CommandFailure, click.ClickException, click.Abort, KeyboardInterrupt, ModbusError, OSError) as error:
        failure = _failure(error)
        if failure.code is ExitCode.USAGE and not failure.hint and arguments[0] in _COMMANDS:
            failure.hint = f"everbus {arguments[0]} --help"
        return fail(failure, as_json="--json" in arguments)
    return result if isinstance(result, int) else ExitCode.OK


def _failure(error: BaseException) -> CommandFailure:
    """How a command ends that ended with this."""
    if isinstance(error, CommandFailure):
        return error
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx is not None else "everbus"
        return CommandFailure(ExitCode.USAGE, "usage", error.format_message(), f"{path} --help")
    if isinstance(error, click.ClickException):
        return CommandFailure(ExitCode.USAGE, "usage", error.format_message())
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        return CommandFailure(ExitCode.INTERRUPTED, "interrupted", "interrupted")
    code, kind = next((how for what, how in _ENDINGS.items() if isinstance(error, what)), _OTHER)
    exception = error.code if isinstance(error, ExceptionResponseError) else None
    return CommandFailure(code, kind, str(error), exception=exception)


_ENDINGS: Final[dict[type[BaseException], tuple[ExitCode, str]]] = {
    NetworkError: (ExitCode.CANNOT_CONNECT, "cannot_connect"),
    ExceptionResponseError: (ExitCode.EXCEPTION, "modbus_exception"),
    ModbusTimeoutError: (ExitCode.TIMEOUT, "timeout"),
    PeerError: (ExitCode.PROTOCOL, "protocol"),
}
_OTHER: Final = (ExitCode.USAGE, "usage")
