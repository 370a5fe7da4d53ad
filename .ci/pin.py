"""Write constraints.txt from what pip itself resolves on each tested Python.

Run ``pip install --dry-run --ignore-installed --report FILE ".[all]"`` once with each
Python, then ``python .ci/pin.py FILE_311 FILE_312 > constraints.txt``. On 3.11 add
``torch==...`` to the command to choose the build of torch.
"""

import json
import re
import sys
from pathlib import Path

HEADER = """\
# Every direct and transitive dependency at the version that is tested, on Python 3.11 and on
# 3.12 and later. Written by .ci/pin.py from pip's own resolutions; docs/contributing.md says how.
"""
OLD, NEW = 'python_version < "3.12"', 'python_version >= "3.12"'


def resolved(report: Path) -> dict[str, str]:
    """Return name -> public version of everything that a pip report would install."""
    installed = json.loads(report.read_text())["install"]
    names = {re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower(): item for item in installed}
    names.pop("rvrae-pyro")
    return {name: item["metadata"]["version"].split("+")[0] for name, item in names.items()}


def pins(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Return one line a version; a marker only where the two Pythons differ."""
    lines = []
    for name in sorted(old | new):
        if old.get(name) == new.get(name):
            lines.append(f"{name}=={old[name]}")
            continue
        for versions, marker in ((old, OLD), (new, NEW)):
            if name in versions:
                lines.append(f"{name}=={versions[name]} ; {marker}")
    return lines


if __name__ == "__main__":
    first, second = (resolved(Path(argument)) for argument in sys.argv[1:3])
    sys.stdout.write(HEADER + "\n".join(pins(first, second)) + "\n")
