from pathlib import Path

import pytest

from dmlbench.errors import UserError
from dmlbench.runner import matrix
from dmlbench.runner.matrix import Request, plan
from dmlbench.specs.cell import EVAL_TEACHER, DatasetSpec
from dmlbench.specs.protocol import own_protocols
from dmlbench.specs.registry import DEFINITION, NEW, PUBLISHED, TRANSFERRED, UNPUBLISHED, UNTUNED, Registry, own_folder
from tests.specs.registry.fake_methods import refusal, resolve

WITH_REFERENCES = (  # what `+xbm` can modify
    "circle", "contrastive", "cosinecontrastive", "margin", "ms", "ntxent", "supcon", "triplet",
)  # fmt: skip
BASES = (
    *WITH_REFERENCES, "arcface", "cosface", "normsoftmax", "proxyanchor", "proxyncapp", "recallatk",
    "smoothap", "softtriple", "spherepair",
)  # fmt: skip
COHORTS = ("+dm2", "+dm2-model", "+dm2-temporal", "+dm2-view", "+independent")
AVERAGED = ("+ema", "+psd-ema", "+obdsd-ema")
MODIFIERS = ("+psd", "+obdsd", "+psd-mem", "+obdsd-mem", "+s2sd", "+xbm", "+rkd", "+lsd", *AVERAGED, *COHORTS)
OF_R, OF_P = TRANSFERRED.format("resnet50-128"), TRANSFERRED.format("proxyanchor-resnet50-512")
RKD_MARK = "adaptation: the paper's teacher was trained before, ours is the network of the epoch before"
SFORA_MARK = "a public repository's, with no paper: CausalityHQ/sfora"
PARSER_DEFAULTS = {"lambda": 75.0, "omega": 0.99, "tau": 1.0, "tau_diffusion": 1.0}
OFFICIAL = {  # facts: official settings of the OBD-SD code
    ("cub", "resnet50-128"): {"lambda": 1000.0, "omega": 0.3, "tau": 1.0, "tau_diffusion": 1.0},
    ("cars", "resnet50-128"): {"lambda": 75.0, "omega": 0.99, "tau": 1.0, "tau_diffusion": 1.0},
    ("sop", "resnet50-128"): {"lambda": 100.0, "omega": 0.5, "tau": 1.0, "tau_diffusion": 0.005},
    ("cub", "resnet50-512"): {"lambda": 1000.0, "omega": 0.3, "tau": 1.0, "tau_diffusion": 1.0},
    ("cars", "resnet50-512"): {"lambda": 200.0, "omega": 0.99, "tau": 1.0, "tau_diffusion": 1.0},
    ("sop", "resnet50-512"): {"lambda": 200.0, "omega": 0.5, "tau": 1.0, "tau_diffusion": 0.005},
}


def test_every_base_ships_with_every_modifier():
    names = Registry().names()
    composed = {f"{base}{modifier}" for base in BASES for modifier in ("", *MODIFIERS)}
    assert names == sorted(composed - {f"{base}+xbm" for base in set(BASES) - {*WITH_REFERENCES}})
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
    with pytest.raises(UserError, match="teacher: none is for the classes dm2, ema, s2sd, xbm, and"):
        resolve(f"ms+{name}", mine)


@pytest.mark.parametrize("setting", OFFICIAL)
def test_ms_obdsd_resolves_to_the_official_settings(setting):
    dataset, protocol = setting
    method = resolve("ms+obdsd", dataset=dataset, protocol=protocol)
    assert method.distillation.values() == OFFICIAL[setting]
    assert method.loss.values() == {"alpha": 2.0, "beta": 40.0, "base": 0.5, "epsilon": 0.1}
    assert method.marks == (PUBLISHED,)
    sources = {value.source for value in method.distillation.parameters.values()}
    assert all("official code" in source and "parser default" not in source for source in sources)


@pytest.mark.parametrize(
    ("name", "dataset", "marks"),
    [
        ("triplet+obdsd", "cub", (UNTUNED,)),
        ("ms+obdsd", "glyphs", (UNTUNED, OF_R)),
        ("proxyanchor+obdsd", "sop", (UNTUNED, OF_P)),
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
    assert resolve("margin+psd").marks == (UNTUNED, OF_R, UNPUBLISHED)
    assert resolve("ms+psd").marks == (UNTUNED, OF_R)
    assert resolve("ms+psd", None, "cub", "resnet50-128").marks == (UNTUNED,)


OWN = """\
name: mine
title: A loss of mine
kind: loss
class: multi_similarity
paper: {title: Mine, authors: I, venue: Here}
parameters:
  alpha: {value: 2.0, source: the paper}
  beta: {value: 40.0, source: the paper}
  base: {value: 0.5, source: the paper}
  epsilon: {value: 0.1, source: the paper}
"""
PUBLISHED_HERE = [
    ("margin", "cub", "resnet50-128"), ("ms", "sop", "resnet50-512"), ("ms+obdsd", "cub", "resnet50-512"),
    ("margin+s2sd", "sop", "resnet50-128"),
]  # fmt: skip
ELSEWHERE = [
    ("ms", "cub", "mobilenetv1-112", OF_R),
    ("ms", "glyphs", "conv4-64", OF_R),
    ("ms", "glyphs", "resnet50-128", OF_R),  # the network is theirs, the images are not
    ("margin", "cars", "resnet50-512", OF_R),
    ("ms+obdsd", "cub", "mobilenetv1-112", OF_R),
    ("ms+obdsd", "cub", "conv4-64", OF_R),
    ("proxyanchor", "cub", "resnet50-128", OF_P),
]


@pytest.mark.parametrize(("name", "dataset", "protocol"), PUBLISHED_HERE)
def test_a_value_is_published_for_the_protocol_it_was_published_with(name, dataset, protocol):
    method = resolve(name, None, dataset, protocol)
    assert method.marks == (PUBLISHED,)
    values = [*method.loss.parameters.values(), *method.loss.learning_rates.values()]
    assert all(value.published and not value.transferred_from for value in values)


@pytest.mark.parametrize(("name", "dataset", "protocol", "mark"), ELSEWHERE)
def test_elsewhere_it_is_transferred_for_bases_too(name, dataset, protocol, mark):
    assert resolve(name, None, dataset, protocol).marks == (mark,)


def test_a_learning_rate_has_an_origin_as_any_value():
    rate = resolve("proxyanchor", None, "cub", "resnet50-128").loss.learning_rates["proxies"]
    assert (rate.published, rate.transferred_from) == (False, ("proxyanchor-resnet50-512",))
    assert resolve("margin", None, "cub", "resnet50-128").loss.learning_rates["beta"].published


def test_a_protocol_may_declare_whose_family_it_is_of():
    registry = Registry()
    assert registry.resolve("ms+obdsd", "cub", "mine").marks == (OF_R,)
    assert registry.resolve("ms+obdsd", "cub", "mine", family="resnet50-128").marks == (PUBLISHED,)


def test_what_is_published_without_a_use_is_the_methods_definition(tmp_path):
    (tmp_path / "mine.yaml").write_text(OWN.replace("source:", "published: true, source:"))
    assert Registry(tmp_path).resolve("mine", "cub", "resnet50-128").marks == (DEFINITION,)


def test_a_value_counts_as_published_only_where_its_file_says_so(tmp_path):
    (tmp_path / "mine.yaml").write_text(OWN)
    assert Registry(tmp_path).resolve("mine", "cub", "resnet50-128").marks == (UNTUNED,)
    (tmp_path / "mine.yaml").write_text(OWN + "published_for: {protocols: [resnet50-128], datasets: [cub]}\n")
    assert Registry(tmp_path).resolve("mine", "cub", "resnet50-128").marks == (PUBLISHED,)
    assert Registry(tmp_path).resolve("mine", "cars", "resnet50-128").marks == (OF_R,)


@pytest.mark.parametrize(
    ("setting", "mark"),
    [
        ((), PUBLISHED),
        (("evaluation.every=2",), PUBLISHED),
        (("training.vary=init",), PUBLISHED),
        (("training.epochs=2",), TRANSFERRED.format("resnet50-128 without --set")),
        (("model.embedding_dim=16",), TRANSFERRED.format("resnet50-128 without --set")),
    ],
)
def test_under_another_training_nothing_is_published_here(setting, mark, monkeypatch, empty_folder):
    spec = DatasetSpec(name="cub", version="1")
    monkeypatch.setattr(matrix, "dataset_spec", lambda *_, **__: spec)
    (cell,) = plan(Request(("ms",), ("cub",), (0,), "resnet50-128", setting))
    assert cell.method.marks == (mark,)


def test_a_teacher_in_eval_mode_is_marked():
    marks = resolve("ms+psd", distillation={"teacher_mode": "eval"}).marks
    assert marks == (UNTUNED, OF_R, EVAL_TEACHER)
    assert resolve("ms+psd").distillation.teacher_mode == "train"
    for name in ("ms+psd-mem", "ms+dm2", "ms+s2sd", "ms"):
        assert EVAL_TEACHER not in resolve(name).marks


def test_beta_learns_at_the_networks_rate_under_s2sd():
    """Roth et al. 2021, criteria/s2sd.py: every criterion's parameters get `opt.lr`."""
    method = resolve("margin+s2sd")
    assert method.loss.rates() == {}
    assert method.loss.learning_rates["beta"].value == "network"
    assert resolve("margin+psd").loss.rates() == {"beta": 0.0005}


@pytest.mark.parametrize("name", ["ms+psd-mem", "ms+obdsd-mem", "margin+obdsd-mem"])
def test_a_method_in_no_paper_says_so(name):
    assert NEW == "new: in no paper"
    for dataset in ("glyphs", "cub"):
        assert resolve(name, dataset=dataset).marks == (NEW, UNTUNED, OF_R)


def test_a_memory_has_the_settings_of_what_it_replaces():
    for dataset, protocol in (("cub", "resnet50-128"), ("cars", "resnet50-512"), ("sop", "resnet50-128")):
        for name in ("psd", "obdsd"):
            official, memory = (resolve(f"ms+{n}", None, dataset, protocol).distillation for n in (name, f"{name}-mem"))
            assert official.values() == memory.values()
            assert official.identity() != memory.identity()
            assert (official.teacher, memory.teacher) == ("previous-epoch", "memory")


def test_a_base_that_takes_no_references_has_no_memory():
    text = refusal("proxyanchor+xbm")
    assert text.startswith("proxyanchor+xbm: the base takes no references")
    assert text.endswith(f"bases: {', '.join(WITH_REFERENCES)}")


@pytest.mark.parametrize(
    ("name", "dataset", "protocol", "values", "marks"),
    [
        # Official code of LSD: its README's command, and the parser's default.
        ("triplet+lsd", "cub", "resnet50-128", {"lambda": 50.0, "tau": 1.0}, (PUBLISHED,)),
        ("triplet+lsd", "cars", "resnet50-128", {"lambda": 200.0, "tau": 1.0}, (UNTUNED,)),
        # Official code of XBM: its sample run; what is ours where so many steps are never taken.
        ("cosinecontrastive+xbm", "cub", "xbm-resnet50-128", {"lambda": 1.0, "size": 55000, "start": 1000},
         (PUBLISHED,)),
        ("ms+xbm", "glyphs", "conv4-64", {"lambda": 1.0, "size": 2000, "start": 40},
         (UNTUNED, TRANSFERRED.format("resnet50-128, xbm-resnet50-128"))),
        # Official code of RKD: scripts of CUB, Cars and SOP.
        ("ms+rkd", "cub", "resnet50-128", {"lambda": 1.0, "angle": 2.0}, (RKD_MARK, UNTUNED, UNPUBLISHED)),
        # CausalityHQ/sfora.
        ("proxyanchor+ema", "cub", "resnet50-128", {"lambda": 1.0, "tau": 0.1, "momentum": 0.999},
         (NEW, SFORA_MARK, TRANSFERRED.format("proxyanchor-resnet50-512, sfora-resnet50-512"))),
    ],
)  # fmt: skip
def test_later_modifiers_have_the_values_of_their_official_codes(name, dataset, protocol, values, marks):
    method = resolve(name, None, dataset, protocol)
    assert method.distillation.values() == values
    assert method.marks == marks


def test_averages_have_the_settings_of_what_they_replace():
    for dataset, protocol in (("cub", "resnet50-128"), ("cars", "resnet50-512"), ("sop", "resnet50-128")):
        for name in ("psd", "obdsd"):
            official, own = (resolve(f"ms+{n}", None, dataset, protocol).distillation for n in (name, f"{name}-ema"))
            assert own.values() == official.values() | {"momentum": 0.999}
            assert (official.teacher, own.teacher, own.teacher_mode) == ("previous-epoch", "ema", "train")
            assert not any(value.published for value in own.parameters.values())


def test_learned_parameters_have_their_published_rates():
    assert resolve("proxyanchor+psd").loss.rates() == {"proxies": 0.01}
    assert resolve("margin").loss.rates() == {"beta": 0.0005}
    assert resolve("softtriple").loss.rates() == {"centres": 0.01}
    assert resolve("arcface", dataset="cub", protocol="resnet50-128").loss.rates() == {"proxies": 0.0005}
    assert resolve("normsoftmax").loss.rates() == {}  # the network's
    for name in ("ms", "supcon", "ntxent", "circle", "smoothap", "recallatk", "spherepair"):
        assert resolve(name).loss.rates() == {}


def test_protocols_of_figures_are_shipped_or_explained():
    """A figure's protocol that users cannot run is in the table of docs/reference/published.md."""
    text = (Path(__file__).parents[3] / "docs" / "reference" / "published.md").read_text()
    named = {figure.protocol for file in Registry().files().values() for figure in file.published}
    assert {name for name in named - own_protocols().keys() if f"`{name}`" not in text} == set()


def test_a_mark_is_one_mark():
    """Tables keep marks in one text, with semicolons between."""
    assert not [file.name for file in Registry().files().values() if ";" in (getattr(file, "mark", None) or "")]


def test_published_figures_speak_of_these_datasets():
    assert Registry().datasets() == {"cub", "cars", "sop", "inshop"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mss", ["unknown method 'mss'", "did you mean 'ms'?", "dmlbench list methods"]),
        ("ms+obsd", ["'ms+obsd': unknown method 'obsd'", "did you mean 'obdsd'?"]),
        ("ms+", ["'ms+': unknown method ''"]),
        ("obdsd", ["'obdsd' is a modifier and needs a base", "for example ms+obdsd", ", ".join(sorted(BASES))]),
        ("psd+ms", ["'psd' is a modifier and needs a base", "ms+psd"]),
        (
            "ms+triplet",
            ["'ms+triplet': 'triplet' is a base and cannot follow a +", "modifiers: dm2, dm2-model, dm2-temporal, "],
        ),
        ("ms+dm2{ensemble}", ["'ms+dm2{ensemble}': what stands in braces is a row of a report; name ms+dm2"]),
        ("ms{tuned}+psd", ["what stands in braces is a row of a report; name ms+psd"]),
        ("ms+psd+obdsd", ["'ms+psd+obdsd': a base takes one modifier; for example ms+psd"]),
    ],
)
def test_names_that_are_none(name, expected):
    text = refusal(name)
    for part in expected:
        assert part in text


@pytest.mark.parametrize("name", [*BASES, *(f"ms{modifier}" for modifier in MODIFIERS)])
def test_shipped_methods_can_be_searched(name):
    """Every base, and every modifier but the control, which has no value of its own."""
    searches = Registry().searches(name)
    assert any(key.startswith("loss.") for key in searches)
    own = [key for key in searches if key.startswith("distillation.")]
    assert bool(own) == ("+" in name and name != "ms+independent")
    method = resolve(name)
    values = {f"{part.slot}.{key}": value for part in filter(None, (method.loss, method.distillation))
              for key, value in part.values().items()}  # fmt: skip
    values |= {f"loss.learning_rates.{key}": rate for key, rate in method.loss.rates().items()}
    assert all(search.holds(values[key]) for key, search in searches.items())
