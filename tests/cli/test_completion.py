"""What a shell is told after TAB: by the script that `farm --install-completion` writes, asked as bash asks."""

import os
import socket
import subprocess
import sys
import time

import pytest
from redis import Redis
from typer.testing import CliRunner

from cli.access import complete_arm
from cli.main import app
from farm.study.study import Study

from .conftest import ROOT, Farm

OTHER = """
[study]
name = "other"
machines = ["1xrtx3090"]
[interventions.untied]
model.tie_weights = true
"""


def asked(words: str) -> dict[str, str]:
    """What bash asks with, by variables, for the end of the command line `farm WORDS`."""
    return {
        "_FARM_COMPLETE": "complete_bash",
        "COMP_WORDS": f"farm {words}",
        "COMP_CWORD": str(len(words.split(" "))),
    }


def completed(farm: Farm, words: str) -> list[str]:
    """What is offered there, by the command in this process."""
    said = CliRunner().invoke(app, [], prog_name="farm", env=farm.environment | asked(words))
    assert said.stderr == "", "a shell that completes must not print errors"
    return said.stdout.split()


def completed_in_a_process(farm: Farm, words: str) -> list[str]:
    """The same, by a process of its own, as for a shell."""
    command = [sys.executable, "-m", "cli.main"]
    variables = os.environ | farm.environment | asked(words) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.stderr == "", "a shell that completes must not print errors"
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("ta", ["table"]),
        ("table ", ["other", "tiny"]),
        ("table t", ["tiny"]),
        ("runs tiny --arm ", ["baseline", "gradient-clipping", "remove-dropout"]),
        ("runs --arm remove", ["remove-dropout"]),
        ("cancel ti", ["tiny"]),
        ("table nothing", []),
        ("data ", ["prepare", "show", "push"]),
        ("data pu", ["push"]),
    ],
)
def test_studies_and_arms(farm: Farm, words: str, offered: list[str]) -> None:
    farm.put()
    farm.put(name="other", init=(1,))
    assert completed(farm, words) == offered


def test_a_process_offers_what_this_one_does(farm: Farm) -> None:
    farm.put()
    for words in ("ta", "table ", "runs tiny --arm "):
        assert completed_in_a_process(farm, words) == completed(farm, words) != []


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("runs tiny --arm ", ["baseline", "gradient-clipping", "remove-dropout"]),
        ("runs other --arm ", ["baseline", "untied"]),
        ("runs other --arm g", []),
        ("runs --arm ", ["baseline", "gradient-clipping", "remove-dropout", "untied"]),
        ("runs other --json --arm u", ["untied"]),
        ("runs nothing --arm ", []),
    ],
)
def test_arms_are_those_of_the_study_that_is_named(farm: Farm, words: str, offered: list[str]) -> None:
    farm.put()
    farm.queue.put(Study.parse(OTHER))
    assert completed(farm, words) == offered


def test_arms_of_a_run_are_those_of_its_study_and_of_a_file_those_in_it(farm: Farm, monkeypatch) -> None:
    """Whatever a command calls its argument: each form that an argument of the farm has."""
    run = farm.put().runs()[0]
    farm.queue.put(other := Study.parse(OTHER))
    (farm.folder / "other.toml").write_text(OTHER)
    for name, value in farm.environment.items():
        monkeypatch.setenv(name, value)
    assert complete_arm("", run.id[:-4]) == ["baseline", "gradient-clipping", "remove-dropout"]
    assert complete_arm("", other.runs()[0].id) == complete_arm("", "other.toml") == ["baseline", "untied"]
    assert complete_arm("u", "other.toml") == ["untied"]


def test_run_ids(farm: Farm) -> None:
    ids = sorted(run.id for run in farm.put().runs())
    assert completed(farm, "logs ") == ids
    assert completed(farm, "show ") == ["tiny", *ids]
    assert completed(farm, f"show {ids[0][:-3]}") == ids[:1]
    assert completed(farm, f"compare {ids[0]} {ids[1][:-3]}") == ids[1:2]


def test_without_a_redis_nothing_is_offered_and_nothing_started(farm: Farm) -> None:
    del farm.environment["FARM_REDIS_URL"]
    assert completed_in_a_process(farm, "table ") == []
    assert not (farm.folder / "home").exists()


def test_a_redis_that_does_not_answer_is_not_waited_for(farm: Farm) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        farm.environment["FARM_REDIS_URL"] = f"redis://127.0.0.1:{mute.getsockname()[1]}/0"
        began = time.monotonic()
        assert completed_in_a_process(farm, "table ") == []
        assert time.monotonic() - began < 12, "0.5 s and what Python takes; a session would wait for 15 s"


def test_many_names_are_cut_short(farm: Farm, redis: Redis) -> None:
    for i in range(300):
        redis.hset("farm:studies", f"study-{i:03}", "{}")
    assert len(farm.queue.listing.names("studies", "study-")) == 200


def test_an_arm_picks_runs(farm: Farm) -> None:
    farm.put()
    assert {row["run"].split("-s")[0] for row in farm("runs", "--arm", "remove-dropout").rows} == {"cpu-remove-dropout"}
    answer = farm("runs", "--arm", "remove-dropuot")
    assert (answer.code, "did you mean 'remove-dropout'?" in answer.err) == (3, True)
