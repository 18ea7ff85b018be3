"""Study files and claims, and what is wrong with them in a line."""

from pathlib import Path

import pytest

from dmlbench.errors import UserError
from dmlbench.specs.protocol import load_protocol
from dmlbench.specs.registry import Registry
from dmlbench.specs.study import parse_claim, read_study


def test_a_claim_in_a_line():
    claim = parse_claim("psd: contrastive, triplet")
    assert (claim.modifier, claim.bases, claim.effect) == ("psd", ("contrastive", "triplet"), 1.0)
    assert claim.methods == ("contrastive", "contrastive+psd", "triplet", "triplet+psd")
    assert claim.title == "psd improves contrastive, triplet"


@pytest.mark.parametrize("text", ["psd", ":ms", "psd:", "psd:ms,", ""])
def test_what_is_no_claim(text):
    with pytest.raises(UserError, match="must be MODIFIER:BASES; for example psd:contrastive,triplet"):
        parse_claim(text)


def test_a_base_given_twice():
    with pytest.raises(UserError, match=r"must each be given once \('ms' is twice\)"):
        parse_claim("psd:ms,ms")


def test_a_study_file(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        "datasets: [glyphs]\nseeds: 3\nsettings: {training.epochs: 1}\n"
        "claims:\n  - {modifier: psd, bases: [ms], effect: 0.5, metric: map_at_r}\n"
    )
    study = read_study(path)
    assert (study.datasets, study.seeds, study.changes) == (("glyphs",), 3, ("training.epochs=1",))
    assert study.claims[0].effect == 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dataset: [glyphs]", "unknown key 'dataset'; did you mean 'datasets'"),
        ("claims: [{modifier: psd}]", "bases"),
        (
            "claims: [{modifier: psd, bases: [ms], metric: speed}]",
            "must be one of recall_at_1, map_at_r, r_precision, not 'speed'",
        ),
        ("claims: [{modifier: psd, bases: [ms], effect: 0}]", "effect"),
        ("seeds: 0", "seeds"),
    ],
)
def test_what_is_wrong_with_a_study_file(text, said, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(text + "\n")
    with pytest.raises(UserError) as caught:
        read_study(path)
    assert said in str(caught.value)
    assert "study.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_study_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such study file"):
        read_study(tmp_path / "none.yaml")


def test_settings_may_be_lists(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("settings: {training.milestones: [1, 2]}\n")
    assert read_study(path).changes == ("training.milestones=[1, 2]",)


STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_committed_studies_name_what_there_is(path):
    study, registry = read_study(path), Registry()
    load_protocol(study.protocol, "glyphs", {"model": {"weights": None}})  # a user's own file
    for name in (*study.methods, *(name for claim in study.claims for name in claim.methods)):
        registry.resolve(name, "glyphs", study.protocol)
    assert study.seeds >= 6
