"""A file for Ray's cluster launcher, such as cluster.yaml: whether it is right, what it can start, at which price."""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click
import yaml
from jsonschema import ValidationError

from farm.errors import BadSetting, nearest
from farm.study.machine import RESOURCE, Price, units_in
from workers.node.labels import DATE_LABEL, USD_LABEL, price
from workers.ray_internals import launcher

MAX_BYTES = 2**20


class Kind(NamedTuple):
    """A node type: the units that it offers of each machine class, how many such nodes there may be, and its price."""

    units: dict[str, int]
    most: int
    price: Price | None = None


class Fleet(NamedTuple):
    """The nodes that an autoscaler may start: node types by name, and how many over all of them."""

    kinds: dict[str, Kind]
    most: int

    @property
    def classes(self) -> list[str]:
        """The machine classes that some node type offers."""
        return sorted({name for kind in self.kinds.values() for name in kind.units})

    def offering(self, machine: str) -> list[str]:
        """The node types that offer a machine class."""
        return [name for name, kind in self.kinds.items() if machine in kind.units]

    def units(self, machine: str) -> int:
        """Runs of a class that one node trains at a time; the fewest, where node types differ."""
        return min(self.kinds[name].units[machine] for name in self.offering(machine))

    def price(self, machine: str) -> Price | None:
        """The price of a node of a class; the highest, where node types differ."""
        prices = [price for name in self.offering(machine) if (price := self.kinds[name].price)]
        return max(prices, key=lambda price: price.usd_per_hour, default=None)

    def limit(self, machine: str) -> int:
        """Nodes of a class that there may be."""
        return min(self.most, sum(self.kinds[name].most for name in self.offering(machine)))


def load(path: Path) -> dict[str, Any]:
    """The file as Ray's launcher has it before it talks to any cloud: checked, and with every default in place.

    Raises: BadSetting: in one line, what is wrong, where, and what would be right.
    """
    given = _read(path)
    remedy = f"Fix it, then: farm doctor --cluster {path}"
    try:
        return launcher.ready(given)
    except ValidationError as error:
        raise BadSetting(f"{path}: {_explain(error)}", remedy=remedy) from None
    except (click.ClickException, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        said = f"{error} is missing" if isinstance(error, KeyError) else _first(str(error))
        raise BadSetting(f"{path}: {said}.", remedy=remedy) from None


def fleet(config: Mapping[str, Any]) -> Fleet:
    """The node types of a `load`ed file that offer a machine class."""
    types = config.get("available_node_types", {})
    most = int(config.get("max_workers", 0))
    kinds = {name: _kind(kind, most) for name, kind in types.items() if name != config.get("head_node_type")}
    return Fleet({name: kind for name, kind in kinds.items() if kind.units}, most)


def doubts(config: Mapping[str, Any], known: Collection[str]) -> Iterator[str]:
    """Name what Ray accepts in a `load`ed file and the farm does not want. `known`: machine classes."""
    if "--autoscaling-config" not in " ".join(config.get("head_start_ray_commands", [])):
        yield "head_start_ray_commands do not start an autoscaler, so no worker ever starts: add --autoscaling-config"
    if config["provider"]["type"] == "local":  # Ray has no node types there: each machine says what it is
        if "usd_per_hour" not in "\n".join(map(str, config.get("setup_commands", []))):
            yield "no price: let setup_commands write usd_per_hour of each class to ~/.config/farm/config.toml"
        return
    kinds = fleet(config).kinds
    head = config["available_node_types"][config["head_node_type"]]
    if head["resources"].get("CPU") != 0:
        yield f"{config['head_node_type']}: a head that trains may run out of memory with all it keeps: resources.CPU 0"
    for name in config["available_node_types"].keys() - kinds.keys() - {config["head_node_type"]}:
        yield f'{name} offers no machine class, so no run starts it: resources {{"{RESOURCE}CLASS": 1}}'
    for name in (name for name, kind in kinds.items() if kind.price is None):
        yield f'{name} has no price, so that plans use a built-in one or none: labels {{{USD_LABEL}: "21.96"}}'
    for name in (name for name, kind in kinds.items() if kind.price and kind.price.date is None):
        yield f'{name}: its price has no date: labels {{{DATE_LABEL}: "2026-11-20"}}'
    for machine in sorted({machine for kind in kinds.values() for machine in kind.units} - set(known)):
        yield f"unknown machine class {machine}: declare [machines.{machine}] in farm.toml or in the studies"


def _kind(table: Mapping[str, Any], most: int) -> Kind:
    units = {name: int(count) for name, count in units_in(table.get("resources", {})).items() if int(count) > 0}
    return Kind(units, min(most, int(table.get("max_workers", most))), price(table.get("labels", {})))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = path.expanduser().read_bytes()
        given = yaml.safe_load(content[: MAX_BYTES + 1]) if len(content) <= MAX_BYTES else None
    except OSError as error:
        raise BadSetting(f"{path}: {error.strerror}.", remedy="Name a file such as cluster.yaml.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise BadSetting(f"{path}: not YAML: {' '.join(str(error).split())}.", remedy="Fix it.") from None
    if not isinstance(given, dict):
        raise BadSetting(f"{path} is not a cluster file.", remedy="Start from cluster.yaml or examples/onprem.yaml.")
    return given


def _explain(error: ValidationError) -> str:
    """Where the file is wrong, and what is allowed there."""
    where = ".".join(map(str, error.absolute_path))
    if error.validator != "additionalProperties":
        return f"{where}: {_first(error.message)}." if where else f"{_first(error.message)}."
    known = error.schema["properties"]
    key = next(key for key in error.instance if key not in known)
    return f"{where}{'.' * bool(where)}{key}: unknown key{nearest(str(key), known, listed=True)}"


def _first(text: str) -> str:
    return re.sub(r"\s+", " ", text.strip())[:300].rstrip(".")
