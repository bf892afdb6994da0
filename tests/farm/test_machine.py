"""What is known of a machine class, from several who know of it."""

from farm.machine import Machine, layered


def test_the_last_who_knows_a_class_is_believed_but_a_price_that_it_leaves_open_is_not_lost():
    """A node that registers has found its GPUs and not what they cost."""
    declared = Machine(name="rented", accelerator="A100", memory=1, usd_per_hour=2.5, threads=4)
    found = Machine(name="rented", accelerator="H100", memory=2, threads=8)
    (known,) = layered({"rented": declared}, {"rented": found}).values()
    assert known == found.model_copy(update={"usd_per_hour": 2.5})


def test_what_is_known_once_is_known():
    one, other = Machine(name="one"), Machine(name="other", usd_per_hour=0.0)
    assert layered({"one": one}, {"other": other}) == {"one": one, "other": other}
    assert layered() == {}


def test_a_size_is_the_bytes_that_were_written() -> None:
    tenths = [f"{gigabytes}.{tenth}" for gigabytes in range(100) for tenth in range(10)][1:]
    sizes = [Machine(name="x", memory=f"{size}GB").memory for size in tenths]  # type: ignore[arg-type]
    assert sizes == [n * 10**8 for n in range(1, 1000)]
