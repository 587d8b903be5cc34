"""The double's slots: who decodes now, who waits, and what each slot has in its cache."""

from collections import deque
from collections.abc import Callable
from typing import Any

from attrs import define, field, frozen

from tests.doubles import wire
from tests.doubles.alarms import Alarms
from tests.doubles.model import Chat, Tally, Text, tokens, words
from tests.doubles.reply import Reply

BATCH = 512  # prompt tokens between two looks at the clients
SIMILAR = 0.1  # share of a prompt that a slot must hold to be preferred to the least recent
LOOK = 1.0  # seconds without any result before a client waiting for a whole answer is looked at


@frozen
class Speed:
    """Tokens per second, of the prompt and of the answer; 0 is as fast as it goes."""

    prompt: float = 0.0
    decode: float = 0.0


@frozen
class Task:
    """What one request asks of the model: `limit` words after `text`, and why it ends there."""

    text: str
    limit: int
    reason: str
    shape: Chat | Text
    stream: bool = False
    progress: bool = False
    timings: bool = False
    prompt: list[str] = field(init=False, repr=False)

    @prompt.default
    def _prompt(self) -> list[str]:
        return tokens(self.text)


@define(eq=False)
class Slot:
    """One sequence; `cache` is what it read and said last."""

    id: int
    n_ctx: int
    job: "Job | None" = None
    cache: list[str] = field(factory=list, repr=False)
    used: int = 0

    def shared(self, prompt: list[str]) -> int:
        """How many leading tokens of `prompt` this slot holds."""
        pairs = zip(self.cache, prompt, strict=False)
        return next(
            (n for n, (a, b) in enumerate(pairs) if a != b), min(len(self.cache), len(prompt))
        )

    def status(self) -> dict[str, Any]:
        """Its entry in `/slots`."""
        plain = {"id": self.id, "n_ctx": self.n_ctx, "speculative": False}
        return {
            **plain,
            "is_processing": self.job is not None,
            **(self.job.status() if self.job else {}),
        }


class Slots:
    """Decodes as many jobs at a time as there are slots; the rest wait in order."""

    def __init__(self, clock: Alarms, count: int, n_ctx: int, speed: Speed) -> None:
        self.clock = clock
        self.n_ctx = n_ctx
        self.speed = speed
        self.all = [Slot(n, n_ctx) for n in range(count)]
        self.waiting: deque[Job] = deque()
        self.most_busy = 0
        self.last_result = clock.seconds()
        self._tasks = 0

    @property
    def busy(self) -> int:
        return sum(slot.job is not None for slot in self.all)

    def submit(self, job: "Job") -> None:
        self.waiting.append(job)
        self._fill()

    def release(self, slot: Slot) -> None:
        slot.job = None
        self._fill()

    def result(self) -> None:
        """Something flowed to some client, which puts off the look at those who wait."""
        self.last_result = self.clock.seconds()

    def _fill(self) -> None:
        while self.waiting and (free := [slot for slot in self.all if slot.job is None]):
            job = self.waiting.popleft()
            slot = self._choose(free, job.task.prompt)
            self._tasks += 1
            slot.job, slot.used = job, self._tasks
            self.most_busy = max(self.most_busy, self.busy)
            job.start(slot)

    def _choose(self, free: list[Slot], prompt: list[str]) -> Slot:
        best = max(free, key=lambda slot: slot.shared(prompt))
        if best.shared(prompt) > SIMILAR * len(prompt):
            return best
        return min(free, key=lambda slot: slot.used)


class Job:
    """One request's way: waits for a slot, reads its prompt, speaks, ends."""

    def __init__(self, slots: Slots, task: Task, reply: Reply) -> None:
        self.task = task
        self._slots = slots
        self._reply = reply
        self._slot: Slot | None = None
        self._over = False
        self._held: Callable[[], None] | None = None
        self._words = words(task.text)
        self._said: list[str] = []
        self._cached = self._read = 0
        self._began = self._spoke = 0.0
        reply.driver = self
        if task.stream:
            reply.open()
        slots.submit(self)

    def status(self) -> dict[str, Any]:
        """What `/slots` says of a busy slot."""
        left = self.task.limit - len(self._said)
        return {
            "n_prompt_tokens": len(self.task.prompt) + len(self._said),
            "n_prompt_tokens_processed": self._read - self._cached,
            "n_prompt_tokens_cache": self._cached,
            "next_token": [
                {
                    "has_next_token": True,
                    "has_new_line": False,
                    "n_remain": left,
                    "n_decoded": len(self._said),
                }
            ],
        }

    def start(self, slot: Slot) -> None:
        self._slot = slot
        self._cached = self._read = min(slot.shared(self.task.prompt), len(self.task.prompt) - 1)
        self._began = self._slots.clock.seconds()
        self._after(0, self._prefill)

    def resume(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._after(0, held)

    def stop(self, *, left: bool) -> None:
        if left and not self.task.stream and not self._over:
            self._quit_unnoticed()
        else:
            self._quit()

    def _quit_unnoticed(self) -> None:
        """As llama-server: nobody looks at this client while results flow to others."""
        quiet = self._slots.clock.seconds() - max(
            self._slots.last_result, self._reply.call.ended_at or 0
        )
        if quiet >= LOOK:
            self._quit()
        elif not self._over:
            self._slots.clock.callLater(LOOK - quiet, self._quit_unnoticed)

    def _quit(self) -> None:
        if self._over:
            return
        self._over = True
        if self._slot is None:
            self._slots.waiting.remove(self)
            return
        self._slot.cache = self.task.prompt[: self._read] + tokens("".join(self._said))
        self._slots.release(self._slot)

    def _after(self, seconds: float, step: Callable[[], None]) -> None:
        self._slots.clock.callLater(seconds, self._go, step)

    def _go(self, step: Callable[[], None]) -> None:
        if self._over or self._reply.over:
            return
        if self._reply.paused:
            self._held = step
        else:
            step()

    def _prefill(self) -> None:
        if self.task.progress:
            self._emit(self.task.shape.progress(self._progress()))
        batch = min(BATCH, len(self.task.prompt) - self._read)
        self._after(_seconds(batch, self._slots.speed.prompt), lambda: self._prefilled(batch))

    def _prefilled(self, batch: int) -> None:
        self._read += batch
        if self._read < len(self.task.prompt):
            self._prefill()
        else:
            self._begin()

    def _begin(self) -> None:
        if self.task.progress:
            self._emit(self.task.shape.progress(self._progress()))
        self._spoke = self._slots.clock.seconds()
        for message in self.task.shape.first():
            self._emit(message)
        self._after(_seconds(1, self._slots.speed.decode), self._speak)

    def _progress(self) -> dict[str, int]:
        took = int((self._slots.clock.seconds() - self._began) * 1000)
        total = len(self.task.prompt)
        return {"total": total, "cache": self._cached, "processed": self._read, "time_ms": took}

    def _speak(self) -> None:
        self._said.append(next(self._words))
        message = self.task.shape.word(self._said[-1])
        self._emit(
            {**message, "timings": self._tally().timings()} if self.task.timings else message
        )
        if len(self._said) < self.task.limit:
            self._after(_seconds(1, self._slots.speed.decode), self._speak)
        else:
            self._after(0, self._finish)

    def _finish(self) -> None:
        tally = self._tally()
        if self.task.stream:
            self._end_stream(tally)
        else:
            text = "".join(self._said)
            self._reply.json(200, self.task.shape.whole(text, self.task.reason, tally))
        self._slots.result()
        self._quit()

    def _end_stream(self, tally: Tally) -> None:
        for message in self.task.shape.last(self.task.reason, tally):
            self._emit(message)
        self._reply.event(wire.DONE)
        self._reply.finish()

    def _emit(self, message: dict[str, Any]) -> None:
        if self.task.stream and not self._reply.over:
            self._slots.result()
            self._reply.event(wire.encode(message))

    def _tally(self) -> Tally:
        now = self._slots.clock.seconds()
        read_ms = (self._spoke - self._began) * 1000
        prompt = len(self.task.prompt)
        return Tally(prompt, self._cached, len(self._said), read_ms, (now - self._spoke) * 1000)


def _seconds(count: int, rate: float) -> float:
    return count / rate if rate else 0.0
