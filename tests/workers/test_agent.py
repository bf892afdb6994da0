"""The agent's process: what it must not do before it starts the workers."""

import subprocess
import sys


def test_an_agent_imports_no_torch() -> None:
    """Each of a run's processes would import it anew: 1.5 s of a core and 200 MB, in the way of the one that trains."""
    code = "import sys, workers.agent; assert 'ray.train' in sys.modules; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
