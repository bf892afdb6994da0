"""A plan belongs to its run: what is learnt of the machine in between changes nothing for a run that has begun."""

import pytest

from farm.study.machine import probe_key
from farm.study.run import State

STUDY = """
[study]
name = "plans-{rerun}"
machines = ["cpu-x1"]
first_rerun = {rerun}
[policy]
checkpoint_seconds = 0.5
[baseline]
model = {{ vocab = 257, context = 32, width = 16, layers = 2, heads = 4 }}
train = {{ batch = 8, tokens = 384_000, precision = "fp32" }}
data.source = "builtin:python-reference"
evaluation = {{ offset = 0, sequences = 64 }}
"""


def submit(farm, rerun):
    """Queue a run whose microbatch is the planner's to choose; returns its id."""
    path = farm.home / f"plans-{rerun}.toml"
    path.write_text(STUDY.format(rerun=rerun))
    farm.run("submit", str(path))
    return farm.json("runs", f"plans-{rerun}", "--json")[0]["run"]


@pytest.mark.long
def test_a_probe_in_between_changes_neither_the_plan_nor_the_bits_of_a_run(farm):
    alone, killed = submit(farm, 0), submit(farm, 1)
    farm.wait_for_checkpoint(killed)
    with farm.queue() as queue:
        model = queue.listing.status(killed).run.recipe.model
        machine = queue.roster.machines()["cpu-x1"].model_copy(update={"probes": {probe_key(model, "fp32"): 2}})
        queue.roster.register(machine, "probe", 0.001)
    assert [row["microbatch"] for row in farm.json("plan", str(farm.home / "plans-1.toml"), "--json")] == [2]
    farm.trainer(killed).kill()
    for run_id in (alone, killed):
        farm.wait_for(run_id, State.SUCCEEDED)
    first, second = farm.store.runs.attempts(killed)
    assert second.resumed_from is not None
    assert first.plan == second.plan
    assert first.plan["microbatch"] == 8
    compared = farm.run("compare", alone, killed, "--json").stdout
    assert '"same_final_weights": true' in compared
    assert '"parted": null' in compared
