"""The production pair against the paper's program, which runs month by month."""

import inspect
import re

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

import rvrae_pyro as rv
from rvrae_pyro.data.batch import Batch
from tests.helpers import CHARACTERISTICS, FACTORS, double, random_panel, stir
from tests.reference.default_literal import Default

FEATURES = 2
HIDDEN = 5


def build(paper: bool, state: int = 16) -> rv.RVRAE:
    """Build the paper's model or the default one, with weights that hide nothing.

    ``state`` is the width of the recurrent prior: with a narrow one the gradient of the path is
    computed for all months at once, with a wide one month by month.
    """
    if paper:
        model = rv.RVRAE.paper(CHARACTERISTICS, FACTORS, hidden=HIDDEN)
    else:
        # the default parts; how often the guide looks for the mode is fixed
        likelihood = rv.likelihoods.StudentT(
            rv.likelihoods.CharacteristicScale(CHARACTERISTICS), sweeps=3
        )
        prior = rv.priors.Recurrent(FACTORS, hidden=state, n_context=FEATURES)
        model = rv.RVRAE(CHARACTERISTICS, FACTORS, factor_prior=prior, likelihood=likelihood)
    return stir(model.double())


def as_production(of: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put tensors by the paper's names of weights under the production names.

    A pair of production biases that are added up is one bias of the paper.
    """
    gates = [of[f"beta.W_{g}.bias"] for g in "ifco"]
    head = [of[f"prior.{name}.weight"] for name in ("loc", "log_scale")]
    shift = [of[f"prior.{name}.bias"] for name in ("loc", "log_scale")]
    return {
        "loadings.lstm.weight_ih_l0": torch.cat([of[f"beta.W_{g}.weight"] for g in "ifco"]),
        "loadings.lstm.weight_hh_l0": torch.cat([of[f"beta.U_{g}.weight"] for g in "ifco"]),
        "loadings.lstm.bias_ih_l0": torch.cat(gates),
        "loadings.lstm.bias_hh_l0": torch.cat(gates),
        "loadings.head.weight": of["beta.W_beta.weight"],
        "loadings.head.bias": of["beta.W_beta.bias"],
        # the last row moves the idiosyncratic scales, which the paper's parts leave alone
        "factor_prior.head.weight": torch.cat([*head, torch.zeros_like(head[0][:1])]),
        "factor_prior.head.bias": torch.cat([*shift, torch.zeros_like(shift[0][:1])]),
        "factor_prior.gru.weight_ih_l0": of["prior.gru.weight_ih"],
        "factor_prior.gru.weight_hh_l0": of["prior.gru.weight_hh"],
        "factor_prior.gru.bias_ih_l0": of["prior.gru.bias_ih"],
        "factor_prior.gru.bias_hh_l0": of["prior.gru.bias_hh"],
        "guide.rnn.weight_ih_l0": of["encoder.W_in.weight"],
        "guide.rnn.weight_hh_l0": of["encoder.W_enc.weight"],
        "guide.rnn.bias_ih_l0": of["encoder.W_in.bias"],
        "guide.rnn.bias_hh_l0": of["encoder.W_in.bias"],
        "guide.loc.weight": of["encoder.W_mu.weight"],
        "guide.loc.bias": of["encoder.W_mu.bias"],
        "guide.log_scale.weight": of["encoder.W_sigma.weight"],
        "guide.log_scale.bias": of["encoder.W_sigma.bias"],
        "decoder.rnn.weight_ih_l0": of["decoder.W_f.weight"],
        "decoder.rnn.weight_hh_l0": of["decoder.W_dec.weight"],
        "decoder.rnn.bias_ih_l0": of["decoder.W_f.bias"],
        "decoder.rnn.bias_hh_l0": of["decoder.W_f.bias"],
        "decoder.out.weight": of["decoder.W_out.weight"],
        "decoder.out.bias": of["decoder.W_out.bias"],
        "likelihood.scale.log_scale": of["log_sigma"],
    }


def paper_pair() -> tuple[rv.literal.RVRAE, rv.RVRAE]:
    """Return the paper's program and its fast pair, of the same random weights."""
    program = rv.literal.RVRAE(CHARACTERISTICS, FACTORS, hidden=HIDDEN, unit=0.07).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in program.parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            weight.add_(0.3 * noise)
    model = build(paper=True)
    with torch.no_grad():
        model.return_scale.fill_(program.unit)
        for name, value in as_production(dict(program.named_parameters())).items():
            target = model.parts.get_parameter(name)
            half = name.endswith("_hh_l0") and "bias" in name and "gru" not in name
            # production adds two biases; any split of the paper's one gives the same sum
            share = 0.25 if half else 0.75 if "bias_ih" in name and "gru" not in name else 1.0
            target.copy_(share * value)
    return program, model


def default_pair(state: int) -> tuple[Default, rv.RVRAE]:
    """Return the default parts in the paper's program, and the fast pair."""
    model = build(paper=False, state=state)
    learned = {name for name, _ in model.parts.named_parameters()}
    weights = {
        name: value.detach().clone().requires_grad_(name in learned)
        for name, value in model.parts.state_dict().items()
    }
    return Default(weights, FACTORS), model


def draw(model: rv.RVRAE, batch: Batch, kl_weight: Tensor) -> tuple[poutine.Trace, poutine.Trace]:
    """Trace guide and model at one draw, with log densities."""
    guide = poutine.trace(model.guide).get_trace(batch, kl_weight)
    trace = poutine.trace(poutine.replay(model.model, guide)).get_trace(batch, kl_weight)
    guide.compute_log_prob()
    trace.compute_log_prob()
    return guide, trace


class AtPath(Messenger):
    """Draw each month's code at a given value, as the pathwise derivative of that draw has it."""

    def __init__(self, path: Tensor) -> None:
        super().__init__()
        self.path = path

    def _pyro_sample(self, msg: dict) -> None:
        name = msg["name"]
        if not name.startswith("z_") or msg["done"]:
            return
        fn, value = msg["fn"], self.path[int(name[2:])]
        if isinstance(fn, pyro.distributions.MultivariateNormal):
            root = torch.linalg.cholesky(fn.precision_matrix).T
            msg["value"] = fn.loc + torch.linalg.solve(root, (root @ (value - fn.loc)).detach())
        else:
            loc, scale = fn.base_dist.loc, fn.base_dist.scale
            msg["value"] = loc + scale * ((value - loc) / scale).detach()
        msg["done"] = True


def bound(program: rv.literal.RVRAE, batch: Batch, kl_weight: Tensor, path: Tensor) -> Tensor:
    """Negative bound of a program at a path that its guide draws."""
    guide = AtPath(path)(program.guide)
    return Trace_ELBO().differentiable_loss(program.model, guide, batch, kl_weight)


CASES = [
    ("paper", 5, 0, False),
    ("paper", 5, 1, True),
    ("default", 16, 0, False),
    ("default", 16, 1, True),
    ("default", 2, 2, True),
    ("default", 2, 3, False),
]


@pytest.mark.parametrize(("parts", "state", "seed", "weighted"), CASES, ids=str)
def test_pair_equals_the_literal_program(parts: str, state: int, seed: int, weighted: bool) -> None:
    """Density of every month, bound and gradient, at 1e-8 in double precision."""
    panel = random_panel(8 + seed, 9 + 2 * seed, seed=seed, empty_months=[seed + 2])
    batch = double(panel)
    program, model = paper_pair() if parts == "paper" else default_pair(state)
    months = batch.n_times
    kl_weight = torch.linspace(0.3, 1.0, months).double() if weighted else torch.ones(months)
    pyro.set_rng_seed(seed)
    guide, trace = draw(model, batch, kl_weight)
    path = guide.nodes["factors"]["value"].detach().squeeze(-2)

    literal_guide = poutine.trace(AtPath(path)(program.guide)).get_trace(batch, kl_weight)
    replayed = poutine.replay(program.model, literal_guide)
    literal = poutine.trace(replayed).get_trace(batch, kl_weight)
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
    reference = bound(program, batch, kl_weight, path)
    torch.testing.assert_close(loss, reference, rtol=1e-8, atol=1e-8)

    learned = dict(model.parts.named_parameters())
    ours = torch.autograd.grad(loss, list(learned.values()), allow_unused=True)
    theirs = _gradients(program, reference)
    size = max(float(g.abs().max()) for g in theirs.values())
    moved = 0
    for name, mine in zip(learned, ours, strict=True):
        mine = torch.zeros_like(learned[name]) if mine is None else mine
        torch.testing.assert_close(mine, theirs[name], rtol=1e-8, atol=1e-8 * size, msg=name)
        moved += bool((theirs[name] != 0).any())
    assert moved >= len(learned) - 2


def _gradients(program: rv.literal.RVRAE, loss: Tensor) -> dict[str, Tensor]:
    """Gradient of a program's loss under the production names."""
    weights = dict(program.named_parameters())
    if isinstance(program, Default):
        weights = {name: w for name, w in program.w.items() if w.requires_grad}
    found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    by_name = {
        name: torch.zeros_like(weight) if gradient is None else gradient
        for (name, weight), gradient in zip(weights.items(), found, strict=True)
    }
    return by_name if isinstance(program, Default) else as_production(by_name)


@pytest.mark.parametrize("parts", ["paper", "default"])
def test_bound_of_the_literal_program_depends_on_its_weights(parts: str) -> None:
    """A small change of a recurrent weight moves the bound away from the production one."""
    batch = double(random_panel(6, 8))
    program, model = paper_pair() if parts == "paper" else default_pair(16)
    ones = torch.ones(batch.n_times)
    pyro.set_rng_seed(0)
    guide, _ = draw(model, batch, ones)
    path = guide.nodes["factors"]["value"].detach().squeeze(-2)
    before = bound(program, batch, ones, path)
    if isinstance(program, Default):
        weight = program.w["factor_prior.gru.weight_hh_l0"]
    else:
        weight = program.prior.gru.weight_hh
    with torch.no_grad():
        weight.mul_(1.01)
    assert (before - bound(program, batch, ones, path)).detach().abs() > 1e-6


def test_training_the_literal_program_lowers_its_loss() -> None:
    """``train`` is SVI on the annealed bound; 60 steps explain the returns better than none."""
    batch = rv.data.to_batch(random_panel(10, 12))
    torch.manual_seed(0)
    program = rv.literal.RVRAE(CHARACTERISTICS, FACTORS, hidden=4)
    before = {name: weight.clone() for name, weight in program.named_parameters()}
    pyro.set_rng_seed(0)
    losses = rv.literal.train(program, batch, steps=60, warmup=20, learning_rate=0.02)
    assert len(losses) == 60
    assert sum(losses[-5:]) < sum(losses[:5]) - 5
    moved = [name for name, w in program.named_parameters() if not torch.equal(w, before[name])]
    assert moved == list(before)


def test_the_literal_program_is_at_weight_one_by_default() -> None:
    """It runs under Pyro's own tools with the batch alone."""
    batch = double(random_panel(6, 8))
    program, _ = paper_pair()
    losses = []
    for arguments in ((batch,), (batch, torch.ones(6))):
        pyro.set_rng_seed(0)
        losses.append(Trace_ELBO().loss(program.model, program.guide, *arguments))
    assert losses[0] == losses[1]
    draws = Predictive(program.model, guide=program.guide, num_samples=3)(batch)
    assert draws["z_5"].shape == (3, FACTORS)


def test_the_literal_program_is_short_and_names_each_equation() -> None:
    """At most 150 lines; every equation of the model and its objective, (1) to (31), is cited."""
    source = inspect.getsource(rv.literal)
    assert len(source.splitlines()) <= 150
    named: set[int] = set()
    for low, high in re.findall(r"\((\d+)\)(?:-\((\d+)\))?", source):
        named |= set(range(int(low), int(high or low) + 1))
    assert set(range(1, 32)) <= named


def test_training_leaves_the_callers_parameters_in_the_store() -> None:
    program, _ = paper_pair()
    before = {name: w.detach().clone() for name, w in program.named_parameters()}
    with pyro.get_param_store().scope():
        pyro.param("mine", torch.tensor(3.0))
        rv.literal.train(program, double(random_panel(6, 8)), steps=2)
        assert set(pyro.get_param_store().keys()) == {"mine"}
    assert any(not torch.equal(w, before[name]) for name, w in program.named_parameters())
