from dataclasses import replace

import pytest
from scipy import stats

from dmlbench.tracking import all_in_order, methods
from dmlbench.tracking.runs import begin, interrupt, send, update
from tests.tracking.conftest import row
from tests.tracking.test_runs import all_runs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own libraries


def tree(client) -> dict[str, list[str]]:
    """The names of the methods' runs, each with those of the runs below it; "" holds runs below none."""
    names = {run.info.run_id: run.info.run_name for run in all_runs(client, "method")}
    found = {name: [] for name in names.values()}
    assert len(found) == len(names), "two runs for one method"
    for run in all_runs(client):
        found.setdefault(names.get(run.data.tags.get(methods.PARENT), ""), []).append(run.info.run_name)
    return {name: sorted(below) for name, below in found.items()}


def method(client, name="ms"):
    (found,) = (run for run in all_runs(client, "method") if run.info.run_name == name)
    return found


def points(client) -> int:
    """How many values all methods' metrics ever had."""
    runs = all_runs(client, "method")
    return sum(len(client.get_metric_history(run.info.run_id, key)) for run in runs for key in run.data.metrics)


def as_sent_by_an_older_dmlbench(client) -> None:
    """Take away what it did not know of."""
    for run in all_runs(client, "method"):
        client.delete_run(run.info.run_id)
    for run in all_runs(client):
        for tag in ("kind", "group", "label", "base_group", "machine", methods.PARENT):
            if tag in run.data.tags:
                client.delete_tag(run.info.run_id, tag)


def test_a_run_per_method_above_its_seeds(client, finished, make_cell):
    for cell in (make_cell(name, seed) for name in ("ms", "ms+psd") for seed in (0, 1)):
        assert send(client, finished(cell=cell))
    assert tree(client) == {"ms": ["ms, seed 0", "ms, seed 1"], "ms+psd": ["ms+psd, seed 0", "ms+psd, seed 1"]}
    run = method(client, "ms+psd")
    known = {key: run.data.tags[key] for key in ("kind", "method", "base", "modifier", "dataset", "protocol")}
    assert known == {
        "kind": "method", "method": "ms+psd", "base": "ms", "modifier": "psd", "dataset": "glyphs", "protocol": "tiny",
    }  # fmt: skip
    assert "cell" not in run.data.tags
    assert "label" not in run.data.tags  # charts group by it
    assert run.data.tags["seeds_done"] == "0, 1"
    assert "Finished seeds: 0, 1" in run.data.tags["mlflow.note.content"]
    assert run.data.params["distillation.tau"] == "1.0"
    assert run.info.status == "FINISHED"


def test_settings_make_methods_of_their_own(client, finished, make_cell):
    for cell in (make_cell(), make_cell(epochs=3), make_cell(learning_rate=0.5)):
        send(client, finished(cell=cell))
    groups = {run.data.tags["group"] for run in all_runs(client, "method")}
    assert len(groups) == 3


def test_settings_are_in_the_name_as_far_as_there_is_room(make_cell):
    def label(*overrides, weights=None, tau=1.0, **training):
        cell = make_cell("ms+psd", **training)
        part = cell.method.distillation
        own = {"tau": part.parameters["tau"].model_copy(update={"value": tau})}
        method = cell.method.model_copy(update={"distillation": part.model_copy(update={"parameters": own})})
        model = cell.protocol.model.model_copy(update=weights or {})
        protocol = cell.protocol.model_copy(update={"model": model})
        return methods.index_tags(replace(cell, method=method, protocol=protocol, overrides=overrides))["label"]

    assert label() == "ms+psd"
    assert label("distillation.tau=2", "training.epochs=3", tau=2.0, epochs=3) == "ms+psd{tau=2}, training.epochs=3"
    weights = {"weights": "/home/me/w.safetensors", "weights_sha256": "0123456789"}
    one = label("model.weights=/home/me/w.safetensors", weights=weights)
    assert one.startswith("ms+psd, 1 setting #")
    assert one == label("model.weights=w.safetensors", weights=weights)
    many = {"batch_size": 1000, "epochs": 123456, "weight_decay": 0.123}
    typed = [f"training.{key}={value}" for key, value in many.items()]
    assert label(*typed, **many).startswith("ms+psd, 3 settings #")
    assert label(*typed, **many) != label(*typed, **many | {"weight_decay": 2.0})


def test_tuned_methods_are_methods_of_their_own_without_a_base(make_cell):
    """The tuned base has other values, which the spec of a modified method does not hold."""
    plain = make_cell("ms+psd")
    tuned = replace(plain, method=plain.method.model_copy(update={"tuned": 8}))
    tags, plain_tags = methods.index_tags(tuned), methods.index_tags(plain)
    assert tags["label"] == "ms+psd{tuned}"
    assert plain_tags["base_group"]
    assert not tags.get("base_group")
    assert tags["group"] != plain_tags["group"]


def test_the_numbers_of_a_method_are_those_of_its_finished_seeds(client, begun, finished, make_cell):
    for seed, last in ((0, 0.2), (1, 0.4)):
        writer = begun(epochs=2, cell=make_cell(seed=seed))
        writer.append(row(2) | {"test/recall_at_1": last})
        send(client, finished(writer, cell=make_cell(seed=seed)))
    begin(client, begun(seed=2, epochs=2).folder)
    found = method(client).data.metrics
    assert found["seeds"] == 2
    assert found["final/recall_at_1"] == pytest.approx(0.3)
    assert found["test_best/recall_at_1"] == pytest.approx(0.3)
    assert found["ci95/recall_at_1"] == pytest.approx(12.7062 * 0.1, rel=1e-4)  # t of one degree of freedom
    assert found["cost/step_ms"] == pytest.approx(2.0)
    assert (found["cost/train_min"], found["cost/total_min"]) == (pytest.approx(2 / 60), pytest.approx(4 / 60))
    (first, second) = sorted(run.data.metrics["final/recall_at_1"] for run in all_runs(client) if run.info.end_time)
    assert (first, second) == (0.2, 0.4)


def test_one_seed_has_no_interval(client, finished):
    send(client, finished())
    found = method(client).data.metrics
    assert found["seeds"] == 1
    assert not [key for key in found if key.startswith("ci95/")]


def test_overhead_is_over_the_base_on_the_same_machine(client, begun, finished, make_cell):
    def result(name, seed, step_ms, machine):
        writer, cell = begun(cell=make_cell(name, seed)), make_cell(name, seed)
        for epoch in range(3):
            writer.append(row(epoch) | ({"time/step_ms": step_ms} if epoch else {}))
        send(client, finished(writer, cell=cell, machine=machine))

    result("ms+psd", 0, 3.0, "a")
    assert "cost/overhead" not in method(client, "ms+psd").data.metrics
    result("ms", 0, 2.0, "a")  # the method's numbers follow its base's
    result("ms+psd", 1, 9.0, "b")
    result("ms", 1, 2.0, "a")
    found = method(client, "ms+psd").data.metrics
    assert (found["cost/overhead"], found["cost/overhead_seeds"]) == (1.5, 1)
    assert "cost/overhead" not in method(client).data.metrics


def test_the_gain_is_paired_by_seed_and_origin(client, begun, finished, make_cell):
    def result(name, seed, last, **environment):
        cell = make_cell(name, seed)
        writer = begun(epochs=2, cell=cell)
        writer.append(row(2) | {"test/recall_at_1": last})
        send(client, finished(writer, cell=cell, **environment))

    for seed, (base, own) in enumerate(((0.2, 0.26), (0.5, 0.53), (0.3, 0.36), (0.4, 0.45))):
        result("ms", seed, base)
        result("ms+psd", seed, own)
    result("ms", 4, 0.1, device="cuda:0")  # its base is of another device
    result("ms+psd", 4, 0.9)
    result("ms+psd", 5, 0.9)  # it has no base
    run = method(client, "ms+psd")
    found = {key: value for key, value in run.data.metrics.items() if key.startswith("gain/")}
    expected = stats.ttest_1samp([0.06, 0.03, 0.06, 0.05], 0).confidence_interval()
    assert found == {
        "gain/recall_at_1": pytest.approx(0.05),
        "gain/recall_at_1_low": pytest.approx(expected.low, rel=1e-5),
        "gain/recall_at_1_high": pytest.approx(expected.high, rel=1e-5),
        "gain/seeds": 4,
    }
    assert run.data.tags["verdict"] == "better"
    assert not [key for key in method(client).data.metrics if key.startswith("gain/")]
    assert "verdict" not in method(client).data.tags


def test_two_seeds_have_a_gain_and_no_verdict(client, finished, make_cell):
    for name, seed in ((name, seed) for name in ("ms", "ms+psd") for seed in (0, 1)):
        send(client, finished(cell=make_cell(name, seed)))
    run = method(client, "ms+psd")
    assert (run.data.metrics["gain/recall_at_1"], run.data.metrics["gain/seeds"]) == (0, 2)
    assert "verdict" not in run.data.tags


def test_cells_that_were_sampled_take_part_in_no_ratio(client, finished, make_cell):
    for name in ("ms", "ms+psd"):
        send(client, finished(cell=make_cell(name), machine="a", system_metrics=1))
    found = method(client, "ms+psd").data.metrics
    assert not {"cost/step_ms", "cost/overhead"} & set(found)
    assert "cost/total_min" in found


def test_a_method_runs_while_one_of_its_seeds_does(client, begun, finished):
    writer = begun(epochs=1)
    live = begin(client, writer.folder)
    assert method(client).info.status == "RUNNING"
    interrupt(client, writer.folder, live)
    assert method(client).info.status == "KILLED"
    send(client, finished(seed=1))
    assert method(client).info.status == "FINISHED"
    live = begin(client, writer.folder)
    assert method(client).info.status == "RUNNING"
    for epoch in (1, 2):
        writer.append(row(epoch))
    update(client, writer.folder, live)
    send(client, finished(writer), live)
    run = method(client)
    assert run.info.status == "FINISHED"
    assert run.info.end_time == max(cell.info.end_time for cell in all_runs(client))
    assert tree(client) == {"ms": ["ms, seed 0", "ms, seed 1"]}


def test_a_method_of_failures_has_failed(client, finished):
    send(client, finished(status="failed"))
    run = method(client)
    assert (run.info.status, run.data.metrics, run.data.tags["seeds_done"]) == ("FAILED", {}, "none yet")


def test_sending_again_changes_nothing(client, finished, make_cell):
    records = [finished(cell=make_cell(name, seed)) for name in ("ms", "ms+psd") for seed in (0, 1)]
    for record in records:
        send(client, record)
    before = tree(client), points(client), [run.info.run_id for run in all_runs(client, "method")]
    for _ in range(2):
        assert [send(client, record) for record in records] == [False] * 4
        all_in_order(client, records)
    assert (tree(client), points(client), [run.info.run_id for run in all_runs(client, "method")]) == before


def test_of_two_that_make_a_methods_run_at_once_one_stays_with_all_seeds(client, finished, monkeypatch):
    records, search, blind = [finished(seed=seed) for seed in (0, 1, 2)], methods.search, []

    def without_methods(*args):
        found = search(*args)
        if blind:
            return found
        blind.append(True)
        return [run for run in found if run.data.tags["kind"] != "method"]

    send(client, records[0])
    first = method(client).info.run_id
    monkeypatch.setattr(methods, "search", without_methods)
    send(client, records[1])  # does not see the first one's at first
    assert blind
    send(client, records[2])
    assert tree(client) == {"ms": ["ms, seed 0", "ms, seed 1", "ms, seed 2"]}
    assert method(client).data.metrics["seeds"] == 3
    deleted = client.search_runs([method(client).info.experiment_id], "tags.kind = 'method'", run_view_type=2)
    kept, gone = method(client).info.run_id, [run.info.run_id for run in deleted]
    assert len(gone) == 1
    assert kept < gone[0]  # the first in order stays
    assert first in (kept, gone[0])


def test_seeds_of_a_method_that_was_deleted_come_under_a_new_one(client, finished):
    records = [finished(seed=seed) for seed in (0, 1)]
    for record in records:
        send(client, record)
    client.delete_run(method(client).info.run_id)
    all_in_order(client, records)
    assert tree(client) == {"ms": ["ms, seed 0", "ms, seed 1"]}


def test_numbers_of_seeds_that_are_gone_go_too(client, finished):
    records = [finished(seed=seed) for seed in (0, 1)]
    for record in records:
        send(client, record)
    (gone,) = (run for run in all_runs(client) if run.data.tags["seed"] == "1")
    client.delete_run(gone.info.run_id)
    all_in_order(client, records)
    found = method(client).data.metrics
    assert found["seeds"] == 1
    assert "ci95/recall_at_1" not in found


def test_the_newest_number_is_shown_whatever_the_clock_says(client, finished, monkeypatch):
    monkeypatch.setattr(methods, "time", lambda: 4e9)  # another host's, ahead of ours
    send(client, finished())
    monkeypatch.undo()
    send(client, finished(seed=1))
    assert method(client).data.metrics["seeds"] == 2


def test_a_summary_of_nothing_is_empty():
    assert methods.summary_metrics([], []) == {}
