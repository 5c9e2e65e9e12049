"""`taskfs download`."""

import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from taskfs.cli import completers as candidates
from taskfs.cli.console import complain, is_terminal, known_task, open_session
from taskfs.cli.options import EPILOG, Settings, config_options, reads
from taskfs.cli.tasks import parse_task_id
from taskfs.config import Config
from taskfs.errors import CorruptData, NotFound, Unsupported
from taskfs.model import format_count, format_size

if TYPE_CHECKING:
    from taskfs.download.fetch import DownloadItem, Progress
    from taskfs.remote.api_client import TaskClient


@click.command(epilog=EPILOG, short_help="Download the files of tasks.")
@click.argument(
    "task_ids",
    metavar="ID...",
    nargs=-1,
    required=True,
    callback=reads(parse_task_id),
    shell_complete=candidates.tasks(),
)
@click.option(
    "--filenames",
    multiple=True,
    metavar="NAME",
    help="Only this file; may be given several times. A directory means everything beneath it, "
    "and a glob works ('vtk/*_40.vtk'; its * crosses /). If one of the names is in none, nothing "
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
    "download goes on where it stopped.  [default: off]",
)
@config_options("download")
def download(
    settings: Settings,
    task_ids: tuple[str, ...],
    filenames: tuple[str, ...],
    output_dir: str | None,
    inputs: bool,
    archive: bool,
) -> int:
    """Download the outputs of the tasks ID... into inductiva_output/ID/.

    The parent directory is inductiva_output in the current directory, or what INDUCTIVA_OUTPUT_DIR
    says (set but empty: the current directory). Only the bytes that are needed are fetched. Files
    appear whole, with their times, after their checksums were compared; a second run fetches only
    what is missing or differs in size or time. The archive of a task that succeeded less than a
    minute ago is waited for. A bar shows the progress where standard error is a terminal; otherwise
    nothing is printed.
    """
    _check_usage(task_ids, filenames, output_dir, archive)
    with open_session(settings) as (config, client):
        fetches: list[DownloadItem] = []
        plan = _Plan(client, inputs, filenames, archive)
        for task_id in dict.fromkeys(task_ids):
            fetches += plan.of(task_id, _target(config, task_id, output_dir, inputs))
        _end_in_good_order()
        return _fetch(fetches)


def _end_in_good_order() -> None:
    """Let the signals that end a process pass as exceptions, so that unfinished files go."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP, and means it
            signal.signal(number, leave)


def _check_usage(
    task_ids: Sequence[str], filenames: Sequence[str], output_dir: str | None, archive: bool
) -> None:
    if output_dir is not None and len(set(task_ids)) > 1:
        raise click.UsageError("--output-dir takes one ID: the tasks would overwrite each other")
    if output_dir == "":
        raise click.UsageError("--output-dir must not be empty")
    if archive and filenames:
        raise click.UsageError("--archive keeps all files: leave out --filenames")


def _target(config: Config, task_id: str, output_dir: str | None, inputs: bool) -> Path:
    parent = Path(config.output_parent or ".").expanduser()
    if output_dir is not None:
        return parent / output_dir
    return parent / task_id / "inputs" if inputs else parent / task_id


class _Plan:
    """What is wanted of every task: one of its archives, the files in it, or the archive itself."""

    def __init__(
        self, client: "TaskClient", inputs: bool, filenames: Sequence[str], whole: bool
    ) -> None:
        from taskfs.download.plan import Archives
        from taskfs.tasks.archives import ArchiveKind

        self._client = client
        self._archives = Archives(client)
        self._which = ArchiveKind.INPUT if inputs else ArchiveKind.OUTPUT
        self._filenames = filenames
        self._whole = whole

    def of(self, task_id: str, target: Path) -> "list[DownloadItem]":
        """Return what is missing of one task's files in *target*."""
        from taskfs.download.plan import plan_archive, plan_members
        from taskfs.download.resume import make_resumable, reopener

        with known_task(task_id):
            self._client.get_status(task_id)  # a 404 here means the task, later an archive
        archive = self._archives.wait_for(task_id, self._which)
        if self._whole:
            return plan_archive(archive, target, f"{self._which.value}.zip")
        try:
            fetches = plan_members(archive, target, self._filenames)
        except NotFound as exc:
            raise NotFound(f"task {task_id}: {exc}") from None
        except (CorruptData, Unsupported) as exc:
            hint = "`taskfs download --archive` gets the archive as it is"
            raise type(exc)(f"task {task_id}: {exc}: {hint}") from None
        return make_resumable(fetches, target, reopener(self._client, task_id, self._which))


def _fetch(fetches: "Sequence[DownloadItem]") -> int:
    """Fetch all, with a bar on a terminal; return the exit status."""
    from taskfs.download import fetch as fetching
    from taskfs.download import plan as engine

    engine.check_space(fetches)
    total = sum(fetch.size for fetch in fetches)
    warnings: list[str] = []
    with _progress_bar(total) as advance:
        failures = fetching.run(fetches, advance, warnings.append)
    for warning in warnings:
        complain(f"warning: {warning}")
    for failure in failures:
        complain(f"{failure.path}: {failure.error}")
    if failures:
        were = "was" if len(fetches) == 1 else "were"
        complain(f"{len(failures)} of {format_count(len(fetches), 'file')} {were} not downloaded")
    elif sys.stderr.isatty():
        done = f"{format_count(len(fetches), 'file')} ({format_size(total)}) downloaded"
        click.echo(done if fetches else "everything is there already", err=True)
    return 1 if failures else 0


@contextlib.contextmanager
def _progress_bar(total: int) -> "Iterator[Progress]":
    """Yield what counts bytes: into a bar on standard error, if that is a terminal."""
    if not is_terminal(sys.stderr) or not total:
        yield lambda size: None
        return
    from taskfs.cli.bar import download_bar

    with download_bar() as bar:
        task = bar.add_task("", total=total)
        yield lambda size: bar.advance(task, size)
