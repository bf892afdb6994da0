"""How Ray's cluster launcher reads its file, before it talks to any cloud."""

import logging
from typing import Any

from ray.autoscaler._private import util
from ray.autoscaler._private.util import prepare_config, validate_config


def ready(given: dict[str, Any]) -> dict[str, Any]:
    """A cluster file's content, checked and with every default in place.

    Raises: jsonschema's ValidationError, click's ClickException, and what Ray stumbles over: ValueError, KeyError,
    TypeError, AttributeError, RuntimeError.
    """
    logging.getLogger(util.__name__).setLevel(logging.ERROR)  # it warns of what it filled in itself
    config = prepare_config(given)
    validate_config(config)
    return config
