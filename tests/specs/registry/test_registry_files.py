import hashlib
from pathlib import Path

import pytest

from dmlbench.errors import UserError
from dmlbench.specs.registry import REPLACED, TRANSFERRED, UNTUNED, MethodSettings, Registry, own_folder, search_path
from tests.specs.registry.fake_methods import PINNED, PLUGIN, refusal, resolve, shipped

OF_R = TRANSFERRED.format("resnet50-128")


def test_a_pinned_file_wins_and_leaves_the_rest_to_the_parts(mine):
    (mine / "ms+psd.yaml").write_text(PINNED)
    method = resolve("ms+psd", mine)
    assert method.distillation.values() == {"lambda": 10.0, "tau": 2.0}
    assert method.loss.values() == {"alpha": 2.0, "beta": 40.0, "base": 0.5, "epsilon": 0.05}
    assert method.marks == (UNTUNED, OF_R, REPLACED.format("ms+psd"))
    assert resolve("ms", mine).loss.values()["epsilon"] == 0.1
    assert resolve("triplet+psd", mine).distillation.values() == {"lambda": 75.0, "tau": 1.0}
    assert Registry(mine).names() == Registry().names()


def test_a_pinned_file_may_give_rates_of_the_loss(mine):
    rates = "name: margin+psd\ntitle: x\nkind: pinned\nlearning_rates: {beta: {value: 0.001, source: y}}\n"
    (mine / "margin+psd.yaml").write_text(rates)
    method = resolve("margin+psd", mine)
    assert method.loss.rates() == {"beta": 0.001}
    assert method.distillation.rates() == {}
    assert method.marks == (UNTUNED, OF_R, REPLACED.format("margin+psd"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lambda:", "lamda:", "unknown key 'lamda'; did you mean 'lambda'?"),
        ("value: 10", "value: -1", "lambda: must be at least 0, not -1"),
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
    assert resolve("triplet", mine).marks == (OF_R,)
    assert [folder.path for folder in search_path(mine)] == [mine, Path("methods"), own_folder()]
    assert [folder.named_by_user for folder in search_path(mine)] == [True, False, False]


def test_a_copy_of_a_shipped_file_is_not_a_replacement(mine):
    (mine / "copied.yaml").write_text(shipped("ms"))
    assert resolve("ms", mine).marks == (OF_R,)


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
        ("alpha: {value: 2.0,", "alpha: {value: 0,", ": parameters: alpha: must be above 0, not 0"),
        ("alpha: {value: 2.0,", "alpha: {value: high,", ": parameters: alpha: must be a number"),
        ("alpha: {value: 2.0,", "alpha: {value: [2],", ": parameters.alpha.value: must be a finite number, a text"),
        ("alpha: {value: 2.0,", "alpha: {value: .inf,", ": parameters.alpha.value: must be a finite number"),
        ("kind: loss", "kind: los", ": kind: must be 'loss', 'distillation', 'modifier', "),
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


@pytest.mark.parametrize(("rate", "message"), [("fast", "must be a number"), ("-1", "must be at least 0")])
def test_a_rate_out_of_range(mine, rate, message):
    (mine / "margin.yaml").write_text(shipped("margin").replace("value: 0.0005", f"value: {rate}"))
    given = refusal("margin", mine)
    assert given.startswith(f"{mine / 'margin.yaml'}: learning_rates.beta: rate: ")
    assert message in given


def test_5e_4_is_a_rate(mine):
    (mine / "margin.yaml").write_text(shipped("margin").replace("value: 0.0005", "value: 5e-4"))
    assert resolve("margin", mine).loss == resolve("margin").loss


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


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        (
            "weight: {value: 0.1, source: x, search: {low: -1, high: 2}}",
            "learning_rates.weight.search: rate: must be at least 0, not -1",
        ),
        (
            "weight: {value: 0.1, source: x, search: {low: 0, high: 2}}",
            "learning_rates.weight.search: rates are above 0; raise low",
        ),
        (
            "weight: {value: 1e-3x, source: x}",
            "weight: rate: must be a number, not '1e-3x'",
        ),
    ],
)
def test_a_rate_that_would_do_nothing(mine, rates, message):
    (mine / "pull.py").touch()
    (mine / "pull.yaml").write_text(PLUGIN.replace("weight: {value: 0.1, source: a test}", rates))
    assert message in refusal("pull", mine)


@pytest.mark.parametrize("section", ["loss", "learning_rates"])
def test_a_search_of_the_bases_values_in_a_pinned_file(mine, section):
    given = f"{section}: {{alpha: {{value: 2.0, source: x, search: {{low: 1, high: 3}}}}}}\n"
    (mine / "ms+psd.yaml").write_text("name: ms+psd\ntitle: x\nkind: pinned\n" + given)
    assert f"{section}.alpha.search has no effect: tuning takes the base's values" in refusal("ms+psd", mine)


def test_rates_are_searched_the_networks_too(mine):
    rates = "network: {value: network, source: the protocol's, search: {low: 1e-4, high: 1e-2, log: true}}\n"
    (mine / "margin.yaml").write_text(
        (own_folder() / "margin.yaml").read_text().replace("learning_rates:\n", f"learning_rates:\n  {rates}", 1)
    )
    found = Registry(mine).searches("margin+psd")
    assert str(found["loss.learning_rates.network"]) == "0.0001 to 0.01, logarithmic"
    own = {"learning_rates.network": 0.003, "learning_rates.beta": 0.1}
    plain, given = (Registry(mine).resolve("margin", "glyphs", "conv4-64", s) for s in (None, MethodSettings(own)))
    assert (plain.network_rate(0.001), given.network_rate(0.001)) == (0.001, 0.003)
    assert given.loss.rates() == {"beta": 0.1, "network": 0.003}
    assert plain.identity() == Registry().resolve("margin", "glyphs", "conv4-64").identity()
    assert given.searchable()["loss.learning_rates.network"] == 0.003
    with pytest.raises(UserError, match=r"loss\.learning_rates\.beta: rate: must be at least 0"):
        Registry(mine).resolve("margin", "glyphs", "conv4-64", MethodSettings({"learning_rates.beta": -1.0}))


def test_the_networks_rate_is_a_losss(mine):
    text = (own_folder() / "dm2.yaml").read_text().replace("kind: distillation", "kind: modifier")
    (mine / "mine.yaml").write_text(
        text.replace("name: dm2", "name: mine") + "learning_rates: {network: {value: 0.1, source: x}}\n"
    )
    assert "learning_rates: network is for losses" in refusal("ms+mine", mine)


def test_a_distillation_has_no_learning_rates(mine):
    text = PLUGIN.replace("kind: loss", "kind: distillation")
    (mine / "pull.yaml").write_text(text)
    assert "learning_rates are for losses" in refusal("ms+pull", mine)
    (mine / "pull.yaml").write_text(text.partition("learning_rates")[0] + "teacher: none\n")
    assert "teacher: a plugin learns from one; valid: previous-epoch, memory" in refusal("ms+pull", mine)


def digest_of(mine, code: str) -> str:
    (mine / "pull.py").write_text(code)
    return resolve("pull", mine).loss.plugin_sha256


@pytest.mark.parametrize(
    "code",
    [
        "from helper import x",
        "import helper",
        "import json, package.part",
        "def f():\n    from . import helper",
        "from .helper import x",
        "from .package import part",
        "import over",
    ],
)
def test_the_digest_covers_what_a_plugin_imports_beside_it(mine, code):
    (mine / "package").mkdir()
    (mine / "over.py").write_text("import helper")  # imports are followed
    (mine / "pull.yaml").write_text(PLUGIN)
    for helper in ("x = 1", "x = 2"):
        for path in (mine / "helper.py", mine / "package" / "part.py"):
            path.write_text(helper)
        if helper == "x = 1":
            first = digest_of(mine, code)
    assert digest_of(mine, code) != first


@pytest.mark.parametrize("code", ["import json\nimport nowhere_at_all", "x = (", "from .nowhere import x"])
def test_a_plugin_of_one_file_has_its_digest(mine, code):
    (mine / "json.py").touch()  # the installed one comes first
    (mine / "pull.yaml").write_text(PLUGIN)
    assert digest_of(mine, code) == hashlib.sha256(code.encode()).hexdigest()


def test_a_plugin_imports_nothing_from_above_its_folder(mine):
    (mine / "pull.yaml").write_text(PLUGIN)
    (mine / "pull.py").write_text("from .. import x")
    assert f"{mine / 'pull.py'}: plugin: imports from above its folder" in refusal("pull", mine)


@pytest.mark.parametrize("kind", ["head", "sampler", "augmentation", "miner"])
def test_what_no_teacher_teaches_is_a_modifier_like_others(mine, kind):
    (mine / "pull.py").touch()
    text = PLUGIN.replace("kind: loss", f"kind: {kind}").partition("learning_rates")[0]
    (mine / "pull.yaml").write_text(text)
    part = resolve("ms+pull", mine).distillation
    assert (part.kind, part.teacher, part.identity()["kind"]) == (kind, "none", kind)
    assert resolve("ms+pull", mine, distillation={"strength": 3}).distillation.values() == {"strength": 3}
    assert "ms+pull" in Registry(mine).names()
    assert "'pull' is a modifier and needs a base" in refusal("pull", mine)
    (mine / "pull.yaml").write_text(text + "teacher: memory\n")
    assert f"kind: {kind} is a plugin without a teacher" in refusal("ms+pull", mine)


def test_a_modifier_is_a_distillation_by_another_name(mine):
    (mine / "psd.yaml").write_text(shipped("psd").replace("kind: distillation", "kind: modifier"))
    (mine / "dm2.yaml").write_text(
        shipped("dm2").replace("kind: distillation", "kind: modifier").replace("teacher: none\n", "")
    )
    for name in ("ms+psd", "ms+dm2"):
        assert resolve(name, mine).identity() == resolve(name).identity()


def test_a_method_that_only_a_named_folder_has(mine, empty_folder):
    (empty_folder / "own").mkdir()
    (empty_folder / "own" / "pull.yaml").write_text(PLUGIN)
    assert refusal("pull").endswith(f"for {Path('own/pull.yaml')} add --methods-dir own")
    assert refusal("pul").endswith("your own need --methods-dir FOLDER")
    assert "--methods-dir" not in refusal("pul", mine)


def test_numbers_of_a_plugin_are_pythons(mine):
    (mine / "pull.py").touch()
    (mine / "pull.yaml").write_text(PLUGIN.replace("value: 2,", "value: 1e-3,"))
    assert resolve("pull", mine).loss.values() == {"strength": 0.001}
