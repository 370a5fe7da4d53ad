"""Pictures of fits, forecasts, risk and comparisons, by matplotlib and without torch.

Every function takes a fit or what a fit returns, an optional ``ax``, and returns Axes where it
draws one panel, a Figure where it draws several. Colours are those of Okabe and Ito, which readers
with colour-blindness can distinguish; ``style`` chooses "light" or "dark", and defaults to the
settings of matplotlib (``plt.style.use``).
"""

from rvrae_pyro.plots.fits import comparison, elbo, training
from rvrae_pyro.plots.model import factors, prior_posterior, relevance
from rvrae_pyro.plots.realised import calibration, volatility
from rvrae_pyro.plots.returns import fan, forecast
from rvrae_pyro.plots.risk import risk_split, var_backtest

__all__ = [
    "calibration",
    "comparison",
    "elbo",
    "factors",
    "fan",
    "forecast",
    "prior_posterior",
    "relevance",
    "risk_split",
    "training",
    "var_backtest",
    "volatility",
]
