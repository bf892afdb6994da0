"""The places of a mixed group. tests/walk/test_two_nodes.py holds its units on a real Ray, and trains with them."""

from farm.study.machine import BUILT_IN, mix
from workers.attempt.group import Also, places
from workers.attempt.task import Place


def test_places_are_in_the_order_of_classes_and_ranks() -> None:
    group = mix((BUILT_IN["cpu-x2"], BUILT_IN["cpu"]))
    assert places(group, "n1", [Also.read("cpu@n2@4")]) == (
        Place(node="n1", machine="cpu-x2", workers=2, threads=1),
        Place(node="n2", machine="cpu", workers=1, threads=None),
    )
    assert places(BUILT_IN["cpu"], "n1", []) == ()
