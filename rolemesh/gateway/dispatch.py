"""One request's way: admit, choose, send, and go elsewhere while nothing was delivered."""

from collections.abc import Sequence

from attrs import define, evolve, field
from twisted.internet.interfaces import IReactorTime

from rolemesh.core.affinity import Memory
from rolemesh.core.attempts import MOST, RULES, Outcome, Try, may_go_on, refusal
from rolemesh.core.chains import Chain
from rolemesh.core.errors import Refusal
from rolemesh.core.model import BackendId
from rolemesh.core.passing import Passed, among
from rolemesh.core.poison import Poison
from rolemesh.core.routing import No
from rolemesh.gateway.admission import Admission, Grant, Want
from rolemesh.gateway.attempt import Answer, Attempt, Call
from rolemesh.gateway.budget import NO_TURN, RetryBudget
from rolemesh.gateway.registry import Registry
from rolemesh.gateway.relay import Body
from rolemesh.gateway.upstream import TryFailed

_NO_FAILURES = (Outcome.SERVED, Outcome.BUSY)


@define(eq=False)
class Dispatch:
    """Finds an answer for a call, asking one backend after another while nothing was delivered."""

    _clock: IReactorTime
    _registry: Registry
    _admission: Admission
    _attempt: Attempt
    _memory: Memory
    _poison: Poison = field(factory=Poison)
    _budget: RetryBudget = field(factory=RetryBudget)
    open_answers: set[Answer] = field(factory=set)

    def __attrs_post_init__(self) -> None:
        self._registry.on_gone.append(self._budget.answered)

    async def open(self, call: Call) -> Answer:
        """The beginning of an answer; it holds a slot until it is closed.

        :raises Refusal: when no backend can answer.
        """
        self._poison.refuse(call.identity, self._clock.seconds())
        self._budget.begin()
        try:
            found = await self._once(call, first=True)
            while not isinstance(found, Answer):
                found = await self._once(found, first=False)
        finally:
            self._budget.end()
        self.open_answers.add(found)
        return found

    async def _once(self, call: Call, *, first: bool) -> Answer | Call:
        """The answer of one backend, or the call with which to ask another."""
        want, grant = await self._admitted(call)
        began = self._clock.seconds()
        try:
            turn = NO_TURN if first else await self._budget.enter()
            try:
                if _failures(call) and not self._may_retry(grant):
                    grant.release()
                    return call
                answer = await self._attempt.make(call, want.need.role, grant, turn.leave)
            finally:
                turn.leave()
        except TryFailed as failed:
            grant.release()
            self._failed(call, want, grant, failed.outcome, began)
            return call
        except BaseException:
            grant.release()
            raise
        self._note(call, grant, Outcome.SERVED, began)
        self._budget.answered(grant.backend.id)
        self._poison.served(call.identity)
        other = self._other(call, want, answer)
        if other is None:
            answer.passed = self._of_the_role(want, answer.passed)
            return answer
        grant.release()
        return evolve(call, wants=(other,))

    def _may_retry(self, grant: Grant) -> bool:
        return self._budget.spend(grant.backend.id, self._clock.seconds())

    def events_at(self, id: BackendId) -> list[float]:
        """When the last event came of each answer of a backend that is open."""
        bodies = (each.body for each in self.open_answers if each.grant.backend.id == id)
        return [body.moved for body in bodies if isinstance(body, Body)]

    def close(self, answer: Answer) -> None:
        """Give the slot of an answer back."""
        self.open_answers.discard(answer)
        answer.grant.release()

    async def _admitted(self, call: Call) -> tuple[Want, Grant]:
        """A slot for the first of the call's wishes that can have one."""
        failed: Refusal | None = None
        for want in call.wants:
            untried = self._but_tried(call, want)
            try:
                grant = await self._admission.acquire(untried)
            except Refusal as refused:
                failed = failed or refused
            else:
                self._begin(call, want, grant)
                return want, grant
        if failures := _failures(call):
            raise refusal(failures, self._standing(call.wants[0], failures))
        assert failed is not None  # a call has at least one wish
        raise failed

    def _but_tried(self, call: Call, want: Want) -> Want:
        failed = frozenset(each.id for each in _failures(call))
        if not failed:
            return want
        tried = want.need.tried | failed | self._budget.hopeless(self._clock.seconds())
        return evolve(want, need=evolve(want.need, tried=tried))

    def _begin(self, call: Call, want: Want, grant: Grant) -> None:
        record, first = call.record, call.wants[0].need.role
        role = want.need.role
        record.backend, record.model = grant.backend.id, grant.backend.model
        record.route = grant.route if role is first else f"{grant.route}; fallback={role.name}"
        record.scores, record.believed = grant.scores, grant.cached
        record.queued += grant.waited
        if call.ask.api.generates:
            self._remember(grant, call.chain)

    def _remember(self, grant: Grant, chain: Chain) -> None:
        """A conversation is where its request is read, and silent there once that is over."""
        backend, seconds = grant.backend, self._clock.seconds
        self._memory.began(backend.id, chain, backend.slots, seconds())
        grant.and_then(lambda: self._memory.ended(backend.id, chain, seconds()))

    def _failed(self, call: Call, want: Want, grant: Grant, outcome: Outcome, began: float) -> None:
        """Take note of a failed try; returns when another may follow."""
        tries = call.record.tries
        if outcome is Outcome.BUSY:
            self._registry.busy(grant.backend.id)
            if grant.backend.id not in {each.id for each in tries}:
                self._note(call, grant, outcome, began)
            if self._clock.seconds() >= want.until:
                raise refusal([Try(grant.backend.id, outcome, 0.0)], self._standing(want))
            return
        self._note(call, grant, outcome, began)
        self._budget.failed(grant.backend.id, self._clock.seconds())
        if RULES[outcome].deadly:
            self._poison.died(call.identity, self._clock.seconds())
        if not may_go_on(tries):
            raise refusal(tries, self._standing(want, tries))

    def _note(self, call: Call, grant: Grant, outcome: Outcome, began: float) -> None:
        took = self._clock.seconds() - began
        call.record.tries.append(Try(grant.backend.id, outcome, took))
        sign = RULES[outcome].sign
        if sign is not None and outcome is not Outcome.SERVED:  # that is known at its end only
            self._registry.sign(grant.backend.id, sign)

    def _other(self, call: Call, want: Want, answer: Answer) -> Want | None:
        """The wish for a backend that can perhaps do what this one could not, if there is one."""
        passed, need = answer.passed, want.need
        if passed is None:
            return None
        if passed.code == "context_length_exceeded":
            needed = passed.details.get("n_prompt_tokens", 0) + 1
            need = evolve(need, context=max(needed, need.context + 1))
        elif passed.elsewhere and len(call.record.tries) < MOST:
            need = evolve(need, tried=need.tried | {answer.grant.backend.id})
        else:
            return None
        other = evolve(want, need=need)
        return None if isinstance(self._admission.decide(other), No) else other

    def _of_the_role(self, want: Want, passed: Passed | None) -> Passed | None:
        """An error as the whole role sees it, where it is one."""
        if passed is None:
            return None
        need = want.need
        reached = [
            entry.backend.context
            for _, entry in self._registry.members(need.role)
            if entry.ready and need.node in (None, entry.backend.id.node)
        ]
        return among(passed, reached)

    def _standing(self, want: Want, tries: Sequence[Try] = ()) -> str:
        lost = [each.id for each in tries if each.outcome is Outcome.DIED]
        standing = self._registry.standing(want.need.role, lost)
        return f"'{want.need.role.name}' is ready {standing.ready}/{standing.total}"


def _failures(call: Call) -> list[Try]:
    return [each for each in call.record.tries if each.outcome not in _NO_FAILURES]
