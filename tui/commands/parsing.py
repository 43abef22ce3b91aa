"""Reads the arguments of a command: everything that is wrong with them is told at once, each flag as it was typed.

Typer stops at the first mistake. Here each is collected, and what could be read is read; a command that `gathers` is
called all the same, to look at the rest, and must refuse if there is anything in `mistakes`. Knows no setting.
"""

from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from rankdeck.runner.protocol.choices import near
from rankdeck.tui.terminal.inert import tell
from rankdeck.tui.words.text import cut, visible

EXIT_BAD_INPUT = 2
LONGEST = 2000
"""Of a problem: an argument may have any length."""

_MISTAKES = "rankdeck.mistakes"
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""What all mistakes in arguments are to Typer; it has no public name there."""


def refuse(*problems: str) -> typer.Exit:
    """Print what is wrong, a line for each problem; the caller raises the returned exit."""
    for problem in problems:
        tell(cut(visible(f"rankdeck: {problem}"), LONGEST))
    return typer.Exit(EXIT_BAD_INPUT)


def mistakes(context: typer.Context) -> list[str]:
    """What is wrong with the arguments that the command was called with, a line each."""
    return list(context.meta.get(_MISTAKES, ()))


class Command(TyperCommand):
    """A command that is refused with all mistakes in its arguments."""

    gathers: ClassVar[bool] = False
    """Whether the command itself refuses what is in `mistakes`, together with what else it finds."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        found: list[str] = []
        parser = self.make_parser(ctx)
        opts, rest = _options(parser, list(args), found)
        unknown = bool(found)
        missing = False
        for param in sorted(self.get_params(ctx), key=lambda param: not param.is_eager):
            given = opts.get(param.name)
            try:
                if isinstance(given, str) and (said := _unusable(given)):
                    raise typer.BadParameter(said)
                _, rest = param.handle_parse_result(ctx, opts, rest)
            except _UsageError as error:
                missing |= given is None
                ctx.params[param.name] = param.default
                found.append(f"{_name(param)}: {_words(error, given)}" if given is not None else _lacks(self, param))
        if rest and not unknown:  # else they may be the values of unknown options
            found.append(f"{' '.join(rest)}: unexpected argument; see `rankdeck {self.name} --help`")
        if found and (missing or not self.gathers):
            raise refuse(*found)
        ctx.meta[_MISTAKES] = found
        ctx.args = []
        return []


class GatheringCommand(Command):
    """A command that looks at its settings even if some arguments were wrong, so that all is told at once."""

    gathers = True


class Group(TyperGroup):
    """`rankdeck` itself: its few options, and the name of a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            raise refuse(_option_words(error, [name for param in self.params for name in param.opts])) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if self.get_command(ctx, args[0]) is None:
            names = self.list_commands(ctx)
            known = f"the commands are {', '.join(names)}"
            raise refuse(f"there is no command {args[0]!r}{near(args[0], names)}; {known}")
        return super().resolve_command(ctx, args)


def _options(parser: Any, args: list[str], found: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The values by parameter, and the arguments left over; options that are none, or lack a value, are `found`."""
    while True:
        try:
            opts, rest, _ = parser.parse_args(args=list(args))
            return opts, rest
        except _UsageError as error:
            name = str(getattr(error, "option_name", ""))
            place = next((at for at, arg in enumerate(args) if _is_option(arg, name)), None)
            if place is None:
                raise
            found.append(_option_words(error, parser._long_opt))
            del args[place]


def _is_option(arg: str, name: str) -> bool:
    if name.startswith("--"):
        return arg.partition("=")[0] == name
    return arg.startswith("-") and not arg.startswith("--") and name[1:] in arg


def _option_words(error: Exception, known: Any) -> str:
    """What is wrong with an option that is unknown, lacks its value or takes none."""
    name = str(getattr(error, "option_name", ""))
    if name in known:
        return f"{name}: {'takes no value' if 'does not take' in str(error) else 'needs a value'}"
    return f"{name}: there is no such option{near(name, known, like=0.7)}"


def _unusable(given: str) -> str:
    """Why a text can be no value of any option or argument."""
    if not given.strip():
        return "is empty; give a value, or leave it out"
    try:
        given.encode()
    except UnicodeEncodeError:
        return f"must be UTF-8, not {visible(given)!r}"
    return ""


def _name(param: Any) -> str:
    """An option as it is typed, an argument as the usage has it."""
    return str(max(param.opts, key=len)) if param.param_type_name == "option" else str(param.name).upper()


def _lacks(command: TyperCommand, param: Any) -> str:
    return f"{_name(param)} is missing: rankdeck {command.name} {_name(param)}"


def _words(error: Exception, given: Any) -> str:
    """Why a value was not taken."""
    said = str(getattr(error, "message", error))
    for kind, words in (("integer", "a whole number"), ("float", "a number"), ("number", "a number")):
        if kind in said.lower():
            return f"must be {words}, not {str(given)!r}"
    return said
