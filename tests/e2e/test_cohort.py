"""DM² through the real command line: rows for the mean, every network and the ensemble, and for the control."""

from pathlib import Path

import pandas as pd
import pytest

from dmlbench import load_results
from dmlbench.reporting.naming import plain_names
from tests.e2e.conftest import TINY, Command

METHODS = "triplet,triplet+dm2,triplet+independent"
READOUTS = ("", "{member 1}", "{member 2}", "{ensemble}")


@pytest.mark.slow
def test_a_cohort_has_a_row_for_each_readout(dmlbench: Command, tmp_path: Path) -> None:
    run = ("run", "--methods", METHODS, "--datasets", "glyphs", "--seeds", "2", *TINY, "--tracking", "none")
    done = dmlbench(*run, "--keep", "weights,embeddings")
    assert done.returncode == 0, done.stdout + done.stderr
    for name in METHODS.split(",")[1:]:
        assert all(f"{name}{readout}" in done.stdout for readout in READOUTS)
    results = load_results(tmp_path / "results" / "runs")
    results = results.assign(method=plain_names(results))
    last = results[results["selection"] == "last"].set_index(["method", "seed"])["recall_at_1"]
    for seed in (0, 1):
        assert last["triplet+independent{member 1}", seed] == last["triplet", seed]  # bit for bit
        members = [last[f"triplet+dm2{{member {place}}}", seed] for place in (1, 2)]
        assert last["triplet+dm2", seed] == pytest.approx(sum(members) / 2)
    untrained = results[results["selection"] == "untrained"].groupby("seed")["recall_at_1"].nunique()
    assert untrained.to_dict() == {0: 1, 1: 1}

    cell = next((tmp_path / "results" / "runs").glob("*/*/triplet+dm2/seed0-*"))
    scored = dmlbench("evaluate", cell)
    assert scored.returncode == 0, scored.stderr
    assert f"ensemble/recall_at_1  {last['triplet+dm2{ensemble}', 0]:.6g}".split() in [
        line.split() for line in scored.stdout.splitlines()
    ]
    assert dmlbench("status", "--verify").returncode == 0

    page = dmlbench("report", "--name", "cohorts")
    assert page.returncode == 0, page.stderr
    text = (tmp_path / "reports" / "cohorts" / "report.md").read_text()
    assert "reconstruction from the paper's abstract" in text
    assert "ensemble of 2 networks: 2 forward passes, 2 x the dimensions at test time" in text
    assert "| triplet+dm2{ensemble} | triplet+independent{ensemble} |" in text
    kept = pd.read_csv(tmp_path / "reports" / "cohorts" / "tables" / "queries.csv")
    assert set(kept["method"]) == {"triplet+dm2{member 1}", "triplet+independent{member 1}"}
    # A part of the readouts is a report, too, and the mean has no embeddings: those kept are the first network's.
    for readout in ("", "{ensemble}", "{member 1}"):
        part = dmlbench("report", "--name", "part", "--only", f"method=triplet,triplet+dm2{readout}")
        assert part.returncode == 0, part.stderr
        assert (tmp_path / "reports" / "part" / "tables" / "queries.csv").is_file() == (readout == "{member 1}")
        settings = pd.read_csv(tmp_path / "reports" / "part" / "tables" / "settings.csv")
        assert "dm2" in set(settings["part"])
