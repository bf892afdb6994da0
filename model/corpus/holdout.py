"""Which tokens are held out for validation: whole documents from all over the source, where there are enough."""

import numpy as np

from farm.errors import BadCorpus
from farm.study.recipe import MAX_TOKENS

FEW = 100  # documents: of fewer, the last tokens are held out, within a document if need be


def parse(text: str) -> float | int:
    """A share of the tokens, such as 0.01 or 1%, or a number of them.

    Raises: BadCorpus: neither.
    """
    try:
        share = float(text[:-1]) / 100 if text.endswith("%") else float(text.replace("_", "").replace(",", ""))
    except ValueError:
        share = -1.0
    if 0 < share < 1:
        return share
    if 1 <= share <= MAX_TOKENS and share == int(share) and not text.endswith("%"):
        return int(share)
    raise BadCorpus(
        f"--validation {text} is neither a share nor a number of tokens.",
        remedy="Write --validation 0.01 for a hundredth of the tokens, or --validation 1_000_000.",
    )


def hold_out(ends: np.ndarray, total: int, asked: float | int) -> tuple[np.ndarray, np.ndarray]:
    """Stretches of `total` tokens by where each ends, and which of them are held out: at least as many as `asked` for.

    `ends` are those of the documents. The choice is the same for the same documents, and no document is in both parts
    if there are at least FEW.

    Raises: BadCorpus: nothing would be left on one side.
    """
    wanted = round(asked * total) if isinstance(asked, float) else asked
    if not 0 < wanted < total:
        told = f"{asked:,}" if isinstance(asked, int) else f"{asked}"
        raise BadCorpus(
            f"--validation {told} of {total:,} tokens is {wanted:,}, which leaves nothing"
            f" {'to train on' if wanted >= total else 'to validate on'}.",
            remedy="Write a share between 0 and 1, or fewer tokens than there are.",
        )
    if len(ends) < FEW:
        return np.array([total - wanted, total]), np.array([False, True])
    if ends[-1] != total:
        ends = np.append(ends, total)
    order = np.argsort(np.random.PCG64(0).random_raw(len(ends)), kind="stable")  # a stream that numpy never changes
    behind = np.cumsum(np.diff(ends, prepend=0)[order])
    chosen = np.zeros(len(ends), bool)
    chosen[order[: int(np.searchsorted(behind, wanted)) + 1]] = True
    if chosen.all():
        raise BadCorpus(
            f"--validation {asked:,} would take every one of the {len(ends):,} documents.", remedy="Ask for less."
        )
    return ends, chosen


def mask(ends: np.ndarray, chosen: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Which of the tokens from `start` to `stop` are held out."""
    first, last = np.searchsorted(ends, [start, stop - 1], side="right")
    edges = np.clip(ends[first : last + 1], None, stop)
    return np.repeat(chosen[first : last + 1], np.diff(edges, prepend=start))
