"""Machines, users and folders that are not ours: nothing of theirs changes a result, and nothing of ours harms them."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import Command

PROTOCOL = ("--protocol", "conv4-64", "--set", "training.batch_size=8", "--set", "training.epochs=1", "--workers", "1")
RUN = ("run", "--methods", "ms", "--datasets", "toy=toy", *PROTOCOL, "--seed", "0")
UNTRACKED = (*RUN, "--tracking", "none")
ESCAPE = "\x1b[31mred\x07"


@pytest.fixture
def started(installed: Command) -> Command:
    """The installed script: how a process starts, and what surrounds it, is what most of these tests are of."""
    return installed


def images(root: Path, names: tuple[str, ...]) -> None:
    """A folder of four images for each class."""
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(root / name / f"{number}.png")


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    images(tmp_path / "toy", ("a", "b", "c", "d"))
    return tmp_path / "toy"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Path:
    """A folder with the results of two tiny cells."""
    folder = tmp_path_factory.mktemp("trained")
    images(folder / "toy", ("a", "b", "c", "d"))
    script = str(Path(sys.executable).with_name("dmlbench"))
    command = [script, *UNTRACKED, "--seed", "1"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder / "results"


@pytest.fixture
def results(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "results")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_a_notebook_s_way_to_draw_is_not_ours(started: Command, toy: Path, results: Path, backend: str) -> None:
    for command in (("report",), ("data", "info", "toy=toy")):
        done = started(*command, MPLBACKEND=backend)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_users_matplotlibrc_changes_no_figure(started: Command, toy: Path, results: Path, tmp_path: Path) -> None:
    rc = "font.family: serif\naxes.grid: True\nsavefig.dpi: 300\nfigure.facecolor: yellow\n"
    drawn = []
    for content in ("", f"{rc}text.usetex: True\n"):
        (tmp_path / "matplotlibrc").write_text(content)
        assert started("report", "--name", "same").returncode == 0
        assert started("data", "info", "toy=toy").returncode == 0
        files = [*(tmp_path / "reports" / "same" / "figures").iterdir(), tmp_path / "toy-contact-sheet.png"]
        drawn.append({path.name: path.read_bytes() for path in files})
    assert len(drawn[0]) > 6
    assert drawn[0] == drawn[1]


def test_names_of_classes_are_no_mathematics(dmlbench: Command, tmp_path: Path) -> None:
    images(tmp_path / "toy", ("$x^2_{\\frac$", "a_b$", "{x}", "plain"))
    done = dmlbench("data", "info", "toy=toy")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "toy-contact-sheet.png").is_file()


@pytest.mark.slow
def test_names_steer_no_terminal(dmlbench: Command, tmp_path: Path) -> None:
    images(tmp_path / "toy", ("a", "b", "c", ESCAPE))
    (tmp_path / "toy" / ESCAPE / f"{ESCAPE}\nsound.txt").touch()
    shutil.copy(tmp_path / "toy" / "a" / "0.png", tmp_path / "toy" / ESCAPE / "copy.png")
    (tmp_path / "toy" / ESCAPE / "empty.png").touch()
    (tmp_path / "toy" / os.fsdecode(b"latin-\xe9")).mkdir()
    checked = dmlbench("data", "check", "toy=toy")
    assert checked.returncode == 1
    assert "  \\x1b[31mred\\x07/empty.png: empty file" in checked.stdout.splitlines()
    assert "\\x1b[31mred\\x07/\\x1b[31mred\\x07\\nsound.txt" in checked.stdout
    ran = dmlbench(*UNTRACKED, "--skip-bad")
    assert ran.returncode == 0, ran.stderr
    assert "\\x1b[31mred\\x07/empty.png" in ran.stdout
    assert dmlbench("data", "info", "toy=toy").returncode == 0
    for done in (checked, ran):
        assert not {"\x1b", "\x07"} & set(done.stdout + done.stderr)


@pytest.mark.slow
def test_names_that_are_not_utf_8_are_names(dmlbench: Command, tmp_path: Path) -> None:
    here, results = tmp_path / os.fsdecode(b"dossier-\xe9"), os.fsdecode(b"r\xe9sultats")
    images(here / "toy", ("a", "b", "c", os.fsdecode(b"caf\xe9")))
    (here / "toy" / "a" / "0.png").rename(here / "toy" / "a" / os.fsdecode(b"\xff.png"))
    (here / "toy" / "b" / os.fsdecode(b"empty-\xfc.png")).touch()
    folder = ("--results", results)
    ran = dmlbench(*UNTRACKED, "--skip-bad", "--keep", "embeddings", *folder, "--claim", "psd:ms", cwd=here)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "toy: 1 unusable images are left out (b/empty-\\udcfc.png)" in ran.stdout
    again = dmlbench(*UNTRACKED, "--skip-bad", *folder, cwd=here)
    assert "1 cell: 1 there already, 0 to run" in again.stdout, again.stdout + again.stderr
    [spec] = here.glob(f"{results}/*/toy/ms/*/spec.yaml")
    assert "  - b/empty-\\udcfc.png" in spec.read_text(encoding="utf-8").splitlines()
    for command in (("status",), ("status", "--verify"), ("status", "--json"), ("report", "--panels")):
        done = dmlbench(*command, *folder, cwd=here)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "caf\\udce9" in (here / "reports" / "report" / "index.html").read_text(encoding="utf-8")
    for command, code in ((("sync", *folder), 1), (("ui",), 2)):  # whose files MLflow would keep in another folder
        done = dmlbench(*command, cwd=here)
        assert done.returncode == code
        assert "error: MLflow: it can keep nothing in a folder whose name is not UTF-8" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [here.name]


@pytest.mark.slow
def test_a_run_whose_output_is_ascii_ends_well(started: Command, toy: Path) -> None:
    two = [argument.replace("ms", "ms,ms+psd") if argument == "ms" else argument for argument in UNTRACKED]
    done = started(*two, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "ms+psd" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_a_users_scripts_are_no_modules_of_a_run(started: Command, toy: Path, tmp_path: Path, executor: str) -> None:
    for module in ("types", "signal", "statistics", "random", "string"):
        (tmp_path / f"{module}.py").write_text("open('RAN', 'w').close()\n")
    done = started(*UNTRACKED, "--executor", executor)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "RAN").exists()


@pytest.mark.slow
def test_a_password_of_the_tracking_server_is_nowhere(started: Command, toy: Path, tmp_path: Path) -> None:
    store = {"MLFLOW_TRACKING_URI": "http://user:hunter2secret@127.0.0.1:9/?token=hunter2secret"}
    ran = started(*RUN, **store)
    assert ran.returncode == 0, ran.stderr
    assert "MLflow: " in ran.stdout
    synced, shown = started("sync", **store), started("ui", **store)
    assert (synced.returncode, shown.returncode) == (1, 0)
    assert "start the server" in synced.stderr
    assert "http://127.0.0.1:9/#/experiments" in shown.stdout
    said = "".join(done.stdout + done.stderr for done in (ran, synced, shown))
    assert "hunter2secret" not in said
    for path in (tmp_path / "results").rglob("*"):
        assert not path.is_file() or b"hunter2secret" not in path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("uri", ["sqlite://abs.db", "nonsense://x", "file:///nowhere/mlruns"])
def test_a_store_that_is_none_is_one_line(started: Command, results: Path, uri: str) -> None:
    for command, code in ((("sync",), 1), (("ui",), 2)):
        done = started(*command, MLFLOW_TRACKING_URI=uri)
        assert done.returncode == code
        assert "Traceback" not in done.stderr
        assert [line for line in done.stderr.splitlines() if line.startswith("error: MLflow: ")], done.stderr


@pytest.mark.slow
def test_a_folder_with_signs_of_uris_holds_all_that_is_written(dmlbench: Command, toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "outer" / "50% done #1"
    folder.mkdir(parents=True)
    arguments = [argument.replace("toy=toy", f"toy={toy}") for argument in RUN]
    for command in (arguments, ["sync"], ["report", "--tracking", "auto"]):
        done = dmlbench(*command, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert "MLflow: Tr" not in done.stdout
    assert [path.name for path in (tmp_path / "outer").iterdir()] == ["50% done #1"]
    assert {"mlflow.db", "mlruns", "results", "reports"} <= {path.name for path in folder.iterdir()}
    assert len([*folder.glob("mlruns/**/spec.yaml"), *folder.glob("mlruns/**/index.html")]) == 2


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("setpriv") or os.geteuid() != 0, reason="needs setpriv as root")
def test_a_user_without_home_gets_plain_messages(tmp_path: Path, toy: Path, environment: dict[str, str]) -> None:
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o777)
    able = "+dac_read_search"  # the interpreter may lie where only root can look
    user = [
        "setpriv",
        "--reuid",
        "12345",
        "--regid",
        "12345",
        "--clear-groups",
        "--inh-caps",
        able,
        "--ambient-caps",
        able,
    ]
    homeless = {key: value for key, value in environment.items() if key not in ("HOME", "XDG_CACHE_HOME")}
    script = str(Path(sys.executable).with_name("dmlbench"))
    for command, code in (
        (("doctor",), 1), (("data", "check", "toy=toy"), 0), (("data", "info", "glyphs"), 2), ((*UNTRACKED,), 0),
    ):  # fmt: skip
        done = subprocess.run(
            [*user, script, *command], cwd=tmp_path, env=homeless, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "~").exists()


def test_a_clone_whose_line_ends_are_converted_still_verifies(dmlbench: Command, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no repository")
    clone = ["git", "-c", f"safe.directory={root}", "clone", "-q", "-c", "core.autocrlf=true", str(root), "clone"]
    if subprocess.run(clone, cwd=tmp_path, check=False, capture_output=True).returncode:
        pytest.skip("the repository cannot be cloned")
    done = dmlbench("status", "--verify", "--results", "clone/results/reference")
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.slow
def test_what_systems_leave_in_folders_is_no_image(dmlbench: Command, toy: Path) -> None:
    image = (toy / "a" / "0.png").read_bytes()
    for junk in ("@eaDir/0.png/T.jpg", ".ipynb_checkpoints/0.png", "a/.ipynb_checkpoints/0.png", "__MACOSX/a/._0.png"):
        (toy / junk).parent.mkdir(parents=True, exist_ok=True)
        (toy / junk).write_bytes(image)
    (toy / "a" / "Thumbs.db").touch()
    assert dmlbench("data", "check", "toy=toy").returncode == 0
    (toy / "a" / "loop.png").symlink_to("loop.png")
    (toy / "a" / "gone.png").symlink_to("nowhere.png")
    (toy / "a" / "self").symlink_to("../a")
    (toy / "a" / "pointer.jpg").write_text("version https://git-lfs.github.com/spec/v1\nsize 1\n")
    done = dmlbench("data", "check", "toy=toy")
    assert done.returncode == 1
    assert "3 images cannot be used:" in done.stdout
    assert dmlbench(*UNTRACKED, "--skip-bad").returncode == 0


def test_a_pipe_called_an_image_is_not_waited_for(started: Command, toy: Path, tmp_path: Path) -> None:
    os.mkfifo(toy / "a" / "pipe.png")
    os.mkfifo(tmp_path / "sheet.png")
    checked = started("data", "check", "toy=toy", timeout=60)
    assert checked.returncode == 1
    assert "  a/pipe.png: no regular file" in checked.stdout.splitlines()
    shown = started("data", "info", "toy=toy", timeout=60)
    assert shown.returncode == 0, shown.stderr
    refused = started("data", "info", "toy=toy", "--sheet", "sheet.png", timeout=60)
    assert refused.returncode == 2
    assert "--sheet sheet.png: exists and is no contact sheet" in refused.stderr
    ran = started(*UNTRACKED, timeout=60)
    assert "toy: 1 of 17 images cannot be used: a/pipe.png (no regular file)" in ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", ">&- 2>&- <&-"])
def test_a_run_without_standard_streams_ends_well(
    toy: Path, tmp_path: Path, environment: dict[str, str], closed: str
) -> None:
    command = f"{shlex.quote(sys.executable)} -m dmlbench {shlex.join(RUN)} {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    [summary] = tmp_path.glob("results/runs/*/toy/ms/seed0-*/summary.json")
    assert json.loads(summary.read_text())["status"] == "done"
    assert (tmp_path / "mlflow.db").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("arguments", [("list", "methods"), ("--help",), UNTRACKED])
def test_an_output_that_cannot_be_written_is_said(
    toy: Path, tmp_path: Path, environment: dict[str, str], arguments: tuple[str, ...]
) -> None:
    command = [str(Path(sys.executable).with_name("dmlbench")), *arguments]
    buffered = {name: value for name, value in environment.items() if name != "PYTHONUNBUFFERED"}
    where = {"cwd": tmp_path, "env": buffered, "text": True}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, **where)
        refused = subprocess.run([command[0], "nonsense"], stderr=full, check=False, **where)
    assert done.returncode == 1
    resume = ["finished epochs are kept: rerun the same command to resume"] if arguments == UNTRACKED else []
    assert done.stderr.splitlines() == ["error: standard output: No space left on device", *resume]
    assert refused.returncode == 2


def test_a_run_whose_reader_goes_says_how_to_resume(toy: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    command = [str(Path(sys.executable).with_name("dmlbench")), *UNTRACKED]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes) as run:
        run.stdout.readline()
        run.stdout.close()
        said = run.stderr.read()
    assert run.returncode == 1
    assert said.splitlines() == [
        "error: standard output: its reader has gone; finished epochs are kept: rerun the same command to resume"
    ]


def test_python_starts_no_other_dmlbench_than_the_installed(tmp_path: Path, environment: dict[str, str]) -> None:
    copied = tmp_path / "dmlbench"
    copied.mkdir()
    for name in ("__init__.py", "__main__.py"):
        shutil.copy(Path(__file__).parents[2] / "dmlbench" / name, copied)
    command = [sys.executable, "-m", "dmlbench", "--version"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {copied}: not the dmlbench that is installed (that is ")


def test_python_starts_the_command_by_the_package_s_name(
    installed: Command, tmp_path: Path, environment: dict[str, str]
) -> None:
    for module in ("random", "statistics", "click"):
        (tmp_path / f"{module}.py").write_text("open('RAN', 'w').close()\n")
    command = [sys.executable, "-m", "dmlbench", "list", "methods"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == installed("list", "methods").stdout
    assert not (tmp_path / "RAN").exists()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
def test_a_killed_run_goes_on_where_files_cannot_be_locked(
    started: Command, toy: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "no.c").write_text("#include <errno.h>\nint flock(int f, int o) { errno = ENOSYS; return -1; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "no.so", "no.c"], cwd=tmp_path, check=True)
    long = tuple(argument.replace("epochs=1", "epochs=100") for argument in UNTRACKED)
    without = {"LD_PRELOAD": str(tmp_path / "no.so")}
    command = [str(Path(sys.executable).with_name("dmlbench")), *long]
    with subprocess.Popen(command, cwd=tmp_path, env=environment | without, start_new_session=True) as killed:
        while not list(tmp_path.glob("results/runs/*/*/*/*/history.csv")):
            assert killed.poll() is None
            time.sleep(0.1)
        os.killpg(killed.pid, signal.SIGKILL)
    done = started(*long, **without)
    assert done.returncode == 0, done.stdout + done.stderr
