import subprocess
import sys

import pytest

from dmlbench.data import omniglot
from dmlbench.data.catalogue import DATASETS, dataset_info
from dmlbench.data.family import cache_dir
from dmlbench.data.ready import dataset_spec, prepare
from dmlbench.errors import UserError


def test_planning_needs_no_torch():
    code = "import sys, dmlbench.data.catalogue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_entries_are_keyed_by_their_name_and_know_a_protocol():
    assert set(DATASETS) == {"glyphs", "omniglot-small", "cub", "cars", "sop", "inshop", "inat"}
    small = ("glyphs", "omniglot-small")
    assert all(name == info.name for name, info in DATASETS.items())
    assert all((i.default_protocol == "conv4-64") == (i.name in small) for i in DATASETS.values())


def test_a_misspelt_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"did you mean 'glyphs'.*dmlbench list datasets") as caught:
        dataset_info("glyps")
    assert "\n" not in str(caught.value)


def spec_of(name, folder=None):
    return dataset_spec(dataset_info(name), folder, print)


def test_specs_carry_the_version_of_the_contents():
    assert spec_of("glyphs").version == "1"
    assert spec_of("omniglot-small").version == omniglot.VERSION
    assert len({spec_of(name).version for name in DATASETS}) == len(DATASETS)


def test_prepare_makes_glyphs_and_says_so_once(glyphs_drawn):
    lines = []
    prepare(spec_of("glyphs"), None, lines.append)
    prepare(spec_of("glyphs"), None, lines.append)
    assert len(glyphs_drawn) == 1
    assert len(lines) == 1
    assert str(cache_dir()) in lines[0]


def test_prepare_checks_the_given_folder(fake_omniglot, tmp_path):
    prepare(spec_of("omniglot-small"), fake_omniglot, print)
    with pytest.raises(UserError, match="no such data folder"):
        prepare(spec_of("omniglot-small"), tmp_path / "absent", print)
