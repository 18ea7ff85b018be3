"""Datasets that the user declares: ``name=path/to/images``, or a YAML file."""

import re

from pydantic import Field

from dmlbench.data.folder import ImageFolder
from dmlbench.dataset_spec import FolderSplit
from dmlbench.errors import UserError
from dmlbench.schema import path_of, read_yaml, validate
from dmlbench.spec import Section

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MOST_NAME = 100  # characters: it is a folder's
DEFAULT_PROTOCOL = "resnet50-128"


class DatasetFile(Section):
    """A dataset's YAML: a folder of images with one subfolder a class, and which classes train."""

    name: str = Field(pattern=f"^{NAME.pattern}$", max_length=MOST_NAME)
    root: str
    split: FolderSplit = FolderSplit()
    default_protocol: str = DEFAULT_PROTOCOL


def declared(text: str, option: str = "--datasets") -> tuple[ImageFolder, str] | None:
    """The folder that `text` declares and its default protocol; None where it declares none.

    Args:
        text: ``name=path``, or the path of a YAML file, whose `root` is relative to it.
        option: Where the user gave it, for messages.

    Raises:
        UserError: a name that is none, no such file, or a file that is not valid.
    """
    if text.lower().endswith((".yaml", ".yml")) and "=" not in text:
        file = path_of(text, option)
        if not file.is_file():
            raise UserError(f"{option} {text}: no such file", hint="NAME, NAME=FOLDER or a dataset's YAML")
        content = validate(DatasetFile, read_yaml(file), text)
        root = file.parent / path_of(content.root, f"{text}: root")
        return ImageFolder(content.name, root, content.split), content.default_protocol
    name, equals, path = text.partition("=")
    if not equals:
        return None
    if not NAME.fullmatch(name) or not path or len(name) > MOST_NAME:
        hint = "letters, digits, '.', '_' and '-', for example birds=path/to/images"
        raise UserError(f"{option} {text!r}: must be NAME=FOLDER", hint=hint)
    return ImageFolder(name, path_of(path, f"{option} {name}")), DEFAULT_PROTOCOL
