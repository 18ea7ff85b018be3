import dataclasses
from pathlib import Path

import pytest

from dmlbench.errors import UserError
from dmlbench.method_loading import Folder, load_file, parameter_model
from dmlbench.registry import (
    NEW,
    REPLACED,
    TUNED_MARK,
    UNPUBLISHED,
    UNTUNED,
    MethodSettings,
    Registry,
    own_folder,
    search_path,
)

BASES = ("contrastive", "margin", "ms", "proxyanchor", "triplet")
COHORTS = ("+dm2", "+dm2-model", "+dm2-temporal", "+dm2-view", "+independent")
MODIFIERS = ("+psd", "+obdsd", "+psd-mem", "+obdsd-mem", "+s2sd", *COHORTS)
PARSER_DEFAULTS = {"lambda": 75.0, "omega": 0.99, "tau": 1.0, "tau_diffusion": 1.0}
OFFICIAL = {  # facts: official settings of the OBD-SD code
    ("cub", "resnet50-128"): {"lambda": 1000.0, "omega": 0.3, "tau": 1.0, "tau_diffusion": 1.0},
    ("cars", "resnet50-128"): {"lambda": 75.0, "omega": 0.99, "tau": 1.0, "tau_diffusion": 1.0},
    ("sop", "resnet50-128"): {"lambda": 100.0, "omega": 0.5, "tau": 1.0, "tau_diffusion": 0.005},
    ("cub", "resnet50-512"): {"lambda": 1000.0, "omega": 0.3, "tau": 1.0, "tau_diffusion": 1.0},
    ("cars", "resnet50-512"): {"lambda": 200.0, "omega": 0.99, "tau": 1.0, "tau_diffusion": 1.0},
    ("sop", "resnet50-512"): {"lambda": 200.0, "omega": 0.5, "tau": 1.0, "tau_diffusion": 0.005},
}
PINNED = """\
name: ms+psd
title: A composition with values of its own
kind: pinned
loss:
  epsilon: {value: 0.05, source: pinned}
distillation:
  lambda: {value: 10, source: pinned}
  tau: {value: 2, source: pinned}
"""
PLUGIN = """\
name: pull
title: Pull
kind: loss
class: Pull
plugin: pull.py
paper: {title: none, authors: nobody, venue: nowhere}
parameters:
  strength: {value: 2, source: a test}
learning_rates:
  weight: {value: 0.1, source: a test}
"""
MODIFIER = """\
name: soft
title: Soft
kind: distillation
class: psd
paper: {title: none, authors: nobody, venue: nowhere}
parameters:
  lambda: {value: 5, source: a test}
  tau: {value: 1, source: a test, overrides: [OVERRIDES]}
"""


@pytest.fixture(autouse=True)
def _alone(empty_folder):
    """No `./methods` but what a test puts there."""


@pytest.fixture
def mine(tmp_path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    return folder


def shipped(name: str) -> str:
    return (own_folder() / f"{name}.yaml").read_text()


def resolve(name: str, methods_dir: Path | None = None, dataset="glyphs", protocol="conv4-64", **settings):
    return Registry(methods_dir).resolve(name, dataset, protocol, MethodSettings(**settings))


def refusal(name: str, methods_dir: Path | None = None, **settings) -> str:
    with pytest.raises(UserError) as caught:
        resolve(name, methods_dir, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_base_ships_with_every_modifier():
    names = Registry().names()
    assert names == sorted(f"{base}{modifier}" for base in BASES for modifier in ("", *MODIFIERS))
    assert len(names) == 55
    for name in names:
        method = resolve(name)
        assert method.name == name
        assert method.base == name.partition("+")[0]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("psd", "class: psd", "class: psd\nteacher: none"), ("dm2", "teacher: none", "teacher: memory")],
)
def test_who_teaches_fits_the_class(name, old, new, mine):
    text = (own_folder() / f"{name}.yaml").read_text()
    (mine / f"{name}.yaml").write_text(text.replace(old, new))
    with pytest.raises(UserError, match="teacher: none is for the classes dm2, s2sd"):
        resolve(f"ms+{name}", mine)


@pytest.mark.parametrize("setting", OFFICIAL)
def test_ms_obdsd_resolves_to_the_official_settings(setting):
    dataset, protocol = setting
    method = resolve("ms+obdsd", dataset=dataset, protocol=protocol)
    assert method.distillation.values() == OFFICIAL[setting]
    assert method.loss.values() == {"alpha": 2.0, "beta": 40.0, "base": 0.5, "epsilon": 0.1}
    assert method.marks == ()
    sources = {value.source for value in method.distillation.parameters.values()}
    assert all("official code" in source and "parser default" not in source for source in sources)


@pytest.mark.parametrize(
    ("name", "dataset", "marks"),
    [
        ("triplet+obdsd", "cub", (UNTUNED,)),
        ("ms+obdsd", "glyphs", (UNTUNED,)),
        ("proxyanchor+obdsd", "sop", (UNTUNED,)),
        ("margin+obdsd", "cars", (UNTUNED, UNPUBLISHED)),
    ],
)
def test_where_nothing_is_published_the_parsers_defaults_stand_in(name, dataset, marks):
    method = resolve(name, dataset=dataset, protocol="resnet50-128")
    assert method.distillation.values() == PARSER_DEFAULTS
    assert method.marks == marks
    assert not any(value.published for value in method.distillation.parameters.values())


def test_margin_psd_is_an_unpublished_composition():
    assert UNTUNED == "untuned: nothing published"
    assert UNPUBLISHED == "unpublished composition"
    assert resolve("margin+psd").marks == (UNTUNED, UNPUBLISHED)
    assert resolve("ms+psd").marks == (UNTUNED,)
    assert resolve("margin").marks == ()


@pytest.mark.parametrize("name", ["ms+psd-mem", "ms+obdsd-mem", "margin+obdsd-mem"])
def test_a_method_in_no_paper_says_so(name):
    assert NEW == "new: in no paper"
    for dataset in ("glyphs", "cub"):
        assert resolve(name, dataset=dataset).marks == (NEW, UNTUNED)


def test_a_memory_has_the_settings_of_what_it_replaces():
    for dataset, protocol in (("cub", "resnet50-128"), ("cars", "resnet50-512"), ("sop", "resnet50-128")):
        for name in ("psd", "obdsd"):
            official, memory = (resolve(f"ms+{n}", None, dataset, protocol).distillation for n in (name, f"{name}-mem"))
            assert official.values() == memory.values()
            assert official.identity() != memory.identity()
            assert (official.teacher, memory.teacher) == ("previous-epoch", "memory")


def test_learned_parameters_have_their_published_rates():
    assert resolve("proxyanchor+psd").loss.rates() == {"proxies": 0.01}
    assert resolve("margin").loss.rates() == {"beta": 0.0005}
    assert resolve("ms").loss.rates() == {}


def test_published_figures_speak_of_these_datasets():
    assert Registry().datasets() == {"cub", "cars", "sop"}


def test_a_pinned_file_wins_and_leaves_the_rest_to_the_parts(mine):
    (mine / "ms+psd.yaml").write_text(PINNED)
    method = resolve("ms+psd", mine)
    assert method.distillation.values() == {"lambda": 10.0, "tau": 2.0}
    assert method.loss.values() == {"alpha": 2.0, "beta": 40.0, "base": 0.5, "epsilon": 0.05}
    assert method.marks == (REPLACED.format("ms+psd"),)
    assert resolve("ms", mine).loss.values()["epsilon"] == 0.1
    assert resolve("triplet+psd", mine).distillation.values() == {"lambda": 75.0, "tau": 1.0}
    assert len(Registry(mine).names()) == 55


def test_a_pinned_file_may_give_rates_of_the_loss(mine):
    rates = "name: margin+psd\ntitle: x\nkind: pinned\nlearning_rates: {beta: {value: 0.001, source: y}}\n"
    (mine / "margin+psd.yaml").write_text(rates)
    method = resolve("margin+psd", mine)
    assert method.loss.rates() == {"beta": 0.001}
    assert method.distillation.rates() == {}
    assert method.marks == (UNTUNED, REPLACED.format("margin+psd"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lambda:", "lamda:", "unknown key 'lamda'; did you mean 'lambda'?"),
        ("value: 10", "value: -1", "lambda: Input should be greater than or equal to 0, not -1"),
        ("source: pinned}\n  tau", "sorce: pinned}\n  tau", "distillation.lambda: unknown key 'sorce'"),
        ("epsilon:", "epsilom:", "unknown key 'epsilom'; did you mean 'epsilon'?"),
        ("loss:\n  epsilon", "learning_rates:\n  beta", "unknown learned parameter 'beta'"),
    ],
)
def test_a_mistake_in_a_pinned_file_names_that_file(mine, old, new, message):
    assert old in PINNED
    (mine / "ms+psd.yaml").write_text(PINNED.replace(old, new))
    text = refusal("ms+psd", mine)
    assert text.startswith(f"{mine / 'ms+psd.yaml'}: ")
    assert message in text


def test_search_order(mine, empty_folder):
    def alpha(methods_dir=None):
        return resolve("ms", methods_dir).loss.values()["alpha"]

    assert alpha() == 2.0
    (empty_folder / "methods").mkdir()
    (empty_folder / "methods" / "ms.yaml").write_text(shipped("ms").replace("alpha: {value: 2.0", "alpha: {value: 3"))
    assert alpha() == 3.0
    (mine / "other-name.yaml").write_text(shipped("ms").replace("alpha: {value: 2.0", "alpha: {value: 4"))
    assert alpha(mine) == 4.0
    assert REPLACED.format("ms") in resolve("ms", mine).marks
    assert REPLACED.format("ms") in resolve("ms+psd", mine).marks
    assert resolve("triplet", mine).marks == ()
    assert [folder.path for folder in search_path(mine)] == [mine, Path("methods"), own_folder()]
    assert [folder.named_by_user for folder in search_path(mine)] == [True, False, False]


def test_a_copy_of_a_shipped_file_is_not_a_replacement(mine):
    (mine / "copied.yaml").write_text(shipped("ms"))
    assert resolve("ms", mine).marks == ()


def test_a_folder_counts_once(empty_folder):
    (empty_folder / "methods").mkdir()
    named = search_path(empty_folder / "methods")
    assert [folder.named_by_user for folder in named] == [True, False]


def test_a_methods_folder_must_be_there(tmp_path):
    assert refusal("ms", tmp_path / "nowhere") == f"--methods-dir {tmp_path / 'nowhere'}: no such folder"


def test_one_name_in_two_files_of_a_folder(mine):
    (mine / "one.yaml").write_text(shipped("ms"))
    (mine / "two.yml").write_text(shipped("ms"))
    text = refusal("triplet", mine)
    assert str(mine) in text
    assert "'ms' stands in both one.yaml and two.yml" in text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title: Multi", "titel: Multi", ": unknown key 'titel'; did you mean 'title'?"),
        ("epsilon:", "epsilom:", ": parameters: unknown key 'epsilom'; did you mean 'epsilon'?"),
        ("venue:", "venu:", ": paper: unknown key 'venu'; did you mean 'venue'?"),
        ("alpha: {value: 2.0,", "alpha: {valu: 2.0,", ": parameters.alpha: unknown key 'valu'; did you mean 'value'?"),
        ("alpha: {value: 2.0,", "alpha: {value: 0,", ": parameters: alpha: Input should be greater than 0, not 0"),
        ("alpha: {value: 2.0,", "alpha: {value: high,", ": parameters: alpha: Input should be a valid number"),
        ("alpha: {value: 2.0,", "alpha: {value: [2],", ": parameters.alpha.value: must be a finite number, a text"),
        ("alpha: {value: 2.0,", "alpha: {value: .inf,", ": parameters.alpha.value: must be a finite number"),
        ("kind: loss", "kind: los", ": kind: Input should be 'loss' or 'distillation', not 'los'"),
        ("class: multi_", "class: mult_", ": class: unknown loss class 'mult_similarity'; did you mean 'multi_sim"),
        ("parameters:", "parameters:\n  alpha: {value: 1, source: x}", " not valid YAML (key 'alpha' stands twice)"),
        ("metric: nmi, value: 68.55", "metric: nmi, valu: 68.55", ": published.3: unknown key 'valu'"),
        ("paper:", "learning_rates: {beta: {value: 1, source: x}}\npaper:", "unknown learned parameter 'beta'"),
    ],
)
def test_a_mistake_in_a_file_is_one_line_with_file_and_key(mine, old, new, message):
    text = shipped("ms")
    assert old in text
    (mine / "ms.yaml").write_text(text.replace(old, new, 1))
    given = refusal("ms", mine)
    assert given.startswith(f"{mine / 'ms.yaml'}:")
    assert message in given


@pytest.mark.parametrize(("rate", "message"), [("fast", "valid number"), ("-1", "greater than or equal to 0")])
def test_a_rate_out_of_range(mine, rate, message):
    (mine / "margin.yaml").write_text(shipped("margin").replace("value: 0.0005", f"value: {rate}"))
    given = refusal("margin", mine)
    assert given.startswith(f"{mine / 'margin.yaml'}: learning_rates.beta: rate: ")
    assert message in given


def test_yaml_1_1_reads_5e_4_as_text_but_it_is_a_rate(mine):
    (mine / "margin.yaml").write_text(shipped("margin").replace("value: 0.0005", "value: 5e-4"))
    assert resolve("margin", mine).loss == resolve("margin").loss


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mss", ["unknown method 'mss'", "did you mean 'ms'?", "dmlbench list methods"]),
        ("ms+obsd", ["'ms+obsd': unknown method 'obsd'", "did you mean 'obdsd'?"]),
        ("ms+", ["'ms+': unknown method ''"]),
        ("obdsd", ["'obdsd' is a modifier and needs a base", "for example ms+obdsd", ", ".join(BASES)]),
        ("psd+ms", ["'psd' is a modifier and needs a base", "ms+psd"]),
        (
            "ms+triplet",
            ["'ms+triplet': 'triplet' is a base and cannot follow a +", "modifiers: dm2, dm2-model, dm2-temporal, "],
        ),
        ("ms+psd+obdsd", ["'ms+psd+obdsd': a base takes one modifier; for example ms+psd"]),
    ],
)
def test_names_that_are_none(name, expected):
    text = refusal(name)
    for part in expected:
        assert part in text


def test_broken_yaml_hurts_only_who_uses_it(mine):
    (mine / "broken.yaml").write_text("a: [\n")
    (mine / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert resolve("ms+psd", mine) == resolve("ms+psd")
    assert "needs a base" in refusal("obdsd", mine)
    assert "cannot follow a +" in refusal("ms+ms", mine)
    assert refusal("broken", mine).startswith(f"{mine / 'broken.yaml'}: line 2 not valid YAML")
    assert refusal("ms+binary", mine).startswith(f"{mine / 'binary.yaml'}: not a text file")


def test_a_method_file_must_not_be_a_composition(mine):
    (mine / "both.yaml").write_text(shipped("ms").replace("name: ms\n", "name: ms+psd\n"))
    assert f"{mine / 'both.yaml'}: name: " in refusal("ms+psd", mine)
    (mine / "both.yaml").write_text(PINNED.replace("name: ms+psd", "name: both"))
    assert f"{mine / 'both.yaml'}: name: " in refusal("both", mine)


def test_python_loads_only_from_a_folder_the_user_named(mine, empty_folder):
    (mine / "pull.yaml").write_text(PLUGIN)
    (mine / "pull.py").write_text("raise SystemExit('resolving runs nothing')\n")
    part = resolve("pull+psd", mine).loss
    assert part.values() == {"strength": 2}
    assert part.rates() == {"weight": 0.1}
    assert part.plugin == str(mine / "pull.py")
    assert len(part.plugin_sha256) == 64
    (empty_folder / "methods").symlink_to(mine)
    assert refusal("pull") == (
        f"{Path('methods/pull.yaml')}: plugin: Python loads only from a folder you name; add --methods-dir methods"
    )
    assert resolve("pull", Path("methods")).loss.plugin == part.plugin


BESIDE, NO_FILE = "must be beside its YAML", "no such file beside pull's YAML"


@pytest.mark.parametrize(
    ("plugin", "why"),
    [
        ("../pull.py", BESIDE),
        ("nowhere.py", NO_FILE),
        ("/etc/hostname", BESIDE),
        ("sub/pull.py", BESIDE),
        (".", NO_FILE),
    ],
)
def test_a_plugin_lies_beside_its_yaml(mine, plugin, why):
    (mine / "sub").mkdir()
    for path in (mine.parent / "pull.py", mine / "sub" / "pull.py"):
        path.touch()
    (mine / "pull.yaml").write_text(PLUGIN.replace("plugin: pull.py", f"plugin: {plugin}"))
    assert f"plugin: {why}" in refusal("pull", mine)


def test_a_plugins_parameters_are_its_constructors_affair(mine):
    (mine / "pull.yaml").write_text(PLUGIN)
    file = load_file(mine / "pull.yaml", Folder(mine, named_by_user=True))
    assert parameter_model(file) is None
    assert "tau" in parameter_model(Registry().file("psd")).model_fields


def test_settings_replace_values_and_say_so():
    method = resolve("ms+psd", loss={"alpha": 3}, distillation={"lambda": 0, "tau": 0.5})
    assert method.loss.values()["alpha"] == 3.0
    assert method.loss.parameters["alpha"].source == "--set on the command line"
    assert method.loss.parameters["beta"].source != "--set on the command line"
    assert method.distillation.values() == {"lambda": 0.0, "tau": 0.5}
    assert method.marks == (UNTUNED,)  # nobody published the user's values


def test_settings_of_another_method_are_passed_over():
    assert resolve("ms", loss={"margin": 0.1}, distillation={"lambda": 1}) == resolve("ms")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": {"alpha": -1}}, "--set loss: parameters: alpha: Input should be greater than 0, not -1"),
        ({"loss": {"alpha": "high"}}, "--set loss: parameters: alpha: Input should be a valid number"),
        ({"loss": {"alpha": [1]}}, "--set loss.alpha: value: must be a finite number, a text, true or false, not [1]"),
        (
            {"loss": {"alpha": None}},
            "--set loss.alpha: value: must be a finite number, a text, true or false, not None",
        ),
        ({"distillation": {"tau": float("inf")}}, "--set distillation.tau: value: must be a finite number"),
        ({"distillation": {"omega": 1}}, "--set distillation: parameters: omega: Input should be less than 1, not 1"),
    ],
)
def test_settings_out_of_range_name_the_command_line(settings, message):
    assert refusal("ms+obdsd", **settings).startswith(message)


@pytest.mark.parametrize(
    ("overrides", "value"),
    [
        ("", 1.0),
        ("{when: {dataset: glyphs}, value: 2, source: s}", 2.0),
        ("{when: {dataset: glyphs}, value: 2, source: s}, {when: {dataset: cub}, value: 3, source: s}", 2.0),
        ("{when: {dataset: glyphs, base: ms}, value: 4, source: s}, {when: {dataset: glyphs}, value: 2, source: s}", 4),
        ("{when: {dataset: glyphs, base: triplet}, value: 4, source: s}", 1.0),
        ("{when: {}, value: 5, source: s}, {when: {protocol: conv4-64}, value: 6, source: s}", 6.0),
    ],
)
def test_the_most_specific_override_wins(mine, overrides, value):
    (mine / "soft.yaml").write_text(MODIFIER.replace("OVERRIDES", overrides))
    assert resolve("ms+soft", mine).distillation.values()["tau"] == value


def test_overrides_that_apply_equally_are_an_error(mine):
    two = "{when: {dataset: glyphs}, value: 2, source: s}, {when: {base: ms}, value: 3, source: s}"
    (mine / "soft.yaml").write_text(MODIFIER.replace("OVERRIDES", two))
    text = refusal("ms+soft", mine)
    assert text.startswith(f"{mine / 'soft.yaml'}: tau: two overrides apply equally")
    assert resolve("triplet+soft", mine).distillation.values()["tau"] == 2.0


def test_an_overrides_value_is_checked_where_it_applies(mine):
    (mine / "soft.yaml").write_text(MODIFIER.replace("OVERRIDES", "{when: {dataset: cub}, value: -1, source: s}"))
    assert resolve("ms+soft", mine).distillation.values()["tau"] == 1.0
    assert f"{mine / 'soft.yaml'}: parameters: tau: " in refusal("ms+soft", mine, dataset="cub")


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MethodSettings().loss = {}


def test_a_broken_file_hides_no_other(tmp_path):
    (tmp_path / "mine.yaml").write_text("name: mine\nkind: loss\ncolour: red\n")
    (tmp_path / "torn.yaml").write_text("a: [")
    registry = Registry(tmp_path)
    assert registry.names() == Registry().names()
    assert [problem.split(": ")[0] for problem in registry.problems()] == [
        str(tmp_path / "mine.yaml"),
        str(tmp_path / "torn.yaml"),
    ]
    assert Registry().problems() == []


SEARCHED = """\
name: searched
title: Searched
kind: loss
class: triplet
paper: null
parameters:
  margin: {value: 0.2, source: a test, search: SEARCH}
  mining: {value: distance, source: a test}
"""


@pytest.mark.parametrize("name", [*BASES, *(f"ms{modifier}" for modifier in MODIFIERS)])
def test_shipped_methods_can_be_searched(name):
    """Every base, and every modifier but the control, which has no value of its own."""
    searches = Registry().searches(name)
    assert any(key.startswith("loss.") for key in searches)
    own = [key for key in searches if key.startswith("distillation.")]
    assert bool(own) == ("+" in name and name != "ms+independent")
    method = resolve(name)
    values = {f"{part.kind}.{key}": value for part in filter(None, (method.loss, method.distillation))
              for key, value in part.values().items()}  # fmt: skip
    assert all(search.holds(values[key]) for key, search in searches.items())


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("{low: 0.1}", "needs low and high, or choices"),
        ("{}", "needs low and high, or choices"),
        ("{low: 0.1, high: 0.3, choices: [0.1, 0.2]}", "needs low and high, or choices"),
        ("{low: 0.3, high: 0.1}", "low must be below high"),
        ("{low: 0, high: 1, log: true}", "with log, low must be above 0"),
        ("{choices: [0.2]}", "choices are two or more that differ"),
        ("{choices: [0.2, 0.2]}", "choices are two or more that differ"),
        ("{low: 0.1, high: 0.5, step: 0.1}", "unknown key 'step'"),
        ("{low: 0.0, high: 0.5}", "margin.search"),
        ("{choices: [0.2, wide]}", "margin.search"),
    ],
)
def test_a_search_that_cannot_be_made(search, message, mine):
    (mine / "searched.yaml").write_text(SEARCHED.replace("SEARCH", search))
    assert message in refusal("searched", mine)


def test_ends_that_a_class_bounds_together(mine):
    text = shipped("proxyanchor").replace("high: 0.2}", "high: 0.9}")
    (mine / "proxyanchor.yaml").write_text(text)
    assert "alpha * (1 + delta) must be at most 80" in refusal("proxyanchor", mine)


def test_a_pinned_file_may_have_a_search_of_its_own(mine):
    (mine / "ms+psd.yaml").write_text(
        "name: ms+psd\ntitle: Pinned\nkind: pinned\ndistillation:\n"
        "  lambda: {value: 5, source: a test, search: {low: 1, high: 9}}\n  tau: {value: 2.0, source: a test}\n"
    )
    searches = Registry(mine).searches("ms+psd")
    assert searches["distillation.lambda"].high == 9
    assert searches["loss.alpha"] == Registry().searches("ms")["loss.alpha"]


def test_tuned_values_have_their_own_source_and_mark():
    method = Registry().resolve(
        "ms+psd", "glyphs", "conv4-64", MethodSettings({"alpha": 3}, {"lambda": 2}, "found", tuned=8)
    )
    assert method.marks == (TUNED_MARK.format(8),)
    assert method.tuned == 8
    parameters = method.loss.parameters | method.distillation.parameters
    assert {name for name, value in parameters.items() if value.source == "found"} == {"alpha", "lambda"}
    assert not parameters["alpha"].published
    assert parameters["beta"].published


def test_values_from_outside_the_files_are_published_only_where_they_equal_what_was():
    official = Registry().resolve("ms+obdsd", "cub", "resnet50-128")
    value = official.distillation.parameters["lambda"].value
    for given, published in ((value, True), (value / 2, False)):
        method = Registry().resolve("ms+obdsd", "cub", "resnet50-128", MethodSettings({}, {"lambda": given}, "mine"))
        assert method.distillation.parameters["lambda"].published is published
        assert (UNTUNED in method.marks) is not published
