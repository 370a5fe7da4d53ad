"""The paper's last-code reading: one code a window, through the unrolled decoder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor

import rvrae_pyro as rv
from tests.helpers import double, random_panel, stir


def by_hand(decoder: rv.decoders.LastCode, code: Tensor, n_times: int) -> Tensor:
    """Equations (18)-(21), one month after another."""
    rnn = decoder.rnn
    state = torch.tanh(decoder.start.weight @ code + decoder.start.bias)
    output, outputs = code, []
    for _ in range(n_times):
        state = torch.tanh(
            rnn.weight_hh_l0 @ state + rnn.bias_hh_l0 + rnn.weight_ih_l0 @ output + rnn.bias_ih_l0
        )
        output = decoder.out.weight @ state + decoder.out.bias
        outputs.append(output)
    return torch.stack(outputs)


def test_windows_are_unrolled_from_their_last_code() -> None:
    torch.manual_seed(0)
    decoder = rv.decoders.LastCode(2, hidden=5, window=4).double()
    codes = torch.randn(11, 2, dtype=torch.float64)
    factors = decoder(codes)
    # from the end: months 7-10 from code 10, 3-6 from code 6, and 0-2 take places 2-4 of code 2's
    torch.testing.assert_close(factors[7:], by_hand(decoder, codes[10], 4))
    torch.testing.assert_close(factors[3:7], by_hand(decoder, codes[6], 4))
    torch.testing.assert_close(factors[:3], by_hand(decoder, codes[2], 4)[1:])
    torch.testing.assert_close(decoder(codes[3:]), factors[3:])
    torch.testing.assert_close(decoder(codes[:2])[-1], by_hand(decoder, codes[1], 4)[-1])
    many = decoder(torch.stack([codes, 2.0 * codes]))
    torch.testing.assert_close(many[0], factors)
    # a filter takes each month as the last of its window
    torch.testing.assert_close(decoder.read((), codes[6]), factors[6])


def test_every_step_has_its_divergence_and_only_last_codes_reach_the_returns() -> None:
    model = stir(rv.RVRAE.paper(4, 2, hidden=4, code="last", window=5).double(), size=0.2)
    batch = double(random_panel(10, 8))
    guide = poutine.trace(model.guide).get_trace(batch)
    path = guide.nodes["factors"]["value"].detach().requires_grad_()
    trace = poutine.trace(poutine.condition(model.model, {"factors": path})).get_trace(batch)
    trace.compute_log_prob()
    guide.compute_log_prob()
    assert guide.nodes["factors"]["log_prob"].shape == (10, 1)
    assert bool((guide.nodes["factors"]["log_prob"] != 0).all())
    (slope,) = torch.autograd.grad(trace.nodes["returns"]["log_prob"].sum(), path)
    moved = slope.abs().sum((-1, -2)) > 0
    assert moved.nonzero().squeeze(-1).tolist() == [4, 9]


def test_filtered_factors_of_a_month_know_no_later_return() -> None:
    model = stir(rv.RVRAE.paper(4, 2, hidden=4, code="last", window=3).double(), size=0.2)
    panel = random_panel(9, 8)
    later = panel.copy(deep=True)
    later["returns"][6:] *= -2.0
    walks = []
    for given in (panel, later):
        torch.manual_seed(3)
        walks.append(model.walk(double(given)))
    assert torch.equal(walks[0].log_likelihood[:6], walks[1].log_likelihood[:6])


def test_it_fits_forecasts_saves_and_loads(tmp_path: Path) -> None:
    panel = random_panel(10, 8)
    model = rv.RVRAE.paper(4, 2, hidden=4, code="last", window=4)
    config = rv.FitConfig.paper()
    config = rv.FitConfig(
        window=4, max_steps=3, kl_reduction="mean", kl_schedule=config.kl_schedule
    )
    fit = rv.fit(model, panel, config=config, progress=False)
    fit.save(tmp_path / "fit")
    again = rv.load(tmp_path / "fit")
    assert isinstance(again.model.decoder, rv.decoders.LastCode)
    draws = [f.forecast(panel, num_samples=20)["predictions"]["returns"] for f in (fit, again)]
    np.testing.assert_array_equal(*draws)
    assert np.isfinite(fit.posterior_predictive(panel, num_samples=4)["posterior"]["factors"]).all()
    assert np.isfinite(
        Trace_ELBO().loss(model.model, model.guide, double(panel).to(dtype=torch.float32))
    )


def test_bad_settings_are_refused() -> None:
    with pytest.raises(rv.ConfigError, match="`code` must be 'step' or 'last'"):
        rv.RVRAE.paper(4, 2, code="first")
    with pytest.raises(rv.ConfigError, match="`window` must be a whole number"):
        rv.decoders.LastCode(2, window=0)
    with pytest.raises(rv.ConfigError, match="affine"):
        rv.RVRAE(4, 2, decoder=rv.decoders.LastCode(2))
