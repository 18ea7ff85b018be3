"""Makes trees of the published layouts with small generated JPEGs, from the official lists.

    python tests/data/make_benchmark_tree.py cub ANNOTATIONS OUTPUT

Layouts: cub, cars-original, cars-split, cars-by-number, cars-by-name, sop, inshop, inat. ANNOTATIONS holds
CUB_200_2011/ and Cars196/ (not read for the last three, whose lists are generated in the published format and size).
"""

import argparse
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat, savemat

SOP_KINDS = ("bicycle", "cabinet", "chair", "coffee_maker", "fan", "kettle",
             "lamp", "mug", "sofa", "stapler", "table", "toaster")  # fmt: skip
SOP_SIDES = {"Ebay_train.txt": (1, 11_318, 59_551), "Ebay_test.txt": (11_319, 11_316, 60_502)}


def small_jpeg(number: int) -> bytes:
    """A 16 px image of its own colour for each number below 2^24."""
    content = io.BytesIO()
    colour = (number % 256, number // 256 % 256, number // 65_536)
    Image.new("RGB", (16, 16), colour).save(content, "JPEG", quality=95, comment=str(number).encode())
    return content.getvalue()


def write_images(paths: Iterable[Path]) -> None:
    """One small JPEG at each path."""
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(small_jpeg(number))


def make_cub(annotations: Path, output: Path) -> None:
    root = output / "CUB_200_2011"
    root.mkdir(parents=True)
    for path in (annotations / "CUB_200_2011").iterdir():
        (root / path.name).write_bytes(path.read_bytes())
    lines = (root / "images.txt").read_text().splitlines()
    write_images(root / "images" / line.split()[1] for line in lines)


def car_rows(annotations: Path) -> Iterator[tuple[str, int, bool]]:
    """(file name, class, test) of all images of the split release."""
    for name, test in (("train", False), ("test", True)):
        for line in (annotations / "Cars196" / f"{name}.txt").read_text().splitlines():
            file, label = line.split()
            yield file, int(label), test


def make_cars_split(annotations: Path, output: Path) -> None:
    rows = list(car_rows(annotations))
    (output / "devkit").mkdir(parents=True)
    for name in ("cars_train_annos.mat", "cars_meta.mat"):
        (output / "devkit" / name).write_bytes((annotations / "Cars196" / name).read_bytes())
    labelled = [(label, file) for file, label, test in rows if test]
    _save(output / "cars_test_annos_withlabels.mat", [("class", "fname"), *labelled])
    write_images(output / ("cars_test" if test else "cars_train") / file for file, _, test in rows)


def make_cars_original(annotations: Path, output: Path) -> None:
    rows = sorted(car_rows(annotations), key=lambda row: row[1])
    named = [(f"car_ims/{number:06d}.jpg", label, test) for number, (_, label, test) in enumerate(rows, start=1)]
    output.mkdir(parents=True, exist_ok=True)
    _save(output / "cars_annos.mat", [("relative_im_path", "class", "test"), *named])
    write_images(output / path for path, _, _ in named)


def make_cars_by_class(annotations: Path, output: Path, *, by_name: bool) -> None:
    meta = loadmat(annotations / "Cars196" / "cars_meta.mat")["class_names"][0]
    names = [str(entry[0]).replace("/", "-") for entry in meta]
    rows = list(car_rows(annotations))
    folders = {label: names[label - 1] if by_name else f"{label:03d}" for _, label, _ in rows}
    write_images(
        output / "cars" / folders[label] / f"{'test' if test else 'train'}_{file}" for file, label, test in rows
    )


def make_cars_by_class_and_side(annotations: Path, output: Path) -> None:
    """`train/` and `test/` as published, with a folder of each class's name in both."""
    meta = loadmat(annotations / "Cars196" / "cars_meta.mat")["class_names"][0]
    names = [str(entry[0]).replace("/", "-") for entry in meta]
    root = output / "car_data"
    rows = car_rows(annotations)
    write_images(root / ("test" if test else "train") / names[label - 1] / file for file, label, test in rows)


def make_sop(output: Path, shrink: int = 1) -> None:
    """`shrink` divides the numbers of classes and images, for quick tests."""
    root = output / "Stanford_Online_Products"
    root.mkdir(parents=True)
    number, paths = 0, []
    for name, (first, classes, images) in SOP_SIDES.items():
        lines = ["image_id class_id super_class_id path"]
        sizes = np.bincount(np.arange(images // shrink) % (classes // shrink))
        for index, size in enumerate(sizes.tolist()):
            kind = index % len(SOP_KINDS)
            for view in range(size):
                number += 1
                path = f"{SOP_KINDS[kind]}_final/{111_000_000_000 + first + index}_{view}.JPG"
                lines.append(f"{number} {first + index} {kind + 1} {path}")
                paths.append(root / path)
        (root / name).write_text("\n".join(lines) + "\n")
    write_images(paths)


INSHOP_COUNTS = {"train": (3_997, 25_882), "query": (3_985, 14_218), "gallery": (3_985, 12_612)}
INSHOP_LIST = Path("Eval", "list_eval_partition.txt")


def make_inshop(output: Path, shrink: int = 1, images: str = "Img") -> Path:
    """`images`: the folder that holds `img/`. Returns the root; query and gallery hold the same items."""
    root = output / "In-shop Clothes Retrieval Benchmark"
    (root / "Eval").mkdir(parents=True)
    rows = []
    for status, (items, count) in INSHOP_COUNTS.items():
        first = 1 if status == "train" else INSHOP_COUNTS["train"][0] + 1
        sizes = np.bincount(np.arange(count // shrink) % (items // shrink))
        for index, size in enumerate(sizes.tolist()):
            item = f"id_{first + index:08d}"
            folder = f"img/WOMEN/{('Dresses', 'Denim')[index % 2]}/{item}"
            rows += [(f"{folder}/{status}{view:02d}_1_front.jpg", item, status) for view in range(size)]
    lines = [f"{path:<75} {item} {status}" for path, item, status in rows]
    text = "\n".join([str(len(rows)), "image_name item_id evaluation_status", *lines])
    (root / INSHOP_LIST).write_text(text + "\n")
    write_images(root / images / path for path, _, _ in rows)
    return root


INAT_SIDES = {"train": (1, 5_690, 325_846), "test": (5_691, 2_452, 136_093)}


def make_inat(output: Path, shrink: int = 1) -> Path:
    root = output / "Inaturalist"
    (root / "Inat_dataset_splits").mkdir(parents=True)
    paths = []
    for side, (first, classes, images) in INAT_SIDES.items():
        own = [
            f"train_val2018/{('Plantae', 'Aves')[index % 2]}/{first + index}/{side}{index:04d}{view:03d}.jpg"
            for view, index in (divmod(number, classes // shrink) for number in range(images // shrink))
        ]
        (root / "Inat_dataset_splits" / f"Inaturalist_{side}_set1.txt").write_text("\n".join(own) + "\n")
        paths += own
    write_images(root / path for path in paths)
    return root


def _save(path: Path, table: list[tuple]) -> None:
    """A MATLAB file whose `annotations` is a struct array like the published ones: (1, N), a cell a field."""
    fields, *rows = table
    array = np.empty((1, len(rows)), dtype=[(field, "O") for field in fields])
    for index, row in enumerate(rows):
        array[0, index] = row
    savemat(path, {"annotations": array})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    makers = {
        "cub": make_cub,
        "cars-split": make_cars_split,
        "cars-original": make_cars_original,
        "cars-by-number": lambda annotations, output: make_cars_by_class(annotations, output, by_name=False),
        "cars-by-name": lambda annotations, output: make_cars_by_class(annotations, output, by_name=True),
        "cars-by-class-and-side": make_cars_by_class_and_side,
        "sop": lambda _, output: make_sop(output),
        "inshop": lambda _, output: make_inshop(output),
        "inat": lambda _, output: make_inat(output),
    }
    parser.add_argument("layout", choices=makers)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    makers[arguments.layout](arguments.annotations, arguments.output)


if __name__ == "__main__":
    main()
