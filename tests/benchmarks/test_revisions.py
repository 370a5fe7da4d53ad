"""The comparison of two revisions, on made-up benchmarks and on a repository of two commits."""

import subprocess
from pathlib import Path

import pytest

from tests.benchmarks.revisions import Change, changes, main, scores_of, to_text


def test_ratios_are_taken_where_a_benchmark_tells_one() -> None:
    content = {
        "benchmarks": [
            {"fullname": "a", "stats": {"median": 2.0}, "extra_info": {"ratio": 0.5, "x": 1}},
            {"fullname": "b", "stats": {"median": 3.0}, "extra_info": {}},
        ]
    }
    assert scores_of(content) == {"a": 0.5, "b": 3.0}


def test_medians_over_rounds_are_compared_and_flagged() -> None:
    base = [{"a": 1.0, "b": 1.0, "gone": 1.0}, {"a": 9.0, "b": 1.0}, {"a": 2.0, "b": 1.0}]
    head = [{"a": 2.0, "b": 1.3, "new": 4.0}]
    found = changes(base, head)
    assert found == [
        Change("b", 1.0, 1.3),
        Change("a", 2.0, 2.0),
        Change("gone", 1.0, None),
        Change("new", None, 4.0),
    ]
    assert [each.flagged for each in found] == [True, False, False, False]
    assert found[1].ratio == 1.0
    text = to_text(found).splitlines()
    assert text[2] == "| b | 1 | 1.3 | 1.3 | **1.3 x or more** |"
    assert text[3] == "| a | 2 | 2 | 1 |  |"
    assert text[5] == "| new | – | 4 | – |  |"
    assert not Change("c", 1.0, 1.299).flagged


@pytest.mark.slow
def test_two_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real repository whose second commit is twice as slow by its own account."""
    repository = tmp_path / "repository"
    repository.mkdir()
    monkeypatch.chdir(repository)

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        subprocess.run(["git", *who, *arguments], check=True, capture_output=True)

    git("init", "-q")
    (repository / "pytest.ini").write_text("[pytest]\nmarkers =\n    benchmark: time\n")
    for ratio in (1.0, 2.0):
        (repository / "test_it.py").write_text(
            "import pytest\n"
            "@pytest.mark.benchmark\n"
            "def test_it(benchmark):\n"
            "    benchmark.pedantic(len, args=([],), rounds=1)\n"
            f"    benchmark.extra_info['ratio'] = {ratio}\n"
        )
        git("add", "-A")
        git("commit", "-qm", f"{ratio}")
    assert main(["HEAD~1", "--suite", "test_it.py"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == (
        "| test_it.py::test_it | 1 | 2 | 2 | **1.3 x or more** |"
    )
    assert main(["HEAD", "HEAD~1", "--suite", "test_it.py"]) == 0
    worktrees = subprocess.run(
        ["git", "worktree", "list"], check=True, capture_output=True, text=True
    )
    assert len(worktrees.stdout.splitlines()) == 1  # its own are gone
