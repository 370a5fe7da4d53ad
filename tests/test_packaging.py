"""The files that describe the package agree with each other and with what is installed."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rvrae_pyro._version import __version__

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
OWN_NAME = "rvrae-pyro"
PYTHONS = ("3.11", "3.12")


def requirements_of(python: str) -> list[Requirement]:
    """Return the direct dependencies, of every extra too, that apply on a Python version."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    every = [Requirement(line) for group in groups for line in group]
    return [
        requirement
        for requirement in every
        if requirement.name != OWN_NAME and applies(requirement, python)
    ]


def applies(requirement: Requirement, python: str) -> bool:
    """Tell whether a requirement's marker holds on a Python version."""
    return requirement.marker is None or requirement.marker.evaluate({"python_version": python})


def pins_of(python: str) -> dict[str, str]:
    """Return name -> version that constraints.txt pins on a Python version."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins: dict[str, str] = {}
    for line in lines:
        if line.startswith("#"):
            continue
        requirement = Requirement(line)
        if applies(requirement, python):
            name = canonicalize_name(requirement.name)
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", f"{line} is not an exact pin"
            assert "*" not in specifier.version, f"{line} is not an exact pin"
            assert name not in pins, f"{name} is pinned twice on Python {python}"
            pins[name] = specifier.version
    return pins


def readme_block(name: str) -> list[str]:
    """Return the commands of the README's block marked ``<!-- ci: name -->``, without comments."""
    match = re.search(rf"^<!-- ci: {name} -->\n```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert match is not None, f"README.md has no block marked {name}"
    lines = (re.sub(r"\s+#.*", "", line) for line in match[1].splitlines())
    return [line for line in lines if line]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_direct_dependency_is_pinned_to_a_version_it_allows(python: str) -> None:
    pins = pins_of(python)
    missing = [
        requirement.name
        for requirement in requirements_of(python)
        if canonicalize_name(requirement.name) not in pins
    ]
    assert missing == []
    refused = [
        f"{requirement} but constraints.txt has {pins[canonicalize_name(requirement.name)]}"
        for requirement in requirements_of(python)
        if not requirement.specifier.contains(pins[canonicalize_name(requirement.name)])
    ]
    assert refused == []


@pytest.mark.parametrize("python", PYTHONS)
def test_what_is_installed_needs_nothing_that_is_not_pinned(python: str) -> None:
    if python != f"{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip(f"the installed packages are not those of Python {python}")
    pins = pins_of(python)
    seen: set[str] = set()
    todo = {canonicalize_name(requirement.name) for requirement in requirements_of(python)}
    while todo:
        name = todo.pop()
        seen.add(name)
        try:
            needed = [Requirement(line) for line in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed here
        todo |= {
            canonicalize_name(requirement.name)
            for requirement in needed
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        } - seen
    assert sorted(seen - set(pins)) == []


def test_every_package_that_is_imported_is_declared() -> None:
    pytest.importorskip("torch")  # its owner is asked of what is installed
    owners = metadata.packages_distributions()
    declared = {canonicalize_name(requirement.name) for requirement in requirements_of("3.11")}
    undeclared = {}
    for path in (ROOT / "rvrae_pyro").rglob("*.py"):
        for name in imported_by(path) - sys.stdlib_module_names - {"rvrae_pyro"}:
            if not declared & {canonicalize_name(owner) for owner in owners.get(name, [name])}:
                undeclared[name] = str(path.relative_to(ROOT))
    assert undeclared == {}


def imported_by(path: Path) -> set[str]:
    """Return the top-level packages that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module.partition(".")[0])
    return names


def test_extra_all_names_every_other_extra() -> None:
    (everything,) = (Requirement(line) for line in PROJECT["optional-dependencies"]["all"])
    assert everything.extras == set(PROJECT["optional-dependencies"]) - {"all"}


def test_installed_version_is_the_one_written_in_the_package() -> None:
    assert metadata.version(OWN_NAME) == __version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    assert f"## {__version__}" in (ROOT / "docs" / "changelog.md").read_text()


def test_makefile_runs_the_documented_commands_word_for_word() -> None:
    recipes = re.findall(r"^\t\$\(RUN\) (.+)$", MAKEFILE, re.MULTILINE)
    for command in readme_block("pip"):
        assert command in recipes


def test_ci_reads_its_commands_from_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    function = re.search(r"^readme_commands\(\) \{.*?^\}$", script, re.MULTILINE | re.DOTALL)
    assert function is not None
    for name in ("make", "pip"):
        answer = subprocess.run(
            ["bash", "-c", f"{function[0]}\nreadme_commands {name}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert answer.stdout.splitlines() == readme_block(name)
    assert readme_block("make") == ["make demo", "make test"]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("python", "message"),
    [
        ('case "$2" in *version_info*) echo 3.10.4;; esac', "Python 3.11 or newer is needed"),
        ('case "$2" in *version_info*) echo ok;; *) exit 1;; esac', "lacks the venv module"),
        ("exit 127", "does not run"),
    ],
    ids=["old", "without venv", "broken"],
)
def test_unfit_python_gets_one_clear_line(tmp_path: Path, python: str, message: str) -> None:
    fake = tmp_path / "python3"
    fake.write_text(f"#!/bin/sh\n{python}\n")
    fake.chmod(0o755)
    answer = subprocess.run(
        ["make", "demo", f"PYTHON={fake}", f"VENV={tmp_path / 'venv'}"],
        cwd=ROOT,
        # the tests may themselves have been started by make
        env={key: os.environ[key] for key in os.environ if not key.startswith(("MAKE", "MFLAGS"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2
    assert answer.stdout == ""
    (line,) = answer.stderr.splitlines()
    assert message in line
    assert not (tmp_path / "venv").exists()


def test_array_layers_import_without_torch() -> None:
    modules = ("data", "evaluation", "plots", "risk", "predictive.export")
    code = [
        "import sys",
        "class Refuse:",
        "    def find_spec(self, name, path=None, target=None):",
        "        if name in ('torch', 'pyro'): raise ModuleNotFoundError(name)",
        "sys.meta_path.insert(0, Refuse())",
        "import rvrae_pyro",
        *(f"import rvrae_pyro.{module}" for module in modules),
    ]
    subprocess.run([sys.executable, "-c", "\n".join(code)], cwd=ROOT, check=True)


def test_package_is_marked_as_typed() -> None:
    files = {str(file) for file in metadata.files(OWN_NAME) or []}
    editable = any(name.endswith(".pth") for name in files)
    assert "rvrae_pyro/py.typed" in files or (
        editable and (ROOT / "rvrae_pyro" / "py.typed").exists()
    )


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_a_test_that_leaves_global_state_changed_fails(tmp_path: Path) -> None:
    changes = {
        "torch default dtype": "torch.set_default_dtype(torch.float64)",
        "torch grad mode": "torch.set_grad_enabled(False)",
        "pyro validate_infer": "pyro.settings.set(validate_infer=False)",
    }
    tests = "".join(
        f"def test_{number}():\n    assert torch.tensor(1.0).dtype == torch.float32\n    {line}\n"
        for number, line in enumerate(changes.values())
    )
    (tmp_path / "test_it.py").write_text(f"import pyro, torch\n{tests}")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    answer = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    for setting in changes:
        assert f"was left changed (before, after): {setting}" in answer.stdout
    # each ran on clean state, though the one before it had spoilt that
    assert "3 passed, 3 errors" in answer.stdout
