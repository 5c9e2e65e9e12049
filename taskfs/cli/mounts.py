"""`taskfs mounts`."""

import json
from typing import Final

import click

from taskfs.cli.columns import Column
from taskfs.cli.mount_stats import InspectedMount, all_mounts, hit_rate
from taskfs.cli.output import print_table
from taskfs.support.formatting import format_elapsed, format_size

_COLUMNS: Final = (
    Column("Mountpoint"),
    Column("State"),
    Column("PID", 5),
    Column("Uptime", 6),
    Column("Requests", 4),
    Column("Received", 3),
    Column("Hit rate", 2),
    Column("Options", 1),
)


@click.command("mounts", short_help="List the mounts of this machine.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON with all statistics.  [default: off]",
)
def command(as_json: bool) -> None:
    """List the taskfs mounts of this machine, live and dead, with their counters.

    Requests are those to the API and the store. The hit rate is the share of blocks that were read
    from the cache in memory or on disk. `taskfs mount` repairs a dead mount; `taskfs umount`
    removes it.
    """
    found = all_mounts()
    if as_json:
        values = [
            {"mountpoint": m.mountpoint, "state": m.state, "options": m.options, "stats": m.stats}
            for m in found
        ]
        click.echo(json.dumps(values, indent=2))
    elif found:
        print_table(_COLUMNS, [_row(mount) for mount in found])
    else:
        click.echo("No taskfs is mounted.", err=True)


def _row(mount: InspectedMount) -> tuple[str, ...]:
    stats = mount.stats
    if not stats:
        return (mount.mountpoint, mount.state, "", "", "", "", "", mount.options)
    rate = hit_rate(stats)
    return (
        mount.mountpoint,
        mount.state,
        str(stats.get("pid", "")),
        format_elapsed(stats.get("uptime_seconds")),
        str(stats.get("api_requests", 0) + stats.get("store_requests", 0)),
        format_size(stats.get("api_bytes", 0) + stats.get("store_bytes", 0)),
        "" if rate is None else f"{rate:.0%}",
        mount.options,
    )
