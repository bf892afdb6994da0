"""Where two nested tables differ."""

from farm.study.differences import differences


def test_differences_are_told_as_deep_as_both_have_tables() -> None:
    first = {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "f": {"g": 4}, "same": {"h": 5}}
    second = {"x": 6, "b": {"d": {"e": 7}, "c": 2}, "f": None, "same": {"h": 5}, "a": 1.0}
    assert [*differences(first, second)] == [("b.d.e", 3, 7), ("f", {"g": 4}, None), ("x", None, 6)]
    assert [*differences(first, first)] == []
