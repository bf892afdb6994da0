"""More seed pairs for an arm: which ones, always the same, and what stays when the file is submitted again."""

import tomllib

import pytest
from results import study_text, tiny_study

from farm.errors import BadStudy, NotFound
from farm.study.recipe import Seeds, canonical_json
from farm.study.seeding import as_toml, carry_over, extend, fresh, up_to, widen
from farm.study.study import Study

TWO = tiny_study(init=(42, 22))


def pairs(*init: int) -> tuple[Seeds, ...]:
    return tuple(Seeds(init=seed, train=23) for seed in init)


def with_seeds(text: str) -> Study:
    """The tiny study with `text` at its end."""
    return Study.parse(study_text(init=(42, 22)) + text)


def test_the_baseline_s_own_pairs_come_first_and_then_new_ones_for_both() -> None:
    one = widen(TWO, {"baseline": pairs(67)})
    more = up_to(one, "remove-dropout", 5)
    assert more == {"remove-dropout": pairs(67, 68, 69), "baseline": pairs(68, 69)}
    assert len(widen(one, more).runs()) - len(one.runs()) == 5


def test_asked_again_there_is_nothing_to_add() -> None:
    wider = widen(TWO, up_to(TWO, "remove-dropout", 4))
    assert up_to(wider, "remove-dropout", 4) == {}
    assert up_to(wider, "remove-dropout", 1) == {}
    assert up_to(wider, "gradient-clipping", 4) == {"gradient-clipping": pairs(43, 44)}, "the pairs that are there"


def test_an_arm_s_own_pairs_are_given_to_the_baseline_unless_it_stands_alone() -> None:
    own = widen(TWO, {"remove-dropout": pairs(7)})
    assert up_to(own, "remove-dropout", 3) == {"baseline": pairs(7)}
    assert up_to(own, "remove-dropout", 3, alone=True) == {}
    assert up_to(own, "remove-dropout", 4, alone=True) == {"remove-dropout": pairs(43)}
    assert up_to(own, "baseline", 3) == {"baseline": pairs(43)}


def test_pairs_that_failed_are_not_taken_for_partners() -> None:
    wider = widen(TWO, {"baseline": pairs(67, 68)})
    assert extend(wider, "remove-dropout", 1, avoid=pairs(67)) == {"remove-dropout": pairs(68)}
    assert extend(wider, "remove-dropout", 0) == {}


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        ("{ init = [42, 22], train = [23] }", [(43, 23), (44, 23)]),
        ("{ init = [42], train = [23, 24] }", [(42, 25), (42, 26)]),
        ("{ init = [42, 22], train = [23, 24] }", [(43, 25), (44, 26)]),
        ("[[42, 23]]", [(43, 23), (44, 23)]),
    ],
)
def test_new_pairs_are_the_next_numbers_and_keep_what_the_baseline_holds_fixed(seeds: str, expected: list) -> None:
    text = study_text().replace("{ init = [42, 22, 67], train = [23] }", seeds)
    assert [(pair.init, pair.train) for pair in fresh(Study.parse(text), 2)] == expected


def test_a_file_says_the_same_as_the_command() -> None:
    wider = widen(TWO, up_to(TWO, "remove-dropout", 3))
    text = "\n".join(as_toml(wider.more_seeds)) + "\n"
    assert tomllib.loads(text) == {"more_seeds": {"baseline": [[43, 23]], "remove-dropout": [[43, 23]]}}
    assert {run.id for run in with_seeds(text).runs()} == {run.id for run in wider.runs()}


def test_what_was_added_stays_when_the_file_is_submitted_again() -> None:
    wider = widen(TWO, up_to(TWO, "remove-dropout", 3))
    assert carry_over(TWO, wider) == wider
    assert carry_over(TWO, None) == carry_over(TWO, TWO) == TWO
    fewer = TWO.model_copy(update={"interventions": {"gradient-clipping": TWO.interventions["gradient-clipping"]}})
    assert carry_over(fewer, wider).more_seeds == {"baseline": pairs(43)}, "the arm is gone, and so are its seeds"


def test_an_arm_that_is_not_there_is_named() -> None:
    with pytest.raises(NotFound, match="no arm 'remove-dropuot'"):
        up_to(TWO, "remove-dropuot", 3)
    with pytest.raises(BadStudy, match=r"more_seeds.remove-dropuot: no arm is called so"):
        with_seeds("[more_seeds]\nremove-dropuot = [[1, 2]]\n")


def test_too_many_runs_are_refused() -> None:
    with pytest.raises(BadStudy, match="at most 10,000"):
        widen(TWO, up_to(TWO, "remove-dropout", 6000))


def test_after_the_largest_seed_come_the_smallest() -> None:
    last = tiny_study(init=(2**63 - 1, 0))
    assert up_to(last, "remove-dropout", 4)["remove-dropout"] == pairs(1, 2)


def test_a_study_with_more_seeds_survives_its_own_json() -> None:
    wider = widen(TWO, up_to(TWO, "remove-dropout", 3))
    assert Study.model_validate_json(canonical_json(wider)) == wider
    with pytest.raises(BadStudy, match="farm resolve writes this"):
        with_seeds("[looks]\nusd = 1.0\n")
