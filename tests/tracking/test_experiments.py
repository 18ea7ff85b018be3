import base64
import json
import zlib
from dataclasses import replace

import pytest

from dmlbench.tracking import pages
from dmlbench.tracking.experiments import MOST, PREFIX, experiment_of, view_tags

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of MLflow's own libraries
NOTE = "mlflow.note.content"
NAME = "dmlbench/tiny/glyphs"


def tags(client) -> dict[str, str]:
    return client.get_experiment_by_name(NAME).tags


def with_settings(cell, *overrides):
    return replace(cell, overrides=overrides)


def test_an_experiment_says_what_it_is(client, make_cell):
    experiment = experiment_of(client, make_cell())
    found = tags(client)
    assert (found["dataset"], found["protocol"]) == ("glyphs", "tiny")
    assert found["mlflow.experimentKind"] == "custom_model_development"
    note = found[NOTE]
    assert note.startswith("glyphs, tiny: [methods, best R@1 first](#/experiments/")
    for part in (
        "2,000 training images of 100 classes",
        "| network | conv4 |",
        "| epochs | 2 |",
        "| embedding | 4-d |",
    ):
        assert part in note
    assert pages(client) == {
        NAME: f"#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey=methods"
    }


def test_a_setting_of_one_cell_is_not_said_of_the_experiment(client, make_cell):
    changed = with_settings(make_cell(epochs=7), "training.epochs=7", "distillation.tau=2")
    experiment_of(client, changed)
    assert "| epochs |" not in tags(client)[NOTE]
    assert "| batch |" in tags(client)[NOTE]
    experiment_of(client, make_cell())
    assert "| epochs | 2 |" in tags(client)[NOTE]
    experiment_of(client, changed)
    assert "| epochs | 2 |" in tags(client)[NOTE]


def test_what_a_user_wrote_stays(client, make_cell):
    experiment = experiment_of(client, make_cell())
    client.set_experiment_tag(experiment, NOTE, "mine")
    experiment_of(client, make_cell(seed=1))
    assert tags(client)[NOTE] == "mine"


def test_an_experiment_of_an_older_dmlbench_is_described_anew(client, make_cell):
    client.create_experiment(NAME, tags={NOTE: "dmlbench: methods trained"})
    experiment_of(client, make_cell())
    assert tags(client)[NOTE].startswith("glyphs, tiny: ")
    assert PREFIX + "methods" in tags(client)


def test_images_of_the_users_own(client, make_cell):
    experiment_of(client, make_cell(dataset="mine"))
    found = client.get_experiment_by_name("dmlbench/tiny/mine")
    assert "images of the user's own" in found.tags[NOTE]


@pytest.mark.parametrize("view", ["methods", "epochs", "runs"])
def test_a_view_is_there_twice_and_fits(view):
    text = view_tags(1)[PREFIX + view]
    assert len(text) < MOST
    content = json.loads(text)
    kind, _, packed = content.pop("state").partition(";")
    assert kind == "deflate"
    assert content.pop("name")
    assert content.pop("createdAt") == 1
    assert json.loads(zlib.decompress(base64.b64decode(packed))) == content
