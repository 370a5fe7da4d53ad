"""Fits on other machines: a dask.distributed scheduler as an executor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import xarray as xr

from rvrae_pyro._version import __version__
from rvrae_pyro.errors import ConfigError
from rvrae_pyro.fitting.parallel import InMemory, panels_of

if TYPE_CHECKING:
    from distributed import Client


class Cluster:
    """An executor over the workers of a dask.distributed scheduler; see :func:`connect`.

    Parameters
    ----------
    client : distributed.Client
        Connected already; it is not closed.

    Notes
    -----
    If a worker dies, the scheduler gives its fits to the others, and each is counted once. A fit
    that kills every worker it is given to is a failed cell after dask's number of tries
    (``distributed.scheduler.allowed-failures``). Each panel is sent once, not with every fit.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._panels: dict[int, tuple[InMemory, Any]] = {}

    def submit(self, fn: Callable[[Any], Any], job: Any, /) -> Any:
        """Run ``fn(job)`` on some worker and return a future."""
        panels = {name: self._panel(source) for name, source in panels_of(job).items()}
        bare = replace(job, **dict.fromkeys(panels))
        # a distinct name for every task: fits of different calls must not be taken for one
        return self.client.submit(_run_with, fn, bare, list(panels), *panels.values(), pure=False)

    def _panel(self, source: InMemory) -> Any:
        """Make a task of a panel: unlike scattered data it outlives the workers that hold it."""
        if id(source) not in self._panels:
            import dask

            # dask advises against large arguments, which this one travels as on purpose
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1PiB"}):
                future = self.client.submit(_keep, source.panel.compute(), pure=False)
            self._panels[id(source)] = (source, future)  # the source too: it keeps its id
        return self._panels[id(source)][1]


@contextmanager
def connect(address: str, timeout: float = 10.0) -> Iterator[Cluster]:
    """Connect to a dask.distributed scheduler, for ``executor=``.

    Parameters
    ----------
    address : str
        As the scheduler prints it: ``tcp://host:8786``.
    timeout : float
        Seconds to wait for an answer, and again for a first worker.

    Yields
    ------
    Cluster

    Raises
    ------
    ConfigError
        If dask.distributed is not installed, nothing answers at the address, no worker is there,
        or a worker has another version of this package, or none.

    Notes
    -----
    ``compare``, ``benchmark_gkx``, ``walk_forward`` and ``rv.fit_ensemble`` take the executor. Fits
    in threads of one process run one after another; start workers with one thread each:
    ``dask worker tcp://host:8786 --nworkers 8 --nthreads 1``. A scheduler runs all code that
    reaches it; keep it behind a firewall. Leaving the context cancels the fits that have not begun.

    Examples
    --------
    >>> with connect("tcp://10.0.0.1:8786") as cluster:  # doctest: +SKIP
    ...     compare(panel, "all", split=(180, 36, 36), seeds=10, executor=cluster)
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigError(
            "a scheduler needs dask.distributed, which is not installed; "
            "pip install 'rvrae-pyro[scale]'."
        ) from error
    try:
        client = Client(  # type: ignore[no-untyped-call]
            address, timeout=timeout, set_as_default=False
        )
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"no dask scheduler answers at {address!r} ({_first_line(error)}); start one with "
            "`dask scheduler` and pass the address it prints, as in tcp://host:8786."
        ) from error
    with client:
        _check_workers(client, address, timeout)
        yield Cluster(client)


def _check_workers(client: Client, address: str, timeout: float) -> None:
    from distributed import TimeoutError as Late

    try:
        client.wait_for_workers(1, timeout=timeout)
    except Late as error:
        raise ConfigError(
            f"the scheduler at {address!r} has no workers; start some with "
            f"`dask worker {address} --nthreads 1`."
        ) from error
    try:
        versions: dict[str, str] = client.run(_version)
    except Exception as error:  # any error of a worker without the package on unpickling
        raise ConfigError(
            f"a worker of {address!r} cannot import this package ({_first_line(error)}); install "
            f"rvrae-pyro {__version__} where the workers run."
        ) from error
    for worker, version in versions.items():
        if version != __version__:
            raise ConfigError(
                f"the worker {worker} has rvrae-pyro {version}, this is {__version__}; fits of "
                "different versions must not be mixed. Install the same everywhere."
            )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _version() -> str:
    return __version__


def _keep(panel: xr.Dataset) -> xr.Dataset:
    return panel


def _run_with(fn: Callable[[Any], Any], job: Any, names: list[str], *panels: xr.Dataset) -> Any:
    sources = map(InMemory, panels)
    return fn(replace(job, **dict(zip(names, sources, strict=True))))
