"""Evaluations: the scoring of trained models, as jobs of the queue, and the resulting scores."""

import json
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from farm.errors import NotFound, Refused
from farm.queue.asking import Asking
from farm.queue.listing import count
from farm.queue.scripts import PAGE, Scripts, pieces
from farm.queue.spelling import FIELDS, StatusRow, read_score, read_status, spell_run
from farm.queue.unreadable import Flaw, faults, readable, spoilt_score
from farm.queue.values import Status
from farm.record.score import Score
from farm.study.run import Evaluating, State


class ReadableScores(NamedTuple):
    """The scores of runs' models by run id, and what is wrong with those that cannot be read."""

    scores: dict[str, tuple[Score, ...]]
    flaws: list[Flaw]


class Evaluations:
    """Requested scoring, and its scores. An evaluation is claimed, renewed and ended as a run is: see `Queue`."""

    def __init__(self, scripts: Scripts, asking: Asking):
        self._scripts = scripts
        self._asking = asking

    def put(self, study: str, jobs: Sequence[Evaluating]) -> dict[str, State | None]:
        """Have trained models scored, for `study`: all of them or none. Returns what each job was before, by its id;
        None: it is new. What was under way stays so, and what was final is queued again.

        Raises: NotFound: a run has no result. Conflict
        """
        spelled = [(*spell_run(job), job.of) for job in jobs]
        try:
            said, *details = self._scripts.call(
                "evaluate",
                study,
                *(
                    part
                    for name, _, machine, arm, priority, limit, spec, corpus, _, of in spelled
                    for part in (name, of, machine, arm, priority, limit, spec, corpus)
                ),
            )
        except Refused as refused:
            reply = self._asking.ask(refused, "evaluate", study, jobs=tuple(jobs))
            assert reply.before is not None
            return reply.before
        if said == "missing":
            raise NotFound(f"run {details[0]} has not succeeded: it has no model to score.", remedy="See `farm runs`.")
        states = (State(state) if state else None for state in details[0])
        return dict(zip((name for name, *_ in spelled), states, strict=True))

    def statuses(self, study: str | None = None) -> list[Status]:
        """Every evaluation that was asked for, of all studies or for one, in the order of asking."""
        return list(readable(read_status, self.texts(study)))

    def texts(self, study: str | None = None) -> list[str]:
        """What `statuses` are of, as Redis tells it."""
        found = self._scripts.at_once("statuses", "evaluations", "", FIELDS)
        return [text for text in found if study is None or StatusRow(*json.loads(text)).study == study]

    def counts(self) -> dict[str, int]:
        """How many are in each state, `forgotten`, and in all, `put`, at one instant."""
        counted = count(self._scripts)
        return {name: counted.get(f"evaluation {name}", 0) for name in (*State, "forgotten", "put")}

    def scores(self, name: str = "", kind: Literal["run", "study", "all"] = "all") -> dict[str, tuple[Score, ...]]:
        """The scores of runs' models: of one run, of those of a study, or of all, by run id.

        A run that has adopted its result has the scores of the run that trained.
        """
        return self.scored(name, kind).scores

    def scored(self, name: str = "", kind: Literal["run", "study", "all"] = "all") -> ReadableScores:
        """As `scores`, with what it leaves out."""
        return self.scored_of([name]) if kind == "run" else scores_of(self._scripts.pages("scores", kind, name))

    def score_texts(self, study: str) -> list[tuple[str, Sequence[str]]]:
        """What `scored` is of for a study, as Redis tells it."""
        return list(self._scripts.pages("scores", "study", study))

    def scored_of(self, ids: Sequence[str]) -> ReadableScores:
        """As `scored`, of these runs."""
        pages = (self._scripts.call("scores", "runs", "", "", PAGE, *some) for some in pieces(ids, PAGE))
        return scores_of(one for _, *found in pages for one in found)


def scores_of(said: Iterable[tuple[str, Sequence[str]]]) -> ReadableScores:
    found = ReadableScores({}, [])
    for run_id, texts in said:
        read = tuple(readable(read_score, texts))
        found.scores[run_id] = read
        if len(read) < len(texts):
            wrong = (error for text in texts for error in faults(read_score, text))
            found.flaws.extend(spoilt_score(run_id, error) for error in wrong)
    return found
