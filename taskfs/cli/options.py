"""The click options of the commands, made from the table `taskfs.options.OPTIONS`."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from taskfs.cli import completers
from taskfs.config import Config, load_config
from taskfs.errors import ConfigError
from taskfs.options import BY_NAME, OPTIONS, Option, parse_mount_options, unknown_variables
from taskfs.support.parsing import parse_path

F = TypeVar("F", bound=Callable[..., Any])

SETTINGS_EPILOG: Final = (
    "Every setting can also be a variable (TASKFS_CACHE_SIZE=20G for --cache-size 20G) or a line "
    'of the TOML file (cache_size = "20G"). Flags take precedence over -o, -o over variables, and '
    "variables over the file. Durations take ms, s, m, h, d (a bare number is seconds), sizes K, "
    "M, G, T (powers of 1024) or KB, MB, GB (powers of 1000)."
)

# The settings of most commands; `taskfs --help` shows them once.
COMMON: Final = frozenset(
    {"api_url", "api_key_file", "insecure_http", "timeout", "log_file", "log_level"}
)
COMMON_HINT: Final = "Common options: see `taskfs --help`."


class CommonOption(click.Option):
    """An option of many commands: completed everywhere, and described in `taskfs --help` alone."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        return None

    def common_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return what `taskfs --help` and the manual page show."""
        return super().get_help_record(ctx)


class _HintOption(CommonOption):
    """The common option whose line in a command's help names the others."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        parameters = ctx.command.params
        accepted = {flag for parameter in parameters for flag in parameter.opts}
        if all(BY_NAME[name].flag in accepted for name in COMMON):
            return "-v, --config, --api-url, ...", COMMON_HINT
        names = [each.opts[0] for each in parameters if isinstance(each, CommonOption)]
        return ", ".join(names), COMMON_HINT


def common_records(ctx: click.Context) -> list[tuple[str, str]]:
    """Return the common options and their help."""

    @config_options("info")
    def example(settings: Settings) -> None: ...

    parameters = click.command("example")(example).params
    records = [p.common_record(ctx) for p in parameters if isinstance(p, CommonOption)]
    return [record for record in records if record is not None]


foreground_option = click.option(
    "-f",
    "--foreground",
    is_flag=True,
    help="Stay in the foreground, and unmount when interrupted.  [default: off]",
)


def parsed_by(parse: Callable[[str], Any], *, keep_text: bool = False) -> Callable[..., Any]:
    """Return a parameter callback that parses its text; a ConfigError becomes a usage error.

    With *keep_text* the value stays text, because `load_config` parses it with the other sources.
    """

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        texts = value if isinstance(value, tuple) else () if value is None else (value,)
        try:
            parsed = [parse(text) for text in texts]
        except ConfigError as exc:
            raise click.BadParameter(str(exc), ctx, param) from None
        if keep_text or value is None:
            return value
        return tuple(parsed) if isinstance(value, tuple) else parsed[0]

    return callback


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings given on the command line."""

    flags: dict[str, Any] = field(default_factory=dict)
    mount_options: dict[str, str] = field(default_factory=dict)
    file: Path | None = None

    def load(self, *, need_key: bool = True) -> Config:
        """Return the configuration from all sources; raise ConfigError if one is wrong."""
        return load_config(
            self.flags, mount_options=self.mount_options, file=self.file, need_key=need_key
        )

    def load_without_requests(self) -> Config:
        """Return the configuration of a command that sends no request.

        A key selects the account, but none is required.
        """
        return replace(self, flags={**self.flags, "offline": "true"}).load()


def config_options(command: str) -> Callable[[F], F]:
    """Add the options of *command* in the table; the function is called with `settings`."""
    rows = [option for option in OPTIONS if command in option.commands]

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(**parameters: Any) -> Any:
            flags = {option.name: parameters.pop(option.name) for option in rows}
            verbosity = parameters.pop("verbose")
            if verbosity and flags.get("log_level") is None:
                flags["log_level"] = "info" if verbosity == 1 else "debug"
            settings = Settings(
                flags,
                parse_mount_options(",".join(parameters.pop("mount_options", ()))),
                parameters.pop("config_file"),
            )
            for text in unknown_variables(os.environ):
                click.echo(f"taskfs: {text}", err=True)
            return function(settings=settings, **parameters)

        decorators = [*map(_click_option, rows), *_common_options()]
        if command == "mount":
            decorators.append(_mount_options())
        for decorator in reversed(decorators):
            call = decorator(call)
        return call  # type: ignore[return-value]  # the same function, with click's parameters

    return decorate


def _click_option(option: Option) -> Callable[[F], F]:
    shown = option.default_text
    text = option.help + (f"  [default: {shown}]" if shown else "")
    kind = CommonOption if option.name in COMMON else click.Option
    if option.is_flag:
        flags = f"{option.flag}/--no-{option.flag[2:]}"
        return click.option(flags, option.name, cls=kind, default=None, help=text)
    letter = [f"-{option.letter}"] if option.letter else []
    return click.option(
        *letter,
        option.flag,
        option.name,
        cls=kind,
        callback=parsed_by(option.parse, keep_text=True),
        metavar=option.metavar,
        multiple=option.repeatable,
        help=text,
        shell_complete=completers.completer_of(option),
    )


def _common_options() -> list[Callable[[F], F]]:
    return [
        click.option(
            "-v",
            "--verbose",
            cls=_HintOption,
            count=True,
            help="Log at the level info; given twice, at the level debug.",
        ),
        click.option(
            "--config",
            "config_file",
            cls=CommonOption,
            callback=parsed_by(parse_path),
            metavar="FILE",
            shell_complete=completers.complete_files,
            help="The TOML file with settings.  [default: ~/.config/taskfs/config.toml, if any]",
        ),
    ]


def _mount_options() -> Callable[[F], F]:
    return click.option(
        "-o",
        "mount_options",
        multiple=True,
        metavar="OPT[,OPT...]",
        help="The same settings as mount(8) spells them: ro, allow_other, cache_dir=DIR, ... A "
        "comma within a value is written \\,. Options for other programs (_netdev, nofail, dev, "
        "suid, x-systemd.*, ...) are accepted and ignored.",
    )
