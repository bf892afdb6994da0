"""The engines by which machines are rented, by the names that records and settings have for them."""

from farm.errors import BadSetting, nearest
from farm.site.settings import Settings
from workers.rent.engine import Engine, Software
from workers.rent.lambda_engine import LambdaEngine
from workers.rent.sky_engine import SkyEngine

NAMES = ("lambda", "skypilot")


def engine(name: str, here: Settings, software: Software) -> Engine:
    """The one of that name, for the farm of `here`.

    Raises: BadSetting: there is none.
    """
    if name == "skypilot":
        return SkyEngine(here.home, software, here.rent.sky)
    if name != "lambda":
        raise BadSetting(f"no engine {name!r} rents machines{nearest(name, NAMES, listed=True)}")
    return LambdaEngine(here.home, software)
