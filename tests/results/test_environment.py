import pytest

from dmlbench.results.environment import code_digest, statements_digest

SOURCE = '''"""What it does."""

RATE = 0.1  # per epoch


class Step:
    """A step."""

    def loss(self, x):
        """Its loss."""
        return x * RATE
'''


@pytest.fixture
def digest(tmp_path):
    """The digest of a package with one file in a folder."""

    def of(source, name="step.py"):
        folder = tmp_path / "training"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        (folder / name).write_text(source)
        return statements_digest(tmp_path, ["training"])

    return of


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # per epoch", "  # for each pass over the data"),
        ('"""What it does."""\n', ""),
        ("A step.", "One step of training.\n\n    It has several lines."),
        ('        """Its loss."""\n', ""),
        ("\n\n\n", "\n\n"),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(digest, old, new):
    changed = SOURCE.replace(old, new)
    assert changed != SOURCE
    assert digest(changed) == digest(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [("0.1", "0.2"), ("x * RATE", "x + RATE"), ("loss", "cost"), ("self, x", "self, *x")],
)
def test_statements_count(digest, old, new):
    assert digest(SOURCE.replace(old, new)) != digest(SOURCE)


def test_names_of_files_count(digest):
    assert digest(SOURCE, "loss.py") != digest(SOURCE, "step.py")


def test_a_text_that_is_no_docstring_counts(digest):
    assert digest(SOURCE + '\nNAME = "a"\n') != digest(SOURCE + '\nNAME = "b"\n')


def test_the_digest_of_the_package():
    assert code_digest() == code_digest()
    assert len(code_digest()) == 16
