"""Lambda's instance types by the machine class that each is, which a machine says itself by what its driver calls it.

The API says "A100 (40 GB SXM4)" where the driver says NVIDIA A100-SXM4-40GB; `workers.node.hardware` names a class by
the latter. A type that is not listed here is never launched. A machine that turns out to be another class is ended.
"""

from farm.errors import BadSetting, nearest

CLASSES = {
    "gpu_1x_a10": "1xa10m24",
    "gpu_1x_a100": "1xa100pciem40",
    "gpu_2x_a100": "2xa100pciem40",
    "gpu_4x_a100": "4xa100pciem40",
    "gpu_1x_a100_sxm4": "1xa100m40",
    "gpu_8x_a100": "8xa100m40",
    "gpu_8x_a100_80gb_sxm4": "8xa100m80",
    "gpu_1x_a6000": "1xrtxa6000",
    "gpu_2x_a6000": "2xrtxa6000",
    "gpu_4x_a6000": "4xrtxa6000",
    "gpu_1x_h100_pcie": "1xh100pciem80",
    "gpu_1x_h100_sxm5": "1xh100m80",
    "gpu_2x_h100_sxm5": "2xh100m80",
    "gpu_4x_h100_sxm5": "4xh100m80",
    "gpu_8x_h100_sxm5": "8xh100m80",
    "gpu_8x_h100_sxm5gdr": "8xh100m80",
    "gpu_8x_v100": "8xv100m16",
    "gpu_8x_v100_n": "8xv100m16",
}


def types_of(machine: str) -> list[str]:
    """The instance types that are a machine of the class.

    Raises: BadSetting: none is.
    """
    if found := [name for name, there in CLASSES.items() if there == machine]:
        return found
    known = sorted(set(CLASSES.values()))
    raise BadSetting(
        f"no instance type of Lambda is known to be a {machine!r}{nearest(machine, known)}",
        remedy=f"Classes for rent: {', '.join(known)}.",
    )
