"""`farm eval`: which scores are asked for, how often, and what the lists say of them."""

from results import result, score, study_text, tiny_study

from farm.queue.values import Claim
from farm.study.run import Attempt, Evaluating, State
from farm.study.study import Study

from .conftest import Farm

FURTHER = "\n[evaluations.start]\noffset = 512\nsequences = 4\n"
STUDY = Study.parse(study_text(init=(42,)) + FURTHER)
ARMS = ["baseline", "remove-dropout", "gradient-clipping"]


def trained(farm: Farm, *, scored: bool = False) -> list[str]:
    """The ids of three runs with results; `scored`: and with the score of their test."""
    farm.queue.put(STUDY)
    while farm.queue.listing.backlog():
        claim = farm.claim()
        made = result(claim.run, 3.0, epoch=claim.lease.epoch)
        farm.store.runs.begin(claim.run, attempt_of(claim), "tiny")
        farm.store.runs.record(made)
        scores = [score(made, [3.0, 3.0])] if scored else []
        for one in scores:
            farm.store.scores.keep(one, [3.0, 3.0])
        farm.queue.finish(claim.lease, made, scores)
    return [run.id for run in STUDY.runs()]


def attempt_of(claim: Claim) -> Attempt:
    return Attempt(run_id=claim.run.id, epoch=claim.lease.epoch, worker="worker", started=1.0)


def deliver(farm: Farm) -> None:
    """Be the agent of the next evaluation."""
    claim = farm.claim()
    assert isinstance(claim.run, Evaluating)
    of = farm.queue.listing.status(claim.run.of).result
    assert of is not None
    name = claim.run.recipe.evaluation_id(claim.run.evaluation)
    made = score(of, [3.1, 3.1], claim.run.evaluation, evaluation=name, epoch=claim.lease.epoch)
    farm.store.scores.keep(made, [3.1, 3.1])
    farm.queue.deliver(claim.lease, made)


def ageless(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key != "age_seconds"} for row in rows]


def asked(farm: Farm, *words: str) -> list[tuple[str, str, str, str]]:
    rows = farm("eval", *words).rows
    return [(row["evaluation"], row["score"], row["was"], row["now"]) for row in rows]


def test_what_is_missing_is_asked_for_once(farm: Farm) -> None:
    trained(farm, scored=True)
    answer = farm("eval", "tiny")
    assert answer.code == 0
    assert [row["evaluation"] for row in answer.rows] == ["start"] * 3, "the test is scored already"
    assert asked(farm, "tiny", "start") == [("start", "missing", "queued", "queued")] * 3
    assert farm.queue.evaluations.counts()["put"] == 3
    deliver(farm)
    assert len(asked(farm, "tiny")) == 2
    deliver(farm)
    deliver(farm)
    answer = farm("eval", "tiny")
    assert (answer.code, answer.rows) == (0, [])
    assert "nothing to score: 6 scores are there already" in answer.err


def test_a_score_that_is_gone_from_the_records_is_missing(farm: Farm) -> None:
    run_id, *_ = trained(farm, scored=True)
    (place,) = [name for name in farm.store.records.names(f"runs/{run_id}/scores") if name.endswith(".json")]
    farm.store.records.remove(f"runs/{run_id}/scores/{place}")
    assert asked(farm, run_id, "test_loss") == [("test_loss", "missing", "", "queued")]


def test_stale_scores_are_replaced_where_that_is_asked_for(farm: Farm) -> None:
    trained(farm, scored=True)
    for _ in range(3):
        farm("eval", "tiny")
        deliver(farm)
    farm.queue.put(Study.parse(study_text(init=(42,)) + FURTHER.replace("512", "1024")))
    answer = farm("eval", "tiny")
    assert (answer.code, answer.rows) == (0, [])
    assert "3 stale, made by an earlier form of the evaluation: farm eval tiny --stale" in answer.err
    assert asked(farm, "tiny", "--stale") == [("start", "stale", "", "queued")] * 3


def test_a_run_without_a_model_is_refused_with_what_to_do(farm: Farm) -> None:
    farm.queue.put(STUDY)
    running = farm.claim()
    answer = farm("eval", running.run.id)
    assert (answer.code, answer.out) == (6, "")
    assert f"{running.run.id} is running: there is no model to score. Wait for it: farm watch" in answer.err
    answer = farm("eval", "tiny")
    assert (answer.code, "none of 3 runs has finished" in answer.err) == (6, True)
    farm.fail(running)
    assert f"farm retry {running.run.id}" in farm("eval", running.run.id).err
    farm.finish(farm.claim(), 3.0)
    answer = farm("eval", "tiny", "start")
    assert len(answer.rows) == 1
    assert "2 runs have not finished, and so no model to score" in answer.err


def test_an_evaluation_or_a_class_that_is_not_known_is_named(farm: Farm) -> None:
    trained(farm)
    answer = farm("eval", "tiny", "strat")
    assert (answer.code, "no evaluation 'strat'; did you mean 'start'?" in answer.err) == (3, True)
    answer = farm("eval", "tiny", "--machine", "8xa10m40")
    assert (answer.code, "8xa10m40" in answer.err) == (2, True)
    assert farm.queue.evaluations.statuses() == []


def test_lists_say_what_becomes_of_evaluations_and_count_them_as_no_runs(farm: Farm) -> None:
    run_ids = trained(farm)
    before = {command: ageless(farm(command).rows) for command in ("runs", "table")}
    farm("eval", "tiny", "start")
    claim = farm.claim()
    farm.fail(claim, "checkpoint-invalid", "weights.safetensors is damaged", step=0)
    for command in ("runs", "table"):
        answer = farm(command)
        assert ageless(answer.rows) == before[command]
        assert "evaluations: 2 queued" in answer.err
        assert f"evaluation {claim.run.id} has failed: checkpoint-invalid: weights.safetensors is damaged" in answer.err
    answer = farm("status")
    assert "evaluations\t2 queued" in answer.out
    assert "succeeded\t3" in answer.out
    assert asked(farm, run_ids[0], "start") == [("start", "missing", "failed", "queued")], "the first to be claimed"
    assert farm.queue.listing.counts()[State.SUCCEEDED] == 3


def test_an_evaluation_is_shown_cancelled_and_retried_by_its_id(farm: Farm) -> None:
    trained(farm)
    farm("eval", "tiny", "start")
    job = farm.queue.evaluations.statuses()[0].id
    assert farm("cancel", job).rows == [{"run": job, "was": "queued", "now": "cancelled"}]
    assert f"evaluation {job} was cancelled" in farm("runs").err
    assert farm("retry", job).rows == [{"run": job, "was": "cancelled", "now": "queued"}]


def test_a_run_of_a_study_of_old_runs_can_be_scored_too(farm: Farm) -> None:
    """Submitted before it had evaluations: they are added, and no run is trained anew."""
    farm.queue.put(tiny_study(init=(42,)))
    farm.finish_all()
    assert farm.queue.put(STUDY).new == ()
    assert len(asked(farm, "tiny", "start")) == 3
