import pandas as pd
import pytest

from dmlbench.analysis.groups import Group, arrange, check_unambiguous, groups, paired_with_base, slug, without_paths
from dmlbench.errors import UserError

BASE = {"protocol": "p", "variant": "", "dataset": "d", "method": "ms", "base": "ms", "modifier": "", "seed": 0}
PSD = BASE | {"method": "ms+psd", "modifier": "psd"}


def frame(*rows):
    return pd.DataFrame([BASE | {"status": "done", "folder": f"f{place}"} | row for place, row in enumerate(rows)])


def test_settings_of_the_protocol_open_a_group():
    arranged = arrange(frame({}, {"variant": "training.epochs=3, training.milestones=[1, 2]"}))
    assert groups(arranged) == [Group("p", "", "d"), Group("p", "training.epochs=3, training.milestones=[1, 2]", "d")]
    assert set(arranged["method"]) == {"ms"}


def test_settings_of_a_method_become_part_of_its_name():
    variant = "distillation.lambda=10, loss.alpha=3, training.epochs=3"
    arranged = arrange(frame(PSD | {"variant": variant}, {"variant": variant}))
    assert list(arranged["method"]) == ["ms{alpha=3}+psd{lambda=10}", "ms{alpha=3}"]
    assert list(arranged["base"]) == ["ms{alpha=3}"] * 2
    assert list(arranged["modifier"]) == ["psd{lambda=10}", ""]
    assert set(arranged["variant"]) == {"training.epochs=3"}


def test_a_base_is_the_same_with_and_without_settings_of_a_distillation():
    arranged = arrange(frame({"variant": "distillation.tau=2"}, {"seed": 1}))
    assert set(arranged["method"]) == {"ms"}
    assert len(groups(arranged)) == 1


def test_arranging_twice_changes_nothing():
    once = arrange(frame(PSD | {"variant": "distillation.lambda=10, training.epochs=3"}))
    pd.testing.assert_frame_equal(arrange(once), once)


def test_no_rows():
    assert groups(arrange(frame({}).iloc[:0])) == []


def test_two_results_of_one_place_are_an_error_that_names_both():
    with pytest.raises(UserError, match=r"f0 and f1: two results for ms on d, seed 0"):
        check_unambiguous(frame({}, {}))


def test_a_failed_cell_is_no_second_result():
    check_unambiguous(frame({}, {"status": "failed"}))


def test_several_selections_of_one_folder_are_one_result():
    check_unambiguous(frame({"folder": "same"}, {"folder": "same"}))


def test_pairs_share_seed_and_keys():
    rows = frame({"x": 1.0}, {"x": 2.0, "seed": 1}, PSD | {"x": 5.0, "seed": 1}, PSD | {"x": 9.0, "seed": 2})
    pairs = paired_with_base(rows, ["protocol", "variant", "dataset"], ["x"])
    assert pairs[["seed", "x", "x_base"]].to_numpy().tolist() == [[1, 5.0, 2.0]]


def test_slugs_are_plain_and_keep_names_apart():
    names = ["conv4-64", "a/b", "a b", "a?b", "../..", "<b>", "é", "x" * 90, "x" * 91]
    slugs = [slug(name) for name in names]
    assert slugs[0] == "conv4-64"
    assert len(set(slugs)) == len(names)
    assert all(part.replace(".", "").replace("-", "").isalnum() and part[0] not in ".-" for part in slugs)


def test_groups_that_read_alike_have_distinct_slugs():
    assert Group("p", "", "a_b").slug != Group("p_a", "", "b").slug


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("cannot open /home/alice/data/x.npz: no such file", "cannot open …/x.npz: no such file"),
        ("model.weights=/srv/w/net.pth, training.epochs=3", "model.weights=…/net.pth, training.epochs=3"),
        (r"C:\Users\bob\w.pth is missing", "…/w.pth is missing"),
        ("in '~/secret/file'", "in '…/file'"),
        ("images/s and 1/2 stay, results/runs too", "images/s and 1/2 stay, results/runs too"),
        ("training.epochs=3", "training.epochs=3"),
    ],
)
def test_paths_are_cut_to_their_last_part(text, clean):
    assert without_paths(text) == clean


def test_tuned_methods_are_compared_with_their_tuned_base():
    tuned = [{"variant": "training.epochs=3, tuned", "method": name, "modifier": name.partition("+")[2]}
             for name in ("ms+psd", "ms", "ms+dm2{ensemble}")]  # fmt: skip
    arranged = arrange(frame(*(PSD | row for row in tuned)))
    assert list(arranged["method"]) == ["ms+psd{tuned}", "ms{tuned}", "ms+dm2{ensemble}{tuned}"]
    assert list(arranged["base"]) == ["ms{tuned}"] * 3
    assert list(arranged["modifier"]) == ["psd{tuned}", "", "dm2{ensemble}{tuned}"]
    assert set(arranged["variant"]) == {"training.epochs=3"}
    assert set(arrange(frame(PSD | {"variant": "tuned"}))["variant"]) == {""}
