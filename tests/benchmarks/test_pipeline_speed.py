"""Training batches of 224 px crops from 500 x 375 JPEGs, against the pipeline that the published code uses.

    pytest -m benchmark tests/benchmarks/test_pipeline_speed.py -s

The published one: PIL, torchvision.transforms v1 (RandomResizedCrop, flip, ToTensor, Normalize) and a DataLoader.
Ours hands 8-bit batches to the device, which normalises and arranges them; what that costs where the device is the
same CPU is a row of its own. Files lie in the page cache in either case.
"""

import statistics
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms

from dmlbench.data.folder import ImageFolder
from dmlbench.data.images import Split, decoded, read_files
from dmlbench.data.loader import TrainingBatches
from dmlbench.specs.protocol import load_protocol
from tests.benchmarks.by_turns import time_by_turns

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

IMAGES, ROUNDS = 448, 7
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Published(torch.utils.data.Dataset):
    """What the public training codes do for an image."""

    def __init__(self, files):
        self.files = files
        crop = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        self.transform = transforms.Compose([*crop, transforms.Normalize(MEAN, STD)])

    def __len__(self):
        return len(self.files.paths)

    def __getitem__(self, index):
        image = Image.open(self.files.root / self.files.paths[index])
        return self.transform(image.convert("RGB")), int(self.files.labels[index])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Eight classes; half of them train: `IMAGES` photograph-like JPEGs of about 90 KB."""
    root = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for number in range(2 * IMAGES):
        blobs = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        grain = rng.normal(0, 13, (375, 500, 3))
        folder = root / f"{number * 8 // (2 * IMAGES)}"
        folder.mkdir(exist_ok=True)
        pixels = (np.asarray(blobs) + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=88)
    return ImageFolder("x", root).read(None, print)[0]


@pytest.fixture(autouse=True)
def one_thread(threads):
    threads(1)


def splits(files):
    encoded, *_ = read_files(files)
    labels = torch.from_numpy(files.labels)
    pictures = {"encoded": encoded, "decoded cache": decoded(encoded, "benchmark", print)}
    return {name: Split(images, labels, files.class_names) for name, images in pictures.items()}


@pytest.mark.parametrize("workers", [0, 2])
def test_images_per_second(files, monkeypatch, tmp_path, workers, row):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    size = statistics.mean((files.root / path).stat().st_size for path in files.paths) / 1024
    protocol = load_protocol("resnet50-128", "cub", {"model": {"weights": None}})
    published = DataLoader(Published(files), 112, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

    def passes(batches, normalising):
        def run():
            with monkeypatch.context() as patched:
                if not normalising:
                    patched.setattr(TrainingBatches, "_finished", lambda _, batch: batch)
                return [len(batch[1]) for batch in batches.epoch(0)]

        return run

    with ExitStack() as stack:
        candidates = {"published": lambda: [images.shape for images, _ in published]}
        for name, split in splits(files).items():
            batches = stack.enter_context(TrainingBatches(split, protocol, 0, data_workers=workers))
            candidates[name] = passes(batches, normalising=False)
            candidates[f"{name}, normalised on the CPU"] = passes(batches, normalising=True)
        timings = time_by_turns(candidates, rounds=ROUNDS, warm_up=1)
    for name in candidates:
        rate = f"{len(files.paths) / timings.median(name):.0f}"
        # Of times, for the ratio is that of images per second.
        ratio = timings.ratio_cells("published", name)
        what = {"loader workers": str(workers), "files": f"{size:.0f} KiB", "by": name}
        row("Training batches of 224 px from JPEGs of 500 x 375", **what, **{"images/s": rate}, **ratio)
    assert 1 / timings.ratio("encoded", "published") >= (2 if workers else 1.5)
    assert workers or 1 / timings.ratio("decoded cache", "published") >= 8
