"""`--set modifier.NAME=VALUE` is `distillation.NAME`, by the command line and from Python."""

from click.testing import CliRunner

from dmlbench.cli.show import command
from dmlbench.specs.protocol import whole_key


def test_the_section_of_a_modifier_has_two_names():
    assert whole_key("modifier.lambda=10") == "distillation.lambda=10"
    assert whole_key("model.backbone=conv4") == "model.backbone=conv4"
    shown = [
        CliRunner().invoke(command, ["ms+psd", "--set", f"{section}.lambda=7"]).output
        for section in ("modifier", "distillation")
    ]
    assert shown[0] == shown[1]
    assert "7" in shown[0]
