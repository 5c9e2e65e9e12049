"""Transcripts in Markdown: `$ command` lines with the output that they print."""

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tests.fork_server import COMMAND

_FENCE: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK: Final = "@@ end of step"


class Step(NamedTuple):
    """One command of a transcript, and the lines that follow it."""

    command: str
    expected: str


def install_command(home: Path) -> Path:
    """Write the program `taskfs` of this checkout into a home; return its directory, for PATH."""
    program = home / "bin/taskfs"
    program.parent.mkdir()
    words = " ".join(f"'{word}'" for word in COMMAND)
    program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    program.chmod(0o755)
    return program.parent


def section(text: str, heading: str) -> str:
    """Return what stands below `## heading`, up to the next heading of that level."""
    _, _, rest = text.partition(f"\n## {heading}\n")
    assert rest, f"there is no section {heading!r}"
    return rest.partition("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks in *language*."""
    return [body for kind, body in _FENCE.findall(text) if kind == language]


def steps(block: str) -> Iterator[Step]:
    """Yield the commands of a console block; a line that begins with `> ` continues one."""
    command: list[str] = []
    output: list[str] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            if command:
                yield Step("\n".join(command), "\n".join(output))
            command, output = [line[2:]], []
        elif line.startswith("> ") and not output:
            command.append(line[2:])
        else:
            output.append(line)
    if command:
        yield Step("\n".join(command), "\n".join(output))


def matches(expected: str, printed: str) -> bool:
    """Whether *printed* is *expected*: `...` stands for a part of a line, alone for any lines."""
    pattern = ""
    for line in expected.splitlines():
        parts = map(re.escape, line.rstrip().split("..."))
        pattern += r"(?:.*\n)*" if line == "..." else "[^\n]*".join(parts) + "\n"
    lines = "".join(f"{line.rstrip()}\n" for line in printed.splitlines())
    return re.fullmatch(pattern, lines) is not None


def run(block: str, environment: Mapping[str, str], cwd: Path, timeout_s: float) -> None:
    """Run the steps of a console block in one shell, in order; fail at the first that differs."""
    script = list(steps(block))
    assert script, "the block has no command"
    lines = ["exec 2>&1", f"echo '{_MARK}'"]
    for step in script:
        lines += ["{ " + step.command, "} </dev/null", f"printf '\\n%s\\n' '{_MARK}'"]
    done = subprocess.run(
        ["bash", "--norc", "--noprofile", "--noediting", "-i"],  # -i: messages begin with `bash: `
        input="\n".join([*lines, "exit 0", ""]),
        env={**environment, "PS1": "", "PS2": "", "HISTFILE": ""},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
        timeout=timeout_s,
    )
    outputs = done.stdout.split(f"{_MARK}\n")[1:]
    assert len(outputs) == len(script) + 1, done.stdout
    for step, output in zip(script, outputs, strict=False):
        printed = output.removesuffix("\n")
        assert matches(step.expected, printed), f"$ {step.command}\n{printed}"
