"""Which arms get more seed pairs after a look, when a race ends, and what is kept of it."""

from collections.abc import Callable

import numpy as np
import pytest
from results import result, tiny_study
from scipy.stats import ttest_1samp

from farm.queue.queue import Queue
from farm.study.machine import BUILT_IN, Machine
from farm.study.recipe import canonical_json
from farm.study.run import State
from farm.study.study import Study
from farm.verdict.racing import Budget, Round, look, share
from farm.verdict.sequential import list_stages
from farm.verdict.table import rank

EFFECTS = {"baseline": 0.0, "remove-dropout": -0.5, "gradient-clipping": 0.0}
KNOWN = BUILT_IN | {"cpu": Machine(name="cpu", usd_per_hour=36.0)}


def loss(run, effects: dict[str, float] = EFFECTS) -> float:
    """Noise that depends on the run alone, an SD of 0.02, and the arm's effect."""
    noise = np.random.default_rng([run.seeds.init, len(run.arm), ord(run.arm[0])]).normal(0, 0.02)
    return 4.0 + effects[run.arm] + float(noise)


class Track:
    """A study on a real queue, whose runs the test finishes."""

    def __init__(self, queue: Queue, study: Study, effects: dict[str, float] = EFFECTS):
        self.queue, self.effects = queue, effects
        queue.put(study)
        self.finish()

    def finish(self, fails: Callable[[str], bool] = lambda arm: False) -> None:
        while claim := self.queue.claim("cpu", "worker", 60):
            if fails(claim.run.arm):
                self.queue.fail(claim.lease, "nonfinite", "the loss is nan", 1, False)
            else:
                self.queue.finish(claim.lease, result(claim.run, loss(claim.run, self.effects), usd=0.36))

    def look(self, **budget) -> Round:
        """Look as a new process would: from what Redis has."""
        done = look(self.queue.studies.one("tiny"), self.queue.listing.statuses("tiny"), KNOWN, Budget(**budget), 1.0)
        self.queue.put(done.study)
        return done


def words(step: Round) -> dict[str, str]:
    return {one.arm: one.word for one in step.look.standings}


def test_only_what_is_not_resolved_goes_on_and_shares_its_pairs_with_the_baseline(queue: Queue) -> None:
    track = Track(queue, tiny_study())
    first = track.look(runs=40)
    assert words(first) == {"remove-dropout": "better", "gradient-clipping": "unresolved"}
    added = {one.arm: one.added for one in first.look.standings}
    assert added == {"remove-dropout": 0, "gradient-clipping": 1}, "from three pairs to the next stage, four"
    assert (first.look.decision, first.look.added_runs) == ("add", 2)
    new = {status.run.arm for status in queue.listing.statuses("tiny") if status.state is State.QUEUED}
    assert new == {"baseline", "gradient-clipping"}


def test_a_restart_goes_on_with_the_same_looks_and_the_same_error_rate(queue: Queue) -> None:
    track = Track(queue, tiny_study())
    for number in (1, 2, 3):
        step = track.look(runs=40)
        track.finish()
        looks = queue.studies.one("tiny").looks
        assert looks is not None
        assert len(looks.looks) == number
        assert looks.looks[-1] == step.look
        assert looks.first == {"remove-dropout@cpu": 3, "gradient-clipping@cpu": 3}, "fixed at the first look"
    pairs = {one.arm: one.pairs for one in looks.looks[-1].standings}
    assert pairs == {"remove-dropout": 3, "gradient-clipping": 6}
    again = Study.model_validate_json(canonical_json(queue.studies.one("tiny")))
    assert again.looks == looks


def test_the_race_ends_when_all_are_resolved(queue: Queue) -> None:
    track = Track(queue, tiny_study(), EFFECTS | {"gradient-clipping": 0.4})
    step = track.look(runs=40)
    assert (step.look.decision, step.look.added_runs) == ("resolved", 0)
    assert words(step) == {"remove-dropout": "better", "gradient-clipping": "worse"}
    assert track.look(runs=40).look.decision == "resolved", "and looking once more changes nothing"


@pytest.mark.parametrize("budget", [{"runs": 1}, {"usd": 0.5}, {"hours": 0.001}])
def test_the_race_ends_when_the_budget_does_not_reach_the_next_test(queue: Queue, budget: dict) -> None:
    track = Track(queue, tiny_study())
    assert track.look(**budget).look.decision == "spent"
    assert queue.listing.put_count() == 9


def test_a_budget_counts_from_the_first_look_and_is_not_spent_twice(queue: Queue) -> None:
    track = Track(queue, tiny_study())
    decisions = []
    for _ in range(6):
        decisions.append(track.look(usd=3.0).look.decision)
        track.finish()
    assert decisions[0] == "add"
    assert decisions[-1] == "spent"
    looks = queue.studies.one("tiny").looks
    assert looks is not None
    assert looks.usd == pytest.approx(9 * 0.36), "what it had cost before"
    assert looks.looks[-1].usd <= 3.0
    assert looks.looks[-1].usd == pytest.approx(looks.runs * 0.36)
    assert track.look(usd=30.0).look.decision == "add", "until it is raised"


def test_an_arm_whose_runs_fail_is_given_up(queue: Queue) -> None:
    track = Track(queue, tiny_study())
    track.look(runs=40)
    track.finish(fails=lambda arm: arm == "gradient-clipping")
    step = track.look(runs=40)
    assert step.look.decision == "given up"
    (one,) = [one for one in step.look.standings if one.arm == "gradient-clipping"]
    assert one.given_up
    assert "1 runs of gradient-clipping" in one.why
    assert track.look(runs=40).look.decision == "given up", "at the next look, too"


def test_a_study_of_which_every_run_failed_is_given_up_at_once(queue: Queue) -> None:
    queue.put(tiny_study())
    track = Track.__new__(Track)
    track.queue, track.effects = queue, EFFECTS
    track.finish(fails=lambda arm: True)
    assert track.look(runs=40).look.decision == "given up"


def test_a_single_pair_begins_with_the_first_rung(queue: Queue) -> None:
    track = Track(queue, tiny_study(init=(42,)))
    step = track.look(runs=40)
    assert {one.arm: one.added for one in step.look.standings} == {"remove-dropout": 2, "gradient-clipping": 2}
    assert step.look.added_runs == 6, "two pairs for each of both, on two runs of the baseline"
    track.finish()
    assert words(track.look(runs=40))["remove-dropout"] == "better"


def test_a_margin_resolves_an_arm_without_effect(queue: Queue) -> None:
    study = tiny_study()
    head = study.study.model_copy(update={"margin": 0.2})
    track = Track(queue, study.model_copy(update={"study": head}))
    for _ in range(4):
        step = track.look(runs=60)
        track.finish()
    assert words(step) == {"remove-dropout": "better", "gradient-clipping": "same"}
    assert step.look.decision == "resolved"


def test_a_table_after_looks_has_the_intervals_that_hold_over_them(queue: Queue) -> None:
    track = Track(queue, tiny_study())
    results = [status.result for status in queue.listing.statuses("tiny") if status.result]
    plain = rank(results)
    track.look(runs=40)
    looked = rank(results, looks=queue.studies.one("tiny").looks)
    wide, narrow = (next(row for row in table.rows if row.arm == "gradient-clipping") for table in (looked, plain))
    assert (wide.method, narrow.method) == ("sequential", "paired")
    losses = [{r.seeds: r.test_loss for r in results if r.arm == arm} for arm in (wide.arm, "baseline")]
    alone = ttest_1samp([losses[0][seeds] - losses[1][seeds] for seeds in losses[1]], 0.0).pvalue
    assert wide.p == pytest.approx(min(1.0, alone / list_stages(3)[0].share)), (
        "the other arm is resolved: Holm's last step"
    )


def test_another_machine_is_another_comparison_of_the_same_race(queue: Queue) -> None:
    track = Track(queue, tiny_study(machines=("cpu", "cpu-x1")))
    while claim := queue.claim("cpu-x1", "worker", 60):
        queue.finish(claim.lease, result(claim.run, loss(claim.run)))
    step = track.look(runs=40)
    assert len(step.look.standings) == 4
    queued = [status.run for status in queue.listing.statuses("tiny") if status.state is State.QUEUED]
    assert {run.machine for run in queued} == {"cpu", "cpu-x1"}


@pytest.mark.parametrize(
    ("chance", "told"), [(0.0, "0 %"), (0.001, "<1 %"), (0.65, "65 %"), (0.999, ">99 %"), (1.0, "100 %")]
)
def test_a_chance_is_none_or_certain_only_where_it_is(chance: float, told: str) -> None:
    assert share(chance) == told
