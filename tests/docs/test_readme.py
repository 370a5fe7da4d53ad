"""The README's example runs as printed, but for the number of training steps."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def example() -> str:
    found = re.search(r"<!-- example.*?-->\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found, "README.md has no example marked for the tests"
    return found.group(1)


def test_example_runs_from_panel_to_risk(capsys):
    code = example()
    steps = "config=rv.FitConfig(max_steps=20), progress=False"
    short = code.replace("seed=0)", f"seed=0, {steps})")
    assert short != code
    names = {}
    exec(compile(short, str(README), "exec"), names)
    risk = names["risk"]
    assert risk.sizes["time"] == 1
    assert risk["es"].sel(tail=0.05).notnull().all()
    assert (risk["es"] >= risk["var"]).all()
    assert "Did training converge?" in capsys.readouterr().out


def test_example_is_as_short_as_promised():
    lines = [line for line in example().splitlines() if line.strip()]
    assert len(lines) <= 15
