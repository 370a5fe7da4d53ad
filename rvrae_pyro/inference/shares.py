"""A window's share of what a whole panel pays once: the divergence of the weights."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from pyro.poutine.messenger import Messenger

__all__ = ["WeightShare"]


class WeightShare(Messenger):
    """Effect handler that counts some sites with a share of their log density.

    The bound of a panel has the divergence of its weights once. Cut into windows, each window's
    bound has a share of it; without that, every step would shrink the weights as if the window
    were all there is.

    Parameters
    ----------
    sites : collection of str
        Sites of the weights, in model and guide.
    share : float
        Above 0, as any scale of a site.
    """

    def __init__(self, sites: Collection[str], share: float) -> None:
        super().__init__()
        self.sites, self.share = frozenset(sites), share

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.sites:
            msg["scale"] = self.share * msg["scale"]
