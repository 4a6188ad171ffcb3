"""Images as tasks: every layout is read, labels are right, damaged archives are refused by name."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nas.data import digits, images, voc, vww
from nas.data.task import Augmentation, DecodedSamples, everything
from nas.errors import DataError


def test_augmentation_moves_masks_and_mirrors_without_touching_its_input() -> None:
    rng = np.random.default_rng(0)
    batch = np.random.default_rng(1).integers(-100, 100, (8, 12, 10, 1)).astype(np.int8)
    before = batch.copy()
    assert np.array_equal(Augmentation().apply(batch, rng), batch)
    moved = Augmentation(shift_rows=3, fill=-128).apply(batch, rng)
    assert ((moved == -128).sum() > 0) and moved.shape == batch.shape
    mirrored = Augmentation(mirror=True).apply(batch, rng)
    assert all(np.array_equal(m, b) or np.array_equal(m, b[:, ::-1]) for m, b in zip(mirrored, batch, strict=True))
    masked = Augmentation(mask_rows=12, mask_columns=10, noise=2.0, fill=-128).apply(batch, rng)
    assert masked.dtype == np.int8
    assert np.array_equal(batch, before)


NEEDS_PILLOW = "PILLOW ABSENT: no image was read; pip install '.[nas]'"


def _picture(colour: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> bytes:
    """A PNG file of one colour; `size` is columns and rows."""
    image = pytest.importorskip("PIL.Image", reason=NEEDS_PILLOW)
    buffer = io.BytesIO()
    image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def _tar(file: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file


def test_digits_need_no_download() -> None:
    pytest.importorskip("sklearn", reason="SCIKIT-LEARN ABSENT: its digits were not read; pip install '.[nas]'")
    task = digits.load()
    assert everything(task.train).shape == (1137, 16, 16, 1)
    assert (len(task.validation.labels), len(task.test().labels)) == (300, 360)
    flat = digits.enlarged(np.full((1, 8, 8), 16.0))
    assert np.all(flat == 127)
    assert np.array_equal(digits.enlarged(np.zeros((1, 8, 8))), np.full((1, 16, 16, 1), -128))


def test_images_are_bytes_less_128_and_cut_to_the_middle() -> None:
    pixels = images.decode(_picture((0, 128, 255)), side=None)
    assert pixels.shape == (30, 40, 3) and pixels[0, 0].tolist() == [-128, 0, 127]
    assert images.decode(_picture((10, 10, 10)), side=24, grey=True).shape == (24, 24, 1)
    assert np.all(images.decode(_picture((200, 10, 10)), side=(8, 16))[..., 0] == 72)
    for spoilt in (b"", b"no image", _picture((1, 2, 3))[:40]):
        with pytest.raises(DataError, match="no readable image"):
            images.decode(spoilt, side=8)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "1", "I;16"])
def test_every_way_to_store_the_same_grey_gives_its_pixels(mode: str) -> None:
    image = pytest.importorskip("PIL.Image", reason=NEEDS_PILLOW)
    grey = image.fromarray(np.full((6, 9), 255, np.uint8))
    stored, options = grey.convert("RGB" if mode == "CMYK" else "L"), {}
    if mode == "I;16":
        stored = image.fromarray(np.full((6, 9), 0x4055, np.uint16))
    else:
        stored = stored.convert(mode)
    if mode == "P":
        options["transparency"] = bytes([255] * 256)
    file = io.BytesIO()
    stored.save(file, format="TIFF" if mode == "CMYK" else "PNG", **options)
    wanted = 0x40 - 128 if mode == "I;16" else 127
    assert np.all(images.decode(file.getvalue(), side=None) == wanted)


def test_photographs_are_turned_as_the_camera_was_held_unless_boxes_count_stored_pixels() -> None:
    image = pytest.importorskip("PIL.Image", reason=NEEDS_PILLOW)
    exif, file = image.Exif(), io.BytesIO()
    exif[0x112] = 6  # to be turned clockwise by a quarter
    image.fromarray(np.tile(np.array([[0], [255]], np.uint8), (1, 5))).save(file, format="PNG", exif=exif)
    turned = images.decode(file.getvalue(), side=None)
    assert turned.shape == (5, 2, 3) and np.all(turned[:, 0] == 127) and np.all(turned[:, 1] == -128)
    assert images.decode(file.getvalue(), side=None, upright=False).shape == (2, 5, 3)


def test_what_systems_leave_beside_images_is_no_image_and_no_class(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "train" / name / f"{i}.png").write_bytes(_picture((i, 0, 0)))
        (tmp_path / "train" / name / "._0.png").write_bytes(b"Mac OS X")
        shutil.copytree(tmp_path / "train" / name, tmp_path / "val" / name)
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    task = images.folder(tmp_path, side=8)
    assert task.classes == ("a", "b") and everything(task.train).shape == (4, 8, 8, 3)


@pytest.mark.parametrize("kaggle", [False, True])
def test_validation_images_of_ilsvrc_are_read_as_they_are_downloaded(kaggle: bool, tmp_path: Path) -> None:
    io_of_scipy = pytest.importorskip("scipy.io", reason="SCIPY ABSENT: the devkit was not read")
    synsets = ["n02", "n01", "n03"]  # the devkit's order is not the folders'
    for name in synsets[:2]:
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "train" / name / f"{name}_{i}.JPEG").write_bytes(_picture((i, 0, 0)))
    (tmp_path / "val").mkdir()
    numbers = [1, 2, 2, 3]  # nobody trains on the last one's class
    for i, number in enumerate(numbers, start=1):
        (tmp_path / "val" / f"ILSVRC2012_val_{i:08d}.JPEG").write_bytes(_picture((0, 50 * number, 0)))
    with pytest.raises(DataError, match=r"and beside it is no LOC_val_solution\.csv, or the devkit's"):
        images.folder(tmp_path, side=8)
    if kaggle:
        rows = [f"ILSVRC2012_val_{i:08d},{synsets[n - 1]} 1 2 3 4 " for i, n in enumerate(numbers, start=1)]
        (tmp_path / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *rows]))
    else:
        data = tmp_path / "ILSVRC2012_devkit_t12" / "data"
        data.mkdir(parents=True)
        (data / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{n}\n" for n in numbers))
        with pytest.raises(DataError, match=r"meta\.mat: is no table of synsets"):
            images.folder(tmp_path, side=8)
        table = np.array(list(enumerate(synsets, start=1)), dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])
        io_of_scipy.savemat(data / "meta.mat", {"synsets": table.reshape(-1, 1)})
    test = images.folder(tmp_path, side=8).test()
    assert test.labels.tolist() == [1, 0, 0]
    assert everything(test)[:, 0, 0, 1].tolist() == [50 - 128, 100 - 128, 100 - 128]


def test_too_little_to_learn_from_is_refused_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="TORCH ABSENT: nothing of training was tested; pip install '.[nas]'")
    from nas.setups import find

    for name, count in (("a", 5), ("b", 1)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(count):
            (tmp_path / "train" / name / f"{i}.png").write_bytes(_picture((i, 0, 0)))
        shutil.copytree(tmp_path / "train" / name, tmp_path / "val" / name)
        if name == "a":
            with pytest.raises(DataError, match="all samples are of class 'a'"):
                find("imagenet").task(tmp_path)
    task = find("imagenet").task(tmp_path)
    assert task.train.labels.tolist() == [0, 0, 0, 0, 1]  # its only sample is not judged by
    for file in sorted((tmp_path / "train" / "a").iterdir())[1:]:
        file.unlink()
    with pytest.raises(DataError, match="holds 0 samples to judge by; needed are 1"):
        find("imagenet").task(tmp_path)


def test_a_large_set_is_judged_by_some_ten_thousand_samples() -> None:
    kept, judged = images.divided(np.repeat(np.arange(100), 1300), 0.1)
    assert len(judged) == 10_000 and len(kept) == 120_000


def test_samples_are_decoded_once_as_long_as_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def decode(index: int) -> NDArray[np.int8]:
        read.append(index)
        return np.full((2, 2, 1), index, np.int8)

    monkeypatch.setattr("nas.data.task._KEPT_BYTES", 12)
    samples = DecodedSamples(labels=np.zeros(9, np.int64), decode=decode)
    for _ in range(2):
        assert samples.read(np.array([7, 3, 7, 1, 8]))[:, 0, 0, 0].tolist() == [7, 3, 7, 1, 8]
    assert sorted(read) == [1, 3, 7, 8, 8]


def test_folders_of_images_become_a_task(tmp_path: Path) -> None:
    for split, count in (("train", 20), ("val", 3)):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                (tmp_path / split / name / f"{i}.png").write_bytes(_picture((i * 10, 100 * label, 0)))
    task = images.folder(tmp_path, side=12)
    assert task.classes == ("cat", "dog")
    assert (len(task.train.labels), len(task.validation.labels)) == (36, 4)
    assert np.array_equal(everything(task.train)[:, 0, 0, 1], task.train.labels * 100 - 128)
    train, validation = (
        {int(v) for v in everything(s)[s.labels == 0, 0, 0, 0]} for s in (task.train, task.validation)
    )
    assert not train & validation
    assert everything(task.test()).shape == (6, 12, 12, 3)
    shutil.rmtree(tmp_path / "val")
    with pytest.raises(DataError, match="neither a folder val nor"):
        task = images.folder(tmp_path, side=12)
        task.test()
    with pytest.raises(DataError, match="no such folder"):
        images.folder(tmp_path / "absent", side=12)


def test_cifar_is_read_from_its_archives(shared_dir: Path, tmp_path: Path) -> None:
    folder = shared_dir / "data" / "cifar10_jpeg_subset"
    members: dict[str, bytes] = {}
    with tarfile.open(folder / "train_15000.tar") as archive:
        for member in archive.getmembers()[::500]:
            content = archive.extractfile(member)
            if content is not None:
                members[member.name] = content.read()
    small = _tar(tmp_path / "train.tar", members)
    task = images.archives(small, small, side=32, validation_share=0.2)
    assert len(task.classes) == 10 and "airplane" in task.classes
    assert everything(task.train).shape[1:] == (32, 32, 3)
    assert len(task.train.labels) + len(task.validation.labels) == len(members)


def test_photographs_in_folders_are_those_of_the_archive(shared_dir: Path, tmp_path: Path) -> None:
    whole = shared_dir / "data" / "cifar10_jpeg_subset"
    members: dict[str, bytes] = {}
    for split, tar, every in (("train", "train_15000.tar", 500), ("test", "test_3000.tar", 300)):
        with tarfile.open(whole / tar) as archive:
            for member in archive.getmembers()[::every]:
                content = archive.extractfile(member)
                if content is not None:
                    file = tmp_path / split / Path(member.name).relative_to(split)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    members[member.name] = content.read()
                    file.write_bytes(members[member.name])
    in_folders = images.folder(tmp_path, side=32, validation_share=0.2)
    train = _tar(tmp_path / "train.tar", {n: c for n, c in members.items() if n.startswith("train")})
    test = _tar(tmp_path / "test.tar", {n: c for n, c in members.items() if n.startswith("test")})
    archived = images.archives(train, test, side=32, validation_share=0.2)
    assert in_folders.classes == archived.classes and len(in_folders.classes) == 10
    for folder, tar_file in (
        (in_folders.train, archived.train),
        (in_folders.validation, archived.validation),
        (in_folders.test(), archived.test()),
    ):
        assert len(folder.labels) == len(tar_file.labels) > 0
        seen = [
            {(x.tobytes(), int(y)) for x, y in zip(everything(s), s.labels, strict=True)}
            for s in (folder, tar_file)
        ]
        assert seen[0] == seen[1]


@pytest.mark.slow
def test_the_whole_cifar_subset_is_read(shared_dir: Path) -> None:
    folder = shared_dir / "data" / "cifar10_jpeg_subset"
    task = images.archives(folder / "train_15000.tar", folder / "test_3000.tar", side=32)
    assert (len(task.train.labels), len(task.validation.labels), len(task.test().labels)) == (13500, 1500, 3000)
    assert np.bincount(task.validation.labels).tolist() == [150] * 10


def test_archives_that_are_damaged_or_do_not_match_are_refused(tmp_path: Path) -> None:
    good = _tar(tmp_path / "good.tar", {f"train/{c}/{i}.png": _picture((i, 0, 0)) for c in "ab" for i in range(4)})
    foreign = _tar(tmp_path / "foreign.tar", {"test/c/0.png": _picture((0, 0, 0))})
    with pytest.raises(DataError, match="has classes that"):
        images.archives(good, foreign, side=8).test()
    for name, content in (("empty.tar", b""), ("cut.tar", good.read_bytes()[:700])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError):
            images.archives(tmp_path / name, good, side=8)
    with pytest.raises(DataError, match="in no folder"):
        images.archives(_tar(tmp_path / "flat.tar", {"0.png": _picture((0, 0, 0))}), good, side=8)


def _coco(root: Path, split: str) -> None:
    """Eight images: two with a large person, one with a small one, one with a large dog."""
    (root / "annotations").mkdir(exist_ok=True)
    (root / split).mkdir()
    sizes = [(100, 100)] * 8
    boxes = [(0, 1, 20, 20), (1, 1, 8, 8), (2, 1, 7, 7), (3, 18, 90, 90)]
    content = {
        "info": {"year": 2017},
        "images": [
            {"id": i, "file_name": f"{i:012}.png", "width": w, "height": h} for i, (w, h) in enumerate(sizes)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": c, "bbox": [0, 0, w, h], "iscrowd": 0} for i, c, w, h in boxes
        ],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
    }
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    for i in range(8):
        (root / split / f"{i:012}.png").write_bytes(_picture((i, 0, 0)))


def test_wake_words_are_labelled_by_the_share_a_person_covers(tmp_path: Path) -> None:
    _coco(tmp_path, "train2017")
    _coco(tmp_path, "val2017")
    labels = vww.labels_of(tmp_path / "annotations" / "instances_train2017.json")
    assert list(labels.values()) == [1, 1, 0, 0, 0, 0, 0, 0]
    task = vww.load(tmp_path, side=16)
    assert (len(task.train.labels), len(task.validation.labels)) == (6, 2)
    assert everything(task.test()).shape == (8, 16, 16, 3) and task.test().labels.sum() == 2
    for spoilt in ("{}", "[", json.dumps({"images": [], "annotations": [], "categories": []})):
        (tmp_path / "annotations" / "instances_train2017.json").write_text(spoilt)
        with pytest.raises(DataError):
            vww.load(tmp_path, side=16)


def test_photographs_are_labelled_by_coco_annotations(shared_dir: Path, tmp_path: Path) -> None:
    """Blood cells as COCO would have them; a platelet stands for a person, and some cover too little."""
    root = shared_dir / "data" / "bccd_voc"
    (tmp_path / "annotations").mkdir()
    wanted: dict[str, set[int]] = {}
    for split, of in (("train2017", "train"), ("val2017", "test")):
        found = voc.scenes(root, of)[:12]
        (tmp_path / split).mkdir()
        boxes = []
        for number, scene in enumerate(found):
            (tmp_path / split / scene.image.name).symlink_to(scene.image)
            boxes += [(number, 1 if b.name == "Platelets" else 2, b) for b in scene.boxes]
        document = {
            "images": [
                {"id": i, "file_name": s.image.name, "width": s.width, "height": s.height}
                for i, s in enumerate(found)
            ],
            "annotations": [
                {
                    "id": i,
                    "image_id": n,
                    "category_id": c,
                    "iscrowd": 0,
                    "bbox": [b.left, b.top, b.right - b.left, b.bottom - b.top],
                }
                for i, (n, c, b) in enumerate(boxes)
            ],
            "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "cell"}],
        }
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
        wanted[split] = {
            n
            for n, c, b in boxes
            if c == 1 and (b.right - b.left) * (b.bottom - b.top) > 0.005 * found[n].width * found[n].height
        }
        assert 0 < len(wanted[split]) < len(found)
    task = vww.load(tmp_path, side=48, validation_share=0.25)
    assert task.train.labels.sum() + task.validation.labels.sum() == len(wanted["train2017"])
    test = task.test()
    assert test.labels.sum() == len(wanted["val2017"])
    assert everything(test).shape == (12, 48, 48, 3) and everything(test).std() > 10


def test_voc_objects_are_cut_out_by_their_boxes(shared_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL", reason=NEEDS_PILLOW)
    root = shared_dir / "data" / "bccd_voc"
    task = voc.load(root, side=24)
    assert task.classes == ("Platelets", "RBC", "WBC")
    found = voc.scenes(root, "train")
    assert len(task.train.labels) == sum(len(s.boxes) for s in found)
    some = np.array([0, 1, len(task.train.labels) - 1])
    assert task.train.read(some).shape == (3, 24, 24, 3)
    monkeypatch.setattr(voc, "_KEPT_BYTES", 0)
    np.testing.assert_array_equal(voc.load(root, side=24).train.read(some), task.train.read(some))
    first = next(s for s in voc.scenes(root, "trainval") if s.image.stem == "BloodImage_00000")
    white = first.boxes[0]
    assert (white.name, white.left, white.top, white.right, white.bottom) == ("WBC", 259, 176, 491, 376)
    assert all(0 <= b.left < b.right <= s.width and b.top < b.bottom for s in found for b in s.boxes)


def test_years_of_a_devkit_are_one_data_set_and_test_images_without_annotations_are_none(
    shared_dir: Path, tmp_path: Path
) -> None:
    pytest.importorskip("PIL", reason=NEEDS_PILLOW)
    whole = shared_dir / "data" / "bccd_voc"
    for year, (train, test) in {"VOC2007": ((0, 6), (6, 8)), "VOC2012": ((8, 11), (11, 13))}.items():
        names = [s.image.stem for s in voc.scenes(whole, "train")]
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (tmp_path / year / folder).mkdir(parents=True)
        for split, (start, stop) in {"train": train, "val": train, "test": test}.items():
            (tmp_path / year / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names[start:stop]))
            for name in names[start:stop]:
                shutil.copy(whole / "JPEGImages" / f"{name}.jpg", tmp_path / year / "JPEGImages")
                if (year, split) != ("VOC2012", "test"):
                    shutil.copy(whole / "Annotations" / f"{name}.xml", tmp_path / year / "Annotations")
    assert [s.image.parts[-3] for s in voc.scenes(tmp_path, "train")] == ["VOC2007"] * 6 + ["VOC2012"] * 3
    assert [s.image.parts[-3] for s in voc.scenes(tmp_path, "test")] == ["VOC2007"] * 2
    assert len(voc.load(tmp_path, side=16).test().labels) > 0
    with pytest.raises(DataError, match=r"no year has annotated images of ImageSets/Main/extra\.txt"):
        voc.scenes(tmp_path, "extra")


def test_damaged_annotations_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("one\n")
    bomb = '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>'
    box = "<bndbox><xmin>9</xmin><ymin>1</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>"
    size = "<size><width>9</width><height>9</height></size><filename>one.jpg</filename>"
    sizeless = size.replace("9", "0")
    for spoilt in (
        "",
        "<annotation/>",
        bomb,
        f"<a>{size}<object><name>x</name>{box}</object></a>",
        f"<a>{size}</a>",
        f"<a>{sizeless}</a>",
    ):
        (tmp_path / "Annotations" / "one.xml").write_text(spoilt)
        with pytest.raises(DataError, match=r"one\.xml"):
            voc.scenes(tmp_path, "train")
    with pytest.raises(DataError, match="list of a split"):
        voc.scenes(tmp_path, "val")
