"""What every test may count on: one thread, a seed, Pyro's checks on, no state left behind."""

import os

# before anything loads a numerical library; subprocesses of the tests inherit it
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "agg"

import random
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

TESTS = Path(__file__).resolve().parent
HAS_TORCH = find_spec("torch") is not None
SEED = 20240302

# a busy machine is no failure; CI tries the same examples every time
settings.register_profile("rvrae", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("rvrae")

# Where torch is missing only the layers that do without it are collected.
WITHOUT_TORCH = (
    "data",
    "evaluation",
    "plots",
    "risk",
    "predictive/test_export.py",
    "test_packaging.py",
)
NEEDS_TORCH = ("data/test_batch.py", "plots/test_fits.py")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out what needs torch where there is none."""
    if HAS_TORCH or not collection_path.is_relative_to(TESTS):
        return None
    path = collection_path.relative_to(TESTS)
    inside = any(path.is_relative_to(name) for name in WITHOUT_TORCH)
    above = any(Path(name).is_relative_to(path) for name in WITHOUT_TORCH)
    if str(path) in NEEDS_TORCH or not (inside or above):
        return True
    return None


def _global_state() -> dict[str, Any]:
    """Return the settings of torch and Pyro that no code and no test may leave changed."""
    import pyro
    import torch

    return {
        "torch default dtype": torch.get_default_dtype(),
        "torch default device": str(torch.get_default_device()),
        "torch grad mode": torch.is_grad_enabled(),
        "torch anomaly mode": torch.is_anomaly_enabled(),
        "torch deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        **{f"pyro {name}": value for name, value in pyro.settings.get().items()},
    }


def _restore(state: dict[str, Any]) -> None:
    import pyro
    import torch

    torch.set_default_dtype(state["torch default dtype"])
    torch.set_default_device(state["torch default device"])
    torch.set_grad_enabled(state["torch grad mode"])
    torch.autograd.set_detect_anomaly(state["torch anomaly mode"])
    torch.use_deterministic_algorithms(state["torch deterministic algorithms"])
    pyro.settings.set(
        **{key[len("pyro ") :]: state[key] for key in state if key.startswith("pyro ")}
    )


@pytest.fixture(scope="session", autouse=True)
def _torch_settings() -> None:
    """Two workers on two cores: more threads would only fight. A warning comes every time."""
    if HAS_TORCH:
        import torch

        torch.set_num_threads(1)
        # by default once a process, so that the order of tests would choose the one that fails
        torch.set_warn_always(True)


@pytest.fixture(autouse=True)
def _clean_slate(_torch_settings: None) -> Iterator[None]:
    """Seed the generators, turn Pyro's checks on, and fail a test that leaves state behind."""
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - third parties draw from it
    with ExitStack() as stack:
        before: dict[str, Any] = {}
        if HAS_TORCH:
            import pyro

            pyro.set_rng_seed(SEED)
            pyro.clear_param_store()
            stack.enter_context(pyro.validation_enabled(True))
            before = _global_state()
        yield
        after = _global_state() if HAS_TORCH else {}
        changed = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
        if changed:
            _restore(before)
            pytest.fail(
                "global state was left changed (before, after): "
                + "; ".join(f"{key} {pair}" for key, pair in changed.items()),
                pytrace=False,
            )
