"""What `dmlbench validate` says of a plugin that is wrong, in one line."""

import re

import pytest
import torch

from dmlbench.data.images import Split
from dmlbench.data.loader import TrainingBatches
from dmlbench.errors import UserError
from dmlbench.specs.protocol import load_protocol
from dmlbench.specs.registry import Registry
from dmlbench.training.check import check_method

HEAD = """\
import numpy as np
import torch
from torch import nn
from dmlbench.modifiers import Modifier
"""
MODIFIER = HEAD + "class Mine(Modifier):\n"
LOSS = HEAD + "class Mine(nn.Module):\n    def forward(self, embeddings, labels, generator=None):\n        return "


@pytest.fixture
def check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)

    def run(text, kind="modifier", base="ms+"):
        (tmp_path / "mine.py").write_text(text)
        (tmp_path / "mine.yaml").write_text(
            f"{{name: mine, title: Mine, kind: {kind}, class: Mine, plugin: mine.py, paper: null, parameters: {{}}}}"
        )
        method = Registry(tmp_path).resolve(f"{base}mine", "glyphs", "conv4-64")
        return check_method(method, load_protocol("conv4-64", "glyphs"))

    return run


FORGETS = """\
    def __init__(self):
        super().__init__()
        self.kept = []
    def loss(self, outputs, context):
        return [0.1 * sum((one * outputs[0].embeddings.sum() for one in self.kept), outputs[0].ranking)]
    def after_step(self, outputs, context):
        self.kept.append(outputs[0].embeddings.mean())
"""
KEEPS = MODIFIER + "    def get_extra_state(self):\n        return {}\n"
ADDS = MODIFIER + "    def loss(self, outputs, context):\n        return {}\n"
CALLED = "class Mine:\n    def __call__(self, {}):\n        return {}\n"
SAMPLED, MINED = "labels, steps, batch_size, samples_per_class, rng", "embeddings, labels, generator"


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (MODIFIER + FORGETS, "modifier", "mine: its state is not restored: an interruption changes a loss"),
        (KEEPS.format("np.zeros(2)"), "modifier", "cannot be saved and read"),
        (KEEPS.format(1), "modifier", "mine: its state cannot be restored (RuntimeError"),
        (ADDS.format("[torch.ones(3)]"), "modifier", "got (3,)"),
        (ADDS.format("[]"), "modifier", "gives 0 values for 1 net"),
        (ADDS.format("[outputs[0].ranking * np.nan]"), "modifier", "the loss nan"),
        (MODIFIER + "    def build(self, context): context.nothing", "modifier", "Mine.build raises AttributeError"),
        (HEAD + "class Mine:\n    pass\n", "modifier", "Mine must be a dmlbench.modifiers.Modifier"),
        (LOSS + "embeddings.sum(dim=1)", "loss", "a loss must be a scalar tensor of shape (), got (16,)"),
        (LOSS + "0.0", "loss", "a loss must be a scalar tensor of shape (), got float"),
        (LOSS + "embeddings.detach().sum()", "loss", "the loss depends on no weight, so there is no gradient"),
        (LOSS.replace("labels", "labels, mask"), "loss", "argument: 'mask'; a loss is called as loss(embedd"),
        (HEAD + "def Mine(features): return nn.Linear(features, 3)", "head", "maps (B, 64) to (B, 64); for B = 2"),
        (HEAD + "def Mine(): return 3", "head", "Mine must be a torch.nn.Module"),
        (HEAD + CALLED.format(SAMPLED, "np.zeros((steps, 3), int)"), "sampler", "here (2, 16); it gives int64 (2, 3)"),
        (HEAD + CALLED.format(SAMPLED, "np.full((steps, batch_size), 99)"), "sampler", "not 99 to 99"),
        (HEAD + "class Mine: pass", "sampler", "a sampler is called, and this has no __call__"),
        (HEAD + CALLED.format("image", "image[:, 1:]"), "augmentation", "must give torch.float32 (1, 28, 28), gives"),
        (CALLED.format(MINED, "None"), "miner", "ms+mine: the base takes no triplets; for example triplet+"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(text, kind, message, check):
    with pytest.raises(UserError) as caught:
        check(text, kind, "" if kind == "loss" else "ms+")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


INIT, DRAWS = "    def __init__(self):\n        ", "draws numbers that nothing seeds: the same steps give other losses"


@pytest.mark.parametrize(
    "head",
    [
        "    @staticmethod\n    def forward(embeddings, labels):\n",
        "    def __call__(self, embeddings, labels):\n",
    ],
)
def test_whatever_can_be_called_is_a_loss(head, check):
    check(
        "import functools\n" + HEAD + "class Mine(nn.Module):\n" + head + "        return embeddings.sum()", "loss", ""
    )


def test_a_type_error_within_a_loss_is_no_wrong_call(check):
    with pytest.raises(UserError, match=r"TypeError: .* line 7\)") as caught:
        check(LOSS + "len(3)", "loss", "")
    assert "is called as" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kind", "line"),
    [
        ("class Mine(:", "loss", 1),
        ("\nimport nowhere_to_be_found", "loss", 2),
        (HEAD + "class Mine(nn.Module):\n" + INIT + "wrong", "loss", 7),
        (LOSS + "wrong", "loss", 7),
        (HEAD + "def deeper():\n    wrong\n" + LOSS.removeprefix(HEAD) + "deeper()", "loss", 6),
        (ADDS.format("wrong"), "modifier", 7),
        (KEEPS.format("wrong"), "modifier", 7),
        (MODIFIER + "    def build(self, context): wrong", "modifier", 6),
        (MODIFIER + "    def parameter_groups(self, context): wrong", "modifier", 6),
        (MODIFIER + "    def after_epoch(self, models): wrong", "modifier", 6),
        (HEAD + "class Mine(nn.Module):\n    def forward(self, x): wrong", "head", 6),
        (CALLED.format(SAMPLED, "wrong"), "sampler", 3),
        (CALLED.format("image", "wrong"), "augmentation", 3),
    ],
)
def test_an_error_in_a_plugin_names_its_line(text, kind, line, check, tmp_path):
    with pytest.raises(UserError, match=rf"Error: .* \({tmp_path.name}/mine\.py line {line}\)") as caught:
        check(text, kind, "" if kind == "loss" else "ms+")
    assert "\n" not in str(caught.value)


def test_so_it_does_in_a_run_and_of_a_process_that_loads(tmp_path, make_trainer, check):
    with pytest.raises(UserError):
        check(LOSS + "wrong", "loss", "")
    protocol, batch = load_protocol("conv4-64", "glyphs"), torch.zeros(224, 1, 28, 28, dtype=torch.uint8)
    split = Split(batch, torch.arange(224) // 2, tuple(map(str, range(112))))
    with TrainingBatches(split, protocol, 0) as batches, pytest.raises(RuntimeError, match=r"mine\.py line 7\)$"):
        make_trainer("mine", methods_dir=tmp_path).step(next(iter(batches.epoch(0))), 0, torch.Generator())
    with pytest.raises(UserError):
        check(CALLED.format("image", "wrong"), "augmentation")
    named = r"^NameError: name 'wrong' is not defined \(.*mine\.py line 3\)$"
    loader = make_trainer("ms+mine", methods_dir=tmp_path).batches(split, protocol, 0, data_workers=1)
    with loader as batches, pytest.raises(RuntimeError, match=named):
        next(iter(batches.epoch(0)))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (LOSS + "embeddings.sum() * np.random.rand()", "loss"),
        ("import random\n" + ADDS.format("[outputs[0].ranking * random.random()]"), "modifier"),
    ],
)
def test_what_nothing_seeds_is_no_fault_of_the_state(text, kind, check):
    with pytest.raises(UserError, match=rf"{DRAWS}; .* Python's random and NumPy's") as caught:
        check(text, kind, "" if kind == "loss" else "ms+")
    assert "state" not in str(caught.value)


def test_a_miner_gives_the_triplets(check):
    given = "torch.zeros((0, 3), dtype=torch.int64)"
    assert check(HEAD + CALLED.format(MINED, given), "miner", "triplet+")[0] == 0.0
    with pytest.raises(UserError, match="triplets must be an int64 tensor"):
        check(HEAD + CALLED.format(MINED, "torch.zeros(3, 3)"), "miner", "triplet+")


def test_what_a_modifier_draws_leaves_the_base_as_it_is(check, tmp_path):
    drawing = "    def loss(self, outputs, context):\n        torch.rand(5)\n"
    protocol = load_protocol("conv4-64", "glyphs")
    base = check_method(Registry(tmp_path).resolve("triplet", "glyphs", "conv4-64"), protocol)
    assert check(MODIFIER + drawing, base="triplet+") == base
    assert torch.equal(torch.tensor(base[0]), torch.tensor(check(MODIFIER + "    pass\n", base="triplet+")[0]))


def test_a_modifier_learns_at_its_files_rates(tmp_path, make_trainer):
    own = "        super().__init__()\n        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)\n"
    (tmp_path / "mine.py").write_text(f"{MODIFIER}    def __init__(self):\n{own}")
    text = "{name: mine, title: M, kind: modifier, class: Mine, plugin: mine.py, paper: null, parameters: {}, RATES}"
    for rates, expected in (("learning_rates: {a: {value: 0.5, source: x}}", [0.5, 0.5, 0.01, 0.01]), ("", [0.01] * 4)):
        (tmp_path / "mine.yaml").write_text(text.replace(", RATES", f", {rates}" if rates else ""))
        groups = make_trainer("ms+mine", methods_dir=tmp_path).networks[0].optimizer.param_groups
        assert [group["lr"] for group in groups[2:]] == expected
        assert [group["weight_decay"] for group in groups[2:]] == [0.0] * 4
    (tmp_path / "mine.yaml").write_text(text.replace("RATES", "learning_rates: {c: {value: 0.5, source: x}}"))
    with pytest.raises(UserError, match=r"mine: learning_rates: unknown learned parameter 'c'"):
        make_trainer("ms+mine", methods_dir=tmp_path)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            "(embeddings.sum() * 0 - 1).log()",
            "step 1 of epoch 1 gave the loss nan; a logarithm of 0, or a mean of no pairs?",
        ),
        (
            "embeddings[labels > 99].mean()",
            "step 1 of epoch 1 gave the loss nan; a logarithm of 0, or a mean of no pairs?",
        ),
        (
            "(embeddings * 0).pow(2).sum().sqrt()",
            "step 1 of epoch 1 gave the loss 0 and no finite gradient; a root or a norm of 0?",
        ),
    ],
)
def test_a_loss_that_is_not_finite_says_in_which_step_and_what_it_is_of(check, returned, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check(LOSS + returned, "loss", "")


def test_a_forward_with_other_arguments_says_how_a_loss_is_called(check):
    forward = HEAD + "class Mine(nn.Module):\n    def forward(self, embeddings):\n        return embeddings.sum()"
    with pytest.raises(
        UserError, match=re.escape("; a loss is called as loss(embeddings (B, D), labels (B,)), and gets")
    ):
        check(forward, "loss", "")
