"""`farm eval` on a real farm: a score that is gone comes back to the bit, and a damaged model says so."""

import json

from farm.study.run import State

FURTHER = """
[evaluations.start]
offset = 4096
sequences = 48
"""


def scores(farm, run_id):
    """What is on record of each evaluation, without who made it and when."""
    found, unread = farm.store.scores.of(run_id)
    assert unread == []
    return {one.name: one.model_dump(exclude={"when", "epoch", "hardware", "code"}) for one in found}


def test_a_score_that_is_gone_comes_back_to_the_bit_and_a_damaged_model_says_so(farm):
    (run_id,) = farm.submit("scored", first_rerun=9, more=FURTHER)  # not the run of another module
    farm.wait_for(run_id, State.SUCCEEDED)
    before, result = scores(farm, run_id), farm.store.runs.result(run_id)
    assert before.keys() == {"test_loss", "start"}
    assert before["test_loss"]["value"] == result.test_loss
    folder = farm.store.folder(run_id) / "scores"
    values = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".safetensors"}
    for path in folder.iterdir():
        path.unlink()

    jobs = [row["job"] for row in farm.json("eval", "scored", "--json")]
    assert [farm.wait_for_end(job) for job in jobs] == [State.SUCCEEDED] * 2
    assert scores(farm, run_id) == before
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".safetensors"} == values
    with farm.queue() as queue:
        assert {one.name: one.value for one in queue.evaluations.scores(run_id, "run")[run_id]} == {
            name: one["value"] for name, one in before.items()
        }
        assert queue.listing.status(run_id).state is State.SUCCEEDED
        assert queue.listing.put_count() == sum(queue.listing.counts().values()) + queue.listing.forgotten_count()
    assert farm.store.runs.result(run_id) == result

    weights = farm.store.root / result.checkpoint / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    next(folder.glob("start-*.json")).unlink()
    try:
        (job,) = [row["job"] for row in farm.json("eval", run_id, "start", "--json")]
        assert farm.wait_for_end(job) is State.FAILED
        said = farm.run("runs", "scored")
        assert f"evaluation {job} has failed: checkpoint-invalid: " in said.stderr
        assert json.loads(farm.run("status", "--json").stdout)["data"]["evaluations"]["failed"] == 1
    finally:
        weights.write_bytes(content)
