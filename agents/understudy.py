"""Answers in the place of a specialist that cannot: what it once answered to the same question, else what the help centre says."""

from __future__ import annotations

from dataclasses import replace
from uuid import NAMESPACE_OID, uuid5

from langchain_core.messages import AIMessage, HumanMessage

from agents.answers import AnswerStore, KeptAnswer, answer_key, is_common, may_be_kept
from agents.language import Language
from agents.models.offline.answers import Answer
from agents.models.offline.quote import quote, subject
from agents.models.port import Degradation
from agents.task import AgentResult, AgentTask
from agents.tools.base import ToolContext
from agents.tools.search_help_centre import SearchHelpCentre, search_help_centre
from agents.tracing import Tracer
from resilience.events import Broadcast, EventKind, Listener, ResilienceEvent

CACHED, QUOTED = "cached_answer", "help_centre_answer"
_EXCUSE = {
    "en": "Our assistant is not available right now. This is what our help centre says.",
    "es": "Nuestro asistente no está disponible en este momento. Esto es lo que dice nuestro centro de ayuda.",
}


class Understudy:
    """Steps in for specialists. Stateless: one serves all runs of a process.

    Nothing here asks a model, and all of it takes milliseconds: the time that a run keeps for its last word is enough.

    Args:
        store: Where answers are kept.
        tracer: Records a span whenever it steps in.
        sure_at: Least confidence of an answer that is kept, and of one that is given unless the caller wants more.
        listener: Hears whenever it steps in, as of any fallback.
        is_on: Whether it does anything at all.
    """

    def __init__(self, store: AnswerStore, tracer: Tracer, *, sure_at: float, listener: Listener | None = None, is_on: bool = True) -> None:
        self._store = store
        self._tracer = tracer
        self._sure_at = sure_at
        self._tell = Broadcast(listener)
        self._is_on = is_on

    def learn(self, task: AgentTask, result: AgentResult) -> None:
        """Keep a good answer for the same question of somebody else; returns at once."""
        if not self._is_on or result.answer is None or result.confidence < self._sure_at or not may_be_kept(task.spec, result):
            return
        key = answer_key(task)
        if key is not None:
            self._store.keep(task.standing.tenant, key, KeptAnswer(result.answer.text, result.confidence, result.sources))

    async def step_in(self, task: AgentTask, failed: AgentResult, *, sure_at: float = 0.0) -> AgentResult | None:
        """An answer to the task on which a specialist `failed`, and in `degraded` whose it is; None: a human must answer.

        `sure_at` is the least confidence that the caller accepts. What steps in is never less sure than what it keeps.

        It must, if the answer needs an action or what belongs to the customer, or if nothing that is known answers the question clearly.
        """
        if not self._is_on or task.decided or not is_common(task.spec, failed):
            return None
        with self._tracer.span("chain", "understudy", input=task.history[-1].text) as span:
            sure_at = max(sure_at, self._sure_at)
            found = await self._earlier(task, sure_at) or await self._quoted(task, sure_at)
            if found is None:
                span.update(output=None, metadata={"answered": "nobody"})
                return None
            answer, word = found
            span.update(output=answer.text, metadata={"answered": word})
        who = f"specialist:{task.spec.name}"
        self._tell(ResilienceEvent(EventKind.FALLBACK_TAKEN, who, who, {"from": who, "to": word, "why": failed.failure}))
        # Made from the run, so that a step that is run again writes the same message and not a second one.
        message = AIMessage(answer.text, id=str(uuid5(NAMESPACE_OID, f"{task.run_id}:understudy")))
        why = Degradation(word, failed.failure or "")
        return AgentResult(answer=message, confidence=answer.confidence, sources=answer.sources, degraded=(why,))

    async def _earlier(self, task: AgentTask, sure_at: float) -> tuple[KeptAnswer, str] | None:
        key = answer_key(task)
        kept = await self._store.find(task.standing.tenant, key) if key is not None else None
        return (kept, CACHED) if kept is not None and kept.confidence >= sure_at else None

    async def _quoted(self, task: AgentTask, sure_at: float) -> tuple[Answer, str] | None:
        asked = next((message.text for message in reversed(task.history) if isinstance(message, HumanMessage)), "")
        language: Language = "es" if task.language == "es" else "en"
        query = subject(asked, language)
        if query is None or search_help_centre not in task.spec.tools:
            return None
        context = ToolContext(task.customer.id, language, task.standing.tenant, task.deadline, f"{task.run_id}:understudy")
        found = await search_help_centre.run(SearchHelpCentre(query=query), context)
        answer = quote(asked, found, language)
        if answer is None or answer.confidence < sure_at:
            return None
        return replace(answer, text=f"{_EXCUSE[language]}\n\n{answer.text}"), QUOTED
