"""What a GPU cannot do is one line before any cell."""

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from dmlbench.errors import UserError
from dmlbench.models.determinism import BACKWARD, FORWARD, RAISES, _Operations, check_deterministic
from dmlbench.models.model import build_model

RUN = ("run", "--methods", "ms", "--datasets", "glyphs", "--seeds", "1", "--tracking", "none")
pytestmark = pytest.mark.null


def dmlbench(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from dmlbench.cli.main import main; sys.exit(main())", *arguments]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_cuda_that_is_counted_and_cannot_start_is_one_line(tmp_path):
    done = dmlbench(*RUN, "--device", "cuda", folder=tmp_path, NULL_GPU_BROKEN="1")
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: --device cuda: CUDA cannot start (")
    assert "insufficient" in done.stderr
    assert not list(tmp_path.rglob("summary.json"))


def test_doctor_says_why_cuda_cannot_start(tmp_path):
    done = dmlbench("doctor", folder=tmp_path, NULL_GPU_BROKEN="1")
    assert done.returncode == 1
    assert "cannot start (" in done.stdout


def test_tf32_that_a_variable_decides_is_refused(tmp_path):
    done = dmlbench(*RUN, "--device", "cuda", folder=tmp_path, NVIDIA_TF32_OVERRIDE="1")
    assert (
        "NVIDIA_TF32_OVERRIDE=1: decides over TF32 in place of training.float32_convolutions (ieee)"
        in done.stderr + done.stdout
    )
    assert done.returncode == 2
    assert not list(tmp_path.rglob("summary.json"))


@pytest.mark.parametrize(
    ("variable", "convolutions", "refused"),
    [
        (("NVIDIA_TF32_OVERRIDE", "0"), "ieee", False),
        (("NVIDIA_TF32_OVERRIDE", "0"), "tf32", True),
        (("NVIDIA_TF32_OVERRIDE", "1"), "tf32", True),  # matrix products would round, too
        (("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1"), "ieee", True),
        (("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "0"), "tf32", False),
    ],
)
def test_a_variable_that_asks_for_the_same_is_none_to_refuse(variable, convolutions, refused, make, monkeypatch):
    monkeypatch.setenv(*variable)
    with pytest.raises(UserError, match=variable[0]) if refused else nullcontext():
        make("ms", "conv4-64", "glyphs", float32_convolutions=convolutions)


def test_a_library_that_gets_no_memory_fails_for_memory(tmp_path):
    done = dmlbench(*RUN, "--device", "cuda", folder=tmp_path, NULL_GPU_NO_CUBLAS="1")
    assert done.returncode == 1
    assert '"kind": "memory"' in next(tmp_path.rglob("summary.json")).read_text()


@pytest.mark.parametrize(
    ("backbone", "pooling", "refused"),
    [("torchvision:vgg11", "average", True), ("timm:resnet10t", "average+max", False), ("conv4", "max", False)],
)
def test_a_backbone_without_a_deterministic_gradient_is_known_before_it_runs(backbone, pooling, refused, make):
    chosen = {"backbone": backbone, "pooling": pooling}
    grey = {"size": 64} if backbone != "conv4" else {"size": 28}
    protocol, dataset = ("conv4-64", "glyphs") if backbone == "conv4" else ("resnet50-128", "cub")
    made = make("ms", protocol, dataset, model=chosen, batch_size=8, deterministic=True, **grey)
    host = build_model(made.protocol.model, made.protocol.input)
    if refused:
        with pytest.raises(
            UserError, match=r"cannot be trained on CUDA .*_adaptive_avg_pool2d_backward.*deterministic=false"
        ):
            check_deterministic(backbone, host.backbone, made.protocol.input)
        with pytest.raises(RuntimeError, match="deterministic"):
            made.step(0)
    else:
        check_deterministic(backbone, host.backbone, made.protocol.input)
        made.step(0)


F = torch.nn.functional
OPERATIONS = {
    "_adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 3),
    "_adaptive_avg_pool3d": lambda x: F.adaptive_avg_pool3d(x[None], 3),
    "_upsample_bicubic2d_aa": lambda x: F.interpolate(x, scale_factor=0.5, mode="bicubic", antialias=True),
    "_upsample_bilinear2d_aa": lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 3),
    "avg_pool3d": lambda x: F.avg_pool3d(x[None], 2),
    "fractional_max_pool2d": lambda x: F.fractional_max_pool2d(x, 2, output_size=4),
    "fractional_max_pool3d": lambda x: F.fractional_max_pool3d(x[None], 1, output_size=2),
    "grid_sampler_2d": lambda x: F.grid_sample(x, x.new_zeros(2, 4, 4, 2), align_corners=False),
    "grid_sampler_3d": lambda x: F.grid_sample(x[None], x.new_zeros(1, 2, 4, 4, 3), align_corners=False),
    "histc": lambda x: x + x.detach().histc(4).sum(),
    "max_pool3d_with_indices": lambda x: F.max_pool3d(x[None], 2),
    "reflection_pad1d": lambda x: F.pad(x[0], (1, 1), mode="reflect"),
    "reflection_pad3d": lambda x: F.pad(x[None], (1, 1, 1, 1, 1, 1), mode="reflect"),
    "upsample_bicubic2d": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "upsample_linear1d": lambda x: F.interpolate(x[0], scale_factor=2, mode="linear"),
}


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_the_list_is_complete():
    assert set(OPERATIONS) == BACKWARD | FORWARD


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_the_list_names_raises_on_cuda_and_is_seen_on_a_cpu(name, deterministic):
    x = torch.zeros((2, 3, 8, 8), device="cuda", requires_grad=True)
    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        OPERATIONS[name](x).sum().backward()
    with _Operations() as operations:
        OPERATIONS[name](torch.rand((2, 3, 8, 8), requires_grad=True)).sum().backward()
    assert operations.seen & RAISES
