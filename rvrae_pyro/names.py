"""Names of dimensions, variables, sites and groups, each written once."""

from typing import Final

# dimensions
TIME: Final = "time"
ASSET: Final = "asset"
CHARACTERISTIC: Final = "characteristic"
FEATURE: Final = "feature"
FACTOR: Final = "factor"
CHAIN: Final = "chain"
DRAW: Final = "draw"
OBS: Final = "obs"
SAMPLE_DIMS: Final = (CHAIN, DRAW)
WEIGHT_DRAW: Final = "weight_draw"
MEMBER: Final = "member"
OTHER_FACTOR: Final = "other_factor"
STEP: Final = "step"

# variables of a panel
RETURNS: Final = "returns"
CHARACTERISTICS: Final = "characteristics"
CONTEXT: Final = "context"
WEIGHT: Final = "weight"
RISK_FREE: Final = "risk_free"

# sites of the pair
FACTORS: Final = "factors"
DECODED_FACTORS: Final = "decoded_factors"
LOG_VARIANCE: Final = "log_variance"
LOG_VOLATILITY: Final = "log_volatility"

# variables of a forecast
LOG_PRIOR: Final = "log_prior"
COMPOUNDED_RETURNS: Final = "compounded_returns"
IDIO_LOG_SCALE: Final = "idio_log_scale"

# what a prior's state says
REGIME: Final = "regime"
REGIME_PROBABILITY: Final = "regime_probability"
