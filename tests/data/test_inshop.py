"""In-Shop on generated trees of the published list's format: items, queries and gallery."""

import numpy as np
import pytest

from dmlbench.data import inshop
from dmlbench.data.catalogue import DATASETS, dataset_info
from dmlbench.data.ready import check, check_counts, dataset_spec
from dmlbench.errors import UserError
from tests.data.make_benchmark_tree import INSHOP_LIST, make_inshop


@pytest.fixture
def small(tmp_path):
    """A two-hundredth of the items: 19 train, 19 are tested."""
    return make_inshop(tmp_path / "x", shrink=200)


def counts(sides):
    train, test = sides
    return (
        len(train.class_names),
        len(test.class_names),
        len(train.paths),
        len(test.paths),
        int(test.queries.sum()),
    )


def test_the_published_format(small, tmp_path):
    lines = []
    train, test = inshop.read(tmp_path, lines.append)
    assert counts((train, test)) == (19, 19, 129, 71 + 63, 71)
    assert train.queries is None
    assert train.class_names[0] == "id_00000001"
    assert train.paths[0] == "img/WOMEN/Dresses/id_00000001/train00_1_front.jpg"
    assert all(
        ("/query" in path) == query and ("/gallery" in path) != query
        for path, query in zip(test.paths, test.queries.tolist(), strict=True)
    )
    assert test.labels.tolist() == sorted(test.labels.tolist())
    assert not set(train.class_names) & set(test.class_names)
    assert test.lost_queries == 0
    assert lines == []


@pytest.mark.slow
def test_the_published_size(tmp_path):
    make_inshop(tmp_path)
    sides = inshop.read(tmp_path, print)
    info = DATASETS["inshop"]
    assert counts(sides) == (*info.counts, info.query_images) == (3_997, 3_985, 25_882, 26_830, 14_218)
    check_counts(dataset_spec(dataset_info("inshop"), None, print), sides)


@pytest.mark.parametrize("images", ["Img", ".", "Img/img", "img"])
@pytest.mark.parametrize("folder", ["Eval", "Anno", "."])
def test_layouts_that_users_have(tmp_path, images, folder):
    root = make_inshop(tmp_path / "x", shrink=400, images=images)
    (root / folder).mkdir(exist_ok=True)
    (root / INSHOP_LIST).rename(root / folder / INSHOP_LIST.name)
    train, _ = inshop.read(tmp_path, print)
    assert (train.root / train.paths[0]).is_file()


def test_lists_of_other_benchmarks_are_passed_over(small, tmp_path):
    other = tmp_path / "Anno"
    other.mkdir()
    (other / "list_eval_partition.txt").write_text("1\nimage_name evaluation_status\nimg/a.jpg train\n")
    assert len(inshop.read(tmp_path, print)[0].paths) == 129
    (small / INSHOP_LIST).unlink()
    with pytest.raises(
        UserError, match=r"holds no list_eval_partition.*of another benchmark.*place Eval/list"
    ) as caught:
        inshop.read(tmp_path, print)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [("img/a.jpg id_1", "line 3: must hold"), ("img/a.jpg id_1 val", "one of train, query, gallery"),
     ("a.jpg id_1 train", r"img/\.\.\.")],
)  # fmt: skip
def test_lines_that_are_none(small, tmp_path, line, message):
    (small / INSHOP_LIST).write_text(f"1\nimage_name item_id evaluation_status\n{line}\n")
    with pytest.raises(UserError, match=message):
        inshop.read(tmp_path, print)


def test_a_list_that_was_cut_off(small, tmp_path):
    path = small / INSHOP_LIST
    path.write_text("\n".join(path.read_text().splitlines()[:-3]))
    with pytest.raises(UserError, match="line 1: says '263' images, and lists 260"):
        inshop.read(tmp_path, print)


def test_what_is_missing_is_named(small, tmp_path):
    with pytest.raises(UserError, match=r"no such data folder; place Eval/"):
        inshop.read(tmp_path / "absent", print)
    with pytest.raises(UserError, match=r"holds no list_eval_partition\.txt of In-Shop; place"):
        inshop.read(tmp_path / "x" / "In-shop Clothes Retrieval Benchmark" / "Img", print)
    next((small / "Img").rglob("query*.jpg")).unlink()
    with pytest.raises(UserError, match="inshop: 1 of 263 listed images are not in"):
        inshop.read(tmp_path, print)
    (small / "Img").rename(small / "pictures")
    with pytest.raises(UserError, match=r"no folder img/ or Img/img/ near it; place"):
        inshop.read(tmp_path, print)


def test_an_item_that_trains_is_not_tested(small, tmp_path):
    path = small / INSHOP_LIST
    path.write_text(path.read_text().replace("id_00003998 query", "id_00000002 query"))
    with pytest.raises(UserError, match=r"1 class of .* in train are tested as well \(id_00000002\)"):
        inshop.read(tmp_path, print)


def test_check_counts_queries_and_gallery(small, tmp_path):
    """The items are right by the numbers of the catalogue, were it as small, and a role is not."""
    path = small / INSHOP_LIST
    path.write_text(path.read_text().replace(" query", " gallery", 1))
    info = DATASETS["inshop"]
    sides = inshop.read(tmp_path, print)
    found = check(info, tmp_path, print)
    assert found.roles == (70, 64)
    assert not found.sound
    assert sides[1].queries.sum() == 70
    assert np.isin(sides[1].labels[sides[1].queries], sides[1].labels[~sides[1].queries]).all()
