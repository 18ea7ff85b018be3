"""What a report says first: a sentence of what was found, one figure, and one table.

All three are of one protocol: of several, of the one with the most results. Sections show the others.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from dmlbench.analysis.claims import Judged
from dmlbench.analysis.comparisons import primary
from dmlbench.analysis.estimates import SELECTIONS, selections_of, verdict_selection
from dmlbench.analysis.groups import Against, Group, groups, slug, without_paths
from dmlbench.analysis.statistics import EFFECT, FEWEST, detectable
from dmlbench.errors import counted
from dmlbench.reporting.figures import Gains
from dmlbench.reporting.naming import metric_name, named, percent, points
from dmlbench.reporting.numbers import METRIC, Numbers
from dmlbench.reporting.precedence import with_claims
from dmlbench.reporting.tables.accuracy import GIVEN, NOT_TRAINED, rank_note, rank_range
from dmlbench.reporting.tables.comparison import LABELS, power
from dmlbench.reporting.tables.table import (
    Entry,
    Table,
    estimate_entry,
    few_seeds,
    interval_of,
    number,
    step_time_entry,
)
from dmlbench.results.frames import MEAN
from dmlbench.specs.overrides import Settings

RANKS = "Rank {}, of {} rows: the comparisons do not decide which of them it is."
TRANSFERRED = "Transferred: with the values that were published for that protocol, and no weights of it."
OTHER_TEST = "Signs here are exploratory, corrected over all comparisons; a claim's own test may give another verdict."
CLAIMED = "Signs are the verdicts of the claims."
SOME_CLAIMED = (
    "Signs of what a claim names are its verdicts; all others are exploratory, corrected over all comparisons."
)
INTERLEAVED = "interleaved: measured apart, in steps by turns, with their interval (Cost of a step)"
SHARED = "from these trainings, which may have shared the machine"
DASH = "–: a base. Bases are compared with each other in the sections below."
MOST_CLAIMS = 4  # sentences of claims that a reader takes in at once
MOST_ROWS = 40  # of the gain matrix; a study with more is shown averaged over its datasets
Row = Mapping[Hashable, Any]


@dataclass(frozen=True)
class Scope:
    """A protocol with its settings, and how its epochs are chosen where verdicts are given."""

    protocol: str
    overrides: Settings
    selection: str
    datasets: tuple[str, ...]

    @classmethod
    def of(cls, numbers: Numbers) -> "Scope | None":
        """The one with the most results; None without any."""
        found = groups(numbers.leaderboard)
        if not found:
            return None
        sizes = Counter({(own.protocol, own.overrides): 0 for own in found})
        for group in found:
            sizes[group.protocol, group.overrides] += len(group.of(numbers.leaderboard))
        protocol, overrides = max(sizes, key=lambda key: sizes[key])
        own = [group for group in found if (group.protocol, group.overrides) == (protocol, overrides)]
        board = pd.concat([group.of(numbers.leaderboard) for group in own])
        return cls(protocol, overrides, verdict_selection(selections_of(board)), tuple(group.dataset for group in own))

    @property
    def title(self) -> str:
        """For people: protocol, settings, and the dataset where it is a single one."""
        where = f" on {self.datasets[0]}" if len(self.datasets) == 1 else f" on {len(self.datasets)} datasets"
        return self.protocol + where + (f", {without_paths(str(self.overrides))}" if self.overrides else "")

    @property
    def slug(self) -> str:
        """The same for file names."""
        where = self.datasets[0] if len(self.datasets) == 1 else ""
        return "_".join(slug(part) for part in (self.protocol, where, str(self.overrides)) if part)

    def of_protocol(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Its rows of a table; of one metric and selection where it has these columns."""
        own = frame[(frame["protocol"] == self.protocol) & (frame["overrides"] == self.overrides)]
        for column, wanted in (("selection", self.selection), ("metric", METRIC)):
            own = own[own[column] == wanted] if column in own else own
        return own

    def hashes(self, results: pd.DataFrame) -> set[str]:
        """Of its cells, finished or not."""
        own = (results["protocol"] == self.protocol) & (results["overrides"] == self.overrides)
        return set(results.loc[own, "hash"])

    def group(self, dataset: str) -> Group:
        """One of its groups."""
        return Group(self.protocol, self.overrides, dataset)


@dataclass(frozen=True)
class Opening:
    """What a report says first; without results of trainings it has no sentence."""

    sentences: list[str]
    certainty: str
    gains: Gains | None
    table: Table


def opening(
    numbers: Numbers, claims: Sequence[Judged], against: Against, steps: pd.DataFrame | None = None
) -> Opening | None:
    """The first screen; None where the report has no results of methods.

    Args:
        numbers: Of the report.
        claims: Judged by its results.
        against: What differences are to.
        steps: Rows of `with_interleaved`, if step times were measured so.
    """
    scope = Scope.of(numbers)
    if scope is None:
        return None
    compared = scope.of_protocol(primary(numbers.comparisons))
    modified = compared[compared["modifier"] != ""]
    shown = compared if against.method or modified.empty else modified
    own = [judged for judged in claims if not scope.hashes(numbers.results).isdisjoint(judged.declared.cells)]
    effects = {"": EFFECT} | {judged.declared.claim.modifier: judged.declared.claim.effect / 100 for judged in own}
    sentences = [_of_claim(judged) for judged in own[:MOST_CLAIMS]] or [_found(scope, shown, numbers)]
    if len(own) > MOST_CLAIMS:
        sentences.append(f"{counted(len(own) - MOST_CLAIMS, 'more claim')}: see Declared claims.")
    sentences += _failed(scope, numbers)
    judged_rows = with_claims(shown, own)
    costs = scope.of_protocol(numbers.overhead.assign(interleaved=False) if steps is None else steps)
    gains = _gains(scope, judged_rows, numbers, costs, effects) if len(shown) else None
    table = board_table(scope, numbers.leaderboard, judged_rows, costs, claimed=bool(own))
    return Opening(sentences, _certainty(judged_rows, own), gains, table)


def _gains(
    scope: Scope, shown: pd.DataFrame, numbers: Numbers, costs: pd.DataFrame, effects: Mapping[str, float]
) -> Gains:
    bases = shown[["base", "base_settings"]].drop_duplicates()
    title, pooled = scope.title, scope.of_protocol(primary(numbers.pooled))
    if len(bases) * len(scope.datasets) > MOST_ROWS and len(pooled):
        kept = pooled[pooled["name"].isin(set(shown["name"])) & (pooled["n"] > 0)]
        where = f"{len(scope.datasets)} datasets"
        title, shown = f"{title}, averaged over them", kept.assign(dataset=where, claimed=False)
    return Gains(title, f"{scope.slug}_{scope.selection}", shown, costs, effects)


def _of_claim(judged: Judged) -> str:
    """What was found of a claim, in one short sentence: its verdict, the effect, and every base's verdict."""
    claim = judged.declared.claim
    bases = _listed(claim.bases) if len(claim.bases) == 1 else counted(len(claim.bases), "base")
    where = f" on {_listed(judged.datasets)}" if judged.datasets else ""
    what = f"{metric_name(claim.metric)} of {bases}{where}"
    if judged.main is None:
        why = (
            f"{counted(judged.missing, 'cell')} without a result" if judged.missing else "no seed has all of its cells"
        )
        return f"The claim that {claim.modifier} improves {what} cannot be judged yet: {why}."
    estimate = judged.main.estimate
    interval = f" [{points(estimate.low)}, {points(estimate.high)}]" if estimate.n > 1 else ""
    answer = ANSWERS[judged.main.verdict].format(" on average" if len(judged.bases) > 1 else "", claim.modifier)
    return f"{answer} {what}: {points(estimate.mean)} points{interval}{_each(judged)}."


ANSWERS = {  # the verdict first: it is read in seconds
    "better": "Supported{}: that {} improves",
    "worse": "Contradicted{}: that {} improves",
    "equivalent": "No gain that matters{} from {} in",
    "inconclusive": "Not decided{}: whether {} improves",
    "": "Too few seeds: whether {1} improves",
}


def _made(claims: Sequence[Judged]) -> str:
    """When claims were made; empty without any."""
    late = [judged.declared.claim.modifier for judged in claims if judged.declared.begun]
    if not claims or not late:
        return "Claims were made before the runs." if claims else ""
    which = "Claims" if len(late) == len(claims) else f"Claims of {_listed(late)}"
    return f"{which} were made when some of their cells, or all, had begun, so they are not confirmatory."


def _each(judged: Judged) -> str:
    """What was found of every base: a mean over bases says that of none."""
    if judged.consistent:
        return "; consistently, on every base"
    if len(judged.bases) < 2:
        return ""
    verdicts = {kind: [base.name for base in judged.bases if base.verdict == kind] for kind in LABELS if kind}
    found = [f"{kind} on {_listed(names)}" for kind, names in verdicts.items() if names]
    return f"; {', '.join(found)}" if found else ""


def _found(scope: Scope, shown: pd.DataFrame, numbers: Numbers) -> str:
    where = _listed(scope.datasets) if len(scope.datasets) < 3 else f"{len(scope.datasets)} datasets"
    if shown.empty:
        return _first(scope, numbers, where)
    kinds, metric, total = Counter(shown["verdict"]), metric_name(METRIC), len(shown)
    if not total - kinds[""]:
        return f"On {where} nothing can be concluded in {metric}: no comparison has {FEWEST} seeds or more."
    if total == 1:
        row, kind = shown.iloc[0], kinds.most_common(1)[0][0]
        words = {
            "better": "is better than", "worse": "is worse than", "equivalent": f"is within {WITHIN} of",
            "inconclusive": "is not shown to differ (inconclusive) from",
        }  # fmt: skip
        return f"On {where}, {metric} of {row['name']} {words[kind]} that of {row['to_name']}: {_gained(row)}."
    other = "its base's" if (shown["modifier"] != "").all() else "the reference's"
    words = {"worse": "worse in", "equivalent": f"equivalent within {WITHIN} in", "inconclusive": "inconclusive in"}
    rest = [f"{word} {kinds[kind]}" for kind, word in words.items() if kinds[kind]]
    rest += [f"{kinds['']} have too few seeds"] if kinds[""] else []
    better = f"better than {other} in {kinds['better'] or 'none'} of {total} comparisons"
    return f"On {where}, {metric} is {_listed([better, *rest])}; {_extremes(shown)}."


WITHIN = f"±{100 * EFFECT:g} point"


def _gained(row: pd.Series) -> str:
    return f"{points(row['mean'])} points {interval_of(row.to_dict(), points)}"


def _extremes(shown: pd.DataFrame) -> str:
    """The largest differences that were shown; of rows that compare like with like, where there are any.

    Tuned rows are the best of many trials, and an ensemble of networks is compared with one.
    """
    tested = shown[shown["verdict"] != ""].sort_values("mean", kind="stable")
    alike = tested[~tested["tuned"].astype(bool) & (tested["network"] == MEAN)]
    of = " of one network, not tuned" if 0 < len(alike) < len(tested) else ""
    tested = alike if len(alike) else tested
    several = len(set(tested["dataset"])) > 1

    def say(row: pd.Series) -> str:
        where = f" on {row['dataset']}" if several else ""
        return f"{row['name']}{where}, {_gained(row)}"

    better, worse = (tested[tested["verdict"] == kind] for kind in ("better", "worse"))
    said = [f"largest gain{of}: {say(better.iloc[-1])}"] if len(better) else []
    said += [f"largest loss{'' if said else of}: {say(worse.iloc[0])}"] if len(worse) else []
    return "; ".join(said) or f"largest estimate{of}: {say(tested.iloc[tested['mean'].abs().argmax()])}, not decided"


def _failed(scope: Scope, numbers: Numbers) -> list[str]:
    """The methods all of whose cells failed."""
    every = named(numbers.results[numbers.results["protocol"] == scope.protocol])
    ended = every[every["status"] != "failed"]
    names = [name for name in dict.fromkeys(every["name"]) if name not in set(ended["name"])]
    return [f"Every cell of {_listed(names)} failed."] if names else []


def _first(scope: Scope, numbers: Numbers, where: str) -> str:
    board = scope.of_protocol(numbers.leaderboard)
    rows = scope.group(scope.datasets[0]).of(board).to_dict("records")
    first = rows[0]
    rank = rank_range(first)
    interval = interval_of(first, percent)
    of = f"is the first of {counted(len(rows), 'method')}" if len(rows) > 1 else "is the only method"
    said = f"{first['name']} {of} on {scope.datasets[0] or where}"
    opened = f"; its rank may be {rank}" if rank not in ("1", "–") else ""
    return f"{said} with {percent(first['mean'])}% {metric_name(METRIC)} {interval}".rstrip() + f"{opened}."


def _certainty(shown: pd.DataFrame, claims: Sequence[Judged]) -> str:
    """How sure what was found is: pairs, corrections and power; of claims, where there are any, for they come first."""
    if shown.empty:
        return ""
    pairs = f"{_listed([str(n) for n in sorted(set(shown['n']))], 'or')} seeds each, paired; 95% t-intervals"
    corrected = _corrected(shown, shown["claimed"])
    if not claims:
        declared = f"Exploratory, for no claim was declared before the runs: {pairs}"
        return " ".join([f"{declared}; {corrected}." if corrected else f"{declared}.", *power(shown)])
    which = "All other signs" if shown["claimed"].any() else "All signs"
    others = [f"{which} are exploratory, {corrected.removeprefix('verdicts ')}."] if corrected else []
    return " ".join(filter(None, [_made(claims), f"{pairs}.", *_power(claims), *others]))


def _corrected(shown: pd.DataFrame, claimed: pd.Series) -> str:
    """Over how many comparisons verdicts are corrected that no claim gives; empty for one, and without any."""
    tested = shown[shown["verdict"] != ""]
    families = _listed([f"{size:.0f}" for size in sorted(set(tested.loc[~claimed, "family"]))], "or")
    if families in ("", "1"):
        return ""
    made = "made on each dataset" if len(set(tested["dataset"])) > 1 else "that were made"
    more = tested["family"] > tested.groupby("dataset")["family"].transform("size")
    hidden = ", also some that are not shown here" if more.any() else ""
    return f"verdicts corrected for all {families} comparisons {made}{hidden}"


def _power(claims: Sequence[Judged]) -> list[str]:
    """How claims are corrected, and which main effects their seeds find."""
    mains = [own.main for own in claims if own.main and own.main.verdict and own.main.estimate.std > 0]
    if not mains:
        return []
    several = any(len(own.bases) > 1 for own in claims)
    corrected = "Each claim is corrected for its own bases. " if several else ""
    found = [detectable(main.estimate.std, main.estimate.n) for main in mains]
    span = " to ".join(dict.fromkeys(percent(each) for each in (min(found), max(found))))
    effect = "mean effect over its bases" if several else "effect"
    return [f"{corrected}Power: a true {effect} of {span} points is found in 80% of studies."]


def _listed(names: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}" if names else ""


def board_table(
    scope: Scope, board: pd.DataFrame, compared: pd.DataFrame, costs: pd.DataFrame, *, claimed: bool
) -> Table:
    """Every method on every dataset of a protocol, the best first, with its gain and its cost.

    Args:
        scope: Protocol, datasets and choice of the epoch.
        board: The report's leaderboard.
        compared: Rows of `with_claims` whose gain is shown.
        costs: Rows of `with_interleaved` of the protocol.
        claimed: Whether claims are tested on the same cells.
    """
    board = scope.of_protocol(board)
    found = {(row["name"], row["dataset"]): row for row in board.to_dict("records")}
    gained = {(row["name"], row["dataset"]): row for row in compared.to_dict("records")}
    # A base has a reference, too, another base: in one column the two would be taken for the same.
    timed = costs[(costs["n"] > 0) & costs["name"].isin(set(compared["name"]))]
    steps = {str(name): _step(own) for name, own in timed.groupby("name")}
    several, seeds = len(scope.datasets) > 1, board.groupby("name", sort=False)["n"].max()
    counts = set(map(int, board["n"]))
    others = {name for name, dataset in found if (name, dataset) not in gained} - set(compared["to_name"][:1])
    bases = others & set(board.loc[(board["modifier"] == "") & (board["n"] > 0), "name"])
    how = _how_timed(timed)
    shown = _Shown(_reference(compared), how, 0 if len(counts) > 1 else counts.pop(), bases=bool(bases))
    rows = []
    for name in _best_first(board):
        own = [found.get((name, dataset)) for dataset in scope.datasets]
        figures = [] if shown.seeds else [number(seeds[name], "{:.0f}".format) if seeds[name] else Entry("–")]
        for dataset, row in zip(scope.datasets, own, strict=True):
            figures += [estimate_entry(row, percent, int(seeds[name])) if row else Entry("–")]
            figures += [] if several else [Entry(rank_range(row) if row else "–")]
            figures += [_gain(gained.get((name, dataset)), shown.reference)] if shown.reference else []
        marks = "; ".join(dict.fromkeys(row["marks"] for row in own if row and row["marks"]))
        rows.append((Entry(name), *figures, *([steps.get(name, Entry("–"))] if steps else []), Entry(marks)))
    return Table(
        f"board_{scope.slug}_{scope.selection}",
        f"Leaderboard of {scope.title}; {SELECTIONS[scope.selection] if (board['n'] > 0).any() else NOT_TRAINED}",
        (*_columns(scope, shown), "Marks"),
        tuple(rows),
        (*_notes(board, shown), *([signs_of(compared)] if claimed and shown.reference else [])),
    )


def _step(ratios: pd.DataFrame) -> Entry:
    """A method's step time; it says so where it is that of interleaved steps."""
    entry, measured = step_time_entry(ratios.to_dict("records")), ratios["interleaved"]
    alike = step_time_entry(ratios[measured].to_dict("records")[:1])  # the same on every dataset
    return replace(alike, interval=f"{alike.interval} interleaved".strip()) if measured.any() else entry


def _how_timed(ratios: pd.DataFrame) -> str:
    """How step times were taken; empty without any."""
    measured = ratios["interleaved"]
    if ratios.empty or not measured.any():
        return SHARED if len(ratios) else ""
    return INTERLEAVED if measured.all() else f"{INTERLEAVED}; others {SHARED}"


def signs_of(compared: pd.DataFrame) -> str:
    """Whose verdicts are shown, where claims are tested on the same cells."""
    return CLAIMED if compared["claimed"].all() else SOME_CLAIMED if compared["claimed"].any() else OTHER_TEST


BASE, EACH = "base", "reference"  # what gains are over, where it is no single method


@dataclass(frozen=True)
class _Shown:
    """What the columns of the first table are of: the reference in words, and the seeds where all rows have as many.

    `costs` says how step times were taken, `bases` whether there are some without a gain: their differences are to
    another base.
    """

    reference: str
    costs: str
    seeds: int
    bases: bool


def _reference(compared: pd.DataFrame) -> str:
    """What the gains are over, in a word: one method, each method's own base, or whatever each row says."""
    others = set(compared["to_name"])
    if len(others) < 2:
        return str(next(iter(others), ""))
    own = compared["to_modifier"] == ""
    for name in ("base", "base_settings", "tuned"):
        own &= compared[name] == compared[f"to_{name}"]
    return BASE if own.all() else EACH


def _columns(scope: Scope, shown: _Shown) -> list[str]:
    metric, several = metric_name(METRIC), len(scope.datasets) > 1
    gain = [f"Gain over {shown.reference}"] if shown.reference else []
    of_dataset = [
        [f"{metric}, {dataset}" if several else metric, *([] if several else ["Rank"]), *gain]
        for dataset in scope.datasets
    ]
    columns = ["Method", *([] if shown.seeds else ["Seeds"]), *(name for own in of_dataset for name in own)]
    return [*columns, *([f"Step time over {shown.reference}"] if shown.costs else [])]


def _notes(board: pd.DataFrame, shown: _Shown) -> list[str]:
    signs = ", ".join(f"{label[0]} {label[2:]}" for label in LABELS.values())
    trained, several = board[board["n"] > 0], len(set(board["dataset"])) > 1
    over = {BASE: "a method's own base", EACH: "the reference that the row names"}.get(shown.reference, shown.reference)
    seeds, spread = (
        counted(shown.seeds, "seed") if shown.seeds else "seeds",
        "; over datasets" if several else " [95% interval]",
    )
    return [
        f"In percent, mean over {seeds} [95% t-interval]; the best first{', by their mean' if several else ''}.",
        *([] if several else rank_note(trained, RANKS)),
        *_ensembles(trained),
        *([f"Gain: points over {over}, paired by seed: {signs}."] if shown.reference else []),
        *([f"Step time: of a training step, over that of {over}{spread}; {shown.costs}."] if shown.costs else []),
        *([DASH] if shown.reference and shown.bases else []),
        *([TRANSFERRED] if trained["marks"].str.contains("transferred from").any() else []),
        *few_seeds(trained),
        *([] if len(trained) == len(board) else [GIVEN]),
    ]


def _ensembles(trained: pd.DataFrame) -> list[str]:
    """Why a table has more rows than methods, where it has."""
    rows = trained.drop_duplicates("name")
    extra = int((rows["network"] != MEAN).sum())
    said = f"{counted(len(rows) - extra, 'method')}, and {counted(extra, 'row')} of ensembles of their networks."
    return [said] if extra else []


def _best_first(board: pd.DataFrame) -> list[str]:
    """Methods with all datasets before the others, by the mean over datasets; a single one is in order already."""
    means = board.groupby("name", sort=False)["mean"].agg(["count", "mean"])
    return list(means.sort_values(["count", "mean"], ascending=False, kind="stable").index)


def _gain(row: Row | None, reference: str) -> Entry:
    if row is None:
        return Entry("–")
    mean, kind = float(row["mean"]), str(row["verdict"])
    over = f"to {row['to_name']}" if reference == EACH else ""
    interval = " ".join(filter(None, (interval_of(row, points), over)))
    return Entry(f"{LABELS[kind][0]} {points(mean)}", interval, mean, kind=kind)
