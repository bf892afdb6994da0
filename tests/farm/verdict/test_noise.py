"""The noise ladder: known components are found again, and what a design cannot tell has no number."""

import numpy as np
import pytest

from farm.study.recipe import Seeds
from farm.verdict.noise import HardwareEffect, Noise, Observation, Rung, interval, ladder, pool

PAIRS = [Seeds(init=i, train=t) for i in (1, 2, 3) for t in (1, 2, 3)]


def rungs(found: Noise) -> dict[str, Rung]:
    return {rung.rung: rung for rung in found.rungs}


def simulated(
    seed: int, *, init: float = 0.02, train: float = 0.01, hardware: float = 0.005, rerun: float = 0.002
) -> list[Observation]:
    """Three arms, nine crossed seed pairs, two machines, two reruns; half of a seed's effect is shared by all arms."""
    generator, drawn = np.random.default_rng(seed), dict[tuple, float]()

    def effect(size: float, *key: object) -> float:
        return drawn.setdefault(key, float(generator.normal(0, size)))

    return [
        Observation(
            arm,
            machine,
            seeds,
            again,
            3.6
            + 0.1 * (arm == "b")
            + 0.03 * (machine == "n")
            + (effect(init, "i", seeds.init) + effect(init, "i", seeds.init, arm)) / 2**0.5
            + (effect(train, "t", seeds.train) + effect(train, "t", seeds.train, arm)) / 2**0.5
            + effect(hardware, "h", arm, machine, seeds)
            + effect(rerun, "r", arm, machine, seeds, again),
        )
        for arm in "abc"
        for machine in "mn"
        for seeds in PAIRS
        for again in (0, 1)
    ]


def test_known_components_are_found_again() -> None:
    """Each rung is the one thing that changes, and what cannot be held: a rerun, and with it the rounding."""
    truth = {
        "rerun": 0.002,
        "hardware": (0.005**2 + 0.002**2) ** 0.5,
        "train seed": (0.01**2 + 0.005**2 + 0.002**2) ** 0.5,
        "init seed": (0.02**2 + 0.005**2 + 0.002**2) ** 0.5,
        "both seeds": (0.02**2 + 0.01**2 + 0.005**2 + 0.002**2) ** 0.5,
    }
    studies = [rungs(ladder(simulated(seed))) for seed in range(150)]
    for name, sd in truth.items():
        seen = [study[name] for study in studies]
        assert np.mean([rung.sd**2 for rung in seen]) ** 0.5 == pytest.approx(sd, rel=0.08), name
        assert np.mean([rung.ci_low <= sd <= rung.ci_high for rung in seen]) > 0.9, name


@pytest.mark.parametrize(("arms", "shared"), [(1, 0.5), (4, 0.0), (4, 0.5), (4, 0.95)])
def test_intervals_cover_however_alike_arms_react_to_a_seed(arms: int, shared: float) -> None:
    """95 of 100, whether the arms of 4 seeds are 12 degrees of freedom or, all moved alike, only 3."""
    generator, hits, studies = np.random.default_rng(3), 0, 1500
    for _ in range(studies):
        y = shared**0.5 * generator.normal(size=4) + (1 - shared) ** 0.5 * generator.normal(size=(arms, 4))
        low, high = interval(pool({arm: dict(enumerate(map(float, row))) for arm, row in enumerate(y)}))
        hits += low <= 1 <= high
    assert hits / studies == pytest.approx(0.95, abs=0.03)


def test_one_arms_interval_is_the_chi_squares() -> None:
    """Hahn & Meeker's table of factors: with 5 values 0.599 and 2.874 times the SD."""
    found = pool({"a": dict(enumerate([1.0, 2.0, 3.0, 4.0, 5.0]))})
    assert found.variance == 2.5
    assert np.array(interval(found)) / 2.5**0.5 == pytest.approx([0.599, 2.874], abs=5e-4)


def test_seeds_that_always_change_together_are_confounded() -> None:
    found = rungs(ladder(Observation("a", "m", Seeds(init=i, train=i), 0, 3.6 + 0.01 * i) for i in range(3)))
    assert found["init seed"].sd is found["train seed"].sd is None
    assert "confounded" in found["init seed"].why
    assert "confounded" in found["train seed"].why
    assert found["both seeds"].sd == pytest.approx(0.01)


def test_a_seed_that_never_changes_has_no_number() -> None:
    found = rungs(ladder(Observation("a", "m", Seeds(init=i, train=1), 0, 3.6 + 0.01 * i) for i in range(3)))
    assert found["init seed"].sd == pytest.approx(0.01)
    for name in ("rerun", "hardware", "train seed", "both seeds"):
        assert (found[name].sd, found[name].ci_low, found[name].why[:7]) == (None, None, "no data")


def test_without_runs_or_with_one_there_is_no_number() -> None:
    for runs in ([], [Observation("a", "m", PAIRS[0], 0, 3.6)]):
        found = ladder(runs)
        assert all(rung.sd is None and rung.why for rung in found.rungs)
        assert found.hardware == ()


def test_bits_alike_have_an_sd_of_0_and_no_interval() -> None:
    found = ladder(simulated(0, init=0, train=0, hardware=0, rerun=0))
    assert [(rung.sd, rung.ci_low) for rung in found.rungs] == [(0.0, None)] * 5
    (pair,) = found.hardware
    assert pair.difference == pytest.approx(0.03)
    assert pair.interaction_p is None


def hardware(effects: dict[str, tuple[float, float]], seeds: int = 4, noise: float = 1e-3) -> HardwareEffect:
    generator = np.random.default_rng(5)
    (pair,) = ladder(
        Observation(arm, machine, Seeds(init=i), 0, 3.6 + 0.02 * i + losses[at] + float(generator.normal(0, noise)))
        for arm, losses in effects.items()
        for at, machine in enumerate("mn")
        for i in range(seeds)
    ).hardware
    return pair


def test_whether_the_ranking_survives_a_change_of_machine() -> None:
    same = hardware({"a": (0.0, 0.03), "b": (0.1, 0.13), "c": (0.2, 0.23)})
    assert same.survives == "yes"
    assert same.interaction_p > 0.05
    assert same.ci_low < 0.03 < same.ci_high
    turned = hardware({"a": (0.0, 0.1), "b": (0.1, 0.0)})
    assert turned.survives == "no"
    assert turned.interaction_p < 0.001
    assert hardware({"a": (0.0, 0.0), "b": (0.0, 0.0)}).survives == "cannot be told", "a tie has no order"
    assert hardware({"a": (0.0, 0.03), "b": (0.1, 0.13)}, seeds=1).survives == "cannot be told"
    assert hardware({"a": (0.0, 0.03)}).interaction_p is None


def test_one_pair_of_twins_an_arm_says_what_it_cannot_tell() -> None:
    found = rungs(
        ladder(
            Observation(arm, m, PAIRS[0], 0, x)
            for m, at in (("m", 0), ("n", 1))
            for arm, x in (("a", 3.6), ("b", 3.7 + 0.002 * at), ("c", 3.5 + 0.004 * at))
        )
    )
    assert found["hardware"].sd == pytest.approx(0.002 / 2**0.5)
    assert "confounded" in found["hardware"].why


# Davies & Goldsmith (1972), table 6.1, as lme4 ships them (Dyestuff); Bates et al. 2015 fit them by REML.
DYESTUFF = {
    "A": (1545, 1440, 1440, 1520, 1580),
    "B": (1540, 1555, 1490, 1560, 1495),
    "C": (1595, 1550, 1605, 1510, 1560),
    "D": (1445, 1440, 1595, 1465, 1545),
    "E": (1595, 1630, 1515, 1635, 1625),
    "F": (1520, 1455, 1450, 1480, 1445),
}


def test_a_balanced_design_has_the_residual_of_reml() -> None:
    """lme4's `Yield ~ 1 + (1 | Batch)` has a residual SD of 49.51; batches are seeds here, and yields reruns."""
    runs = [
        Observation("baseline", "cpu", Seeds(init=batch), rerun, float(value))
        for batch, values in enumerate(DYESTUFF.values())
        for rerun, value in enumerate(values)
    ]
    rerun = next(rung for rung in ladder(runs).rungs if rung.rung == "rerun")
    assert rerun.sd == pytest.approx(49.51, abs=0.005)
    assert rerun.df == 24
