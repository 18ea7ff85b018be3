import pytest

from dmlbench.results.history import selections


def row(epoch, recall=None, **more):
    measured = {} if recall is None else {"test/recall_at_1": recall}
    return {"epoch": epoch, "train/loss": 1.0, "time/train_s": 2.0} | measured | more


# Epoch 0 is best of all in recall; epoch 1 was not evaluated; the best epoch differs from metric to metric.
HISTORY = [
    row(0, 0.9, **{"test/map_at_r": 0.8, "test/nmi": 0.99, "validation/map_at_r": 0.99}),
    row(1),
    row(2, 0.5, **{"test/map_at_r": 0.30, "test/spectral_decay": 9.0, "validation/map_at_r": 0.4}),
    row(3),
    row(4, 0.7, **{"test/map_at_r": 0.20, "test/spectral_decay": 1.0, "validation/map_at_r": 0.3}),
    row(6, 0.6, **{"test/map_at_r": 0.25, "test/spectral_decay": 2.0, "validation/map_at_r": 0.2, "test/nmi": 0.6}),
]


def test_every_selection_by_hand():
    assert selections(HISTORY) == {
        "untrained": {
            "epochs": {"recall_at_1": 0, "map_at_r": 0, "nmi": 0},
            "metrics": {"recall_at_1": 0.9, "map_at_r": 0.8, "nmi": 0.99},
        },
        "last": {
            "epochs": {"recall_at_1": 6, "map_at_r": 6, "spectral_decay": 6, "nmi": 6},
            "metrics": {"recall_at_1": 0.6, "map_at_r": 0.25, "spectral_decay": 2.0, "nmi": 0.6},
        },
        "validation": {
            "epochs": {"recall_at_1": 2, "map_at_r": 2, "spectral_decay": 2},
            "metrics": {"recall_at_1": 0.5, "map_at_r": 0.3, "spectral_decay": 9.0},
        },
        "best_test": {
            # NMI was measured at one epoch only, so nothing was chosen by it.
            "epochs": {"recall_at_1": 4, "map_at_r": 2},
            "metrics": {"recall_at_1": 0.7, "map_at_r": 0.3},
        },
    }


def test_without_validation_classes_there_is_no_such_selection():
    rows = [{key: value for key, value in row.items() if not key.startswith("validation/")} for row in HISTORY]
    assert list(selections(rows)) == ["untrained", "last", "best_test"]


def test_epoch_0_takes_part_in_no_other_selection():
    assert list(selections(HISTORY[:1])) == ["untrained"]
    assert list(selections(HISTORY[:2])) == ["untrained"]
    without = selections(HISTORY[1:])
    assert "untrained" not in without
    assert without == {name: chosen for name, chosen in selections(HISTORY).items() if name != "untrained"}


def test_no_rows_no_selections():
    assert selections([]) == {}


def test_the_earlier_of_equal_epochs_is_chosen():
    rows = [row(epoch, 0.5, **{"validation/map_at_r": 0.3}) for epoch in (1, 2, 3)]
    chosen = selections(rows)
    assert chosen["best_test"]["epochs"] == {"recall_at_1": 1}
    assert chosen["validation"]["epochs"] == {"recall_at_1": 1}
    assert chosen["last"]["epochs"] == {"recall_at_1": 3}


def test_none_is_not_a_measurement():
    rows = [row(1, 0.5, **{"test/nmi": None}), row(2, None, **{"test/recall_at_1": None})]
    chosen = selections(rows)
    assert chosen["last"] == {"epochs": {"recall_at_1": 1}, "metrics": {"recall_at_1": 0.5}}
    assert chosen["best_test"] == chosen["last"]


def test_a_score_of_zero_is_a_measurement():
    rows = [row(1, 0.0, **{"validation/map_at_r": 0.0}), row(2, 0.0, **{"validation/map_at_r": 0.0})]
    assert selections(rows)["validation"]["metrics"] == {"recall_at_1": 0.0}
    assert selections(rows)["best_test"]["metrics"] == {"recall_at_1": 0.0}


@pytest.mark.parametrize("metric", ["spectral_decay", "intra_over_inter", "nmi_std"])
def test_no_epoch_is_best_in_what_has_no_better_direction(metric):
    assert metric not in selections([row(1, 0.5, **{f"test/{metric}": 1.0})])["best_test"]["metrics"]


@pytest.mark.parametrize("metric", ["recall_at_8", "map_at_r", "r_precision", "nmi", "ami"])
def test_every_quality_has_its_own_best_epoch(metric):
    rows = [row(1, 0.5, **{f"test/{metric}": 0.2}), row(2, 0.4, **{f"test/{metric}": 0.3})]
    assert selections(rows)["best_test"]["epochs"] == {"recall_at_1": 1, metric: 2}
