"""Peak memory of a process, for scripts that tests start."""

import re
import resource
import sys
from pathlib import Path

__all__ = ["peak_gibibytes"]


def peak_gibibytes() -> float:
    """Highest resident memory of this program since it began.

    ``ru_maxrss`` also counts what the process that started it held at that moment, a test worker
    of more than a gigabyte perhaps; Linux keeps the program's own peak elsewhere.
    """
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(encoding="ascii"), re.MULTILINE)
        assert found is not None
        return int(found[1]) / 2**20
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
