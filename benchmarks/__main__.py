"""`python -m benchmarks [NAME ...]`: some of them, or all that this machine can run."""

import sys
from importlib import import_module

import torch

ON_CPU = ("throughput", "kernels", "reduction", "through_ray", "memory", "checkpoints", "commands", "start", "queue")
NAMES = (*ON_CPU, "cuda")


def main(names: list[str]) -> None:
    for name in names or (NAMES if torch.cuda.is_available() else ON_CPU):
        if name not in NAMES:
            sys.exit(f"unknown benchmark {name!r}; known: {', '.join(NAMES)}")
        import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main(sys.argv[1:])
