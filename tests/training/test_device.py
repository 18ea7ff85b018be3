import pytest
import torch

from dmlbench.errors import UserError
from dmlbench.training.device import prepare, resolve_device


@pytest.mark.parametrize(("available", "kind"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_cuda_where_there_is_one(monkeypatch, available, kind):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert resolve_device("auto").type == kind
    assert resolve_device("cpu").type == "cpu"


def test_cuda_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("cuda", "cuda:1"):
        with pytest.raises(UserError, match=f"^--device {name}: torch sees no CUDA device; valid: auto, cpu"):
            resolve_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize("deterministic", [True, False])
def test_threads_and_determinism_are_the_protocols(make_protocol, deterministic):
    deterministic_before = torch.are_deterministic_algorithms_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        prepare(make_protocol(cpu_threads=2, deterministic=deterministic).training, torch.device("cpu"))
        assert torch.get_num_threads() == 2
        assert torch.are_deterministic_algorithms_enabled() == deterministic
        assert torch.backends.cudnn.deterministic == deterministic
        assert torch.backends.cudnn.benchmark != deterministic
    finally:
        torch.use_deterministic_algorithms(deterministic_before)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
