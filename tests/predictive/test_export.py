"""Trees from arrays of draws: labels, files, and the ArviZ functions that must run on them."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from rvrae_pyro.data.simulators import simulate_dynamic
from rvrae_pyro.errors import CheckpointError, ConfigError, PanelError, ShapeError
from rvrae_pyro.predictive.export import provenance, to_datatree
from rvrae_pyro.predictive.storage import read_tree, write_tree
from rvrae_pyro.predictive.tree import build_tree
from rvrae_pyro.risk import summarize

T, N, K, S = 8, 6, 2, 40


@pytest.fixture(scope="module")
def panel():
    return simulate_dynamic(N, T, 4, K, missing=0.25, turnover=0.6, seed=3)


def draw(panel, seed=0):
    """What Predictive returns for the pair: plates time -2 and asset -1, then event dims."""
    rng = np.random.default_rng(seed)
    factors = panel.true_factors.values + 0.01 * rng.normal(size=(S, T, K))
    loc = np.einsum("tnk,stk->stn", panel.true_beta.fillna(0.0).values, factors)
    returns = loc + 0.07 * rng.normal(size=(S, T, N))
    density = -0.5 * ((panel.returns.values - loc) / 0.07) ** 2 - np.log(0.07 * np.sqrt(2 * np.pi))
    return {"factors": factors[:, :, None, :], "returns": returns}, {"returns": density}


@pytest.fixture(scope="module")
def tree(panel):
    samples, density = draw(panel)
    stats = {"lp": np.arange(S) * 1.0, "log_q": np.zeros((S, T))}
    return to_datatree(
        samples,
        panel,
        log_likelihood=density,
        sample_stats=stats,
        attrs=provenance(5, {"steps": 3}, "abc"),
    )


@pytest.fixture(scope="module")
def forecast(panel):
    samples, _ = draw(panel)
    constant = {
        "beta": panel.true_beta.values,
        "idio_scale": np.full((T, N), 0.07),
        "listed": panel.true_beta.notnull().all("factor").values,
    }
    first = to_datatree(samples, panel, kind="predictions")
    return build_tree(
        {"predictions": first["predictions"].to_dataset(), "predictions_constant_data": constant},
        coords={"time": panel.time, "asset": panel.asset},
        attrs=provenance(5),
    )


# ------------------------------------------------------------------ labels


def test_groups_dims_and_labels(panel, tree):
    assert set(tree.children) == {
        "posterior", "posterior_predictive", "observed_data", "log_likelihood", "sample_stats",
    }  # fmt: skip
    assert tree["posterior/factors"].dims == ("chain", "draw", "time", "factor")
    assert tree["posterior/factors"].shape == (1, S, T, K)
    assert tree["posterior"].factor.values.tolist() == [1, 2]
    np.testing.assert_array_equal(tree["posterior"].time, panel.time)
    assert tree["posterior_predictive/returns"].dims == ("chain", "draw", "obs")
    assert tree["observed_data/returns"].dims == ("obs",)
    assert tree["sample_stats/lp"].dims == ("chain", "draw")
    assert tree["sample_stats/log_q"].dims == ("chain", "draw", "time")


def test_cells_are_the_observed_ones_with_their_labels(panel, tree):
    samples, density = draw(panel)
    n = int(panel.returns.notnull().sum())
    for group, values in (
        ("observed_data", panel.returns.values),
        ("posterior_predictive", samples["returns"]),
        ("log_likelihood", density["returns"]),
    ):
        found = tree[group]["returns"]
        assert found.sizes["obs"] == n
        assert found.notnull().all()
        times = panel.get_index("time").get_indexer(found.time.values)
        assets = panel.get_index("asset").get_indexer(found.asset.values)
        expected = values[..., times, assets]
        np.testing.assert_array_equal(found.values.reshape(expected.shape), expected)


def test_factors_are_labelled_by_value(panel, tree):
    samples, _ = draw(panel)
    one = tree["posterior/factors"].sel(time=panel.time.values[3], factor=2)
    np.testing.assert_array_equal(one.values[0], samples["factors"][:, 3, 0, 1])


@pytest.mark.parametrize(
    "shape", [(S, T, 1, K), (S, 1, T, 1, K), (S, 1, 1, T, 1, K), (S, 1, 1, T, K), (S, T, K)]
)
def test_singleton_plates_go_by_place(panel, shape):
    values = np.random.default_rng(1).normal(size=(S, T, K))
    tree = to_datatree({"factors": values.reshape(shape)}, panel)
    np.testing.assert_array_equal(tree["posterior/factors"].values[0], values)


@pytest.mark.parametrize(("n_times", "n_assets", "n_factors"), [(1, 3, 2), (3, 1, 1), (1, 1, 1)])
def test_sizes_of_one_keep_their_dims(n_times, n_assets, n_factors):
    panel = simulate_dynamic(4, 5, 3, n_factors, turnover=0.0, missing=0.0)
    panel = panel.isel(time=slice(n_times), asset=slice(n_assets))
    samples = {
        "factors": np.zeros((7, n_times, 1, n_factors)),
        "returns": np.zeros((7, n_times, n_assets)),
    }
    tree = to_datatree(samples, panel)
    assert tree["posterior/factors"].shape == (1, 7, n_times, n_factors)
    assert tree["posterior_predictive/returns"].shape == (1, 7, n_times * n_assets)


def test_own_sites_take_the_dims_they_are_given(panel):
    samples = {
        "log_variance": np.zeros((S, T, 1)),
        "likelihood.scale": np.zeros((S, 1, 1)),
        "weights": np.zeros((S, 1, 1, 5, 3)),
        "skill": np.zeros((S, 1, 1, N)),
        "head": np.zeros((S, 1, 1, 3)),
    }
    tree = to_datatree(
        samples,
        panel,
        dims={"log_variance": ("time",), "skill": ("asset",), "head": ("unit",)},
        coords={"unit": ["a", "b", "c"]},
    )
    posterior = tree["posterior"]
    assert posterior["log_variance"].dims == ("chain", "draw", "time")
    assert posterior["likelihood.scale"].dims == ("chain", "draw")
    assert posterior["weights"].dims == ("chain", "draw", "weights_dim_0", "weights_dim_1")
    assert posterior["skill"].dims == ("chain", "draw", "asset")
    assert posterior["head"].sel(unit="b").shape == (1, S)
    assert "observed_data" in tree.children
    assert "posterior_predictive" not in tree.children


def test_decoded_factors_take_the_name_and_codes_become_latents(panel):
    samples = {"factors": np.zeros((S, T, 1, K)), "decoded_factors": np.ones((S, T, 1, K))}
    posterior = to_datatree(samples, panel)["posterior"]
    assert set(posterior.data_vars) == {"factors", "latents"}
    assert bool((posterior["factors"] == 1).all())
    assert bool((posterior["latents"] == 0).all())


def test_prior_and_chains(panel):
    samples, _ = draw(panel)
    chained = {name: x.reshape(4, 10, *x.shape[1:]) for name, x in samples.items()}
    tree = to_datatree(chained, panel, kind="prior", group_by_chain=True)
    assert set(tree.children) == {"prior", "prior_predictive", "observed_data"}
    assert tree["prior/factors"].shape == (4, 10, T, K)
    assert dict(tree["prior_predictive"].sizes)["chain"] == 4
    plain = to_datatree(samples, panel, kind="prior")
    np.testing.assert_array_equal(
        tree["prior/factors"].values.reshape(1, S, T, K), plain["prior/factors"]
    )


def test_prior_returns_are_those_of_every_listed_cell(panel):
    samples, _ = draw(panel)
    found = to_datatree(samples, panel, kind="prior")["prior_predictive/returns"]
    assert found.dims == ("chain", "draw", "time", "asset")
    listed = panel.characteristics.notnull().any("characteristic").values
    assert not listed.all()
    np.testing.assert_array_equal(found.values[0], np.where(listed, samples["returns"], np.nan))
    live = listed & panel.returns.isnull().values
    assert live.any()
    assert np.isfinite(found.values[:, :, live]).all()


def test_predictions_cover_listed_cells_only(panel, forecast):
    returns = forecast["predictions/returns"]
    assert returns.dims == ("chain", "draw", "time", "asset")
    listed = panel.characteristics.notnull().any("characteristic")
    known = returns.notnull()
    assert bool((known.all(("chain", "draw")) == listed).all())
    assert bool((known.any(("chain", "draw")) == listed).all())
    assert not bool(listed.all())
    assert forecast["predictions_constant_data/beta"].dims == ("time", "asset", "factor")


def test_a_forecast_tree_feeds_the_risk_summary(forecast):
    result = summarize(forecast, tail=0.25)
    total = result["factor_var"] + result["idio_var"] + result["parameter_var"]
    np.testing.assert_allclose(total, result["sd"] ** 2)
    assert result.attrs["seed"] == 5


def test_members_have_loadings_of_their_own(panel):
    beta = np.zeros((3, T, N, K))
    tree = build_tree(
        {
            "predictions_constant_data": {"beta": beta},
            "constant_data": {"context": np.zeros((T, 2))},
        },
        coords={"time": panel.time.values, "asset": panel.asset.values},
    )
    assert tree["predictions_constant_data/beta"].dims == ("chain", "time", "asset", "factor")
    assert tree["constant_data/context"].dims == ("time", "feature")


def test_same_arrays_same_tree(panel, tree):
    samples, density = draw(panel)
    stats = {"lp": np.arange(S) * 1.0, "log_q": np.zeros((S, T))}
    again = to_datatree(
        samples, panel, log_likelihood=density, sample_stats=stats, attrs=dict(tree.attrs)
    )
    assert again.identical(tree)
    assert not any("created_at" in node.attrs for node in tree.subtree)


def test_tensors_with_gradients_are_taken(panel):
    torch = pytest.importorskip("torch")
    factors = torch.zeros(S, T, 1, K, requires_grad=True)
    tree = to_datatree({"factors": factors}, panel)
    assert tree["posterior/factors"].dtype == np.float32


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("decoded", [False, True])
def test_output_of_predictive_itself(panel, parallel, decoded):
    pytest.importorskip("torch")
    from pyro.infer import Predictive

    import rvrae_pyro as rv
    from rvrae_pyro.data.batch import to_batch

    if decoded:
        model = rv.RVRAE(
            4,
            K,
            factor_prior=rv.priors.Recurrent(K),
            decoder=rv.decoders.Recurrent(K),
            guide=rv.guides.Recurrent(K),
        )
    else:
        model = rv.RVRAE(4, K, factor_prior=rv.priors.Recurrent(K))
    batch = to_batch(panel).without_returns()
    predictive = Predictive(model.model, guide=model.guide, num_samples=5, parallel=parallel)
    samples = predictive(batch)
    tree = to_datatree(samples, panel)
    n = int(panel.returns.notnull().sum())
    assert tree["posterior_predictive/returns"].shape == (1, 5, n)
    assert set(tree["posterior"].data_vars) == ({"factors", "latents"} if decoded else {"factors"})
    code = tree["posterior"]["latents" if decoded else "factors"]
    expected = samples["factors"].detach().numpy().reshape(1, 5, T, K)
    np.testing.assert_array_equal(code.values, expected)


def test_export_risk_and_scores_import_without_torch():
    code = (
        "import sys\n"
        "import rvrae_pyro.predictive.export, rvrae_pyro.risk, rvrae_pyro.evaluation\n"
        "import rvrae_pyro.data.simulators\n"
        "sys.exit(', '.join({'torch', 'pyro'} & set(sys.modules)) or None)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# ------------------------------------------------------------------ attributes and files


def test_provenance_is_repeatable_and_plain():
    @dataclasses.dataclass(frozen=True)
    class Schedule:
        end: float = 1.0

    @dataclasses.dataclass(frozen=True)
    class Config:
        schedule: Schedule = dataclasses.field(default_factory=Schedule)
        patience: int | None = None
        sizes: tuple[int, ...] = (1, 2)
        rate: object = np.float32(0.5)

    first, again = provenance(np.int64(3), Config(), "f00"), provenance(3, Config(), "f00")
    assert first == again
    assert json.loads(first["config"]) == {
        "schedule": {"end": 1.0}, "patience": None, "sizes": [1, 2], "rate": 0.5,
    }  # fmt: skip
    assert json.loads(first["versions"])["numpy"] == np.__version__
    assert first["data_fingerprint"] == "f00"
    assert all(isinstance(value, str | int) for value in first.values())
    assert set(provenance(1)) == {"seed", "versions"}


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
@pytest.mark.parametrize("kind", ["tree", "forecast"])
def test_files_give_back_what_was_written(request, tmp_path, suffix, kind):
    original = request.getfixturevalue(kind)
    path = tmp_path / f"draws{suffix}"
    assert write_tree(original, path) == path
    for _ in range(2):  # the second time from what the first read
        back = read_tree(path)
        assert back.identical(original)
        for other in original.subtree:
            for name, coordinate in other.coords.items():
                assert back[other.path].coords[name].dtype.kind == coordinate.dtype.kind
        write_tree(back, path)
    lazy = read_tree(path, load=False)
    assert lazy.identical(original)
    lazy.close()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@settings(max_examples=5)
@given(
    seed=st.integers(0, 1000),
    labels=st.lists(st.text("aé雪 0/.", min_size=1), unique=True, min_size=1, max_size=5),
)
def test_any_labels_survive_files(tmp_path_factory, seed, labels):
    rng = np.random.default_rng(seed)
    mask = rng.uniform(size=(3, len(labels))) < 0.7
    mask[0, 0] = True
    times = np.array(["2020-01-31", "2020-02-29", "2020-03-31"], dtype="datetime64[ns]")
    tree = build_tree(
        {
            "posterior_predictive": {"returns": rng.normal(size=(1, 4, 3, len(labels)))},
            "predictions": {"returns": rng.normal(size=(1, 4, 3, len(labels)))},
        },
        coords={"time": times, "asset": labels},
        observed=mask,
        attrs={"flag": True, "nothing": None, "nested": {"a": [1, 2]}, "n": np.int64(2)},
    )
    assert tree.attrs == {"flag": "true", "nothing": "null", "nested": '{"a": [1, 2]}', "n": 2}
    folder = tmp_path_factory.mktemp("labels")
    for suffix in (".nc", ".zarr"):
        assert read_tree(write_tree(tree, folder / f"t{suffix}")).identical(tree)


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_a_failed_write_leaves_the_old_file(tree, forecast, tmp_path, suffix, monkeypatch):
    path = tmp_path / f"draws{suffix}"
    write_tree(tree, path)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(xr.DataTree, "to_zarr" if suffix == ".zarr" else "to_netcdf", fail)
        with pytest.raises(ConfigError, match="cannot be written: disk full"):
            write_tree(forecast, path)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert read_tree(path).identical(tree)


def test_attributes_of_variables_and_groups_become_plain(tree, tmp_path):
    marked = tree.copy(deep=True)
    marked["posterior"].attrs["ok"] = None
    marked["posterior/factors"].attrs["signs"] = {"aligned": True}
    back = read_tree(write_tree(marked, tmp_path / "t.nc"))
    assert back["posterior"].attrs["ok"] == "null"
    assert back["posterior/factors"].attrs["signs"] == '{"aligned": true}'
    assert marked["posterior"].attrs["ok"] is None  # the tree itself is left alone


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
@pytest.mark.parametrize("dims", [["chain", "draw"], ["sample"], []])
def test_sample_dims_that_arviz_keeps_survive(tree, tmp_path, suffix, dims):
    marked = tree.copy(deep=True)
    marked["posterior"].attrs["sample_dims"] = dims
    back = read_tree(write_tree(marked, tmp_path / f"t{suffix}"))
    assert back["posterior"].attrs["sample_dims"] == dims


def test_file_misuse_is_named(tree, tmp_path):
    with pytest.raises(ConfigError, match=r"`path` must end in \.nc or \.zarr; got 'draws\.pkl'"):
        write_tree(tree, "draws.pkl")
    with pytest.raises(ConfigError, match="in a folder that does not exist"):
        write_tree(tree, tmp_path / "none" / "t.nc")
    with pytest.raises(ConfigError, match=r"`tree` must be an xarray\.DataTree; got Dataset"):
        write_tree(tree["posterior"].to_dataset(), tmp_path / "t.nc")
    with pytest.raises(CheckpointError, match="There is no"):
        read_tree(tmp_path / "t.zarr")
    broken = tmp_path / "broken.nc"
    broken.write_bytes(b"no netCDF at all")
    with pytest.raises(CheckpointError, match=r"cannot be read as a \.nc tree"):
        read_tree(broken)
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot be read as a \.zarr tree"):
        read_tree(tmp_path / "empty.zarr")


# ------------------------------------------------------------------ misuse


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({"factors": np.zeros((S, T + 1, 1, K))}, r"Site `factors` has shape \(40, 9, 1, 2\)"),
        ({"returns": np.zeros((S, N, T))}, "Was it drawn for this panel"),
        ({"factors": np.zeros((S, T, 3, K))}, "Site `factors`"),
        ({"factors": np.zeros((S, T, 1, K)), "b": np.zeros(3)}, "the same one sample dim"),
        ({}, "the same one sample dim"),
        ({"b": np.float64(1.0)}, "the same one sample dim"),
    ],
)
def test_samples_that_do_not_fit_are_refused(panel, samples, message):
    with pytest.raises(ShapeError, match=message):
        to_datatree(samples, panel)


def test_misuse_is_named(panel):
    factors = {"factors": np.zeros((S, T, 1, K))}
    with pytest.raises(ConfigError, match="`kind` must be 'posterior', 'prior' or 'predictions'"):
        to_datatree(factors, panel, kind="forecast")
    with pytest.raises(PanelError, match=r"`panel` must be the Dataset .* got DataArray"):
        to_datatree(factors, panel.returns)
    with pytest.raises(ShapeError, match=r"the same \(chain, draw\)"):
        to_datatree({"b": np.zeros(S)}, panel, group_by_chain=True)
    coords = {"time": panel.time.values, "asset": panel.asset.values}
    with pytest.raises(ShapeError, match=r"`observed` must have shape .* = \(8, 6\)"):
        build_tree({}, coords=coords, observed=np.ones((6, 8)))
    with pytest.raises(ShapeError, match="must mark at least one cell"):
        build_tree({}, coords=coords, observed=np.zeros((T, N)))
    with pytest.raises(ShapeError, match="`posterior/b` must start with"):
        build_tree({"posterior": {"b": np.zeros(3)}}, coords=coords)
    with pytest.raises(ShapeError, match="its dim 'time' is 7 long, but there are 8 labels"):
        build_tree({"posterior": {"factors": np.zeros((1, S, 7, K))}}, coords=coords)
    with pytest.raises(
        ShapeError, match=r"`posterior/factors` must have dims \('time', 'factor'\)"
    ):
        build_tree({"posterior": {"factors": np.zeros((1, S, T))}}, coords=coords)


# ------------------------------------------------------------------ ArviZ


def test_summary_and_intervals(tree):
    import arviz_stats as azs

    table = azs.summary(tree, kind="stats", round_to="none")
    assert len(table) == T * K
    draws = tree["posterior/factors"].values[0]
    np.testing.assert_allclose(table["mean"].astype(float), draws.mean(0).ravel(), rtol=1e-9)
    assert float(table["sd"].astype(float).iloc[0]) == pytest.approx(draws[:, 0, 0].std(), rel=0.02)
    interval = azs.hdi(tree, prob=0.8)
    low, high = np.moveaxis(interval["factors"].values, -1, 0)
    inside = (draws >= low) & (draws <= high)
    assert 0.75 < inside.mean() < 0.9


# with 40 draws the bound on k is 0.38, and a few cells are above it
@pytest.mark.filterwarnings("ignore:Estimated shape parameter")
def test_loo_counts_observed_cells(panel, tree):
    import arviz_stats as azs

    result = azs.loo(tree, pointwise=True)
    assert np.isfinite(result.elpd)
    assert result.elpd_i.size == int(panel.returns.notnull().sum())
    np.testing.assert_array_equal(result.elpd_i.asset.values, tree["observed_data"].asset.values)


# plotting libraries warn about each other's versions, which is not ours to fail on
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["plot_ppc_dist", "plot_ppc_pit", "plot_forest"])
def test_plots_run(tree, name, tmp_path):
    azp = pytest.importorskip("arviz_plots")
    import matplotlib.pyplot as plt

    if name == "plot_forest":
        tree = xr.DataTree.from_dict(
            {"posterior": tree["posterior"].to_dataset().isel(time=[0, 1])}
        )
    picture = getattr(azp, name)(tree, backend="matplotlib")
    picture.savefig(tmp_path / "picture.png")
    plt.close("all")
    assert (tmp_path / "picture.png").stat().st_size > 2000


@pytest.mark.filterwarnings("ignore")
def test_prior_and_forecast_trees_plot_too(panel, forecast, tmp_path):
    azp = pytest.importorskip("arviz_plots")
    import arviz_stats as azs
    import matplotlib.pyplot as plt

    prior = to_datatree(draw(panel)[0], panel, kind="prior")
    azp.plot_ppc_dist(prior, group="prior_predictive", backend="matplotlib").savefig(
        tmp_path / "prior.png"
    )
    plt.close("all")
    table = azs.summary(
        forecast, group="predictions", var_names="factors", kind="stats", round_to="none"
    )
    assert len(table) == T * K
