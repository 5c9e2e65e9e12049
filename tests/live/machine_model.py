"""A machine's file without network: the demo's tracker, asked directly."""

import asyncio
from collections.abc import Callable
from typing import Any

from taskfs.demo.machines.files import WrittenFiles
from taskfs.demo.machines.tracker import ErrorStatus, NoAnswer, operation
from taskfs.errors import Unavailable
from taskfs.remote.live_messages import (
    Answer,
    Question,
    SilenceProbe,
    decode_answer,
    encode_question,
)


class Clock:
    """A clock that moves when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class ModelMachine:
    """Answers as a machine does, at once; a silence is proved by a silence probe."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.files = WrittenFiles(clock)
        self.questions: list[Question] = []
        self.bytes_sent = 0
        self.before_answer: Callable[[], None] = lambda: None

    def ask(
        self,
        question: Question,
        timeout_s: float = 1.0,
        interrupted: Callable[[], bool] = lambda: False,
        silence_probe: SilenceProbe | None = None,
    ) -> Answer | None:
        self.questions.append(question)
        self.before_answer()
        text = self._answer(question)
        if text is None:
            if silence_probe is None:
                raise Unavailable("the machine did not answer")
            return None
        self.bytes_sent += len(text)
        return decode_answer(text, 1 << 30)

    def __call__(
        self, question: Question, silence_probe: SilenceProbe | None = None
    ) -> Answer | None:
        return self.ask(question, silence_probe=silence_probe)

    def _answer(self, question: Question) -> str | None:
        import json

        asked: Any = json.loads(encode_question(question))
        try:
            doing = operation(asked, "task", self.files, asyncio.sleep)
            message = _run(doing)
            return json.dumps({"status": "success", "message": message})
        except ErrorStatus as exc:
            return json.dumps({"status": exc.status, "message": str(exc)})
        except NoAnswer:
            return None


def _run(doing: Any) -> Any:
    """Run a coroutine that never waits."""
    try:
        doing.execute().send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the tracker waits")
