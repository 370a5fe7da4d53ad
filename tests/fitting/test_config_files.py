"""Settings as plain types and back."""

import json

import pytest
import torch

import rvrae_pyro as rv
from rvrae_pyro.fitting.saved import build_config, describe_config


@pytest.mark.parametrize(
    "config",
    [
        rv.FitConfig(),
        rv.FitConfig.paper(),
        rv.FitConfig(
            optimizer=torch.optim.SGD,
            window=None,
            asset_batch=50,
            dtype=torch.float64,
            kl_schedule=rv.schedules.Linear(0.2, 7, profile=[1.0, 3.0]),
            rate_schedule=rv.schedules.Cosine(0.1, 0.5),
            weights_warmup=0.25,
        ),
    ],
    ids=["default", "paper", "other"],
)
def test_settings_survive_json(config: rv.FitConfig) -> None:
    assert build_config(json.loads(json.dumps(describe_config(config)))) == config


def test_left_out_settings_take_their_defaults() -> None:
    assert build_config({"max_steps": 5}) == rv.FitConfig(max_steps=5)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"steps": 3}, "fit has no setting 'steps'"),
        ({"optimizer": "Adamm"}, "`optimizer` must be the name of a torch optimizer"),
        ({"optimizer": "lr_scheduler"}, "`optimizer` must be the name of a torch optimizer"),
        ({"dtype": "float16"}, "`dtype` must be float32 or float64"),
        ({"kl_schedule": {"kind": "Steps"}}, "`kl_schedule` must have a `kind` among"),
        ({"kl_schedule": "Linear"}, "`kl_schedule` must have a `kind`"),
        ({"kl_schedule": {"kind": "Linear", "stop": 3}}, "`kl_schedule` Linear cannot be built"),
        ({"kl_schedule": {"kind": "Linear", "start": 2.0}}, "`start` must be in"),
        ({"rate_schedule": {"kind": "Steps"}}, "`rate_schedule` must have a `kind` among Cosine"),
        ({"max_steps": "many"}, "`max_steps` must be a whole number"),
        ({"learning_rate": "fast"}, "`learning_rate` must be above 0; got 'fast'"),
        ({"weights_warmup": "slow"}, "`weights_warmup` must be in"),
    ],
)
def test_unknown_settings_are_refused(settings: dict[str, object], match: str) -> None:
    with pytest.raises(rv.ConfigError, match=match):
        build_config(settings)
