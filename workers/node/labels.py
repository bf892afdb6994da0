"""The labels of a Ray node by which the farm knows it: who started it, and what it costs."""

import json
import os
from collections.abc import Mapping

from pydantic import ValidationError as NotValid

from farm.errors import BadSetting
from farm.study.machine import Price
from workers.ray_internals.variables import LABELS

JOIN_LABEL = "farm-join"  # of a node that `farm join` started: a token of that joining
USD_LABEL, SOURCE_LABEL, DATE_LABEL = "farm-usd-per-hour", "farm-price-source", "farm-price-date"


def price(labels: Mapping[str, str]) -> Price | None:
    """The price that the labels of a node type give.

    Raises: BadSetting: one of them does not say what it should.
    """
    said = labels.get(USD_LABEL)
    if said is None:
        return None
    try:
        usd = float(said)
        return Price(usd_per_hour=usd, source=labels.get(SOURCE_LABEL, "cluster file"), date=labels.get(DATE_LABEL))
    except (ValueError, NotValid):
        told = ", ".join(
            f"{name}: {labels[name]!r}" for name in (USD_LABEL, SOURCE_LABEL, DATE_LABEL) if name in labels
        )
        raise BadSetting(
            f"the labels {told} are not a price.",
            remedy=f'Write dollars per hour and a date: {USD_LABEL}: "21.96", {DATE_LABEL}: "2025-06".',
        ) from None


def own_price() -> Price | None:
    """The price of this node, if Ray's launcher started it: it hands a node type's labels to the start commands.

    Raises: BadSetting
    """
    return price(json.loads(os.environ.get(LABELS) or "{}"))
