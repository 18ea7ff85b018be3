import pandas as pd
import pytest

from dmlbench.analysis.groups import (
    DEFAULT,
    Against,
    Group,
    base_name,
    check_against,
    check_unambiguous,
    groups,
    in_order,
    method_name,
    modifier_name,
    paired,
    references,
    slug,
    without_paths,
)
from dmlbench.errors import UserError
from tests.typed import NONE, parts, settings

BASE = {"protocol": "p", "overrides": NONE, "dataset": "d", "seed": 0, "protocol_hash": "1", "dataset_version": "1"}


def frame(*rows):
    made = [
        BASE | {"status": "done", "folder": f"f{place}", "method_hash": name} | parts(name) | row
        for place, (name, row) in enumerate(rows)
    ]
    return pd.DataFrame(made)


def test_settings_of_the_protocol_open_a_group():
    overrides = settings("training.epochs=3, training.milestones=[1, 2]")
    assert groups(frame(("ms", {}), ("ms", {"overrides": overrides}))) == [
        Group("p", NONE, "d"),
        Group("p", overrides, "d"),
    ]


def test_no_rows():
    assert groups(frame(("ms", {})).iloc[:0]) == []


@pytest.mark.parametrize(
    ("name", "base", "modifier"),
    [
        ("ms", "ms", ""),
        ("ms{alpha=3}+psd{lambda=10}", "ms{alpha=3}", "psd{lambda=10}"),
        ("ms+dm2{ensemble}", "ms", "dm2{ensemble}"),
        ("ms+dm2{member 2}{lambda=3}", "ms", "dm2{member 2}{lambda=3}"),
        ("ms+psd{teacher_mode=eval}{tuned}", "ms{tuned}", "psd{teacher_mode=eval}{tuned}"),
        ("ms{tuned}", "ms{tuned}", ""),
    ],
)
def test_names_say_what_a_method_is_made_of(name, base, modifier):
    row = parts(name)
    assert (method_name(row), base_name(row), modifier_name(row)) == (name, base, modifier)
    assert method_name(row, tuned=False) == name.removesuffix("{tuned}")


def test_methods_are_in_the_order_of_their_papers_settings_after_them_and_tuned_values_last():
    names = ["ms", "ms+psd", "ms+dm2", "ms+dm2{ensemble}", "ms+dm2{member 2}", "ms+dm2{member 10}", "ms+dm2{lambda=3}",
             "ms+mine", "ms{alpha=3}", "ms{alpha=3}+psd", "ms{tuned}", "ms+psd{tuned}", "other"]  # fmt: skip
    rows = frame(*((name, {}) for name in reversed(names)))
    assert [method_name(row) for row in in_order(rows).to_dict("records")] == names


def test_two_results_of_one_place_are_an_error_that_names_both():
    with pytest.raises(UserError, match=r"f0 and f1: two results for ms on d, seed 0"):
        check_unambiguous(frame(("ms", {}), ("ms", {})))


def test_a_failed_cell_is_no_second_result():
    check_unambiguous(frame(("ms", {}), ("ms", {"status": "failed"})))


def test_several_selections_of_one_folder_are_one_result():
    check_unambiguous(frame(("ms", {"folder": "same"}), ("ms", {"folder": "same"})))


@pytest.mark.parametrize("other", [{"protocol_hash": "2"}, {"dataset_version": "2"}, {"method_hash": "2"}])
def test_other_values_under_the_same_names_are_never_mixed(other):
    with pytest.raises(UserError, match="f0 and f1: made from different specs under the same names"):
        check_unambiguous(frame(("ms", {}), ("ms", other | {"seed": 1})))


def test_pairs_share_seed_and_keys():
    rows = frame(("ms", {"x": 1.0}), ("ms", {"x": 2.0, "seed": 1}), ("ms+psd", {"x": 5.0, "seed": 1}),
                 ("ms+psd", {"x": 9.0, "seed": 2}), ("ms{alpha=3}+psd", {"x": 7.0, "seed": 1}))  # fmt: skip
    pairs = paired(rows, [], ["x"], DEFAULT)
    assert pairs[["seed", "x", "x_to"]].to_numpy().tolist() == [[1, 5.0, 2.0]]


def test_slugs_are_plain_and_keep_names_apart():
    names = ["conv4-64", "a/b", "a b", "a?b", "../..", "<b>", "é", "x" * 90, "x" * 91]
    slugs = [slug(name) for name in names]
    assert slugs[0] == "conv4-64"
    assert len(set(slugs)) == len(names)
    assert all(part.replace(".", "").replace("-", "").isalnum() and part[0] not in ".-" for part in slugs)


def test_groups_that_read_alike_have_distinct_slugs():
    assert Group("p", NONE, "a_b").slug != Group("p_a", NONE, "b").slug


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
    names = "ms", "ms{tuned}", "ms+psd{tuned}", "ms+dm2{ensemble}{tuned}"
    rows = frame(*((name, {"x": float(place)}) for place, name in enumerate(names)))
    pairs = paired(rows, [], ["x"], DEFAULT)
    assert pairs[["x", "x_to"]].to_numpy().tolist() == [[2, 1], [3, 1]]


def of(names, against=DEFAULT):
    """The reference of each of some methods of one group."""
    found = references(frame(*((name, {}) for name in names)), against)
    other = {name.removeprefix("to_"): found[name] for name in found if name.startswith("to_")}
    return dict(zip(map(method_name, found.to_dict("records")),
                    map(method_name, pd.DataFrame(other).to_dict("records")), strict=True))  # fmt: skip


def test_a_modified_method_has_its_base_and_a_base_the_first_one():
    names = (
        "triplet",
        "ms",
        "ms{alpha=3}",
        "ms{alpha=3}+psd",
        "ms+psd",
        "triplet+dm2",
        "triplet+dm2{ensemble}",
        "mine",
    )
    assert of(names) == {
        "ms+psd": "ms", "ms{alpha=3}": "ms", "ms{alpha=3}+psd": "ms{alpha=3}", "ms": "triplet", "mine": "triplet",
        "triplet+dm2": "triplet", "triplet+dm2{ensemble}": "triplet",
    }  # fmt: skip
    assert of(("ms", "mine"), Against(base="mine")) == {"ms": "mine"}
    assert of(("ms+psd", "mine")) == {}


def test_all_methods_have_the_one_that_is_named():
    assert of(("ms", "ms+psd", "triplet"), Against("ms+psd")) == {"ms": "ms+psd", "triplet": "ms+psd"}
    rows = frame(("ms", {}), ("ms+psd", {}))
    check_against(rows, Against("ms+psd"))
    with pytest.raises(UserError, match="--against: unknown method 'mss'; did you mean 'ms'"):
        check_against(rows, Against("mss"))
