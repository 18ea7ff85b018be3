import subprocess
import sys

import pandas as pd
import pytest

import dmlbench
from dmlbench.errors import UserError
from dmlbench.results import environment as provenance
from dmlbench.results import store, writer
from dmlbench.results.environment import machine_and_load, of_all_attempts
from dmlbench.results.frames import load_history, load_results
from dmlbench.results.history import selections
from dmlbench.results.records import INDEX, Environment
from dmlbench.results.status import overview, problems
from dmlbench.results.store import Roots, Store, read_record
from dmlbench.results.writer import CellWriter
from dmlbench.runner.tasks import RunOptions
from tests.begun import ended

ROWS = [
    {"epoch": 0, "test/recall_at_1": 0.1, "time/evaluation_s": 0.5},
    {"epoch": 1, "train/loss": 1 / 3, "time/train_s": 2.0, "time/evaluation_s": 0.0},
    {"epoch": 2, "train/loss": 0.25, "test/recall_at_1": 0.3, "test/nmi": 0.6, "time/train_s": 2.0},
]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "runs"


def write(root, cell, rows=ROWS, **summary):
    folder = Store(root).folder(cell)
    folder.mkdir(parents=True)
    writer = CellWriter(folder)
    writer.begin(cell)
    for row in rows:
        writer.append(row)
    done = {"environment": {"machine": "abc"}} | ({} if "error" in summary else {"selections": selections(rows)})
    writer.finish(ended(cell, **(done | summary)))
    return folder


def failure(kind="diverged", message="loss is nan at epoch 1, step 2", **environment):
    error = {"kind": kind, "class": "DivergedError", "message": message}
    return {"status": "failed", "error": error, "selections": None, "timing": None, "environment": environment}


def test_a_row_per_cell_and_selection(root, make_cell):
    folder = write(root, make_cell("ms+psd", seed=1))
    write(root, make_cell("ms", seed=1))
    table = load_results(root)
    assert len(table) == 6
    assert list(table.columns[: len(INDEX)]) == list(INDEX)
    chosen = table[table["method"] == "ms+psd"].set_index("selection")
    assert list(chosen.index) == ["untrained", "last", "best_test"]
    last = chosen.loc["last"]
    assert (last["recall_at_1"], last["nmi"], last["epoch"]) == (0.3, 0.6, 2)
    assert (last["base"], last["modifier"], last["dataset"], last["protocol"], last["seed"]) == (
        *("ms", "psd", "glyphs", "tiny"),
        1,
    )
    assert (last["step_ms"], last["train_seconds"], last["machine"], last["status"]) == (12.5, 4.0, "abc", "done")
    assert (last["folder"], last["marks"], str(last["overrides"])) == (str(folder), "", "")
    assert chosen.loc["untrained", "recall_at_1"] == 0.1
    assert chosen["nmi"].isna().tolist() == [True, False, False]


def test_a_failed_cell_is_one_row_with_its_error(root, make_cell):
    write(root, make_cell("ms", seed=0))
    write(root, make_cell("ms", seed=1), rows=[], **failure(machine="abc"))
    write(root, make_cell("ms", seed=2), rows=ROWS[:1], **failure("died", "the worker process ended with SIGKILL"))
    table = load_results(root)
    failed = table[table["status"] == "failed"]
    assert len(table) == 5
    assert failed["seed"].tolist() == [1, 2]
    assert failed["error"].tolist() == ["loss is nan at epoch 1, step 2", "the worker process ended with SIGKILL"]
    assert failed["recall_at_1"].isna().all()
    assert failed["selection"].isna().all()
    assert table[table["status"] == "done"]["error"].isna().all()


def test_a_row_per_cell_and_epoch(root, make_cell):
    write(root, make_cell("ms", seed=0))
    write(root, make_cell("ms", seed=1), rows=[], **failure())
    write(root, make_cell("triplet", seed=0), rows=ROWS[:1], **failure())
    history = load_history(root)
    assert len(history) == 4
    assert list(history.columns[: len(INDEX) + 2]) == [*INDEX, "network", "epoch"]
    complete = history[history["method"] == "ms"]
    assert complete["epoch"].tolist() == [0, 1, 2]
    assert complete["train/loss"].tolist()[1:] == [1 / 3, 0.25]
    assert complete["test/recall_at_1"].isna().tolist() == [False, True, False]
    assert history["modifier"].isna().sum() == 0


def test_unfinished_cells_are_no_results(root, make_cell):
    cell = make_cell()
    folder = Store(root).folder(cell)
    folder.mkdir(parents=True)
    CellWriter(folder).begin(cell)
    assert load_results(root).empty
    assert load_history(root).empty


@pytest.mark.parametrize("load", [load_results, load_history])
def test_an_empty_folder_gives_an_empty_table_with_the_usual_columns(root, load):
    root.mkdir()
    table = load(root)
    assert len(table) == 0
    assert set(INDEX) <= set(table.columns)


@pytest.mark.parametrize("load", [load_results, load_history])
def test_folders_that_hold_no_results(root, tmp_path, make_cell, load):
    with pytest.raises(UserError, match="no such results folder"):
        load(root)
    folder = write(root, make_cell())
    (folder / "summary.json").write_text('{"version": 2}')
    with pytest.warns(UserWarning, match="left out: .*results version 2 is not known here"):
        assert load(str(root)).empty


def test_a_damaged_result_is_left_out_and_named(root, make_cell):
    damaged = write(root, make_cell(seed=0))
    for seed in (1, 2):
        write(root, make_cell(seed=seed))
    (damaged / "summary.json").write_text('{"version": 1}')
    found = []
    assert load_results(root, found.append)["seed"].unique().tolist() == [1, 2]
    assert load_history(root, found.append)["seed"].unique().tolist() == [1, 2]
    assert [one.path for one in found] == [damaged, damaged]
    (Store(root).folder(make_cell(seed=1)) / "history.csv").write_bytes(b"\x00\xff")
    for load in (load_results, load_history):
        assert load(root, found.append)["seed"].unique().tolist() == [2]
        assert "history.csv: is not as it was written; restore it" in found[-1].reason
        assert "delete" not in found[-1].reason


def test_a_result_that_cannot_be_read_holds_up_no_other(root, make_cell, monkeypatch):
    unreadable, _ = (write(root, make_cell(seed=seed)) for seed in (0, 1))
    real, found = writer.file_digest, []

    def refuse(path):
        if path.parent == unreadable:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(writer, "file_digest", refuse)
    assert load_results(root, found.append)["seed"].unique().tolist() == [1]
    assert "history.csv: cannot be read (Permission denied)" in found[0].reason


def test_a_cell_that_begins_again_while_it_is_read_is_not_damaged(root, make_cell, monkeypatch):
    folder, real = write(root, make_cell()), store.changed_files

    def begun_again(*arguments):
        (folder / "summary.json").unlink(missing_ok=True)
        (folder / "history.csv").write_text("epoch")
        return real(*arguments)

    monkeypatch.setattr(store, "changed_files", begun_again)
    assert read_record(folder) is None


def test_a_history_that_lost_its_end_is_not_taken_for_whole(root, make_cell):
    history = write(root, make_cell()) / "history.csv"
    history.write_bytes(b"".join(history.read_bytes().splitlines(keepends=True)[:-1]))
    found = []
    assert load_results(root, found.append).empty
    assert [one.path for one in found] == [history.parent]


def test_converted_line_ends_are_no_damage(root, make_cell):
    folder = write(root, make_cell())
    before, said = load_history(root), problems(Store(root))
    for name in ("history.csv", "spec.yaml"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content.replace(b"\n", b"\r\n"))
    assert problems(Store(root)) == said
    assert [one.state for one in overview(Roots.of(root))] == ["done"]
    assert load_history(root).equals(before)


def test_the_package_offers_both(root, make_cell):
    write(root, make_cell())
    assert dmlbench.load_results is load_results
    assert dmlbench.load_history is load_history
    assert dmlbench.load_results(str(root)).equals(load_results(root))
    with pytest.raises(AttributeError, match="'dmlbench' has no attribute 'load_result'"):
        _ = dmlbench.load_result


def test_importing_the_package_is_light():
    code = "import sys, dmlbench; print(dmlbench.__version__, sorted({'pandas', 'torch', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{dmlbench.__version__} []\n"


def test_results_of_other_pixels_have_another_origin(root, make_cell):
    data = {"name": "glyphs", "version": "1", "fingerprint": "a" * 64}
    common = {"environment": {"device": "cuda:1"}, "initial_weights": "w", "dataset": data}
    write(root, make_cell(seed=0), **common)
    write(root, make_cell(seed=1), **common | {"dataset": data | {"fingerprint": "b" * 64}})
    write(root, make_cell(seed=2), **common | {"environment": {"device": "cuda:0"}})
    write(root, make_cell(seed=3))
    origin = load_results(root).groupby("seed")["origin"].first()
    assert origin[0] == origin[2]
    assert origin.nunique() == 3


def test_a_cell_that_was_sampled_has_no_step_time(root, make_cell):
    write(root, make_cell(seed=0), environment={"machine": "abc", "system_metrics": 1})
    write(root, make_cell(seed=1))
    last = load_results(root).query("selection == 'last'").set_index("seed")
    assert pd.isna(last.loc[0, "step_ms"])
    assert last.loc[1, "step_ms"] == 12.5


def test_times_of_one_machine_name_with_other_instructions_do_not_compare(root, make_cell):
    write(root, make_cell(seed=0), environment={"machine": "abc", "cpu_capability": "AVX2"})
    write(root, make_cell(seed=1), environment={"machine": "abc", "cpu_capability": "AVX512"})
    assert load_results(root)["machine"].nunique() == 2


def test_times_of_two_versions_of_the_training_code_do_not_compare(root, make_cell):
    write(root, make_cell(seed=0), environment={"machine": "abc"}, code={"digest": "0123"})
    write(root, make_cell(seed=1), environment={"machine": "abc"}, code={"digest": "4567"})
    assert list(load_results(root)["machine"].unique()) == ["abc/0123", "abc/4567"]


def test_processors_of_one_name_and_two_generations_are_two_machines(monkeypatch):
    cpu = {"model name": "AMD EPYC", "cpu family": "25", "stepping": "1"}
    seen = set()
    for generation in ("1", "17", "17"):
        monkeypatch.setattr(provenance, "_cpuinfo", lambda model=generation: cpu | {"model": model})
        seen.add(provenance.environment("cpu").machine)
    assert len(seen) == 2


def test_a_cell_sampled_for_a_part_of_its_epochs_compares_with_no_other(make_cell):
    own = Environment(machine="abc")
    machines = [
        machine_and_load(own.model_copy(update=RunOptions(system_metrics=sampled).machine_load()))
        for sampled in (True, False)
    ]
    assert len(set(machines)) == 2
    assert of_all_attempts(own, machines, make_cell().hash).machine.startswith("several")


def test_times_of_a_cell_that_another_run_shared_the_machine_with_compare_with_none(root, make_cell):
    times = {"total_s": 100.0, "environment": {"machine": "abc", "processes": 1}}
    for seed, minute in (0, 0), (1, 0), (2, 30):
        write(root, make_cell("ms", seed=seed), started=f"2026-01-01T00:{minute:02}:00+00:00", **times)
    found = load_results(root).groupby("seed")[["machine", "exclusive"]].first()
    assert set(found["machine"]) == {"abc/1"}
    assert found["exclusive"].tolist() == [False, False, True]
