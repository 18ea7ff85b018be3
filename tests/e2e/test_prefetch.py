"""What a run needs is brought where there is internet."""

from pathlib import Path

import pytest
from torchvision import models as torchvision_models

from tests.e2e.conftest import Command

RESNET = (
    "--set", "model.backbone=torchvision:resnet18", "--set", "model.weights=IMAGENET1K_V1", "--set", "input.channels=3",
    "--set", "input.mean=[0,0,0]", "--set", "input.std=[1,1,1]", "--set", "input.size=32", "--set", "input.resize=32",
)  # fmt: skip


def test_data_are_made_ready(dmlbench: Command, tmp_path: Path) -> None:
    done = dmlbench("prefetch", "--methods", "ms,ms+psd", "--datasets", "glyphs", "--data-dir", "new")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "ready: machines that see these folders run it without internet"
    (tmp_path / "study.yaml").write_text("methods: [ms]\ndatasets: [glyphs]\nclaims: ['psd:triplet']\n")
    assert dmlbench("prefetch", "study.yaml", "--vary", "order").returncode == 0
    assert dmlbench("prefetch", "study.yaml").returncode == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--methods", "mz"), "'mz'"),
        (("--methods", "ms", "--protocol", "conv5"), "'conv5'"),
        (("--methods", "ms", "--set", "loss.alfa=3"), "loss.alfa"),
        (("--methods", "ms", "--tuned", "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_names_and_settings_are_checked_before_anything_is_loaded(
    dmlbench: Command, tmp_path: Path, given: tuple[str, ...], message: str
) -> None:
    refused = dmlbench("prefetch", *given, "--datasets", "glyphs", "--data-dir", "new")
    assert refused.returncode == 2
    assert message in refused.stderr
    assert not refused.stdout
    assert not (tmp_path / "new").exists()


def test_weights_are_downloaded_once_and_named(
    dmlbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch  # noqa: PLC0415 - not before the caches are named

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    file = tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    asked = []

    def download(url: str, target: str, *_args: object, **_kwargs: object) -> None:
        asked.append(url)
        torch.save(torchvision_models.resnet18().state_dict(), target)

    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    arguments = ("--methods", "ms", "--datasets", "glyphs", *RESNET)
    missing = dmlbench("run", *arguments, "--seeds", "1", "--dry-run")
    assert missing.returncode == 1
    assert f"not on this machine ({file.name} in {file.parent})" in missing.stdout
    for _ in range(2):
        done = dmlbench("prefetch", *arguments)
        assert done.returncode == 0, done.stderr
        assert f"weights IMAGENET1K_V1 of torchvision:resnet18: {file.name} in {file.parent}" in done.stdout
    assert len(asked) == 1
    assert dmlbench("run", *arguments, "--seeds", "1", "--dry-run").returncode == 0
