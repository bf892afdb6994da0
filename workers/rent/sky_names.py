"""SkyPilot's names of accelerators by the machine class that each is, which a machine says itself by what its driver
calls it.

SkyPilot does not tell an A100 of an SXM socket from a PCIe card of the same memory. A machine that turns out to be
another class is ended.
"""

import re

from farm.errors import BadSetting, nearest

ACCELERATORS = {
    "a10m24": ("A10",),
    "a100m40": ("A100",),
    "a100pciem40": ("A100",),
    "a100m80": ("A100-80GB", "A100-80GB-SXM"),
    "a100pciem80": ("A100-80GB",),
    "a10gm24": ("A10G",),
    "h100m80": ("H100", "H100-SXM"),
    "h100pciem80": ("H100",),
    "h200m144": ("H200", "H200-SXM"),
    "l4m24": ("L4",),
    "l40sm48": ("L40S",),
    "rtx3090": ("RTX3090",),
    "rtx4090": ("RTX4090",),
    "rtxa6000": ("RTXA6000", "A6000"),
    "t4m16": ("T4",),
    "v100m16": ("V100",),
    "v100m32": ("V100-32GB",),
}


def accelerators(machine: str) -> dict[str, int]:
    """The accelerators by any of which a machine is of the class, and how many of it.

    Raises: BadSetting: none is known.
    """
    match = re.fullmatch(r"(\d{1,2})x(.+)", machine)
    if match and match[2] in ACCELERATORS:
        return dict.fromkeys(ACCELERATORS[match[2]], int(match[1]))
    known = [f"{match[1] if match else 1}x{name}" for name in ACCELERATORS]
    raise BadSetting(
        f"no accelerators of SkyPilot are known to be a {machine!r}{nearest(machine, known)}",
        remedy=f"Classes for rent: a count, x, and one of {', '.join(ACCELERATORS)}.",
    )
