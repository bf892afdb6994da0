"""The regular two-level fractions of up to twelve interventions: how many arms, and what they cannot tell apart.

Each is the one of minimum aberration of its size: no other has a higher resolution, nor as high a one and fewer effects
that are aliased there (Fries & Hunter 1980, Technometrics 22:601; the catalogue of Chen, Sun & Wu 1993, Int. Stat. Rev.
61:131). Up to eleven interventions and 128 arms they are those of Box, Hunter & Hunter (2005, table 6.22), but for the
order of the letters. pydoe has a search for them, which takes seconds; so they are written down here, and pydoe, which
is imported only where one is asked for, expands them.
"""

from string import ascii_lowercase
from typing import NamedTuple

MOST = 12  # interventions


class Fraction(NamedTuple):
    """2^(k-p) arms: the first k - p interventions are crossed, each of the others is a product of some of them."""

    arms: int
    resolution: int
    generators: str  # of the others, in order: "abc abd" for e = abc, f = abd

    def levels(self, count: int) -> list[list[float]]:
        """(arms, interventions) of -1 and 1."""
        from pydoe import fracfact

        crossed = ascii_lowercase[: count - len(self.generators.split())]
        return fracfact(" ".join([*crossed, self.generators])).tolist()


def half(count: int) -> Fraction:
    """Its resolution is the number of interventions: only what all of them do together is aliased with the mean."""
    return Fraction(2 ** (count - 1), count, ascii_lowercase[: count - 1])


def sizes(count: int) -> tuple[Fraction, ...]:
    """The fractions of so many interventions, from 2 to MOST, the smallest first."""
    return (*(Fraction(*one) for one in SMALLER.get(count, ())), half(count))


# Interventions -> (arms, resolution, generators) of what is smaller than half of all combinations.
SMALLER: dict[int, tuple[tuple[int, int, str], ...]] = {
    5: ((8, 3, "ab ac"),),
    6: ((8, 3, "ab ac bc"), (16, 4, "abc abd")),
    7: ((8, 3, "ab ac bc abc"), (16, 4, "abc abd acd"), (32, 4, "abc abde")),
    8: ((16, 4, "abc abd acd bcd"), (32, 4, "abc abd acde"), (64, 5, "abcd abef")),
    9: (
        (16, 3, "ab ac ad bcd abcd"),
        (32, 4, "abc abd abe acde"),
        (64, 4, "abc abde acdf"),
        (128, 6, "abcde abcfg"),
    ),
    10: (
        (16, 3, "ab ac ad bc bcd abcd"),
        (32, 4, "abc abd abe acde bcde"),
        (64, 4, "bcf abdf bdef acdef"),
        (128, 5, "abcd abef aceg"),
        (256, 6, "abcde abcfgh"),
    ),
    11: (
        (16, 3, "ab ac ad bc bd acd bcd"),
        (32, 4, "acd ace ade bce bde abcde"),
        (64, 4, "ace abcd abef adef bcde"),
        (128, 5, "acef bcfg acdfg abcdeg"),
        (256, 6, "abefh acfgh cdegh"),
        (512, 7, "abcdef abcghi"),
    ),
    12: (
        (16, 3, "ab ac ad bc bd acd bcd abcd"),
        (32, 4, "abc abd acd ace bde cde abcde"),
        (64, 4, "ade cde abce acef bdef abcdf"),
        (128, 4, "def abce bcdg abdfg acefg"),
        (256, 6, "abdeh abfgh acefh abcdefg"),
        (512, 6, "abghi abcdfi bcefgh"),
        (1024, 8, "abcdefg abcdhij"),
    ),
}
