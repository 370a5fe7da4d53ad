"""Parts by name: models described in plain types and built again."""

import json

import pytest
import torch

import rvrae_pyro as rv
from rvrae_pyro.models.part import describe, rebuild
from rvrae_pyro.models.registry import build_model, describe_model, is_built_in
from tests.helpers import CHARACTERISTICS as P
from tests.helpers import FACTORS as K

MODELS = {
    "default": lambda: rv.RVRAE(P, K, n_context=2),
    "paper": lambda: rv.RVRAE.paper(P, K, hidden=6),
    "everything else": lambda: rv.RVRAE(
        P,
        K,
        loadings=rv.loadings.MLP(P, K, hidden=(7, 3), weights=rv.weights.Laplace(0.2)),
        factor_prior=rv.priors.Recurrent(
            K, hidden=3, recurrence="observed", idio_level=False, weights=None
        ),
        likelihood=rv.likelihoods.Normal(
            rv.likelihoods.CharacteristicScale(P, hidden=9, weights=rv.weights.Normal(0.5)),
            rv.likelihoods.Alpha(P, weights=rv.weights.GroupLog(strength=5.0)),
        ),
    ),
    "small": lambda: rv.RVRAE(
        P,
        K,
        loadings=rv.loadings.Linear(P, K),
        factor_prior=rv.priors.AR1(K),
        likelihood=rv.likelihoods.StudentT(df=7.0, learn_df=False, sweeps=4),
        guide=rv.guides.Recurrent(K, hidden=3),
    ),
}


@pytest.mark.parametrize("kind", list(MODELS))
def test_description_survives_json_and_rebuilds_the_model(kind: str) -> None:
    model = MODELS[kind]()
    assert is_built_in(model)
    described = json.loads(json.dumps(describe_model(model)))
    again = build_model(described)
    assert describe_model(again) == describe_model(model)
    shapes = [{k: v.shape for k, v in m.parts.state_dict().items()} for m in (model, again)]
    assert shapes[0] == shapes[1]
    again.parts.load_state_dict(model.parts.state_dict())
    torch.testing.assert_close(again.log_weights(), model.log_weights())


def test_sizes_and_omitted_slots_are_filled_in() -> None:
    spec = {
        "n_characteristics": P,
        "n_factors": K,
        "factor_prior": {"kind": "AR1"},
        "likelihood": {"kind": "StudentT", "df": 8, "scale": {"kind": "CharacteristicScale"}},
    }
    model = build_model(spec)
    assert isinstance(model.factor_prior, rv.priors.AR1)
    assert model.likelihood.scale.n_characteristics == P
    assert isinstance(model.loadings, rv.loadings.LSTM)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"factor_pior": {"kind": "AR1"}}, "no part 'factor_pior'.*did you mean 'factor_prior'"),
        ({"factor_prior": {"kind": "AR2"}}, r"among .*\(did you mean 'AR1'\?\); got 'AR2'"),
        ({"factor_prior": {"hidden": 3}}, "must have a `kind` among"),
        (
            {"factor_prior": {"kind": "Recurrent", "hiden": 3}},
            r"no setting 'hiden' \(did you mean 'hidden'\?\)",
        ),
        (
            {"factor_prior": {"kind": "Recurrent", "recurrence": "all"}},
            "'latent', 'both' or 'observed'",
        ),
        ({"loadings": {"kind": "MLP", "weights": {"kind": "Cauchy"}}}, "`weights` must have a"),
        (
            {"factor_prior": {"kind": "CommonVolatility"}},
            "CommonVolatility needs the setting 'base', a part with a `kind` among AR1, ",
        ),
        ({"factor_prior": {"kind": "CommonVolatility", "base": "AR1"}}, r"base = \{kind = 'AR1'\}"),
        (
            {"factor_prior": {"kind": "Augmented", "base": {"kind": "AR1"}}},
            r"Augmented needs the setting 'n_small'\.",
        ),
    ],
)
def test_unknown_names_are_refused_with_a_hint(change: dict[str, object], match: str) -> None:
    with pytest.raises(rv.ConfigError, match=match):
        build_model({"n_characteristics": P, "n_factors": K, **change})


def test_wrong_type_of_a_setting_is_refused() -> None:
    spec = {"n_characteristics": P, "n_factors": K, "loadings": {"kind": "MLP", "hidden": 3}}
    with pytest.raises(rv.ConfigError, match="`loadings` MLP cannot be built"):
        build_model(spec)


def test_own_part_is_not_built_in() -> None:
    class AR1(rv.priors.AR1):
        """Bears a built-in's name."""

    class Mine(rv.priors.AR1):
        pass

    assert not is_built_in(rv.RVRAE(P, K, factor_prior=Mine(K)))
    assert not is_built_in(rv.RVRAE(P, K, factor_prior=AR1(K)))


def test_rebuilt_part_has_its_arguments_and_fresh_weights() -> None:
    part = rv.likelihoods.StudentT(rv.likelihoods.CharacteristicScale(P, hidden=5), df=6.0)
    torch.manual_seed(0)
    again = rebuild(part)
    assert describe(again) == describe(part)
    first = part.scale.network[0].weight
    assert not torch.equal(again.scale.network[0].weight, first)
    with pytest.raises(TypeError, match="derive it from Part"):
        rebuild(torch.nn.Linear(2, 2))


def test_redraw_depends_on_the_seed_alone_and_spares_touched_weights() -> None:
    def weights(model: rv.RVRAE) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in model.parts.parameters()])

    torch.manual_seed(1)
    first = rv.RVRAE(P, K, factor_prior=rv.priors.Recurrent(K))
    torch.manual_seed(2)
    second = rv.RVRAE(P, K, factor_prior=rv.priors.Recurrent(K))
    state = torch.get_rng_state()
    assert first.redraw(5)
    assert second.redraw(5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(weights(first), weights(second), rtol=0, atol=0)
    assert first.redraw(6)
    assert not torch.equal(weights(first), weights(second))
    with torch.no_grad():
        first.factor_prior.head.bias[0] += 0.5
    touched = weights(first)
    assert not first.redraw(6)
    torch.testing.assert_close(weights(first), touched, rtol=0, atol=0)


def test_parts_print_their_arguments() -> None:
    assert "hidden=6" in repr(rv.loadings.LSTM(P, K, hidden=6))
    assert "recurrence='observed'" in repr(rv.priors.Recurrent(K, recurrence="observed"))


def test_calling_the_pair_itself_says_what_to_call() -> None:
    with pytest.raises(TypeError, match=r"model\.model.*model\.guide"):
        rv.RVRAE(P, K)(None)


def test_a_printed_model_shows_each_part_once_as_the_call_that_makes_it() -> None:
    lines = str(rv.RVRAE(P, K)).splitlines()
    names = [line.strip().split("=")[0] for line in lines[1:-1]]
    assert names == ["loadings", "factor_prior", "decoder", "likelihood", "guide"]
    assert "scale=CharacteristicScale(n_characteristics=" in lines[4]
