"""`taskfs download`."""

import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from taskfs.cli import completers
from taskfs.cli.api_session import open_session
from taskfs.cli.arguments import task_ids_argument
from taskfs.cli.options import SETTINGS_EPILOG, Settings, config_options
from taskfs.cli.output import print_error
from taskfs.cli.progress import progress_bar
from taskfs.cli.signals import exit_on_signals
from taskfs.cli.task_choice import TaskChoice
from taskfs.cli.task_ids import resolve_names, task_must_exist
from taskfs.config import Config
from taskfs.errors import CacheChanged, CorruptData, NotFound, Unsupported
from taskfs.model import PAGE_TASKS
from taskfs.options import BY_NAME
from taskfs.support.formatting import format_count, format_size

if TYPE_CHECKING:
    from taskfs.download.run import DownloadItem
    from taskfs.model import Task
    from taskfs.remote.api_client import TaskClient


# Tasks from which one page of the newest ones costs less than each task alone.
MIN_TASKS_FOR_PAGE: Final = 4


class _Command(click.Command):
    """A command whose --filenames takes several words, as that of the public client."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        without_value = {
            word
            for option in options
            if option.is_flag or option.count
            for word in (*option.opts, *option.secondary_opts)
        }
        return super().parse_args(ctx, _repeat_filenames(args, without_value))


def _repeat_filenames(args: Sequence[str], without_value: Collection[str]) -> list[str]:
    """Return *args* with --filenames before each of the words that follow it.

    Only after a task is named: in `--filenames a ID`, the last word is the task.
    """
    repeated: list[str] = []
    has_task = False
    takes_value = is_open = False  # the next word is an option's value; or one more file name
    for word in args:
        if word.startswith("-"):
            is_open = has_task and word == "--filenames"
            has_task |= word in ("-p", "--project")
            takes_value = word not in without_value and "=" not in word
        elif takes_value:
            takes_value = False
        elif is_open:
            repeated.append("--filenames")
        else:
            has_task = True
        repeated.append(word)
    return repeated


@click.command(
    "download",
    cls=_Command,
    epilog=SETTINGS_EPILOG,
    short_help="Download the files of tasks.",
)
@task_ids_argument()
@click.option(
    "--filenames",
    multiple=True,
    metavar="NAME",
    shell_complete=completers.complete_members,
    help="Only this file; may be given several times, or once with several names after the last "
    "ID. A directory means everything beneath it, "
    "and a glob works ('vtk/*_40.vtk'; its * also matches /). If a name matches nothing, nothing "
    "is downloaded.  [default: all files]",
)
@click.option(
    "-p",
    "--project",
    metavar="NAME",
    shell_complete=completers.completer_of(BY_NAME["project"]),
    help="All tasks of this project that have ended; those without outputs are skipped.  "
    "[default: only ID...]",
)
@click.option(
    "--output-dir",
    metavar="NAME",
    help="The name of the directory inside the parent directory, or an absolute path.  "
    "[default: the task's id]",
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
    project: str | None,
    output_dir: str | None,
    inputs: bool,
    archive: bool,
) -> int:
    """Download the outputs of the tasks ID..., or of a project, into inductiva_output/ID/.

    The parent directory is INDUCTIVA_OUTPUT_DIR (set but empty: the current directory), else
    inductiva_output in the current directory. Only the bytes that are needed are fetched. A file
    appears when it is complete and its checksum has been verified, with its time. A second run
    fetches the files that are missing or differ in size or time. If a task succeeded less than a
    minute ago, the command waits for its archive. On a terminal, a bar shows the progress, and the
    last line says where the files are; otherwise nothing is printed.
    """
    if bool(task_ids) == bool(project):
        raise click.UsageError("name tasks, or a project with --project")
    _check_usage(task_ids, filenames, output_dir, archive)
    if project and output_dir is not None:
        raise click.UsageError("--output-dir takes one ID: leave out --project")
    with open_session(settings) as (config, client):
        items: list[DownloadItem] = []
        planner = _Planner(config, client, inputs, filenames, archive)
        ids = resolve_names(client, task_ids)
        if project:
            tasks = TaskChoice(project).select(client, None)
            ids = [task.id for task in tasks if task.is_terminated]
            planner.begin([task for task in tasks if task.is_terminated])
        elif len(set(ids)) >= MIN_TASKS_FOR_PAGE:
            newest = {task.id: task for task in client.list_page(1, PAGE_TASKS).tasks}
            planner.begin([newest[task_id] for task_id in dict.fromkeys(ids) if task_id in newest])
        destinations = []
        status = 0
        for task_id in dict.fromkeys(ids):
            destination = _destination(config, task_id, output_dir, inputs)
            try:
                items += planner.plan(task_id, destination)
            except NotFound as exc:
                if not project:
                    raise
                print_error(f"skipped: {exc}")
                continue
            except (CorruptData, Unsupported) as exc:
                print_error(str(exc))
                status = 1
                continue
            destinations.append(destination)
        if not destinations:
            if status:
                return status
            raise NotFound(
                f"no ended task of {project} has files to download: "
                f"see `taskfs list --all --project {project}`"
            )
        exit_on_signals()
        is_single = len(destinations) == 1
        return _fetch(items, destinations[0] if is_single else _parent(config)) or status


def _check_usage(
    task_ids: Sequence[str], filenames: Sequence[str], output_dir: str | None, archive: bool
) -> None:
    if output_dir is not None and len(set(task_ids)) > 1:
        raise click.UsageError("--output-dir takes one ID: the tasks would overwrite each other")
    if output_dir == "":
        raise click.UsageError("--output-dir must not be empty")
    if output_dir is not None and os.path.normpath(output_dir).split(os.sep)[0] == os.pardir:
        raise click.UsageError(
            f"--output-dir {output_dir!r} leads out of the parent directory: write an absolute path"
        )
    if archive and filenames:
        raise click.UsageError("--archive keeps all files: leave out --filenames")


def _parent(config: Config) -> Path:
    return Path(config.output_parent or ".")


def _destination(config: Config, task_id: str, output_dir: str | None, inputs: bool) -> Path:
    parent = _parent(config)
    if output_dir is not None:
        return parent / output_dir
    return parent / task_id / "inputs" if inputs else parent / task_id


class _Planner:
    """Finds the items to download for each task, with the same choice of archive and files."""

    def __init__(
        self,
        config: Config,
        client: "TaskClient",
        inputs: bool,
        filenames: Sequence[str],
        keep_archive: bool,
    ) -> None:
        from taskfs.core import open_disk
        from taskfs.download.archive_opener import ArchiveOpener
        from taskfs.tasks.archive_kind import ArchiveKind

        self._client = client
        disk = None if config.demo else open_disk(config)
        self._opener = ArchiveOpener(client, disk, config.api_url)
        self._kind = ArchiveKind.INPUT if inputs else ArchiveKind.OUTPUT
        self._filenames = filenames
        self._keep_archive = keep_archive

    def begin(self, tasks: "Sequence[Task]") -> None:
        """Begin to open the archives of *tasks*."""
        self._opener.begin(tasks, self._kind)

    def plan(self, task_id: str, destination: Path) -> "list[DownloadItem]":
        """Return the files of one task that are missing in *destination* or differ."""
        from taskfs.download.plan import plan_archive, plan_members
        from taskfs.download.resume import make_resumable, reopener

        if not self._opener.has_begun(task_id):
            with task_must_exist(task_id):
                self._client.get_status(task_id)  # a later 404 means the archive
        archive = self._opener.open(task_id, self._kind)
        if self._keep_archive:
            return plan_archive(archive, destination, f"{self._kind.value}.zip")
        try:
            try:
                items = plan_members(archive, destination, self._filenames)
            except CacheChanged:
                archive.forget_index()
                archive = self._opener.open(task_id, self._kind)
                items = plan_members(archive, destination, self._filenames)
        except NotFound as exc:
            listing = f"taskfs ls -R {task_id}/{self._kind.directory}"
            raise NotFound(f"task {task_id}: {exc}: see `{listing}`") from None
        except (CorruptData, Unsupported) as exc:
            fix = "`taskfs download --archive` gets the archive as it is"
            raise type(exc)(f"task {task_id}: {exc}: {fix}") from None
        return make_resumable(items, destination, reopener(self._client, task_id, self._kind))


def _fetch(items: "Sequence[DownloadItem]", directory: Path) -> int:
    """Fetch all items, with a progress bar on a terminal; return the exit status."""
    from taskfs.download.fetch import download_all
    from taskfs.download.plan import check_space

    def identities() -> list[tuple[int, int] | None]:
        return [_identity(directory, item.path) for item in items]

    check_space(items)
    total = sum(item.remaining_bytes for item in items)
    count = format_count(len(items), "file")
    before = identities()
    warnings: list[str] = []
    try:
        with progress_bar(total) as advance:
            failures = download_all(items, advance, warnings.append)
    except KeyboardInterrupt:
        pairs = zip(identities(), before, strict=True)
        done = sum(identity not in (None, old) for identity, old in pairs)
        print_error(f"{done} of {count} are in {directory}; run it again to continue")
        raise
    for warning in warnings:
        print_error(f"warning: {warning}")
    for failure in failures:
        print_error(f"{failure.path}: {failure.error}")
    if failures:
        were = "was" if len(items) == 1 else "were"
        print_error(f"{len(failures)} of {count} {were} not downloaded")
    elif sys.stderr.isatty():
        done_text = f"{count} ({format_size(total)}) downloaded to {directory}"
        click.echo(done_text if items else f"everything is in {directory} already", err=True)
    return 1 if failures else 0


def _identity(directory: Path, path: Path) -> tuple[int, int] | None:
    """Return what distinguishes a file from one that replaces it; None if there is none.

    The names beneath *directory* are UTF-8 on disk in every locale.
    """
    from taskfs.download.destination import file_name

    name = file_name(os.path.relpath(path, directory))
    try:
        found = os.lstat(os.path.join(os.fsencode(directory), name))
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns
