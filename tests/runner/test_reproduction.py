"""Which recorded cells are trained again, and where this machine has what their specs name by a path."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmlbench.data.catalogue import dataset_info
from dmlbench.data.ready import dataset_spec
from dmlbench.errors import Damaged, UserError
from dmlbench.results.store import Roots, Store
from dmlbench.results.writer import CellWriter
from dmlbench.runner.execution import Execution
from dmlbench.runner.reproduction import Sources, check_earlier, check_output, drawn, finished, located, seeds_of
from dmlbench.specs.cell import Cell
from tests.begun import begin, ended


@pytest.fixture
def record(store):
    """Writes finished results of cells into the store."""

    def write(*cells: Cell) -> Roots:
        for cell in cells:
            writer = begin(store, cell)
            for epoch in range(3):
                writer.append({"epoch": epoch, "test/recall_at_1": 0.5})
            writer.finish(ended(cell))
        return Roots.of(store.root)

    return write


def never(found: Damaged) -> None:
    raise AssertionError(found.reason)


def names(found) -> list[tuple[str, int]]:
    return [(one.cell.method.name, one.cell.seed) for one in found]


def place(roots: Roots, **sources) -> list[Cell]:
    found = finished(roots, {}, never)
    return located(found, found, Sources(**sources), lambda _: None)


def test_a_draw_can_be_repeated_and_extended(record, make_cell):
    cells = [make_cell(method, seed) for method in ("ms", "triplet") for seed in range(4)]
    every = finished(record(*cells), {}, never)
    draws = [names(drawn(every, 3, seed)) for seed in range(20)]
    assert draws == [names(drawn(every, 3, seed)) for seed in range(20)]
    assert len({str(draw) for draw in draws}) > 10
    assert {name for draw in draws for name in draw} == set(names(every))
    assert names(drawn(every, 5, 7))[:3] == names(drawn(every, 3, 7))
    fewer = [one for one in every if one not in drawn(every, 5, 7)[3:]]
    assert names(drawn(fewer, 3, 7)) == names(drawn(every, 3, 7))


def test_only_finished_cells_of_the_names_asked_for(record, make_cell, store):
    roots = record(make_cell("ms"), make_cell("ms+psd"), make_cell("triplet"))
    failed = make_cell("margin")
    begin(store, failed).finish(ended(failed, "failed"))
    begin(store, make_cell("circle"))
    assert {name for name, _ in names(finished(roots, {}, never))} == {"ms", "ms+psd", "triplet"}
    assert names(finished(roots, {"method": ("triplet",)}, never)) == [("triplet", 0)]
    with pytest.raises(UserError, match=r"--only: unknown method 'margin'.*valid: ms, ms\+psd, triplet"):
        finished(roots, {"method": ("margin",)}, never)
    with pytest.raises(UserError, match="--only: unknown column 'seed'"):
        finished(roots, {"seed": ("0",)}, never)


def test_what_cannot_be_read_is_left_out(record, make_cell, store):
    roots = record(*(make_cell(seed=seed) for seed in range(3)))
    spec, history = (store.folder(make_cell(seed=seed)) for seed in (0, 1))
    (spec / "spec.yaml").write_text("hash: 1")
    (history / "history.csv").write_text("era\n")
    left_out: list[Damaged] = []
    assert names(finished(roots, {}, left_out.append)) == [("ms", 2)]
    assert {found.path for found in left_out} == {spec, history}


def test_a_cell_in_anothers_folder_is_left_out(record, make_cell, store):
    """A spec that somebody wrote must not lead out of the output folder by its names."""
    cell = make_cell()
    roots = record(make_cell(seed=1))
    named = replace(cell, dataset=cell.dataset.model_copy(update={"name": "../../elsewhere"}))
    writer = CellWriter(store.folder(cell))
    writer.folder.mkdir(parents=True)
    writer.begin(named)
    writer.append({"epoch": 0, "test/recall_at_1": 0.5})
    writer.finish(ended(named))
    left_out: list[Damaged] = []
    assert names(finished(roots, {}, left_out.append)) == [("ms", 1)]
    assert "holds the spec of another cell" in left_out[0].reason


def test_a_row_is_all_seeds_of_one_spec(record, make_cell):
    mine = [make_cell(seed=seed) for seed in range(3)]
    others = make_cell("ms+psd"), make_cell(epochs=5), make_cell(version="2"), make_cell("triplet")
    every = finished(record(*mine, *others), {}, never)
    row = seeds_of(next(one for one in every if one.cell == mine[1]), every)
    assert {summary.cell.hash for summary in row} == {cell.hash for cell in mine}


@pytest.mark.parametrize("output", ["runs", "runs/new", "."])
def test_new_results_never_go_to_recorded_ones(record, make_cell, tmp_path, output):
    roots = record(make_cell())
    with pytest.raises(UserError, match="new results would be among those of --results"):
        check_output(Store(tmp_path / output), roots)
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    with pytest.raises(UserError, match="among those"):
        check_output(Store(tmp_path / "link"), roots)
    check_output(Store(tmp_path / "runs2"), roots)


def test_an_earlier_result_counts_only_if_it_was_trained_here(record, make_cell, tmp_path, store):
    cell, output = make_cell(), Store(tmp_path / "again")
    every = finished(record(cell), {}, never)
    check_earlier(every, Execution(output, device="cpu"))
    output.folder(cell).mkdir(parents=True)
    for file in store.folder(cell).iterdir():
        (output.folder(cell) / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="is a copy of the recorded result; name another folder with --output"):
        check_earlier(every, Execution(output, device="cpu"))
    CellWriter(output.folder(cell)).finish(ended(cell, code={"digest": "1"}))
    with pytest.raises(UserError, match="was trained by other code or on another kind of machine"):
        check_earlier(every, Execution(output, device="cpu"))
    (output.folder(cell) / "summary.json").write_text("{")
    with pytest.raises(UserError, match="damaged JSON"):
        check_earlier(every, Execution(output, device="cpu"))


@pytest.fixture
def birds(tmp_path):
    """Four classes of three images, and the dataset of a cell that was trained elsewhere."""
    rng = np.random.default_rng(0)
    for name in ("crow", "duck", "jay", "wren"):
        (tmp_path / "birds" / name).mkdir(parents=True)
        for number in range(3):
            pixels = rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "birds" / name / f"{number}.png")
    spec = dataset_spec(dataset_info(f"birds={tmp_path / 'birds'}"), None, lambda _: None)
    return spec.model_copy(update={"root": "/elsewhere/birds"})


def test_a_folder_of_images_is_found_and_has_the_recorded_contents(record, make_cell, tmp_path, birds):
    cell = replace(make_cell(), dataset=birds)
    roots, folder = record(cell), tmp_path / "birds"
    with pytest.raises(UserError, match=r"birds, seed 0: the images of /elsewhere/birds.*--datasets birds=FOLDER says"):
        place(roots)
    (found,) = place(roots, datasets=(f"birds={folder}",))
    assert (found.dataset.root, found.hash) == (str(folder), cell.hash)
    (folder / "crow" / "0.png").write_bytes((folder / "crow" / "1.png").read_bytes())
    with pytest.raises(UserError, match=r"birds: .*not the images that were recorded \(version .*, recorded "):
        place(roots, datasets=(f"birds={folder}",))


def test_a_source_without_use_is_a_mistake(record, make_cell, tmp_path):
    roots = record(make_cell(version=dataset_info("glyphs").version))
    (tmp_path / "file.pth").touch()
    for sources, message in (
        ({"datasets": ("birds=x",)}, "--datasets: unknown dataset of the recorded cells 'birds'"),
        ({"datasets": ("glyphs",)}, "--datasets glyphs: takes NAME=FOLDER; --only dataset=glyphs"),
        ({"settings": ("training.epochs=3",)}, "--set training.epochs=3: the spec of a recorded cell says all else"),
        ({"settings": ("model.weights=none.pth",)}, "--set model.weights=none.pth: no such file"),
        ({"settings": (f"model.weights={tmp_path}/file.pth",)}, "which no recorded cell here began from"),
        ({"methods_dir": tmp_path}, "--methods-dir: no recorded cell here has a Python plugin"),
    ):
        with pytest.raises(UserError) as error:
            place(roots, **sources)
        assert message in str(error.value)


def test_a_dataset_of_another_release_is_refused(record, make_cell):
    with pytest.raises(UserError, match=r"glyphs: not what was recorded \(version 1, recorded 0\)"):
        place(record(make_cell(version="0")))


def test_weights_are_found_by_their_content(record, make_cell, tmp_path):
    file = tmp_path / "mine.pth"
    file.write_bytes(b"weights")
    cell = make_cell(version=dataset_info("glyphs").version)
    digest = hashlib.sha256(b"weights").hexdigest()
    model = cell.protocol.model.model_copy(update={"weights": "/elsewhere/theirs.pth", "weights_sha256": digest})
    cell = replace(cell, protocol=cell.protocol.model_copy(update={"model": model}))
    roots = record(cell)
    with pytest.raises(UserError) as error:
        place(roots)
    wanted = f"model.weights: /elsewhere/theirs.pth with the SHA-256 {digest[:12]} is not here"
    assert wanted in str(error.value)
    assert "--set model.weights=FILE" in str(error.value)
    (found,) = place(roots, settings=(f"model.weights={file}",))
    assert (found.protocol.model.weights, found.hash) == (str(file), cell.hash)
    file.write_bytes(b"others")
    with pytest.raises(UserError, match=f"no recorded cell here began from; recorded: {digest[:12]}"):
        place(roots, settings=(f"model.weights={file}",))


def test_a_teachers_weights_too(record, make_cell, tmp_path):
    file = tmp_path / "teacher.safetensors"
    file.write_bytes(b"teacher")
    cell = make_cell("ms+psd", version=dataset_info("glyphs").version)
    given = {"teacher_weights": "gone.safetensors", "teacher_weights_sha256": hashlib.sha256(b"teacher").hexdigest()}
    part = cell.method.distillation.model_copy(update={"teacher": "weights"} | given)
    roots = record(replace(cell, method=cell.method.model_copy(update={"distillation": part})))
    with pytest.raises(UserError, match=r"gone\.safetensors .*--set modifier.teacher_weights=FILE says where it is"):
        place(roots)
    (found,) = place(roots, settings=(f"distillation.teacher_weights={file}",))
    assert found.method.distillation.teacher_weights == str(file)


def test_a_plugin_is_loaded_from_the_users_folder_alone(record, make_cell, tmp_path):
    """Where a spec says, even if that file is the recorded one, is where somebody else put it."""
    (tmp_path / "theirs").mkdir()
    file = tmp_path / "theirs" / "pull.py"
    file.write_text("class Pull: ...\n")
    cell = make_cell(version=dataset_info("glyphs").version)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    loss = cell.method.loss.model_copy(update={"plugin": str(file), "plugin_sha256": digest})
    roots = record(replace(cell, method=cell.method.model_copy(update={"loss": loss})))
    with pytest.raises(UserError, match=r"ms is a Python plugin, pull\.py; --methods-dir names its folder"):
        place(roots)
    mine = tmp_path / "mine"
    mine.mkdir()
    with pytest.raises(UserError, match=r"mine/pull\.py: no such file"):
        place(roots, methods_dir=mine)
    (mine / "pull.py").write_text("class Pull: pass\n")
    with pytest.raises(UserError, match=r"mine/pull\.py: is not the plugin that was recorded"):
        place(roots, methods_dir=mine)
    (mine / "pull.py").write_bytes(file.read_bytes())
    (found,) = place(roots, methods_dir=mine)
    assert Path(found.method.loss.plugin) == mine / "pull.py"
