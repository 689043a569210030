"""Commands whose help is laid out by rich-click, which is loaded when somebody asks for it."""

from __future__ import annotations

from typing import Any

import click

from everbus.cli.output import ExitCode, write_line

__all__ = ["HelpfulCommand", "HelpfulGroup"]


class HelpfulCommand(click.Command):
    """A command that starts without what only its help needs."""

    def get_help(self, ctx: click.Context) -> str:
        from rich_click import RichCommand  # noqa: PLC0415

        return _laid_out(RichCommand(**_told(self)), ctx)


class HelpfulGroup(click.Group):
    """The same for a group of commands; without any it says which there are, and fails."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            write_line(self.get_help(ctx))
            ctx.exit(ExitCode.USAGE)
        return super().parse_args(ctx, args)

    def get_help(self, ctx: click.Context) -> str:
        from rich_click import RichGroup  # noqa: PLC0415

        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        found = {name: command for name, command in commands.items() if command is not None}
        return _laid_out(RichGroup(commands=found, **_told(self)), ctx)


def _told(command: click.Command) -> dict[str, Any]:
    """What its help is made of."""
    names = ("name", "context_settings", "params", "help", "epilog")
    return {name: getattr(command, name) for name in names}


def _laid_out(rich: click.Command, ctx: click.Context) -> str:
    context = rich.context_class(rich, ctx.parent, ctx.info_name, **rich.context_settings)
    return rich.get_help(context)
