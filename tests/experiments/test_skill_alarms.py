"""Models whose skill is too good to be true, baselines among them."""

import pandas as pd

from rvrae_pyro.experiments.result_tables import skill_alarms


def rows(model, r2, r2_error, ic, ic_error, omitted=0):
    columns = ["model", "omitted", "metric", "estimate", "standard_error"]
    each = [
        (model, omitted, "predictive_r2", r2, r2_error),
        (model, omitted, "rank_ic", ic, ic_error),
        (model, omitted, "crps", 0.1, 0.1),
    ]
    return pd.DataFrame([row for row in each if row[3] is not None], columns=columns)


def test_any_model_can_be_named():
    table = pd.concat(
        [
            rows("RVRAE", 0.01, 0.005, 0.05, 0.02),
            rows("IPCA", 0.30, 0.02, 0.50, 0.02),
            rows("ALSTM", 0.05, 0.02, 0.30, 0.02),
            rows("noisy", 0.15, 0.10, 0.25, 0.10),  # within three standard errors of nothing
            rows("no ranks", 0.25, 0.01, None, None),
            rows("left out", 0.30, 0.01, 0.5, 0.01, omitted=50),
        ]
    )
    alarms = skill_alarms(table)
    assert [each.split(":")[0] for each in alarms] == ["IPCA", "ALSTM", "no ranks"]
    assert "predictive R2 30.0 % (s.e. 2.0), rank correlation 0.50 (s.e. 0.02)" in alarms[0]
    assert all("suspect a characteristic" in each for each in alarms)


def test_seeds_are_averaged():
    table = pd.concat([rows("CA", 0.02, 0.01, 0.1, 0.01), rows("CA", 0.22, 0.01, 0.1, 0.01)])
    assert len(skill_alarms(table)) == 1
    assert skill_alarms(table.iloc[:3]) == []
