import pytest

from dmlbench.errors import UserError
from dmlbench.overhead.plan import CostRequest, plan_cost

SETTINGS = ("training.epochs=2",)


def plan(*methods, protocol="conv4-64", dataset=None, settings=SETTINGS):
    return plan_cost(CostRequest(methods, protocol, dataset, settings), print)


def names(planned):
    return [method.name for method in planned.methods]


def test_bases_are_added_and_stand_before_their_methods():
    assert names(plan("ms+psd", "triplet+obdsd-mem", "ms")) == ["triplet", "triplet+obdsd-mem", "ms", "ms+psd"]


def test_synthetic_images_need_no_weights():
    planned = plan("ms", protocol="resnet50-128")
    assert planned.dataset is None
    assert planned.protocol.model.weights is None
    assert plan("ms", protocol="resnet50-128", settings=("model.weights=X",)).protocol.model.weights == "X"


def test_a_dataset_brings_its_protocol():
    planned = plan("ms", protocol=None, dataset="glyphs", settings=())
    assert planned.dataset.name == "glyphs"
    assert planned.protocol.name == "conv4-64"
    assert planned.protocol.training.epochs == 12


@pytest.mark.parametrize(
    ("methods", "changes", "message"),
    [
        (("ms",), {"protocol": None}, "--protocol: synthetic images need one; for example --protocol conv4-64"),
        (("ms+pds",), {}, "'ms+pds': unknown method 'pds'; did you mean 'psd'?"),
        (("ms",), {"settings": ("distillation.tau=2",)}, "no chosen method has this parameter"),
        (("ms",), {"dataset": "glyhps"}, "unknown dataset 'glyhps'; did you mean 'glyphs'?"),
        (("ms",), {"protocol": "conv4"}, "unknown protocol 'conv4'; did you mean 'conv4-64'?"),
        (("ms+psd",), {"settings": ("training.epochs=1",)}, "ms+psd would seem to be free; --set training.epochs=2"),
        (("ms+psd",), {"settings": ("distillation.lambda=0",)}, "with distillation.lambda=0 it is its base"),
    ],
)
def test_one_clear_line(methods, changes, message):
    with pytest.raises(UserError) as caught:
        plan(*methods, **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_epoch_of_bases_alone_is_no_mistake():
    assert names(plan("ms", settings=("training.epochs=1",))) == ["ms"]
