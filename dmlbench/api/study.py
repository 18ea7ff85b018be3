"""A study from Python: run methods on datasets over seeds, compare them with their bases, render a report."""

import json
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from dmlbench.analysis.claims import Judged, judge
from dmlbench.analysis.comparisons import comparisons, primary, seed_pairs
from dmlbench.analysis.estimates import SELECTIONS, seed_values
from dmlbench.analysis.groups import Against, check_against, check_unambiguous
from dmlbench.api import MOST_SEED, MOST_SEEDS, naming_arguments
from dmlbench.api.execution import Tracking, check_whole, checked_execution
from dmlbench.errors import UserError, counted, unknown_name
from dmlbench.machine import usable_cores
from dmlbench.reporting.naming import named, plain_names
from dmlbench.results.claims import check_claims, check_names, declare, declared_claims
from dmlbench.results.evaluated import STATUS as EVALUATED
from dmlbench.results.frames import load_history, load_results
from dmlbench.results.store import DEFAULT_ROOT, Roots, Store
from dmlbench.runner.execution import Execution, ExecutorName
from dmlbench.runner.matrix import (
    Observer,
    Request,
    data_folder,
    execute,
    make_ready,
    notes,
    pending,
    plan,
)
from dmlbench.runner.progress import Display, SafeConsole, plain_or_wide
from dmlbench.runner.signals import Interrupts
from dmlbench.specs.cell import Cell
from dmlbench.specs.protocol import whole_key
from dmlbench.specs.registry import Registry
from dmlbench.specs.study import Claim, parse_claim
from dmlbench.specs.tuned import default_path
from dmlbench.specs.yaml_files import validate

Setting = bool | int | float | str | Sequence[object] | Mapping[str, object] | None
MOST_WORKERS = 4  # of a report: more processes would take longer to start than they save
COLUMNS = [
    "name", "protocol", "overrides", "dataset", "method", "base", "modifier", "network", "tuned", "to", "n", "mean",
    "low", "high", "all_low", "all_high", "p_t", "p_bh", "family", "p_equivalent_bh", "p_sign_flip", "verdict",
]  # fmt: skip


@dataclass(frozen=True)
class Study:
    """Results in a folder: all of them, or those of the cells that `run` was asked for.

    Args:
        results: The results folder.
        hashes: Hashes of the cells; None for all that the folder holds.

    Raises:
        UserError: where the folder cannot be read, or holds no cells.
    """

    results: Path
    hashes: frozenset[str] | None = None

    @naming_arguments
    def __post_init__(self) -> None:
        object.__setattr__(self, "results", Path(self.results))
        store = Store(self.results)
        store.check_readable()
        if not store.folders():
            raise UserError(f"{self.results}: no cells yet", hint=store.next_command())

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per cell and selection: see `load_results`."""
        return self._own(load_results(self.results))

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row per cell and epoch: see `load_history`."""
        return self._own(load_history(self.results))

    def compare(self, metric: str = "recall_at_1", selection: str = "last", against: str = "") -> pd.DataFrame:
        """Each method against its reference: see `compare`."""
        return compare(self.frame, metric, selection, against)

    def claims(self, selection: str = "") -> list[Judged]:
        """What the results say of the claims that were declared with these cells: see `analysis.claims.judge`."""
        hashes = set(self.frame["hash"])
        declared = [own for own in declared_claims([self.results]) if not hashes.isdisjoint(own.cells)]
        return [judge(own, load_results(self.results), selection) for own in declared]

    def report(
        self,
        folder: str | Path = "reports/report",
        *,
        only: Mapping[str, Collection[str]] | None = None,
        panels: bool | None = None,
        data_dir: str | Path | None = None,
        against: str = "",
    ) -> Path:
        """Render a report of all results of the study's protocols, datasets and methods: see `report`.

        What was not trained here, under these protocols and on these datasets, is in it, too.
        """
        if only is None and self.hashes is not None:
            only = {name: tuple(self.frame[name].unique()) for name in ("protocol", "dataset")}
            every = load_results(self.results)
            bases = set(self.frame["base"]) & set(every["method"])
            evaluated = every.loc[every["status"] == EVALUATED, "method"]
            only["method"] = tuple({*plain_names(self.frame), *bases, *evaluated})
        return report(self.results, folder, only=only, panels=panels, data_dir=data_dir, against=against)

    def _own(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame if self.hashes is None else frame[frame["hash"].isin(self.hashes)].reset_index(drop=True)


@naming_arguments
def run(
    methods: str | Sequence[str],
    datasets: str | Sequence[str],
    seeds: int | Sequence[int] = 6,
    *,
    protocol: str | Path | None = None,
    settings: Mapping[str, Setting] | None = None,
    tuned: str | Path | bool = False,
    data_dir: str | Path | None = None,
    methods_dir: str | Path | None = None,
    results: str | Path = DEFAULT_ROOT,
    tracking: Tracking = "auto",
    system_metrics: bool = False,
    workers: int | None = None,
    per_gpu: int = 1,
    gpus_per_cell: int = 1,
    executor: ExecutorName = "local",
    address: str | None = None,
    slurm: str | Path | Mapping[str, Any] | None = None,
    wait: bool = False,
    data_workers: int | None = None,
    device: str = "auto",
    retry_failed: bool = False,
    keep: str | Sequence[str] = (),
    skip_bad: bool = False,
    quiet: bool = False,
    claims: Sequence[str | Mapping[str, Any]] = (),
) -> Study:
    """Train and score methods on datasets over seeds, as `dmlbench run` does; finished cells are never run again.

    Cells are trained in processes of their own, which do not import the calling script: it needs no main guard. A cell
    that fails does not stop the others: its row of `Study.frame` has the status `failed` and its error.

    Args:
        methods: Names such as `ms` or `ms+obdsd`.
        datasets: Names, `NAME=FOLDER` of images, `NAME=FILE.csv`, or paths of YAML files.
        seeds: How many (0 to N-1), or the seeds themselves.
        protocol: Name or YAML file [default: the dataset's].
        settings: What `--set` changes, by its key: `{"training.epochs": 3}`.
        tuned: Whether to take the values that `dmlbench tune` found in this results folder, or in another file.
        data_dir: Where the data are [default: the variable DMLBENCH_DATA, or the cache].
        methods_dir: A folder with method files of yours.
        results: Where results go.
        tracking: `auto` for MLflow, `none` for nothing.
        system_metrics: Whether MLflow samples this machine meanwhile.
        workers: Cells at a time, on SLURM within each job [default: what the machine holds].
        per_gpu: Cells that share a GPU.
        gpus_per_cell: GPUs that train one cell together, each a part of every batch.
        executor: `local`, `ray` with the `address` of its cluster, or `slurm` with the settings of its jobs.
        address: Of the Ray cluster.
        slurm: A YAML file with settings of SLURM jobs, or a mapping of them: `{"time": 240, "gres": "gpu:1"}`.
        wait: Whether to follow SLURM jobs to their end; else they are submitted, and the study has what is there.
        data_workers: Loader processes per cell.
        device: `auto`, `cpu` or `cuda`.
        retry_failed: Whether failed cells are resumed, too.
        keep: `weights`, `embeddings` or both.
        skip_bad: Whether images that cannot be used are left out.
        quiet: Whether nothing is printed.
        claims: What is claimed before the runs, each as `psd:contrastive,triplet` or as a mapping with the keys
            `modifier`, `bases` and, where it is not the default, `datasets`, `metric` and `effect` (in points). The
            methods of a claim are run, too.

    Returns:
        The study of these cells.

    Raises:
        UserError: for a name or setting that is not valid, before anything runs.
        KeyboardInterrupt: after the epoch in which a stop was asked for; the same call resumes.
    """
    store, console = Store(Path(results)), SafeConsole(quiet=True) if quiet else plain_or_wide()
    asked = _some(with_claimed(_names(methods, "methods"), own := _claims(claims), _path(methods_dir)), "methods")
    request = Request(asked, _some(datasets, "datasets"), _seeds(seeds), str(protocol) if protocol else None,
                      _settings(settings or {}), _path(methods_dir), data_folder(_path(data_dir)), skip_bad,
                      _tuned(tuned, store))  # fmt: skip
    how = checked_execution(store, request.data_dir, tracking=tracking, device=str(device), workers=workers, wait=wait,
                            data_workers=data_workers, keep=_names(keep, "keep"), per_gpu=per_gpu, slurm=slurm,
                            gpus_per_cell=gpus_per_cell, executor=executor, address=address,
                            system_metrics=system_metrics)  # fmt: skip
    cells = plan(request, console.say)
    run_cells(console, cells, pending(cells, store, retry_failed=retry_failed), how, tracking=tracking, claims=own)
    return Study(store.root, frozenset(cell.hash for cell in cells))


def run_cells(
    console: SafeConsole,
    cells: Sequence[Cell],
    todo: Sequence[Cell],
    execution: Execution,
    *,
    tracking: Tracking,
    claims: Sequence[Claim] = (),
) -> None:
    """Run the cells that are to do, showing their progress and, unless `tracking` is `none`, logging to MLflow.

    Claims are written down before the first of them runs.

    Raises:
        UserError: where something that a cell needs is not usable, before any of them starts.
        KeyboardInterrupt: after the epoch in which a stop was asked for.
    """
    say = console.say
    check_claims(claims, cells)
    make_ready(todo, execution, say)
    for line in (_in_words(cells, todo, execution), *notes(cells, todo, execution)):
        say(line)
    for declared in declare(claims, cells, execution.store):
        say(f"claim: {declared.claim.title}; {declared.when}")
    if not todo:
        return
    new = execution.store.plan(todo)
    if execution.slurm:
        _submit(todo, new, execution, say, tracking)
        if not execution.wait:
            return
    with ExitStack() as stack:
        observers: list[Observer] = [stack.enter_context(Display(console, len(todo)))]
        if tracking == "auto":
            from dmlbench.tracking import Mirror

            observers.append(stack.enter_context(Mirror(say, system_metrics=execution.system_metrics)))
        interrupts = stack.enter_context(Interrupts(say))
        execute(todo, execution, observers, interrupts)
        if tracking == "auto":
            say("sending the last runs to MLflow")
    if interrupts.asked:
        at = shlex.quote(str(execution.store.root))
        jobs = f"no longer waiting; the jobs go on: `dmlbench status --results {at}` shows them"
        raise KeyboardInterrupt(jobs if execution.slurm else "")


def _submit(
    todo: Sequence[Cell], new: Sequence[Path], execution: Execution, say: Callable[[str], None], tracking: Tracking
) -> None:
    """Submit cells; where that is refused, the folders that are `new` go."""
    from dmlbench.runner.slurm import submit, submitted

    root = execution.store.root
    try:
        made, theirs = submit(todo, execution, lambda found: say(f"left out: {found.reason}"))
    except UserError:
        execution.store.forget(new)
        raise
    for line in submitted(made, theirs, execution):
        say(line)
    if execution.wait:
        say("waiting for them; Ctrl-C ends this, and no job")
    elif tracking == "auto":
        say(f"MLflow: `dmlbench sync --results {shlex.quote(str(root))}` sends the results when the jobs have ended")


@naming_arguments
def compare(
    results: pd.DataFrame | str | Path | Sequence[str | Path],
    metric: str = "recall_at_1",
    selection: str = "last",
    against: str = "",
) -> pd.DataFrame:
    """Differences of methods to their references, paired by seed.

    Args:
        results: As `load_results` returns them, or part of it; or the results folder, or a list of several.
        metric: A column of it, such as `recall_at_1` or `map_at_r`.
        selection: How the epoch was chosen: `last`, `validation` or `best_test`.
        against: The method that all others are compared with, by its `name` [default: a modified method's base, and
            for a base the first one].

    Returns:
        One row per method, dataset and protocol, with the method's `name` as reports write it and the columns of
        `load_results` that it is made of; `to`, the name of its reference; `n` pairs; `mean` of the differences
        (fractions) with its 95% t-interval `low`, `high` and the simultaneous interval `all_low`, `all_high`; `p_t` of
        the paired t-test, `p_bh` corrected by Benjamini and Hochberg's method for the `family` of all tests of the
        protocol and dataset; `p_equivalent_bh` of the test that the difference is a point or more; `p_sign_flip`,
        exact; and the `verdict`: `better`, `worse`, `equivalent` (within one point) or `inconclusive`; none below three
        pairs.

    Raises:
        UserError: for a metric or selection that the results do not have, and where two results are of one method,
            dataset and seed.
    """
    if not isinstance(results, pd.DataFrame):
        results = load_results(results)
    if selection not in SELECTIONS:
        raise unknown_name("selection", selection, SELECTIONS)
    check_unambiguous(results)
    values = seed_values(results)
    if values.empty:
        raise UserError("no finished results among these", hint="the column `error` says why cells failed")
    if metric not in set(values["metric"]):
        raise unknown_name("metric", metric, sorted(values["metric"].unique()))
    values = values[(values["metric"] == metric) & (values["selection"] == selection)]
    other = Against(against)
    check_against(values, other)
    compared = named(primary(comparisons(seed_pairs(values, other), values)))
    return compared.assign(to=compared["to_name"])[COLUMNS]


@naming_arguments
def report(
    results: str | Path | Sequence[str | Path] = DEFAULT_ROOT,
    folder: str | Path = "reports/report",
    *,
    only: Mapping[str, Collection[str]] | None = None,
    panels: bool | None = None,
    data_dir: str | Path | None = None,
    against: str = "",
) -> Path:
    """Render results as a page, Markdown, tables and figures, as `dmlbench report` does.

    Args:
        results: The results folder, or a list of several that are read as one.
        folder: Where the report goes; an earlier one there is replaced, anything else is left alone.
        only: Names to keep, by `protocol`, `dataset` or `method`.
        panels: Whether to show test images of cells that kept their embeddings [default: images whose licence lets
            anyone show them, where they are there].
        data_dir: Where these images are.
        against: The method that all others are compared with: see `compare`.

    Returns:
        The report's folder: `index.html`, `report.md`, `tables/` and `figures/`.

    Raises:
        UserError: where there is nothing to report, results contradict each other, or the folder cannot be written.
    """
    from dmlbench.reporting.page import render  # matplotlib, only for those who draw
    from dmlbench.reporting.queries import Panels

    target, kept = Path(folder), _as_names(only)
    shown = Panels.of(panels, _path(data_dir))
    workers = min(usable_cores(), MOST_WORKERS)
    return render(Roots.of(results), target.name, target.parent, kept, panels=shown, workers=workers, against=against)


def with_claimed(methods: tuple[str, ...], claims: Sequence[Claim], methods_dir: Path | None = None) -> tuple[str, ...]:
    """The methods of a run with those of its claims; raises UserError for a base or a modifier that is none."""
    if claims:
        registry = Registry(methods_dir)
        for claim in claims:
            check_names(claim, registry.bases(), registry.modifiers())
    return tuple(dict.fromkeys([*methods, *(name for claim in claims for name in claim.methods)]))


def _in_words(cells: Sequence[Cell], todo: Sequence[Cell], execution: Execution) -> str:
    there = len(cells) - len(todo)
    states = [execution.store.state(cell) for cell in cells if cell not in todo] if there else []
    failed, damaged = states.count("failed"), states.count("damaged")
    which = f" ({failed} failed; --retry failed runs them again)" if failed else ""
    which += f" ({damaged} damaged)" if damaged else ""
    begun = sum(execution.store.state(cell) == "interrupted" for cell in todo)
    resumed = f" ({begun} of them to resume from the last epoch)" if begun else ""
    counts = f"{there} there already{which}, {len(todo)} to run{resumed}"
    return f"{counted(len(cells), 'cell')}: {counts}; results in {execution.store.root}"


def _tuned(tuned: str | Path | bool, store: Store) -> Path | None:
    """The file of tuned values, where they are wanted."""
    return (default_path(store.root) if tuned is True else Path(tuned)) if tuned else None


def _claims(given: Sequence[str | Mapping[str, Any]]) -> tuple[Claim, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise UserError(f"claims: must be a list, not {given!r}", hint='for example claims=["psd:contrastive,triplet"]')
    return tuple(
        parse_claim(own, "claims") if isinstance(own, str) else validate(Claim, own, f"claims, {number}.")
        for number, own in enumerate(given, start=1)
    )


def _some(given: str | Sequence[str], what: str) -> tuple[str, ...]:
    names = _names(given, what)
    if not names:
        raise UserError(f"{what}: name at least one")
    return names


def _seeds(given: int | Sequence[int]) -> tuple[int, ...]:
    """The seeds, each a whole number and there once."""
    if not isinstance(given, int | Sequence) or isinstance(given, str):
        raise UserError(f"seeds: must be a whole number, or a list of them, not {given!r}")
    if isinstance(given, int):
        check_whole("seeds", given, least=1, most=MOST_SEEDS)
        return tuple(range(given))
    for seed in given:
        check_whole("seeds", seed, least=0, most=MOST_SEED)
    if not given or len(set(given)) < len(given):
        raise UserError(f"seeds: must be some numbers, each given once, not {list(given)}")
    return tuple(given)


def _names(given: str | Sequence[str], what: str) -> tuple[str, ...]:
    if not isinstance(given, str) and not (isinstance(given, Sequence) and all(isinstance(own, str) for own in given)):
        raise UserError(f"{what}: must be names, in a list or with commas between, not {given!r}")
    names = tuple(part.strip() for part in given.split(",")) if isinstance(given, str) else tuple(given)
    if twice := next((name for index, name in enumerate(names) if name in names[:index]), None):
        raise UserError(f"{what}: {twice!r} is given twice")
    return names


def _as_names(only: Mapping[str, Collection[str]] | None) -> dict[str, Collection[str]] | None:
    return {key: _names(own, key) if isinstance(own, str) else own for key, own in only.items()} if only else None


def _settings(given: Mapping[str, Setting]) -> tuple[str, ...]:
    """As `--set` takes them: a text is quoted, so that "1" stays one."""
    if not isinstance(given, Mapping):
        raise UserError(f'settings: must be a mapping such as {{"training.epochs": 2}}, not {given!r}')
    try:
        return tuple(whole_key(f"{key}={json.dumps(value)}") for key, value in given.items())
    except TypeError as error:
        raise UserError(f"settings: {error}") from error


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)
