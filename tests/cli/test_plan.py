"""`farm plan`: what a study would take, with and without Redis."""

import json
import re
from datetime import date
from pathlib import Path

import pytest
from results import result, study_text, tiny_study

from farm.queue.node import Node
from farm.queue.values import Supply
from farm.study.machine import BUILT_IN, Machine, Price
from farm.study.study import Study
from farm.verdict.forecast import forecast
from farm.verdict.power import smallest_effect

from .conftest import ROOT, Farm

ROUNDED = ("gib", "hours", "wall_clock_hours", "usd", "resolves_sd")


def test_a_plan_says_runs_split_and_what_can_be_resolved(farm: Farm) -> None:
    answer = farm("plan", farm.file(machines=("cpu", "cpu-x2")), "--json")
    told = json.loads(answer.out)
    assert told["schema"] == "farm.plan/1"
    assert told["total"] == {"runs": 18, "wall_clock_hours": None, "usd": 0.0}
    assert [(one["machine"], one["runs"], one["hours"]) for one in told["classes"]] == [
        ("cpu", 9, None),
        ("cpu-x2", 9, None),
    ]
    by_key = {(row["arm"], row["machine"]): row for row in told["data"]}
    pair = by_key["remove-dropout", "cpu-x2"]
    assert (pair["world"], pair["world"] * pair["microbatch"] * pair["accumulation"]) == (2, 8)
    assert pair["resolves_sd"] == pytest.approx(smallest_effect(3, 2, 0.025) * 2**0.5), "two arms, two machines"
    assert pair["resolves"] is None
    assert by_key["baseline", "cpu"]["resolves_sd"] is None


def test_what_is_unknown_is_a_dash_with_its_reason(farm: Farm) -> None:
    answer = farm("plan", farm.file(init=(42,)))
    assert "9 runs" not in answer.err
    assert "cpu: 3 runs, hours unknown, $0.00 at $0.00/h" in answer.err, "it is free for any time"
    assert "hours of cpu: unknown until a run finished there" in answer.err
    assert "add seeds" in answer.err


def test_measured_speed_and_noise_replace_what_was_unknown(farm: Farm) -> None:
    farm.put()
    farm.finish_all()
    rows = json.loads(farm("plan", farm.file(), "--json").out)["data"]
    assert {row["basis"] for row in rows} == {"measured"}
    assert rows[0]["hours"] == pytest.approx(3 * 2560 / 1000 / 3600)
    losses = [3.69 + seed / 1000 for seed in (42, 22, 67)]
    spread = (sum((x - sum(losses) / 3) ** 2 for x in losses) / 2) ** 0.5
    assert rows[1]["resolves"] == pytest.approx(smallest_effect(3, 2) * 2**0.5 * spread)
    assert rows[1]["noise"] == pytest.approx(spread)
    (stated,) = {row["resolves"] for row in plan_rows(farm, "--sd", "0.012") if row["arm"] != "baseline"}
    assert stated == pytest.approx(smallest_effect(3, 2) * 2**0.5 * 0.012)


def plan_rows(farm: Farm, *words: str, name: str = "tiny") -> list[dict]:
    return json.loads(farm("plan", farm.file(name=name), "--json", *words).out)["data"]


def test_the_noise_of_an_earlier_study_serves_a_new_one(farm: Farm) -> None:
    farm.put(name="earlier")
    for loss in (3.50, 3.60, 3.70):
        claims = [farm.claim() for _ in range(3)]
        for claim in claims:
            farm.finish(claim, loss)
    Path(farm.file(name="later")).write_text(study_text(name="later").replace("width = 16", "width = 8"))
    told = json.loads(farm("plan", str(farm.folder / "later.toml"), "--noise", "earlier", "--json").out)["data"]
    assert told[1]["noise"] == pytest.approx(0.1)
    assert farm("plan", farm.file(), "--noise", "never").code == 3


@pytest.mark.parametrize("words", [["--sd", "nan"], ["--sd", "-0.1"], ["--sd", "0"], ["--sd", "1", "--noise", "x"]])
def test_a_noise_that_is_none_is_refused_by_name(farm: Farm, words: list[str]) -> None:
    answer = farm("plan", farm.file(), *words)
    assert (answer.code, "--sd" in answer.err) == (2, True)


def test_plan_works_without_redis_and_says_so(farm: Farm) -> None:
    farm.environment["FARM_REDIS_URL"] = "redis://127.0.0.1:1/0"
    answer = farm("plan", farm.file())
    assert answer.code == 0
    assert [row["arm"] for row in answer.rows] == ["baseline", "remove-dropout", "gradient-clipping", "(all arms)"]
    assert "planning without registered nodes and measured speeds" in answer.err


def data_file(farm: Farm, source: str, **changes: str) -> str:
    """A tiny study on another source, whose arm `elsewhere` tests 9,999 tokens further on."""
    path = farm.folder / "data.toml"
    text = study_text(init=(42,)).replace("builtin:python-reference", source)
    path.write_text(text + "[interventions.elsewhere]\nevaluation.offset = 9999\n")
    return str(path)


def test_a_plan_looks_at_the_data_and_ends_as_submit_would(farm: Farm) -> None:
    folder = farm.folder / "corpus"
    folder.mkdir()
    for split in ("train", "validation"):
        (folder / f"{split}.bin").write_bytes(bytes(range(1, 251)) * 30)
    answer = farm("plan", data_file(farm, str(folder)))
    assert (answer.code, {row["arm"] for row in answer.rows} > {"elsewhere"}) == (2, True)
    assert answer.err.splitlines()[-1].startswith(
        f"error: arm elsewhere: {folder}/validation.bin has 3,750 tokens; evaluation.offset 9,999 + 8 sequences"
    )
    farm.environment["FARM_REDIS_URL"] = ""
    (folder / "train.bin").unlink()
    here = farm("plan", data_file(farm, str(folder)))
    assert here.code == 2
    assert f"error: every arm: {folder} has no train split; it holds validation.bin." in here.err


def test_what_is_not_seen_from_here_is_said_once_and_refuses_nothing(farm: Farm) -> None:
    answer = farm("plan", data_file(farm, "/none/such"))
    assert answer.code == 0
    remark = "data: not seen from this machine: /none/such does not exist here; each node checks it when a run starts\n"
    assert answer.err.count(remark) == answer.err.count("/none/such") == 1
    assert "hf:us/x is not in this machine's cache" in farm("plan", data_file(farm, "hf:us/x")).err


def test_hours_and_dollars_come_from_a_declaration_when_nothing_was_measured() -> None:
    found = forecast(Study.parse('[study]\nname = "published"\nmachines = ["8xa100m40"]'), BUILT_IN)
    assert found.wall_clock_hours == pytest.approx(3.18, abs=0.01), "the published battery's own wall clock"
    assert found.usd == pytest.approx(37.65, abs=0.1)
    assert found.estimates[0].basis == "declared"


def test_numbers_in_a_pipe_are_rounded_to_what_is_meant(farm: Farm) -> None:
    answer = farm("plan", str(ROOT / "examples" / "interventions.toml"))
    decimals = [len(value.partition(".")[2]) for row in answer.rows for key, value in row.items() if key in ROUNDED]
    assert max(decimals) == 4


def test_another_recipe_s_speed_is_scaled_by_the_arithmetic_of_a_token() -> None:
    study = tiny_study(init=(42,))
    deeper = study_text(init=(42,)).replace("layers = 1", "layers = 2")
    other = Study.parse(deeper).runs()[0]
    found = forecast(study, BUILT_IN, [result(other, 3.0)])
    ratio = other.recipe.model.flops_per_token / study.runs()[0].recipe.model.flops_per_token
    assert found.estimates[0].basis == "scaled"
    assert found.estimates[0].hours == pytest.approx(2560 / (1000 * ratio) / 3600)


def test_repetitions_cost_hours_but_resolve_nothing_more() -> None:
    once = tiny_study()
    head = once.study.model_copy(update={"reruns": 1})
    twice = once.model_copy(update={"study": head})
    results = [result(once.runs()[0], 3.0)]
    first, second = forecast(once, BUILT_IN, results), forecast(twice, BUILT_IN, results)
    assert second.runs == 2 * first.runs
    assert second.classes[0].hours == pytest.approx(2 * (first.classes[0].hours or 0))
    assert second.estimates[1].resolves_sd == first.estimates[1].resolves_sd


def test_a_dash_is_standard_input(farm: Farm) -> None:
    (farm.folder / "-").write_text("not a study")
    assert farm("plan", "-", "--json", reads=study_text()).out == farm("plan", farm.file(), "--json").out
    assert len(farm("submit", "-", reads=study_text()).rows) == 9
    assert farm.queue.studies.all().keys() == {"tiny"}


@pytest.mark.parametrize(
    ("reads", "words"),
    [
        ("", "standard input: study: is missing"),
        ("[study", "standard input: not TOML"),
        ("x" * 2**21, "standard input is over"),
    ],
)
def test_what_is_wrong_with_standard_input_is_told_of_it(farm: Farm, reads: str, words: str) -> None:
    for command in ("plan", "submit"):
        answer = farm(command, "-", reads=reads)
        assert (answer.code, words in answer.err) == (2, True)


def test_faults_are_lines_and_those_of_machines_are_among_them(farm: Farm) -> None:
    farm.queue.roster.register(Machine(name="home", accelerator="cpu"), "node-1", 60)
    text = study_text(machines=("cpu", "home", "cup")).replace('"fp32"', '"fp16"').replace("train = [23]", "train = 23")
    for words in (["plan", "-"], ["submit", "-"], ["plan", "-", "--json"]):
        answer = farm(*words, reads=text.replace("dropout = 0.0", "dropout = 10"))
        first, *more = answer.err.splitlines()
        assert (answer.code, answer.out) == (2, "")
        assert first.startswith("error: standard input: study.seeds: must be { init")
        assert [line.split(": ", 3)[2] for line in more] == [
            "interventions.remove-dropout.model.dropout",
            "arm baseline",
            "arm baseline",
            "machines",
        ]
        assert "train.precision = 'fp16', but machine 'cpu' is a CPU" in more[1]
        assert 'Write train.precision = "fp32"' in more[1]
        assert "machine 'home' is a CPU" in more[2], "a class that a node registered"
        assert "unknown machine class 'cup'; did you mean 'cpu'?" in more[3]


def test_an_arm_on_a_machine_that_cannot_train_it_does_not_hide_the_next(farm: Farm) -> None:
    text = study_text(machines=("cpu", "cpu-x2")).replace('"fp32"', '"tf32"').replace("batch = 8", "batch = 9")
    answer = farm("submit", "-", reads=text)
    assert answer.code == 2
    assert [line.split("'")[3] for line in answer.err.splitlines()] == ["cpu", "cpu-x2"]
    assert not farm.queue.studies.all()


def test_the_hours_of_two_classes_are_never_one_figure(farm: Farm) -> None:
    """The published battery: 11 arms, 3 seeds, two machines that work side by side."""
    path = ROOT / "examples" / "interventions.toml"
    answer = farm("plan", str(path))
    totals = {row["machine"]: row for row in answer.rows if row["arm"] == "(all arms)"}
    home, rented, both = totals["1xrtx3090"], totals["8xa100m40"], totals["(all machines)"]
    assert (both["runs"], both["hours"], both["wall_clock_hours"]) == ("66", "", home["hours"])
    assert float(both["usd"]) == pytest.approx(float(rented["hours"]) * 11.84)
    assert "8xa100m40: 33 runs, 118.29 h, 4.9 days with one at a time, $1,400.61 at $11.84/h by Lambda" in answer.err
    assert "all of it: 66 runs, 59 days with the classes in parallel, $1,400.61" in answer.err
    told = json.loads(farm("plan", str(path), "--json").out)
    assert told["total"]["wall_clock_hours"] == pytest.approx(float(home["hours"]))
    assert {row["arm"] for row in told["data"]} == {arm.name for arm in Study.load(path).arms()}


def test_nodes_that_are_up_share_the_runs_and_none_splits_one(farm: Farm) -> None:
    farm.put()
    farm.finish_all()
    units = {"cpu": 2}
    one, two = (Node(id=name, name=name, host=name, address=name, units=units) for name in ("attic", "cellar"))
    farm.queue.roster.sight([one, two], 60)
    (cpu,) = json.loads(farm("plan", farm.file(), "--json").out)["classes"]
    assert (cpu["slots"], cpu["wall_clock_hours"]) == (4, pytest.approx(cpu["hours"] / 4))
    farm.queue.roster.drain("cellar", "by hand")
    (cpu,) = json.loads(farm("plan", farm.file(), "--json").out)["classes"]
    assert cpu["slots"] == 2
    crowd = forecast(tiny_study(), BUILT_IN, [result(tiny_study().runs()[0], 3.0)], {"cpu": 100}).classes[0]
    assert crowd.wall_clock_hours == pytest.approx((crowd.hours or 0) / crowd.runs), "no run is split over nodes"


def test_fp32_is_not_planned_at_fp16_s_speed(farm: Farm) -> None:
    rows = json.loads(farm("plan", str(ROOT / "examples" / "interventions.toml"), "--json").out)["data"]
    hours = {(row["machine"], row["arm"]): row["hours"] for row in rows}
    for machine, times in (("8xa100m40", 2.4), ("1xrtx3090", 19_921 / 12_599)):
        assert hours[machine, "full-float32"] == pytest.approx(times * hours[machine, "baseline"])
    notes = {row["note"] for row in rows if row["arm"] == "full-float32"}
    assert "fp32 takes 2.4 times as long as fp16, as in the published battery on A100s" in notes


def test_a_plan_says_whose_price_it_used_and_when_that_is_old(farm: Farm) -> None:
    (farm.folder / "farm.toml").write_text("[machines.cpu]\nusd_per_hour = 2.0\nprice_date = 2026-01-02\n")
    farm.put()
    farm.finish_all()
    answer = farm("plan", farm.file())
    assert "at $2.00/h by farm.toml of 2026-01-02" in answer.err
    assert "the price of cpu is " in answer.err
    fresh = date.today().isoformat()
    (farm.folder / "farm.toml").write_text(f"[machines.cpu]\nusd_per_hour = 2.0\nprice_date = {fresh}\n")
    answer = farm("plan", farm.file())
    assert f"by farm.toml of {fresh}" in answer.err
    assert "months old" not in answer.err


def test_the_price_of_the_cluster_file_counts_before_any_node_has_started(farm: Farm) -> None:
    price = Price(usd_per_hour=21.96, source="AWS-on-demand-us-east-1", date="2025-06")
    farm.queue.roster.provide({"8xa100m40": Supply(most=2, price=price)}, 60)
    path = str(ROOT / "examples" / "interventions.toml")
    assert "$2,597.75 at $21.96/h by AWS-on-demand-us-east-1 of 2025-06" in farm("plan", path).err
    farm.queue.roster.register(
        Machine(name="8xa100m40", accelerators=8, accelerator="A100", memory=2**35), "node-1", 60
    )
    assert "at $21.96/h by AWS" in farm("plan", path).err, "a node that found its GPUs does not know what they cost"


def test_an_arm_that_is_tested_differently_is_said_before_it_is_trained(farm: Farm) -> None:
    text = study_text() + "[interventions.short]\nmodel.context = 16\n"
    for command in ("plan", "submit"):
        said = farm(command, "-", reads=text).err
        assert "warning: arm short: tested differently from the baseline (context 32 and 16)" in said
    common = text.replace("sequences = 8", "sequences = 8\ncontext = 16")
    assert "tested differently" not in farm("plan", "-", reads=common).err


def test_a_plan_and_a_submit_warn_of_bf16_where_a_node_only_emulates_it(farm: Farm) -> None:
    file = farm.file()
    Path(file).write_text(study_text().replace('precision = "fp32"', 'precision = "bf16"'))
    assert "emulates" not in farm("plan", file).err, "nothing is known of a class that no node has described"
    farm.queue.roster.register(BUILT_IN["cpu"].model_copy(update={"instruction_set": "AVX2"}), "node-1", 60)
    for command in ("plan", "submit"):
        said = farm(command, file).err
        assert "warning: cpu only emulates bf16 (its processor has AVX2" in said
        assert "times as long on an AMD Zen 3" in said


def test_the_plan_of_the_tutorial_is_what_it_prints(farm: Farm) -> None:
    page = (ROOT / "docs" / "tutorials" / "rented-8xa100.md").read_text(encoding="utf-8")
    (typed,) = re.findall(r"^farm (plan .*)$", page, flags=re.MULTILINE)
    told = json.loads(farm(*typed.replace("examples/", f"{ROOT}/examples/").split(), "--json").out)
    (arm,) = [row for row in told["data"] if row["arm"] == "no-dropout"]
    plan = f"{arm['world']} x {arm['microbatch']} x {arm['accumulation']}"
    cells = [plan, f"{arm['hours']:.2f}", f"{arm['usd']:.2f}", f"{arm['resolves_sd']:.2f}", f"{arm['resolves']:.4f}"]
    (row,) = re.findall(r"^ 8xa100m40  no-dropout .*$", page, flags=re.MULTILINE)
    assert [cell for cell in cells if cell not in row] == []
    assert f"${told['total']['usd']:.2f} at $11.84/h" in page
