"""Effects: a textbook's factorial, aliases as the defining relation says them, and what simulated noise does."""

import numpy as np
import pytest

from farm.study.design import fraction, subsets
from farm.study.recipe import Seeds
from farm.verdict.effects import estimate, pseudo_error

SEEDS = [Seeds(init=init) for init in range(4)]


def full(k: int) -> dict[str, tuple[str, ...]]:
    names = tuple("abcdefg"[:k])
    return {"baseline": ()} | subsets("factorial", names, has_stacks=False)


def test_the_pilot_plant_of_the_textbook() -> None:
    """Box, Hunter & Hunter 2005, tables 5.3 to 5.6: a duplicated 2^3 design of temperature, concentration, catalyst."""
    yields = {"": 60, "t": 72, "c": 54, "tc": 68, "k": 52, "tk": 83, "ck": 45, "tck": 80}
    arms = {word or "baseline": tuple(word) for word in yields}
    found = estimate(arms, {word or "baseline": {SEEDS[0]: float(value)} for word, value in yields.items()})
    sizes = {effect.of: effect.size for effect in found.effects}
    assert sizes == pytest.approx(
        {("t",): 23.0, ("c",): -5.0, ("k",): 1.5, ("t", "c"): 1.5, ("t", "k"): 10.0, ("c", "k"): 0.0}
    )
    assert (found.method, found.df) == ("least-squares", 1), "the interaction of three is the noise"
    assert found.noise == pytest.approx(0.5 * 8**0.5 / 2)


def test_lenths_error_is_that_of_his_equation() -> None:
    """By hand: the median magnitude is 0.30, so what is below 2.5 x 0.45 counts: thirteen, with a median of 0.15."""
    contrasts = [0.13, -0.15, -0.30, -0.15, 0.40, -0.03, 0.38, 0.40, -0.05, 0.43, 0.13, 0.13, -0.38, 2.15, 3.10]
    assert pseudo_error(contrasts) == pytest.approx(0.225)


def test_a_fraction_says_what_it_cannot_tell_apart() -> None:
    """Of the half fraction of resolution 4, abcd is the word that defines it: ab = cd, ac = bd, ad = bc."""
    arms = {".".join(subset) or "baseline": subset for subset in fraction(tuple("abcd"))}
    found = estimate(
        arms, {arm: {SEEDS[0]: 3.0 + 0.1 * ("a" in of) + i * 1e-4} for i, (arm, of) in enumerate(arms.items())}
    )
    aliases = {effect.of: effect.aliases for effect in found.effects}
    assert aliases == {("a",): (), ("b",): (), ("c",): (), ("d",): ()} | {
        ("a", "b"): ("c:d",),
        ("a", "c"): ("b:d",),
        ("a", "d"): ("b:c",),
    }
    assert found.effects[0].of == ("a",)


@pytest.mark.parametrize(("arms", "alone"), [(16, 0), (32, 15), (64, 21)])
def test_a_larger_fraction_tells_more_interactions_apart(arms: int, alone: int) -> None:
    """Of seven interventions. One word of four letters defines 32 arms, so 6 of the 21 pairs are aliased, by twos."""
    names = tuple("abcdefg")
    sets = {".".join(subset) or "baseline": subset for subset in fraction(names, arms=arms)}
    losses = {arm: {SEEDS[0]: 3.0 - 0.2 * ("a" in of) - 0.1 * ({"a", "g"} <= {*of})} for arm, of in sets.items()}
    found = {effect.of: effect for effect in estimate(sets, losses).effects}
    pairs = {of: effect for of, effect in found.items() if len(of) == 2}
    assert all(not found[name,].aliases for name in names), "single effects are clear of interactions of two"
    assert sum(1 + len(effect.aliases) for effect in pairs.values()) == 21
    assert sum(not effect.aliases for effect in pairs.values()) == alone
    assert found[("a",)].size == pytest.approx(-0.25)
    own = next(effect for of, effect in pairs.items() if of == ("a", "g") or "a:g" in effect.aliases)
    assert own.size == pytest.approx(-0.05)


def test_two_together_are_named_in_the_order_of_the_arms_factors() -> None:
    """Not in that in which a fraction happens to name them first."""
    names = tuple("abcdefg")
    sets = {".".join(subset) or "baseline": subset for subset in fraction(names, arms=16)}
    losses = {arm: {SEEDS[0]: 3.0 - 0.1 * len(of)} for arm, of in sets.items()}
    for effect in estimate(sets, losses, names).effects:
        for term in (":".join(effect.of), *effect.aliases):
            assert sorted(term.removeprefix("-").split(":")) == term.removeprefix("-").split(":")


def test_one_at_a_time_the_effects_are_the_differences() -> None:
    losses = {"baseline": [3.7, 3.6], "a": [3.5, 3.4], "b": [3.8, 3.71]}
    arms = {"baseline": (), "a": ("a",), "b": ("b",)}
    found = estimate(arms, {arm: dict(zip(SEEDS, values, strict=False)) for arm, values in losses.items()})
    assert {effect.of: effect.size for effect in found.effects} == pytest.approx({("a",): -0.2, ("b",): 0.105})


def test_without_runs_or_interventions_there_are_no_effects() -> None:
    assert estimate({}, {}).effects == ()
    assert estimate({"baseline": ()}, {"baseline": {SEEDS[0]: 3.7}}).effects == ()
    (one,) = estimate({"baseline": (), "a": ("a",)}, {"baseline": {SEEDS[0]: 3.7}, "a": {SEEDS[0]: 3.6}}).effects
    assert (one.size, one.ci_low) == (pytest.approx(-0.1), None), "two runs tell no noise"


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_intervals_cover_all_effects_at_once(seeds: int) -> None:
    """In 95 of 100 studies: 20,000 simulated here, with effects and noise as numpy solves them."""
    arms, generator = full(3), np.random.default_rng(7)
    blocks, runs = SEEDS[:seeds], [(of, i) for of in arms.values() for i in range(seeds)]
    one = estimate(arms, {arm: {block: float(generator.normal()) for block in blocks} for arm in arms})
    half = {effect.of: (effect.ci_high - effect.size) / one.noise for effect in one.effects}
    terms = list(half)
    X = np.array([[*(float(i == j) for j in range(seeds)), *(sign(of, term) for term in terms)] for of, i in runs])
    y = generator.normal(size=(len(runs), 20_000))
    fitted = np.linalg.pinv(X) @ y
    noise = np.sqrt(((y - X @ fitted) ** 2).sum(0) / (len(runs) - X.shape[1]))
    beyond = np.abs(2 * fitted[seeds:]) > np.array([half[term] for term in terms])[:, None] * noise
    assert 1 - beyond.any(0).mean() == pytest.approx(0.95, abs=0.006)


def sign(of: tuple[str, ...], term: tuple[str, ...]) -> float:
    return float(np.prod([1 if name in of else -1 for name in term]))


def test_losses_alike_to_the_bit_have_effects_of_nothing() -> None:
    arms = full(2)
    found = estimate(arms, {arm: dict.fromkeys(SEEDS[:2], 3.7) for arm in arms})
    assert all(abs(effect.size) < 1e-12 and effect.p > 0.5 for effect in found.effects)


def test_missing_runs_and_unequal_seeds_are_no_error() -> None:
    arms = full(3)
    losses = {
        arm: {SEEDS[i]: 3.6 + 0.01 * i + 0.1 * ("a" in of) for i in range(1 + len(of))} for arm, of in arms.items()
    }
    del losses["a.b"]
    found = estimate(arms, losses)
    assert found.effects[0].size == pytest.approx(0.1)
    assert all(abs(size.size) < 1e-9 for size in found.effects[1:])
