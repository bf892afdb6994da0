"""Recipe x Machine -> Plan: exact, the largest that fits, or a refusal with the numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.errors import DoesNotFit
from farm.study.machine import BUILT_IN, Machine, mix, probe_key
from farm.study.planner import USABLE, Plan, bytes_needed, carry_on, deal, hours, plan
from farm.study.recipe import Model, Recipe, Train
from farm.study.speed import Speed

CPU = BUILT_IN["cpu"]
SMALL = Model(context=32, width=16, layers=1, heads=2)


def split(recipe: Recipe, machine: Machine) -> tuple[int, int, int]:
    found = plan(recipe, machine)
    return found.world, found.microbatch, found.accumulation


@pytest.mark.parametrize(
    ("machine", "expected"),
    [("8xa100m40", (8, 12, 1)), ("8xa100m80", (8, 12, 1)), ("8xh100m80", (8, 12, 1)), ("1xrtx3090", (1, 32, 3))],
)
def test_the_baseline_is_split_by_what_fused_attention_needs(machine: str, expected: tuple[int, int, int]) -> None:
    assert split(Recipe(), BUILT_IN[machine]) == expected


recipes = st.builds(
    lambda batch, precision: Recipe(model=SMALL, train=Train(batch=batch, precision=precision)),
    st.integers(1, 4096),
    st.sampled_from(["fp32", "bf16"]),
)
machines = st.builds(
    lambda count, memory, limit: Machine(name="m", accelerators=count, memory=memory, microbatch=limit),
    st.integers(1, 16),
    st.integers(2**20, 2**34),
    st.none() | st.integers(1, 64),
)


@given(recipes, machines)
def test_world_microbatch_and_accumulation_are_the_batch_exactly(recipe: Recipe, machine: Machine) -> None:
    try:
        found = plan(recipe, machine)
    except DoesNotFit:
        return
    assert found.world * found.microbatch * found.accumulation == found.batch == recipe.train.batch
    assert found.world == machine.accelerators
    if machine.microbatch is None:
        assert found.bytes_needed <= USABLE * machine.memory
    else:
        assert found.microbatch <= machine.microbatch


@given(recipes, st.integers(2**24, 2**34))
def test_no_larger_microbatch_would_have_fitted(recipe: Recipe, memory: int) -> None:
    try:
        found = plan(recipe, CPU.model_copy(update={"memory": memory}))
    except DoesNotFit:
        return
    for larger in range(found.microbatch + 1, recipe.train.batch + 1):
        if recipe.train.batch % larger == 0:
            assert bytes_needed(recipe, CPU, larger, recipe.train.batch // larger) > USABLE * memory


def test_what_was_measured_or_declared_beats_the_formula() -> None:
    gpu = BUILT_IN["1xrtx3090"]
    key = probe_key(Recipe().model, "fp16")
    probed = gpu.model_copy(update={"probes": {key: 8}})
    assert (split(Recipe(), probed), plan(Recipe(), probed).basis) == ((1, 8, 12), "probe")
    declared = probed.model_copy(update={"microbatch": 4})
    assert (split(Recipe(), declared), plan(Recipe(), declared).basis) == ((1, 4, 24), "declared")
    assert plan(Recipe().with_patch({"train": {"precision": "bf16"}}), probed).basis == "formula", "another precision"


def test_the_probe_of_a_model_serves_every_batch_by_its_divisors() -> None:
    recipe = Recipe(model=SMALL, train=Train(precision="fp32"))
    probed = CPU.model_copy(update={"probes": {probe_key(SMALL, "fp32"): 10}})
    for batch, expected in ((96, 8), (20, 10), (7, 7), (11, 1)):
        found = plan(recipe.with_patch({"train": {"batch": batch}}), probed)
        assert (found.microbatch, found.basis) == (expected, "probe"), batch


def test_a_run_that_goes_on_keeps_its_plan_whatever_was_probed_in_between() -> None:
    recipe = Recipe(model=SMALL, train=Train(batch=8, precision="fp32"))
    before = plan(recipe, CPU)
    probed = CPU.model_copy(update={"probes": {probe_key(SMALL, "fp32"): 2}})
    assert plan(recipe, probed).microbatch == 2 != before.microbatch == 8
    assert carry_on(before, plan(recipe, probed), probed) == before
    declared = CPU.model_copy(update={"microbatch": 4})
    assert carry_on(before, plan(recipe, declared), declared).microbatch == 4, "a person says that 8 are too many"
    twice = CPU.model_copy(update={"accelerators": 2})
    assert carry_on(before, plan(recipe, twice), twice).world == 2


def test_a_canonical_microbatch_is_the_same_everywhere() -> None:
    recipe = Recipe(model=SMALL, train=Train(batch=8, precision="fp32", reduction="canonical", canonical_microbatch=2))
    plans = [plan(recipe, CPU.model_copy(update={"accelerators": world})) for world in (1, 2, 4)]
    assert [(p.world, p.microbatch, p.accumulation) for p in plans] == [(1, 2, 4), (2, 2, 2), (4, 2, 1)]
    assert {p.basis for p in plans} == {"canonical"}


@pytest.mark.parametrize(
    ("train", "machine", "words"),
    [
        (
            {"batch": 97},
            BUILT_IN["8xa100m40"],
            r"97 does not divide over the 8 .*\(97 = 8 x 12 \+ 1\)\. Use batch 96 or 104",
        ),
        ({"batch": 3}, BUILT_IN["8xa100m40"], r"Use batch 8"),
        (
            {"precision": "bf16"},
            Machine(name="old", accelerator="V100", bf16=False),
            r"'old' \(V100\) has no bf16\. Use fp16",
        ),
        ({}, CPU, r"'fp16', but machine 'cpu' is a CPU"),
        ({}, Machine(name="1xgtx1660", accelerator="GTX 1660", memory=3 * 2**30), r"163,009,536 parameters .* need \d"),
        (
            {"reduction": "canonical", "canonical_microbatch": 32},
            BUILT_IN["8xa100m40"],
            "canonical_microbatch = 32 does not divide the 12 sequences",
        ),
        (
            {"reduction": "canonical", "canonical_microbatch": 4, "precision": "fp32"},
            Machine(name="three", accelerators=3, memory=2**40),
            "machine 'three' would have 3 x 8",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(train: dict, machine: Machine, words: str) -> None:
    with pytest.raises(DoesNotFit, match=words):
        plan(Recipe().with_patch({"train": train}), machine)


def test_hours_follow_from_the_speed_of_the_machine() -> None:
    gpu = BUILT_IN["1xrtx3090"]
    assert hours(Recipe(), gpu) == pytest.approx(40.6, rel=0.01)
    assert hours(Recipe(), BUILT_IN["8xa100m40"]) == pytest.approx(3.18, rel=0.01)
    assert hours(Recipe(), gpu, tokens_per_second=44_600) == pytest.approx(20.3, rel=0.01)
    assert hours(Recipe(), CPU) is None


def test_a_plan_reads_as_a_product() -> None:
    found = plan(Recipe(), BUILT_IN["1xrtx3090"])
    assert str(found) == "1 x 32 x 3"
    assert Plan.model_validate_json(found.model_dump_json()) == found


PAIR = mix((BUILT_IN["8xa100m40"], BUILT_IN["1xrtx3090"]))
SEEN = {"8xa100m40": Speed(284_800, "measured"), "1xrtx3090": Speed(22_300, "declared")}


@given(st.integers(1, 500), st.lists(st.floats(0.001, 1000), min_size=1, max_size=20))
def test_shares_are_in_proportion_none_is_empty_and_they_are_the_whole(count: int, rates: list[float]) -> None:
    if count < len(rates):
        return
    shares = deal(count, rates)
    assert sum(shares) == count
    assert min(shares) >= 1
    exact = [count * rate / sum(rates) for rate in rates]
    if min(exact) >= 1:
        assert max(abs(share - part) for share, part in zip(shares, exact, strict=True)) < 1


def test_shares_of_a_mixed_group_follow_the_measured_speeds() -> None:
    found = plan(Recipe(), PAIR, SEEN)
    assert found.shares is not None
    assert (found.world, found.batch, len(found.shares)) == (9, 96, 9)
    assert bytes_needed(Recipe(), BUILT_IN["1xrtx3090"], found.microbatch) <= USABLE * BUILT_IN["1xrtx3090"].memory
    assert found.shares_basis == "declared", "the weaker word of the two"
    rates = [35_600] * 8 + [22_300]
    slowest = max(share * found.microbatch / rate for share, rate in zip(found.shares, rates, strict=True))
    assert slowest <= 1.1 * 1.1 * 96 / (284_800 + 22_300), "close to what an even split would take"
    assert found.accumulation == max(found.shares)
    assert Plan.model_validate_json(found.model_dump_json()) == found


def test_shares_are_equal_while_nothing_is_known_of_one_class() -> None:
    recipe = Recipe(model=SMALL, train=Train(batch=8, precision="fp32"))
    group = mix((BUILT_IN["cpu-x1"], BUILT_IN["cpu-x2"]))
    found = plan(recipe, group, {"cpu-x1": Speed(10, "measured")})
    assert (found.shares_basis, max(found.shares) - min(found.shares)) == ("equal", 1)
    twice = plan(recipe, group, {"cpu-x1": Speed(30, "scaled"), "cpu-x2": Speed(60, "measured")})
    assert (twice.shares, twice.shares_basis) == ((3, 3, 2), "scaled"), "two workers reach twice as much as one"
    three = plan(recipe, group, {"cpu-x1": Speed(10, "measured"), "cpu-x2": Speed(60, "measured")})
    assert (str(three), three.shares_basis) == ("3 x 1 x (1+4+3)", "measured")


def test_the_plan_of_a_mixed_group_is_kept_when_its_speeds_are_seen_later() -> None:
    recipe = Recipe(model=SMALL, train=Train(batch=8, precision="fp32"))
    group = mix((BUILT_IN["cpu-x1"], BUILT_IN["cpu-x2"]))
    before = plan(recipe, group)
    fresh = plan(recipe, group, {"cpu-x1": Speed(50, "measured"), "cpu-x2": Speed(10, "measured")})
    assert fresh.shares != before.shares
    assert carry_on(before, fresh, group) == before


def test_a_canonical_mixed_group_keeps_the_microbatch_under_any_shares() -> None:
    train = Train(batch=8, precision="fp32", reduction="canonical", canonical_microbatch=2)
    group = mix((BUILT_IN["cpu-x1"], BUILT_IN["cpu-x2"]))
    found = plan(Recipe(model=SMALL, train=train), group)
    assert (found.microbatch, found.basis, found.shares) == (2, "canonical", (2, 1, 1))


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"batch": 8}, r"batch 8 in microbatches of 1 gives no share to each of the 9 accelerators of"),
        ({"reduction": "canonical", "canonical_microbatch": 12}, "batch 96 in microbatches of 12 gives no share"),
        ({"reduction": "canonical", "canonical_microbatch": 96}, "batch 96 in microbatches of 96 gives no share"),
    ],
)
def test_a_mixed_group_that_cannot_share_the_batch_is_refused(train: dict, words: str) -> None:
    with pytest.raises(DoesNotFit, match=words):
        plan(Recipe().with_patch({"train": train}), PAIR)


def test_a_plan_whose_shares_do_not_add_up_is_none() -> None:
    whole = plan(Recipe(), PAIR).model_dump()
    with pytest.raises(ValueError, match="are not of 9 workers"):
        Plan.model_validate(whole | {"shares": (1, 2)})
