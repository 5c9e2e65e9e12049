"""`taskfs download`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from taskfs.cli import completers
from taskfs.cli.api_session import open_session
from taskfs.cli.options import SETTINGS_EPILOG, Settings, config_options, parsed_by
from taskfs.cli.output import print_error
from taskfs.cli.progress import progress_bar
from taskfs.cli.signals import exit_on_signals
from taskfs.cli.task_ids import parse_task_id, resolve_names, task_must_exist
from taskfs.config import Config
from taskfs.errors import CorruptData, NotFound, Unsupported
from taskfs.support.formatting import format_count, format_size

if TYPE_CHECKING:
    from taskfs.download.run import DownloadItem
    from taskfs.remote.api_client import TaskClient


@click.command("download", epilog=SETTINGS_EPILOG, short_help="Download the files of tasks.")
@click.argument(
    "task_ids",
    metavar="ID...",
    nargs=-1,
    required=True,
    callback=parsed_by(parse_task_id),
    shell_complete=completers.complete_tasks(),
)
@click.option(
    "--filenames",
    multiple=True,
    metavar="NAME",
    shell_complete=completers.complete_members,
    help="Only this file; may be given several times. A directory means everything beneath it, "
    "and a glob works ('vtk/*_40.vtk'; its * also matches /). If a name matches nothing, nothing "
    "is downloaded.  [default: all files]",
)
@click.option(
    "--output-dir",
    metavar="NAME",
    help="The name of the directory inside the parent directory.  [default: the task's id]",
)
@click.option(
    "--inputs",
    is_flag=True,
    help="Download the input files instead, into ID/inputs/ as `inductiva tasks download --input` "
    "does (with --output-dir: into that directory).  [default: off]",
)
@click.option(
    "--archive",
    is_flag=True,
    help="Keep the archive itself, output.zip or input.zip, instead of its files. An interrupted "
    "download continues where it stopped.  [default: off]",
)
@config_options("download")
def command(
    settings: Settings,
    task_ids: tuple[str, ...],
    filenames: tuple[str, ...],
    output_dir: str | None,
    inputs: bool,
    archive: bool,
) -> int:
    """Download the outputs of the tasks ID... into inductiva_output/ID/.

    The parent directory is INDUCTIVA_OUTPUT_DIR (set but empty: the current directory), else
    inductiva_output in the current directory. Only the bytes that are needed are fetched. A file
    appears when it is complete and its checksum has been verified, with its time. A second run
    fetches the files that are missing or differ in size or time. If a task succeeded less than a
    minute ago, the command waits for its archive. A bar shows the progress if standard error is a
    terminal; otherwise nothing is printed.
    """
    _check_usage(task_ids, filenames, output_dir, archive)
    with open_session(settings) as (config, client):
        items: list[DownloadItem] = []
        planner = _Planner(client, inputs, filenames, archive)
        for task_id in dict.fromkeys(resolve_names(client, task_ids)):
            items += planner.plan(task_id, _destination(config, task_id, output_dir, inputs))
        exit_on_signals()
        return _fetch(items)


def _check_usage(
    task_ids: Sequence[str], filenames: Sequence[str], output_dir: str | None, archive: bool
) -> None:
    if output_dir is not None and len(set(task_ids)) > 1:
        raise click.UsageError("--output-dir takes one ID: the tasks would overwrite each other")
    if output_dir == "":
        raise click.UsageError("--output-dir must not be empty")
    if archive and filenames:
        raise click.UsageError("--archive keeps all files: leave out --filenames")


def _destination(config: Config, task_id: str, output_dir: str | None, inputs: bool) -> Path:
    parent = Path(config.output_parent or ".").expanduser()
    if output_dir is not None:
        return parent / output_dir
    return parent / task_id / "inputs" if inputs else parent / task_id


class _Planner:
    """Finds the items to download for each task, with the same choice of archive and files."""

    def __init__(
        self, client: "TaskClient", inputs: bool, filenames: Sequence[str], keep_archive: bool
    ) -> None:
        from taskfs.download.archive_opener import ArchiveOpener
        from taskfs.tasks.archive_kind import ArchiveKind

        self._client = client
        self._opener = ArchiveOpener(client)
        self._kind = ArchiveKind.INPUT if inputs else ArchiveKind.OUTPUT
        self._filenames = filenames
        self._keep_archive = keep_archive

    def plan(self, task_id: str, destination: Path) -> "list[DownloadItem]":
        """Return the files of one task that are missing in *destination* or differ."""
        from taskfs.download.plan import plan_archive, plan_members
        from taskfs.download.resume import make_resumable, reopener

        with task_must_exist(task_id):
            self._client.get_status(task_id)  # a later 404 means the archive
        archive = self._opener.open(task_id, self._kind)
        if self._keep_archive:
            return plan_archive(archive, destination, f"{self._kind.value}.zip")
        try:
            items = plan_members(archive, destination, self._filenames)
        except NotFound as exc:
            raise NotFound(f"task {task_id}: {exc}") from None
        except (CorruptData, Unsupported) as exc:
            fix = "`taskfs download --archive` gets the archive as it is"
            raise type(exc)(f"task {task_id}: {exc}: {fix}") from None
        return make_resumable(items, destination, reopener(self._client, task_id, self._kind))


def _fetch(items: "Sequence[DownloadItem]") -> int:
    """Fetch all items, with a progress bar on a terminal; return the exit status."""
    from taskfs.download.fetch import download_all
    from taskfs.download.plan import check_space

    check_space(items)
    total = sum(item.remaining_bytes for item in items)
    warnings: list[str] = []
    with progress_bar(total) as advance:
        failures = download_all(items, advance, warnings.append)
    for warning in warnings:
        print_error(f"warning: {warning}")
    for failure in failures:
        print_error(f"{failure.path}: {failure.error}")
    if failures:
        were = "was" if len(items) == 1 else "were"
        print_error(f"{len(failures)} of {format_count(len(items), 'file')} {were} not downloaded")
    elif sys.stderr.isatty():
        done = f"{format_count(len(items), 'file')} ({format_size(total)}) downloaded"
        click.echo(done if items else "everything is there already", err=True)
    return 1 if failures else 0
