"""The commands of the public client and what replaces them, run as one table."""

import os
import shlex
from typing import Final

import pytest

from tests.cli.conftest import Command
from tests.fake_api import FakeCloud

# The public client's command (`inductiva ...`), that of taskfs, and what its output must contain.
# ID has ended, RUN is unfinished; both belong to the project `waves`.
TABLE: Final = (
    ("tasks list", "list", "ID"),
    ("tasks list -n 5", "list -n 5", "ID"),
    ("tasks list --last-n 5", "list --last-n 5", "ID"),
    ("tasks list --all", "list --all", "ID"),
    ("tasks list -i ID", "list -i ID", "ID"),
    ("tasks list -p waves", "list -p waves", "RUN"),
    ("tasks info ID", "info ID", "Timeline:"),
    ("tasks list-files ID", "ls -R ID/outputs", "a_1.vtk"),
    ("tasks tail ID stdout.txt", "tail ID/stdout.txt", "last line"),
    ("tasks tail ID stdout.txt --lines 1", "tail -n 1 ID/stdout.txt", "last line"),
    ("logs ID", "cat ID/stdout.txt", "first line"),
    ("tasks download ID", "download ID", ""),
    ("tasks download ID --filenames a b", "download ID --filenames stdout.txt stderr.txt", ""),
    ("tasks download ID --input", "download ID --inputs", ""),
    ("projects download waves", "download --project waves", ""),
    ("projects list", "list --total", "waves"),
    ("storage list ID", "ls -l ID/outputs", "stdout.txt"),
    ("storage size ID", "du -s ID", "ID"),
    ("storage download ID/output.zip", "cp ID/output.zip .", ""),
    ("tasks kill RUN", "kill -y RUN", "Successfully sent kill request for task RUN."),
    ("tasks kill --all -y", "kill --all -y", "RUN"),
    ("tasks kill RUN -w 20 -y", "kill RUN -w 20 -y", "Successfully killed task RUN."),
    ("task.wait()", "wait ID", "success"),
)


@pytest.mark.parametrize(("theirs", "ours", "shown"), TABLE, ids=[row[0] for row in TABLE])
def test_the_command(taskfs: Command, cloud: FakeCloud, theirs: str, ours: str, shown: str) -> None:
    """Each command of the table succeeds and shows what the public client's shows."""
    outputs = {
        "stdout.txt": b"first line\nlast line\n",
        "stderr.txt": b"",
        "vtk/a_1.vtk": b"1",
    }
    names = {
        "ID": cloud.add_task(project="waves", outputs=outputs, inputs={"config.json": b"{}"}),
        "RUN": cloud.add_task(project="waves", status="started"),
    }

    def fill(text: str) -> str:
        for name, task in names.items():
            text = text.replace(name, task)
        return text

    done = taskfs(*shlex.split(fill(ours)))
    assert done.returncode == 0, done.stderr
    assert fill(shown) in done.stdout
    if ours.startswith("download"):
        assert os.listdir(taskfs.cwd / "inductiva_output") == [names["ID"]]
