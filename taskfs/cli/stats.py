"""`taskfs stats`."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from taskfs.cli import completers
from taskfs.cli.mount_stats import STATE_LIVE, all_mounts, stats_of, to_prometheus
from taskfs.cli.options import parsed_by
from taskfs.cli.output import align
from taskfs.errors import MountError
from taskfs.fuse.mountpoint import absolute
from taskfs.support.formatting import escape_controls
from taskfs.support.parsing import parse_path


@click.command("stats", short_help="Print the counters of mounts.")
@click.argument(
    "mountpoints",
    metavar="[MOUNTPOINT]...",
    nargs=-1,
    callback=parsed_by(parse_path),
    shell_complete=completers.complete_mounts,
)
@click.option(
    "--prometheus",
    is_flag=True,
    help="Print Prometheus' text format, for a textfile collector.  [default: off]",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.  [default: off]")
def command(mountpoints: Sequence[Path], prometheus: bool, as_json: bool) -> None:
    """Print the counters of the mounts on MOUNTPOINT..., or of all your live mounts.

    The counters are those of .taskfs/stats.json: requests, bytes, hits of the caches, memory.
    """
    if prometheus and as_json:
        raise click.UsageError("--prometheus and --json exclude each other")
    if mountpoints:
        found = [stats_of(absolute(path)) for path in mountpoints]
    else:
        found = [mount.stats for mount in all_mounts() if mount.state == STATE_LIVE]
        if not found and not (prometheus or as_json):
            raise MountError("no live taskfs is mounted: see `taskfs mounts`")
    if prometheus:
        click.echo("\n".join(to_prometheus(found)))
    elif as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        for number, stats in enumerate(found):
            if number:
                click.echo()
            rows = [(f"{name}:", escape_controls(_text(value))) for name, value in stats.items()]
            click.echo("\n".join(align(rows)))


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
