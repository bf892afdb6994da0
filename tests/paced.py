"""How long a run has to be for something to befall it while it trains."""

from farm.study.processor import WITH_AVX512, instruction_set

SLOWER = 2.5  # at least, a step of these tiny models without AVX-512 (Zen 3) against one with it (Zen 5)


def paced(steps: int) -> int:
    """`steps` of an optimiser on a processor with AVX-512, or fewer that take as long on one without."""
    fast = instruction_set() in WITH_AVX512
    return steps if fast else round(steps / SLOWER)
