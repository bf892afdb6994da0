"""Every way the farm says no: one line, a remedy, an exit code, and safe to send through Ray."""

import pickle

import pytest

from farm import errors
from farm.errors import DoesNotFit, FarmError, StorageFull, last_line, nearest

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FarmError)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_pickling(kind: type[FarmError]) -> None:
    error = kind("what happened.", remedy="Do this.", field="model.context", bytes=7)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (str(copy), copy.message, copy.remedy, copy.fields) == (
        "what happened. Do this.",
        "what happened.",
        "Do this.",
        {"field": "model.context", "bytes": 7},
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_says_its_docstring_when_nobody_knows_better(kind: type[FarmError]) -> None:
    assert str(kind()) == (kind.__doc__ or "").splitlines()[0]
    assert "\n" not in str(kind())


def test_the_exit_codes_are_those_of_the_design() -> None:
    codes = {kind.__name__: kind.exit_code for kind in KINDS if kind.exit_code != 1}
    assert codes == {
        "BadStudy": 2,
        "BadSetting": 2,
        "DoesNotFit": 2,
        "BadCorpus": 2,
        "NotFound": 3,
        "Refused": 4,
        "Unreachable": 5,
        "StorageUnusable": 5,
        "Conflict": 6,
        "Guard": 7,
    }


def test_only_what_may_go_better_next_time_is_retried() -> None:
    retried = {"Unreachable", "StorageFull", "StorageUnusable", "WorkerDied", "Hung"}
    assert {kind.__name__ for kind in KINDS if kind.retryable} == retried


def test_the_cause_is_the_name_in_kebab_case() -> None:
    assert (DoesNotFit().cause, StorageFull().cause) == ("does-not-fit", "storage-full")


@pytest.mark.parametrize(
    ("word", "known", "unlisted", "listed"),
    [
        ("tinny", ["big", "tiny"], "; did you mean 'tiny'?", "; did you mean 'tiny'?"),
        ("zebra", ["tiny", "big"], ".", "; known: big, tiny."),
        ("zebra", [], ".", "."),
    ],
)
def test_a_sentence_about_an_unknown_name_ends_with_help(
    word: str, known: list[str], unlisted: str, listed: str
) -> None:
    assert (nearest(word, known), nearest(word, known, listed=True)) == (unlisted, listed)


def test_what_a_process_said_last_is_quoted_without_its_colours() -> None:
    said = "INFO -- starting\n\x1b[37mLocal node IP\x1b[39m: \x1b[1m10.0.0.6\x1b[22m\a\n\x1b[0m\n"
    assert last_line(said) == "Local node IP: 10.0.0.6"
    assert last_line(" \n") == "it said nothing"
