"""Write the pages of the reference from ``api.toml`` and the package's ``__all__``.

Each public name stands where ``api.toml`` puts it, else at the end of the page of its namespace;
one object that is exported twice is documented once.
"""

import tomllib
from inspect import isclass, isroutine
from pathlib import Path
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

import rvrae_pyro as rv

HERE = Path(__file__).resolve().parents[1]
OTHERS = "more"


def lookup(name: str) -> Any:
    """Return what ``rv.name`` is, None where there is no such thing."""
    value: Any = rv
    for step in name.split("."):
        value = getattr(value, step, None)
    return value


def has_page(name: str) -> bool:
    """Whether it is a class or function; constants and aliases have no page of their own."""
    return isclass(lookup(name)) or isroutine(lookup(name))


def namespaces() -> list[str]:
    """Return the public modules of the package."""
    return [name for name in rv.__all__ if isinstance(lookup(name), ModuleType)]


def public_names() -> list[str]:
    """Return every public name: of the package, then of each of its public modules."""
    own = [n for n in rv.__all__ if not isinstance(lookup(n), ModuleType) and n != "__version__"]
    for space in namespaces():
        module = lookup(space)
        own += [f"{space}.{name}" for name in getattr(module, "__all__", ())]
    return own


def layout() -> list[dict[str, Any]]:
    """Return pages with their groups: those of ``api.toml``, and what these leave out.

    Public modules that no page claims share one of their own.
    """
    pages = tomllib.loads((HERE / "api.toml").read_text("utf-8"))["page"]
    seen: set[int] = set()
    for page in pages:
        for group in page.setdefault("group", []):
            # a name may be announced in api.toml before it exists
            group["names"] = [n for n in group["names"] if lookup(n) is not None]
            seen |= {id(lookup(n)) for n in group["names"]}
    homes = {space: page for page in pages for space in page.get("namespaces", ())}
    if lost := sorted(set(namespaces()) - set(homes)):
        others = {"name": "others", "title": "Other modules", "namespaces": lost, "group": []}
        pages.append(others)
        homes |= dict.fromkeys(lost, others)
    for name in public_names():
        if id(lookup(name)) in seen:
            continue
        seen.add(id(lookup(name)))
        space, dot, _ = name.rpartition(".")
        page = homes[space] if dot else pages[0]
        _rest(page)["names"].append(name)
    return [page for page in pages if any(group["names"] for group in page["group"])]


def _rest(page: dict[str, Any]) -> dict[str, Any]:
    """Return the page's last group, for what no other claims."""
    groups: list[dict[str, Any]] = page["group"]
    if not groups or groups[-1].get("kind") != OTHERS:
        groups.append({"title": "More" if groups else "", "names": [], "kind": OTHERS})
    return groups[-1]


def render(page: dict[str, Any]) -> str:
    """Return a page as reStructuredText."""
    lines = [page["title"], "=" * len(page["title"]), "", page.get("text", ""), ""]
    for space in page.get("namespaces", ()):
        lines += [f".. py:module:: rvrae_pyro.{space}", ""]
    lines += [".. py:currentmodule:: None", ""]
    for group in page["group"]:
        if not group["names"]:
            continue
        if group["title"]:
            lines += [group["title"], "-" * len(group["title"]), ""]
        named = [n for n in group["names"] if has_page(n)]
        rest = [n for n in group["names"] if n not in named]
        lines += [".. autosummary::", "   :toctree: generated", "   :nosignatures:", ""]
        lines += [f"   rvrae_pyro.{name}" for name in named] + [""]
        if rest:
            lines += ["Also: " + ", ".join(f"``rv.{name}``" for name in rest) + ".", ""]
    return "\n".join(lines)


def write_pages(app: Sphinx, config: Config) -> None:
    """Write ``docs/api``, touching only what has changed; forget names that are gone."""
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    wanted = layout()
    pages = {f"{page['name']}.rst": render(page) for page in wanted}
    for stale in {path.name for path in folder.glob("*.rst")} - set(pages):
        (folder / stale).unlink()
    listed = [name for page in wanted for group in page["group"] for name in group["names"]]
    stubs = {f"rvrae_pyro.{name}.rst" for name in listed if has_page(name)}
    for path in (folder / "generated").glob("*.rst"):
        if path.name not in stubs | {"rvrae_pyro.Fit-class.rst"}:
            path.unlink()
    # told by name: in a rebuild Sphinx would look for new ones only after autosummary has run
    config.autosummary_generate = [f"api/{name}" for name in pages]
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx looks for its sources."""
    app.connect("config-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
