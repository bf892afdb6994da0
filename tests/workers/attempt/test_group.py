"""The units of a mixed group, held on a real Ray. tests/walk/test_two_nodes.py trains with them."""

from own_ray import OwnRay

from farm.study.machine import BUILT_IN, mix
from workers.attempt.group import Also, places
from workers.attempt.task import Place

HOLDING = """
import ray
from workers.attempt.group import Also, hold

other = Also("attic", ray.get_runtime_context().get_node_id(), 2.0)
with hold([other], 60) as first, hold([other], 0.5) as second:
    print(first, second)
with hold([other], 60) as third, hold([]) as nothing:
    print(third, nothing)
"""


def test_a_unit_is_held_once_and_free_again_afterwards(node: OwnRay) -> None:
    assert node.ran(HOLDING).split() == ["True", "False", "True", "True"]


def test_places_are_in_the_order_of_classes_and_ranks() -> None:
    group = mix((BUILT_IN["cpu-x2"], BUILT_IN["cpu"]))
    assert places(group, "n1", [Also.read("cpu@n2@4")]) == (
        Place(node="n1", machine="cpu-x2", workers=2, threads=1),
        Place(node="n2", machine="cpu", workers=1, threads=None),
    )
    assert places(BUILT_IN["cpu"], "n1", []) == ()
