from dataclasses import replace

import pytest

from dmlbench.errors import UserError
from dmlbench.tuned import settings_of, write_tuned


@pytest.mark.parametrize(("root", "named"), [(None, "birds"), ("photos/birds", "birds=FOLDER")])
def test_what_was_never_tuned_is_answered_with_the_command_that_tunes_it(tmp_path, make_cell, root, named):
    cell = make_cell("ms")
    cell = replace(cell, dataset=cell.dataset.model_copy(update={"name": "birds", "root": root}))
    write_tuned(tmp_path / "tuned.yaml", [])
    with pytest.raises(UserError, match=rf"no entry for ms on birds.*--methods ms --datasets {named} --trials N"):
        settings_of(tmp_path / "tuned.yaml", cell.method, cell.dataset, cell.protocol)
