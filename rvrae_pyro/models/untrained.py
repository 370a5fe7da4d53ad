"""Detection of untrained models: weights and units unmodified since construction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from rvrae_pyro.nn.digest import digest_of


class TracksTraining(nn.Module):
    """Module that knows whether its weights and units are still those of construction.

    A subclass has a buffer ``return_scale``, its units, and calls :meth:`mark_built` once built.

    Notes
    -----
    Values are compared by a hash, so that every in-place edit counts: through an optimizer,
    ``Tensor.data`` or ``torch.no_grad``. Casts of dtype or device (``to``, ``double``,
    ``bfloat16``, ``cuda``) change values but not what they stand for; they all pass through
    ``_apply``, which records the hash again. ``load_state_dict`` counts as training regardless of
    the values.
    """

    _built_weights: str | None = None
    _built_units: str | None = None
    """Hashes at construction; None once trained."""

    def mark_built(self) -> None:
        """Record the present weights and units as those of construction."""
        self._built_weights, self._built_units = self._weights_hash(), self._units_hash()

    def mark_redrawn(self) -> None:
        """Record the present weights as untrained."""
        self._built_weights = self._weights_hash()

    def mark_used(self) -> None:
        """Record that weights may have adapted to the present units."""
        self._built_units = None

    def mark_trained(self) -> None:
        """Count weights and units as trained from now on, regardless of their values."""
        self._built_weights = self._built_units = None

    @property
    def untrained(self) -> bool:
        """Whether no parameter was modified since construction, casts aside."""
        return self._built_weights is not None and self._built_weights == self._weights_hash()

    @property
    def unset_units(self) -> bool:
        """Whether units are the placeholders of construction, which no call of the pair used."""
        return self._built_units is not None and self._built_units == self._units_hash()

    def _weights_hash(self) -> str:
        return _hash(dict(self.named_parameters()))

    def _units_hash(self) -> str:
        return _hash({"return_scale": self.get_buffer("return_scale")})

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        untrained, unset_units = self.untrained, self.unset_units
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if untrained:
            self._built_weights = self._weights_hash()
        if unset_units:
            self._built_units = self._units_hash()
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.mark_trained()


def _hash(tensors: Mapping[str, Tensor]) -> str:
    """Hash values; tensors on the meta device have none."""
    return "meta" if any(each.is_meta for each in tensors.values()) else digest_of(tensors)


@contextmanager
def single_precision() -> Iterator[None]:
    """Set torch's default dtype to float32, so that random draws do not depend on the user's."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
