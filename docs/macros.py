"""What pages take from files: `{{ mean("glyphs", "ms") }}` is a number of reports/glyphs, never a typed one.

A file, a row or a column that is missing is an error, and so is a row that is not unique: the build then fails.
"""

import csv
import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import click
from mkdocs_macros.plugin import MacrosPlugin

from dmlbench.analysis.claims import judge
from dmlbench.analysis.statistics import detectable, smallest_p
from dmlbench.cli.main import dmlbench
from dmlbench.data.catalogue import DATASETS
from dmlbench.reporting.naming import p_value, percent, plain, points
from dmlbench.results.claims import declared_claims
from dmlbench.results.frames import load_results
from dmlbench.specs.protocol import own_protocols, resolve_protocol
from dmlbench.specs.registry import Registry

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "results" / "reference"
BENCHMARKS = ROOT / "tests" / "benchmarks" / "README.md"
STARRED = ("better", "worse")
VERDICTS = (*STARRED, "equivalent", "inconclusive")
Row = Mapping[str, str]


def rows(path: str, **chosen: str) -> list[Row]:
    """Rows of a committed CSV file whose columns have these values; at least one."""
    with (ROOT / path).open(encoding="utf-8", newline="") as file:
        read = csv.DictReader(file)
        if unknown := chosen.keys() - set(read.fieldnames or ()):
            raise LookupError(f"{path}: no column {', '.join(sorted(unknown))}")
        found = [row for row in read if all(row[name] == value for name, value in chosen.items())]
    if not found:
        raise LookupError(f"{path}: no row {chosen}")
    return found


def row(path: str, **chosen: str) -> Row:
    """The one row that has these values."""
    found = rows(path, **chosen)
    if len(found) > 1:
        raise LookupError(f"{path}: {len(found)} rows {chosen}")
    return found[0]


def table_of(header: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    """A Markdown table; numbers are the reader's to align."""
    lines = [tuple(header)]
    lines += [("---",) * len(lines[0]), *map(tuple, body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _interval(found: Row, form: Callable[[float], str]) -> str:
    return f"{form(float(found['mean']))} [{form(float(found['low']))}, {form(float(found['high']))}]"


def _report(name: str, table: str) -> str:
    return f"reports/{name}/tables/{table}.csv"


def mean(report: str, method: str, metric: str = "recall_at_1", selection: str = "last", **chosen: str) -> str:
    """A method's mean over seeds with its interval, in percent."""
    selection = "untrained" if method == "untrained" else selection
    own = row(_report(report, "accuracy"), method=method, metric=metric, selection=selection, **chosen)
    return _interval(own, percent)


def untrained(report: str, **chosen: str) -> str:
    """R@1 of the untrained network, in percent."""
    own = row(_report(report, "accuracy"), method="untrained", metric="recall_at_1", selection="untrained", **chosen)
    return percent(float(own["mean"]))


def _comparison(report: str, method: str, to: str, selection: str, **chosen: str) -> Row:
    chosen = {"metric": "recall_at_1"} | chosen
    return row(_report(report, "comparisons"), method=method, to=to, selection=selection, **chosen)


def gain(report: str, method: str, to: str = "", selection: str = "last", **chosen: str) -> str:
    """Difference to the base (or another method) in points, with a star where the verdict is better or worse."""
    own = _comparison(report, method, to or method.partition("+")[0], selection, **chosen)
    star = "\\*" if own["verdict"] in STARRED else ""
    return _interval(own, points).replace(" [", f"{star} [", 1)


def gain_alone(report: str, method: str, to: str = "", selection: str = "last", **chosen: str) -> str:
    """The difference without its interval."""
    own = _comparison(report, method, to or method.partition("+")[0], selection, **chosen)
    return points(float(own["mean"]))


def p(report: str, method: str, to: str = "", column: str = "p_bh", **chosen: str) -> str:
    """A p-value of such a difference at the last epoch; by default corrected (Benjamini and Hochberg)."""
    return p_value(float(_comparison(report, method, to or method.partition("+")[0], "last", **chosen)[column]))


def verdicts(report: str, verdict: str, modifiers: Iterable[str], selection: str = "last", **chosen: str) -> str:
    """How many of these modifiers' differences to their bases have a verdict."""
    every = rows(_report(report, "comparisons"), metric="recall_at_1", selection=selection, primary="True", **chosen)
    own = [found for found in every if found["modifier"] in tuple(modifiers)]
    if not own:
        raise LookupError(f"{report}: none of {tuple(modifiers)}")
    return str(sum(found["verdict"] == verdict for found in own))


def bases(report: str, modifier: str, other: str = "", only: Iterable[str] = ()) -> str:
    """The bases with each verdict of a modifier, against the base or another modifier: `better on a, b; worse on c`."""
    every = rows(_report(report, "comparisons"), metric="recall_at_1", selection="last", modifier=modifier)
    own = [found for found in every if found["to"] == "+".join(filter(None, (found["base"], other)))]
    own = [found for found in own if found["base"] in (tuple(only) or (found["base"],))]
    if not own or len(own) < len(tuple(only)):
        raise LookupError(f"{report}: not all of {modifier} against {other or 'the base'}")
    by_verdict = {name: [found["base"] for found in own if found["verdict"] == name] for name in VERDICTS}
    return "; ".join(f"{name} on {', '.join(names)}" for name, names in by_verdict.items() if names)


def family(report: str) -> str:
    """How many comparisons of R@1 at the last epoch are corrected together."""
    return row_value({found["family"] for found in rows(_report(report, "comparisons"), selection="last")})


def row_value(values: set[str]) -> str:
    """The one value that all rows share."""
    if len(values) != 1:
        raise LookupError(f"rows have several values: {', '.join(sorted(values))}")
    return values.pop()


def pooled(report: str, method: str, to: str) -> str:
    """Difference over all datasets of a report, with its p."""
    own = row(_report(report, "pooled"), method=method, to=to, metric="recall_at_1", selection="last")
    return f"{_interval(own, points)}, p {p_value(float(own['p_bh']))}"


def _claims(report: str, modifier: str, **chosen: str) -> list[Row]:
    """What a report says of a claim: of the mean over bases first, then of each base."""
    found = rows(_report(report, "claims"), modifier=modifier, **chosen)
    if len({own["over"] for own in found}) > 1 or [own["base"] for own in found].count("") != 1:
        raise LookupError(f"{report}: several claims of {modifier}; choose one")
    return found


def _number(found: Row, column: str) -> float:
    return float(found[column] or "nan")


def claim(report: str, modifier: str, **chosen: str) -> str:
    """What was found of a claim: the main effect with its verdict, what could have been seen, and every base."""
    main, *_ = _claims(report, modifier, **chosen)
    verdict = main["verdict"] or "no verdict"
    over = f"averaged over {main['bases']}, {main['n']} seeds" if ", " in main["bases"] else f"over {main['n']} seeds"
    seen = percent(float(main["detectable"]))
    power = f"p {p_value(_number(main, 'p'))}; a true effect of {seen} points is found in 80% of such studies"
    every = {"": "", "True": " Better on every base: shown.", "False": " Better on every base: not shown."}
    when = f" Claimed when {main['begun']} of its {main['cells']} cells had begun." if main["begun"] != "0" else ""
    return f"**{verdict}**, {_interval(main, points)} points {over} ({power}).{every[main['consistent']]}{when}"


def claim_table(report: str, modifier: str, **chosen: str) -> str:
    """The bases of a claim: difference, simultaneous interval, verdict, and what could have been seen."""
    body = []
    for own in _claims(report, modifier, **chosen):
        both = f"[{points(float(own['all_low']))}, {points(float(own['all_high']))}]"
        p_holm = p_value(_number(own, "p"))
        name = f"`{own['base']}`" if own["base"] else "all bases (main effect)"
        body.append((name, own["n"], _interval(own, points), both, own["verdict"] or "–", p_holm,
                     percent(float(own["detectable"]))))  # fmt: skip
    header = ("base", "seeds", "difference", "simultaneous interval", "verdict", "p", "detectable")
    return table_of(header, body)


def claims_again(dataset: str, first: int = 0, selection: str = "last") -> str:
    """The claims on a data set, tested on the seeds from `first` on alone, or at another choice of the epoch."""
    results = load_results(REFERENCE)
    own = results[results["seed"] >= first]
    body = []
    for declared in (found for found in declared_claims([REFERENCE]) if found.datasets == (dataset,)):
        judged = judge(declared, own, selection)
        if judged.main is None:
            raise LookupError(f"no seed from {first} on has all cells of {declared.claim.title}")
        found = judged.main.estimate
        shown = f"{points(found.mean)} [{points(found.low)}, {points(found.high)}]"
        each = ", ".join(f"`{base.name}` {points(base.estimate.mean)} {base.verdict}" for base in judged.bases)
        name, tested = f"`{declared.claim.modifier}`", (judged.main.verdict, p_value(judged.main.p))
        body.append((name, str(found.n), shown, *tested, each))
    if not body:
        raise LookupError(f"no claim on {dataset}")
    return table_of(("modifier", "seeds", "mean over bases", "verdict", "p", "by base"), body)


def gain_table(report: str, bases: Iterable[str], modifiers: Iterable[str], **chosen: str) -> str:
    """Bases in rows: alone, and what each modifier adds."""
    modifiers = tuple(modifiers)
    body = [
        (f"`{base}`", mean(report, base, **chosen), *(gain(report, f"{base}+{name}", **chosen) for name in modifiers))
        for base in bases
    ]
    return table_of(("base", "alone", *(f"`+{name}`" for name in modifiers)), body)


def leaderboard(report: str, dataset: str, selection: str = "last") -> str:
    """The leaderboard of a data set, the best first."""
    path = _report(report, "leaderboard")
    first = rows(path, dataset=dataset, selection=selection, metric="recall_at_1")
    body = []
    for own in sorted(first, key=lambda found: -float(found["mean"])):
        other = row(path, dataset=dataset, selection=selection, metric="map_at_r", method=own["method"])
        ranks = "–".join(dict.fromkeys((own["best_rank"], own["worst_rank"])))
        body.append((f"`{own['method']}`", own["n"], _interval(own, percent), ranks, _interval(other, percent)))
    return table_of(("method", "seeds", "R@1", "rank", "MAP@R"), body)


def measured(reports: Mapping[str, str], base: str) -> str:
    """What `dmlbench overhead` measured last of a base's methods: the columns of each report, by its network's name."""
    latest = {name: {own["method"]: own for own in rows(_report(name, "measured"), base=base)} for name in reports}
    header, body = ["method"], []
    for network in reports.values():
        header += [network, "arithmetic"]
    for method in dict.fromkeys(itertools.chain.from_iterable(latest.values())):
        cells = [f"`{method}`"]
        for own in (found.get(method) for found in latest.values()):
            ratio = _interval(own, plain).replace(", ", ",&nbsp;") if own else ""
            cells += [ratio, plain(float(own["arithmetic"])) if own else ""]
        body += [cells] if method != base else []
    return table_of(header, body)


def ratios(report: str, modifier: str) -> str:
    """The smallest and largest ratio of step times that `dmlbench overhead` measured of a modifier, over its bases."""
    found = [float(own["mean"]) for own in rows(_report(report, "measured"), modifier=modifier)]
    return " to ".join(dict.fromkeys(plain(each) for each in (min(found), max(found))))


def ratio(report: str, method: str) -> str:
    """The latest ratio of step times that `dmlbench overhead` measured, two decimals."""
    return plain(float(rows(_report(report, "measured"), method=method)[-1]["mean"]))


def data(name: str, **chosen: str) -> str:
    """A file of docs/data as a table, with its own header."""
    found = rows(f"docs/data/{name}.csv", **chosen)
    return table_of(found[0], (own.values() for own in found))


def value(name: str, column: str, **chosen: str) -> str:
    """One cell of a file of docs/data."""
    return row(f"docs/data/{name}.csv", **chosen)[column]


def benchmark(heading: str, columns: Iterable[str] = (), **chosen: str) -> str:
    """A table of the benchmarks, whole or some columns and the rows in which a column has a value."""
    header, body = _benchmark(heading)
    for name, wanted in chosen.items():
        body = [cells for cells in body if cells[header.index(name)] == wanted]
    if not body:
        raise LookupError(f"{heading}: no row {chosen}")
    kept = [header.index(name) for name in columns or header]
    return table_of((header[index] for index in kept), ([cells[index] for index in kept] for cells in body))


def benchmark_value(heading: str, first: str, column: str) -> str:
    """A cell of the benchmarks, by the first cells of its row joined by ` / `."""
    header, body = _benchmark(heading)
    found = [cells for cells in body if " / ".join(cells).startswith(f"{first} / ")]
    if len(found) != 1:
        raise LookupError(f"{heading}: {len(found)} rows that begin with {first}")
    return found[0][header.index(column)]


def _benchmark(heading: str) -> tuple[list[str], list[list[str]]]:
    text = BENCHMARKS.read_text(encoding="utf-8")
    if f"\n## {heading}\n" not in text:
        raise LookupError(f"{BENCHMARKS.name}: no heading {heading}")
    part = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if line.startswith("|")]
    return lines[0], lines[2:]


def gpu_memory() -> str:
    """What a step holds at its height, counted on the simulated GPU."""
    words = {"none": "float32"}
    body = [
        (
            own["method"],
            own["protocol"],
            words.get(own["autocast"], own["autocast"]),
            own["batch_size"],
            own["peak_gib"],
        )
        for own in rows("tests/gpu/protocols.csv")
    ]
    return table_of(("method", "protocol", "precision", "batch", "GiB"), body)


def figure(report: str, name: str, alt: str, up: str = "../") -> str:
    """A figure of a report, by its path in the site; `up` leads from the page to the site's root."""
    if not (ROOT / "reports" / report / "figures" / name).is_file():
        raise LookupError(f"reports/{report}/figures/{name} is no file")
    return f"![{alt}]({up}reports/{report}/figures/{name})"


def figures(report: str, *patterns: str, up: str = "../") -> str:
    """Every figure of a report whose name fits one of these patterns."""
    folder = ROOT / "reports" / report / "figures"
    found = [path for pattern in patterns for path in sorted(folder.glob(f"{pattern}.png"))]
    if not found:
        raise LookupError(f"reports/{report}/figures: nothing fits {', '.join(patterns)}")
    return "\n\n".join(figure(report, path.name, path.stem.replace("_", " "), up) for path in found)


def methods(kind: str) -> str:
    """The shipped bases (`loss`) or modifiers (`distillation`): title, implementation, paper."""
    registry = Registry()
    names = registry.bases() if kind == "loss" else registry.modifiers()
    body = []
    for own in (registry.file(name) for name in names):
        paper = own.paper
        link = f"https://arxiv.org/abs/{paper.arxiv}" if paper and paper.arxiv else ""
        source = f"{paper.authors.partition(',')[0]} et al., {paper.venue}" if paper else "none: new here"
        body.append((f"`{own.name}`", own.title, own.variant, f"[{source}]({link})" if link else source))
    return table_of(("name", "title", "implementation", "paper"), body)


def protocols() -> str:
    """The shipped protocols."""
    found = [resolve_protocol(name, "cub") for name in sorted(own_protocols())]
    body = [
        (f"`{own.name}`", own.title, f"{own.model.backbone}, {own.input.size} px", str(own.model.embedding_dim),
         f"{own.training.optimizer} {own.training.learning_rate:g}", str(own.training.batch_size))
        for own in found
    ]  # fmt: skip
    return table_of(("name", "title", "network", "dimensions", "optimiser", "batch"), body)


def datasets() -> str:
    """The shipped data sets with the counts of their splits."""
    body = []
    for own in DATASETS.values():
        test = f"{own.test_classes:,} / {own.test_images:,}"
        test += f" ({own.query_images:,} queries)" if own.query_images else ""
        train = f"{own.train_classes:,} / {own.train_images:,}"
        body.append((f"`{own.name}`", own.title, train, test, f"`{own.default_protocol}`"))
    return table_of(("name", "title", "training classes / images", "test classes / images", "protocol"), body)


def published(dataset: str, metric: str = "recall_at_1") -> str:
    """Every published figure of a data set that a method file has."""
    registry = Registry()
    body = [
        (f"`{figure.base}+{own.name}`" if getattr(figure, "base", None) else f"`{own.name}`", f"{figure.value:.2f}",
         str(figure.seeds or "unknown"), f"`{figure.protocol}`", figure.selection, figure.source)
        for own in registry.files().values()
        for figure in own.published
        if figure.dataset == dataset and figure.metric == metric
    ]  # fmt: skip
    return table_of(("method", "value", "seeds", "protocol", "epoch", "source"), body)


def sign_flip(n: int) -> str:
    """The smallest p of a sign-flip test of n pairs."""
    return p_value(smallest_p(n))


def detectable_times(n: int) -> str:
    """What difference, in standard deviations, n pairs find in 80% of studies."""
    return f"{detectable(1.0, n):.1f}"


def commands() -> str:
    """What `--help` prints, of every command."""
    top = click.Context(dmlbench, info_name="dmlbench", max_content_width=80, terminal_width=80)
    return "\n\n".join(_help(name, dmlbench.get_command(top, name), top) for name in dmlbench.list_commands(top))


def _help(name: str, command: click.Command | None, above: click.Context) -> str:
    if command is None:
        raise LookupError(f"no command {name}")
    context = click.Context(command, info_name=name, parent=above, terminal_width=80)
    text = f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```"
    below = command.commands if isinstance(command, click.Group) else {}
    return "\n\n".join((text, *(_help(own, below[own], context) for own in sorted(below))))


def define_env(env: MacrosPlugin) -> None:
    """Give pages these functions."""
    for function in (
        mean, untrained, gain, gain_alone, p, verdicts, bases, family, pooled, gain_table, leaderboard, measured, ratio,
        ratios, data, value, benchmark, benchmark_value, gpu_memory, figure, figures, methods, protocols, datasets,
        published, sign_flip, detectable_times, commands, claim, claim_table, claims_again,
    ):  # fmt: skip
        env.macro(function)
