"""The questions to a task's machine and its answers, as JSON text.

The standard library's JSON is used because a name that is not UTF-8 arrives as lone surrogates,
which msgspec refuses together with the whole answer.
"""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

from taskfs.errors import BadResponse, Unavailable

STATUSES: Final = ("success", "error", "invalid")


class Question(NamedTuple):
    """One question: its type, and nothing but the arguments that the type takes."""

    type: str
    args: Mapping[str, Any] = MappingProxyType({})


class Answer(NamedTuple):
    """One answer; the type of *message* depends on the question, and is not checked yet."""

    status: str
    message: Any


LS: Final = Question("ls")
TOP: Final = Question("top")
LAST_MODIFIED_FILE: Final = Question("last_modified_file")


def tail(name: str, lines: int) -> Question:
    """Return the question for the last *lines* lines of a file that a listing named."""
    return Question("tail", {"filename": name, "lines": lines})


class SilenceProbe(NamedTuple):
    """A second question. Its answer proves that the first gets none: a machine answers in order.

    It is sent *after_s* seconds after the earlier one, because most answers are there by then. The
    silence counts *silence_s* seconds after the probe's answer, because a lost packet of the
    earlier answer is sent again after about a second.
    """

    question: Question
    after_s: float
    silence_s: float


class MachineGone(Unavailable):
    """The machine closed the connection, or the connection broke, during a question."""


class LiveMachine(Protocol):
    """The machine of one task: takes questions and returns answers."""

    def ask(
        self,
        question: Question,
        timeout_s: float,
        interrupted: Callable[[], bool],
        silence_probe: SilenceProbe | None = None,
    ) -> Answer | None:
        """Return the answer to *question*.

        Return None where the machine answers *silence_probe*, sent later on another channel, and is
        still silent on *question*: it has failed at the question.

        Raises:
            Unavailable: no connection or no answer within *timeout_s* (ETIMEDOUT).
            MachineGone: the connection ended during the question (ETIMEDOUT).
            BadResponse: the answer makes no sense (EIO).
            AccessDenied: the API refuses the key (EACCES).
            Unsupported: the extra `live` is not installed (EOPNOTSUPP).
            Interrupted: *interrupted* returned True (EINTR).
        """


def encode_question(question: Question) -> str:
    """Return the text of a question; lone surrogates are escaped and so survive."""
    return json.dumps({"type": question.type, "follow": False, "args": dict(question.args)})


def decode_answer(text: object, max_chars: int) -> Answer:
    """Return the answer that *text* is; raise BadResponse for anything else."""
    if not isinstance(text, str):
        raise BadResponse("the task's machine answered with bytes instead of text")
    if len(text) > max_chars:
        raise BadResponse(f"the task's machine answered with more than {max_chars >> 20} MiB")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise BadResponse("the task's machine answered with something else than JSON") from exc
    if not isinstance(value, dict) or value.get("status") not in STATUSES:
        raise BadResponse("the task's machine answered without a known status")
    return Answer(value["status"], value.get("message"))
