"""The production pair against RVRAE written out month by month."""

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor

import rvrae_pyro as rv
from rvrae_pyro.data.batch import Batch
from tests.helpers import CHARACTERISTICS, FACTORS, double, random_panel, stir
from tests.reference import paper_literal

FEATURES = 2


def build(paper: bool, state: int = 16) -> rv.RVRAE:
    """Build the paper's model or the default one, with weights that hide nothing.

    ``state`` is the width of the recurrent prior: with a narrow one the gradient of the path is
    computed for all months at once, with a wide one month by month.
    """
    if paper:
        model = rv.RVRAE.paper(CHARACTERISTICS, FACTORS, hidden=5)
    else:
        # the default parts; how often the guide looks for the mode is fixed
        likelihood = rv.likelihoods.StudentT(
            rv.likelihoods.CharacteristicScale(CHARACTERISTICS), sweeps=3
        )
        prior = rv.priors.Recurrent(FACTORS, hidden=state, n_context=FEATURES)
        model = rv.RVRAE(CHARACTERISTICS, FACTORS, factor_prior=prior, likelihood=likelihood)
    return stir(model.double())


def weights_of(model: rv.RVRAE) -> dict[str, Tensor]:
    """Copy every weight by name, ready to be differentiated."""
    state = model.parts.state_dict()
    learned = {name for name, _ in model.parts.named_parameters()}
    return {k: v.detach().clone().requires_grad_(k in learned) for k, v in state.items()}


def draw(model: rv.RVRAE, batch: Batch, kl_weight: Tensor) -> tuple[poutine.Trace, poutine.Trace]:
    """Trace guide and model at one draw, with log densities."""
    guide = poutine.trace(model.guide).get_trace(batch, kl_weight)
    trace = poutine.trace(poutine.replay(model.model, guide)).get_trace(batch, kl_weight)
    guide.compute_log_prob()
    trace.compute_log_prob()
    return guide, trace


@pytest.mark.parametrize(
    ("paper", "state", "seed", "weighted"),
    [
        (True, 5, 0, False),
        (True, 5, 1, True),
        (False, 16, 0, False),
        (False, 16, 1, True),
        (False, 2, 2, True),
        (False, 2, 3, False),
    ],
    ids=lambda value: str(value),
)
def test_pair_equals_the_literal_model(paper: bool, state: int, seed: int, weighted: bool) -> None:
    panel = random_panel(8 + seed, 9 + 2 * seed, seed=seed, empty_months=[seed + 2])
    batch = double(panel)
    model, months = build(paper, state), batch.n_times
    kl_weight = torch.linspace(0.3, 1.0, months).double() if weighted else torch.ones(months)
    pyro.set_rng_seed(seed)
    guide, trace = draw(model, batch, kl_weight)
    path = guide.nodes["factors"]["value"].detach().squeeze(-2)
    weights = weights_of(model)
    arguments = (weights, batch, kl_weight, path, paper)

    literal_guide = poutine.trace(paper_literal.guide).get_trace(*arguments)
    replayed = poutine.replay(paper_literal.model, literal_guide)
    literal = poutine.trace(replayed).get_trace(*arguments)
    literal.compute_log_prob()
    literal_guide.compute_log_prob()
    for t in range(months):
        drawn = literal_guide.nodes[f"z_{t}"]
        torch.testing.assert_close(drawn["value"], path[t], rtol=0, atol=1e-10)
        for production, reference in (
            (guide.nodes["factors"]["log_prob"][t].sum(), drawn["log_prob_sum"]),
            (trace.nodes["factors"]["log_prob"][t].sum(), literal.nodes[f"z_{t}"]["log_prob_sum"]),
            (trace.nodes["returns"]["log_prob"][t].sum(), literal.nodes[f"r_{t}"]["log_prob_sum"]),
        ):
            torch.testing.assert_close(production, reference, rtol=1e-8, atol=1e-8)

    pyro.set_rng_seed(seed)
    loss = Trace_ELBO().differentiable_loss(model.model, model.guide, batch, kl_weight)
    reference = Trace_ELBO().differentiable_loss(
        paper_literal.model, paper_literal.guide, *arguments
    )
    torch.testing.assert_close(loss, reference, rtol=1e-8, atol=1e-8)

    learned = dict(model.parts.named_parameters())
    ours = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
    theirs = torch.autograd.grad(reference, [weights[k] for k in learned], allow_unused=True)
    size = max(float(g.abs().max()) for g in theirs if g is not None)
    moved = 0
    for name, mine, its in zip(learned, ours, theirs, strict=True):
        zero = torch.zeros_like(weights[name])
        mine, its = (zero if g is None else g for g in (mine, its))
        torch.testing.assert_close(mine, its, rtol=1e-8, atol=1e-8 * size, msg=name)
        moved += bool((its != 0).any())
    assert moved >= len(learned) - 2


def test_literal_model_is_no_copy_of_a_constant() -> None:
    """A change of any weight that matters moves the literal ELBO away from the production one."""
    batch, model = double(random_panel(6, 8)), build(paper=False)
    ones = torch.ones(batch.n_times)
    pyro.set_rng_seed(0)
    guide, _ = draw(model, batch, ones)
    path = guide.nodes["factors"]["value"].detach().squeeze(-2)
    weights = weights_of(model)
    bound = Trace_ELBO().loss(
        paper_literal.model, paper_literal.guide, weights, batch, ones, path, False
    )
    weights["factor_prior.gru.weight_hh_l0"] = weights["factor_prior.gru.weight_hh_l0"] * 1.01
    other = Trace_ELBO().loss(
        paper_literal.model, paper_literal.guide, weights, batch, ones, path, False
    )
    assert abs(bound - other) > 1e-6
