"""What `farm runs` and `farm watch` say of runs that wait: for a limit, a pause, a node."""

import json
import time

from results import study_text

from farm.queue.node import Node
from farm.queue.rental import Rental, Stage
from farm.queue.values import Supply

from .conftest import Farm

POOR = "[policy]\nusd_limit = 1.5\n[machines.cpu]\nusd_per_hour = 2.0\n"


def test_runs_and_show_say_why_ray_took_no_job_and_that_a_node_starts(farm: Farm) -> None:
    study = farm.put(init=(42,))
    farm.queue.roster.provide({"cpu": Supply(most=1, starting=1, since=time.time() - 50)}, 60)
    assert "a node of class cpu is starting, asked for 5" in farm("runs").rows[0]["why"]
    farm.queue.roster.register(study.machine("cpu", {}), "node-1", 60)
    claim = farm.queue.claim("cpu", "dispatcher", 60)
    assert claim is not None
    farm.queue.release(claim.lease, "Ray refused the job: no room")
    why = "next in line; before: given back: Ray refused the job: no room"
    assert farm("runs").rows[0]["why"] == why
    assert {"what": "why", "value": why} in farm("show", claim.run.id).rows


def test_a_machine_that_is_being_rented_is_a_node_that_starts(farm: Farm) -> None:
    farm.put(init=(42,))
    assert farm("runs").rows[0]["why"] == "no node of class cpu (no nodes at all)"
    refused = farm("submit", farm.file(name="other", init=(1,)), "--wait")
    assert refused.code == 7
    asked = {"max_usd_per_hour": 1.0, "hours": 1.0, "idle_minutes": 5.0, "ssh_key": "k", "ssh": "ssh"}
    rental = Rental(name="farm-1", keeper="h:/f", cloud="lambda", machine="cpu", asked=time.time() - 90, **asked)
    farm.queue.roster.rent(rental.model_copy(update={"note": "no capacity anywhere"}))
    starts = "a node of class cpu is starting, asked for 90 s ago"
    assert farm("runs").rows[0]["why"].startswith(f"{starts}; the last start failed: no capacity anywhere")
    now = time.time()
    farm.queue.roster.change_rental("farm-1", lambda one: one.on(Stage.BOOTING, now, launched=now - 30))
    assert farm("runs").rows[0]["why"].startswith("a node of class cpu is starting, asked for 30 s ago")
    farm.queue.roster.change_rental("farm-1", lambda one: one.on(Stage.ENDED, now))
    assert farm("runs").rows[0]["why"] == "no node of class cpu (no nodes at all)"


def test_a_class_whose_nodes_are_drained_is_the_reason(farm: Farm) -> None:
    farm.put(init=(42,))
    nodes = [Node(id=f"n{i}", name=f"n{i}", host="h", address="a", units={"cpu": 1}) for i in range(2)]
    farm.queue.roster.sight(nodes, 60)
    farm.queue.roster.drain("n0", "spot notice")
    assert farm("runs").rows[0]["why"] == "next in line"
    farm.queue.roster.drain("n1", "farm drain on head")
    assert farm("runs").rows[0]["why"] == "every node of class cpu is drained: farm drain on head"
    assert "no live node of class cpu" in farm("submit", farm.file(name="other", init=(1,))).err


def test_a_study_that_has_spent_its_limit_says_so(farm: Farm) -> None:
    path = farm.folder / "poor.toml"
    path.write_text(study_text(init=(42,)) + POOR)
    assert farm("submit", str(path)).code == 0
    farm.queue.redis.hset(f"farm:run:{farm.queue.listing.statuses()[0].run.id}", "held", 3_600_000)
    assert {row["why"] for row in farm("runs").rows} == {"over budget: $2.00 spent of $1.50"}


def poor(farm: Farm, usd_limit: float, action: str = "stop") -> str:
    """A file of the tiny study: a dollar an hour, one second a run."""
    path = farm.folder / "poor.toml"
    policy = f'[policy]\nusd_limit = {usd_limit}\nlimit_action = "{action}"\n'
    path.write_text(study_text(init=(42,)) + policy + "[machines.cpu]\nusd_per_hour = 1.0\ntokens_per_second = 1e6\n")
    return str(path)


def spend(farm: Farm, usd: float) -> None:
    """At a dollar an hour."""
    farm.queue.redis.hset(f"farm:run:{farm.queue.listing.statuses()[0].run.id}", "held", round(usd * 3_600_000))


def test_watch_ends_with_7_when_a_limit_is_spent_and_says_which_one_would_do(farm: Farm) -> None:
    assert farm("submit", poor(farm, 2.0)).code == 0
    farm.finish(farm.claim(), 3.25)
    spend(farm, 2.5)
    answer = farm("watch", "tiny")
    assert (answer.code, [row["state"] for row in answer.rows]) == (7, ["succeeded", "queued", "queued"])
    least = "The rest goes on with a policy.usd_limit of at least $2.51 (forecast): edit the study and submit it again."
    assert f"tiny: 2 runs wait: $2.50 spent of $2.00. {least}" in answer.err
    assert "tiny: 2 runs wait: $2.50 spent of $2.00." in farm("status").out
    waited = farm("submit", poor(farm, 2.2), "--wait", "-y")
    assert (waited.code, "tiny: 2 runs wait: $2.50 spent of $2.20." in waited.err) == (7, True)
    refused = farm("submit", poor(farm, 2.2))
    assert refused.code == 7
    assert (
        "tiny would take $2.51, $2.50 of it spent already, and its policy.usd_limit is $2.20 (cpu: 3 runs"
        in refused.err
    )
    assert farm("submit", poor(farm, 2.51)).code == 0, "what was said to do, does"
    assert {row["why"] for row in farm("runs").rows if row["state"] == "queued"} == {
        "no node of class cpu (no nodes at all)"
    }


def test_watch_waits_for_what_runs_though_the_limit_is_spent(farm: Farm) -> None:
    assert farm("submit", poor(farm, 2.0, "no-new")).code == 0
    claim = farm.claim()
    spend(farm, 2.5)
    with farm.start("watch", "tiny") as process:
        assert process.stderr is not None
        while "running    baseline" not in process.stderr.readline():
            pass
        farm.finish(claim, 3.25)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, "succeeded  baseline" in err) == (7, True)


def test_a_run_that_is_stopped_for_its_budget_says_so(farm: Farm) -> None:
    assert farm("submit", poor(farm, 2.0)).code == 0
    claim = farm.claim()
    farm.queue.recall(claim.lease, "over budget: $2.50 spent of $2.00")
    assert farm("runs").rows[0]["why"] == "saves a checkpoint and stops: over budget: $2.50 spent of $2.00"
    farm.queue.release(claim.lease, "drained")
    assert "released: over budget: $2.50 spent of $2.00" in farm("show", "cpu-baseline").out


def test_what_another_study_pays_for_waits_for_its_limit(farm: Farm) -> None:
    assert farm("submit", poor(farm, 2.0)).code == 0
    spend(farm, 2.5)
    farm.put(name="rich", init=(42,))
    answer = farm("watch", "rich")
    assert answer.code == 7
    assert "tiny: 3 runs wait: $2.50 spent of $2.00." in answer.err


def test_what_is_paused_says_why_and_how_to_go_on_and_watch_ends_with_1(farm: Farm) -> None:
    path = farm.file(init=(42,))
    assert farm("submit", path).code == 0
    farm.finish(farm.claim(), 3.25)
    reason = "bad-corpus: /data/c does not exist here (on attic)"
    farm.queue.pause(farm.claim().lease, reason)
    assert {row["why"] for row in farm("runs").rows if row["state"] == "queued"} == {
        f"paused: {reason}. Fix it, then: farm retry tiny"
    }
    line = f"tiny: 2 runs are paused: {reason}. Fix it and submit the study again, or: farm retry tiny"
    assert line in farm("status").out
    assert json.loads(farm("status", "--json").out)["data"]["held"] == [line]
    assert f"paused: {reason}" in farm("show", "cpu-remove").out
    answer = farm("watch", "tiny")
    assert (answer.code, line in answer.err) == (1, True)
    assert [(row["was"], row["now"]) for row in farm("retry", "tiny").rows] == [("paused", "queued")] * 2
    assert "no run of tiny has failed or is paused" in farm("retry", "tiny").err
    farm.queue.pause(farm.claim().lease, reason)
    with farm.start("submit", path, "--wait", "-y") as process:
        assert process.stderr is not None
        while "queued     remove-dropout" not in process.stderr.readline():
            pass
        assert farm.queue.listing.pauses() == [], "submitting it again ended the pause"
        farm.queue.pause(farm.claim().lease, reason)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, line in err) == (1, True)


def test_watch_says_what_the_runs_wait_for(farm: Farm) -> None:
    farm.put(init=(42, 22))
    with farm.start("watch", "tiny") as process:
        assert process.stderr is not None
        while "no node of class cpu (no nodes at all)" not in (line := process.stderr.readline()):
            assert line
        assert line.startswith("queued     baseline s42.23 on cpu: ")
        farm.finish_all("cpu")
        process.communicate(timeout=60)
    assert process.returncode == 0
