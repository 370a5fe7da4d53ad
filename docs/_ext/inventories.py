"""Where the names of other projects lead.

``_inventories/*.txt`` list the few names that our pages mention, one a line: role, name and where
it stands under the project's documentation (``$`` for the name). They are packed into the form
that intersphinx reads, so that a build needs no network.
"""

import zlib
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "_inventories"


def pack(text: str) -> tuple[str, bytes]:
    """Return the address that heads a list, and the list as a Sphinx inventory."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    address, *entries = lines
    rows = []
    for entry in entries:
        role, name, location = entry.split()
        rows.append(f"{name} {role} 1 {location} -")
    head = "# Sphinx inventory version 2\n# Project: -\n# Version: -\n"
    head += "# The remainder of this file is compressed using zlib.\n"
    body = zlib.compress(("\n".join(rows) + "\n").encode())
    return address, head.encode() + body


def mapping(*, online: bool) -> dict[str, tuple[str, tuple[str | None, ...]]]:
    """Return intersphinx's mapping: the lists in the folder, asked for online first if wanted."""
    packed = FOLDER.parent / "_build" / "inventories"
    packed.mkdir(parents=True, exist_ok=True)
    found: dict[str, tuple[str, tuple[str | None, ...]]] = {}
    for path in sorted(FOLDER.glob("*.txt")):
        address, content = pack(path.read_text("utf-8"))
        file = packed / f"{path.stem}.inv"
        file.write_bytes(content)
        found[path.stem] = (address, (None, str(file)) if online else (str(file),))
    return found
