"""Study files as text, for tests of what is made of them."""

import pytest

from farm.errors import BadStudy
from farm.study.study import Study

HEAD = '[study]\nname = "s"\nmachines = ["cpu"]\n'
THREE = """
[interventions.a]
model.dropout = 0.0
[interventions.b]
train.clip_grad_norm = 3.5
[interventions.c]
train.learning_rate = 1e-3
"""
CLIPPED = HEAD + "[baseline.train]\nclip_grad_norm = 1.0\n"


def head(**values: str) -> str:
    """A [study] table with some values of its own."""
    lines = {"name": '"s"', "machines": '["cpu"]'} | values
    return "[study]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items())


def arms(text: str) -> list[str]:
    return [arm.name for arm in Study.parse(text).arms()]


def faults(text: str) -> list[str]:
    """The lines of the error, without the file's name."""
    with pytest.raises(BadStudy) as caught:
        Study.parse(text, "s.toml")
    assert all(line.startswith("s.toml: ") and "\n" not in line for line in caught.value.lines)
    return [line.removeprefix("s.toml: ") for line in caught.value.lines]
