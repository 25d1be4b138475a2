"""Tables of images, as people and Kaggle write them."""

import json
import logging

import numpy as np
import pytest
from real_formats import encoded, pixels, write_files
from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold

from transfer.data import BrokenImage, open_source
from transfer.data.decode import decode
from transfer.data.splits import described, make_splits, random_split, splits_to_train
from transfer.errors import TransferError, UsageError

IMAGES = pixels(12, 8, 6)
PNG = [encoded(image) for image in IMAGES]
NAMES = [f"{place}.png" for place in range(12)]
FILES = dict(zip(NAMES, PNG, strict=True))


@pytest.fixture
def folder(tmp_path):
    """Twelve images and no table yet."""
    return write_files(tmp_path, FILES)


def lines(header, *rows):
    return "\n".join([header, *rows]) + "\n"


def opened(folder, text, split=None, name="table.csv", **reading):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_source(f"csv:{folder / name}", split, **reading)


def refusal(folder, text, split=None, name="table.csv", **reading):
    with pytest.raises((TransferError, UsageError)) as caught:
        opened(folder, text, split, name, **reading)
    message = str(caught.value)
    assert message.startswith("csv:") and "\n" not in message
    return message.partition(": ")[2]


TWO_CLASSES = [("0.png", "cat"), ("1.png", "dog"), ("2.png", "cat")]


def parquet(rows):
    import pyarrow
    from pyarrow import parquet as files

    stream = pyarrow.BufferOutputStream()
    files.write_table(
        pyarrow.table({"path": [path for path, _ in rows], "label": [label for _, label in rows]}), stream
    )
    return stream.getvalue().to_pybytes()


PLAIN = lines("path,label", *(",".join(row) for row in TWO_CLASSES))
QUOTED = lines('"path", "label", "note"', *(f'"{path}", "{label}", "a ""b"",\nc"' for path, label in TWO_CLASSES))
WITH_INDEX = lines(",path,label", *(f"{place},{path},{label}" for place, (path, label) in enumerate(TWO_CLASSES)))
OBJECTS = "\n".join(json.dumps({"path": path, "label": label}) for path, label in TWO_CLASSES)
WRITTEN = {
    "csv": ("t.csv", PLAIN.encode()),
    "with BOM": ("t.csv", PLAIN.encode("utf-8-sig")),
    "by Excel in Germany": ("t.csv", b"sep=;\r\n" + PLAIN.replace(",", ";").replace("\n", "\r\n").encode()),
    "Unicode text of Excel": ("t.tsv", PLAIN.replace(",", "\t").encode("utf-16")),
    "tabs": ("t.tsv", PLAIN.replace(",", "\t").encode()),
    "quoted, with blanks and new lines": ("t.csv", QUOTED.encode()),
    "empty rows": ("t.csv", PLAIN.replace("\n", "\n\n,\n").encode()),
    "by pandas with its index": ("t.csv", WITH_INDEX.encode()),
    "empty columns of a spreadsheet": ("t.csv", PLAIN.replace("\n", ",,\n").encode()),
    "Windows paths": ("t.csv", PLAIN.replace("\n0", "\n.\\0").encode()),
    "jsonl": ("t.jsonl", OBJECTS.encode()),
    "parquet": ("t.parquet", TWO_CLASSES),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_a_table_is_read_whatever_it_was_written_by(how, folder):
    name, content = WRITTEN[how]
    source = opened(folder, parquet(content) if how == "parquet" else content, name=name)
    assert source.ids == ["0.png", "1.png", "2.png"]
    assert source.class_names == ("cat", "dog") and source.labels.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(source.image(1), IMAGES[1])


def test_a_file_that_is_no_utf8(folder, caplog):
    source = opened(folder, "path,label\n0.png,Käfer\n1.png,Biene\n".encode("latin-1"))
    assert source.class_names == ("Biene", "Käfer")
    assert "is no UTF-8 and was read as latin-1" in caplog.text


@pytest.mark.parametrize(
    "header, said",
    [
        ("path,label", "path=path, label=label"),
        ("id,breed", "path=id, label=breed"),  # Kaggle's dogs
        ("Width,Height,Roi.X1,ClassId,Path", "path=Path, label=ClassId"),  # its traffic signs
        ("image_id,filename,category", "path=filename, label=category"),  # the one that is a path
        ("File Name,Class", "path=File Name, label=Class"),
        ("photo,species,patient_id,split", "path=photo, label=species, split=split, group=patient_id"),
    ],
)
def test_columns_are_known_by_their_usual_names(header, said, folder, caplog):
    cells = {"path": "0.png", "Path": "0.png", "filename": "0.png", "photo": "0.png", "File Name": "0.png", "id": "0"}
    names = header.split(",")
    rows = [[cells.get(name, "a").replace("0", str(row)) for name in names] for row in range(3)]
    caplog.set_level(logging.INFO)
    opened(folder, lines(header, *map(",".join, rows)), "a" if "split" in names else None)
    assert f": {said}; 3 files in {folder}" in caplog.text


SAY = "say which: --config.data.columns."
UNKNOWN = [
    ("a,b", "0.png,cat", {}, f"no column is known to say what the images show; {SAY}label=… (a class), labels=…"),
    ("a,label", "0,cat", {}, f"no column is known to name the images; {SAY}path=… of a, label"),
    ("path,class_id,class_name", "0.png,1,cat", {}, f"class_id, class_name may each be the label; {SAY}label=class_id"),
    ("path,image,label", "0.png,1.png,cat", {}, "path, image may each be the path"),
    ("path,label,tags", "0.png,a,b", {}, "label, tags may each be the label"),
    (
        "path,label",
        "0.png,cat|dog",
        {},
        f"column label may hold several labels a cell, such as cat, dog; {SAY}labels=l",
    ),
    ("path,label", "0.png,a", {"label": "lable"}, "config.data.columns.label=lable: there is no column lable; did you"),
    (
        "path,x,y",
        "0.png,1,2",
        {"value": "x", "label": "y"},
        "config.data.columns has label and value: an image has one",
    ),
]
WRONG = [
    ("path,label,note", "0.png,cat", {}, "line 2 has 2 cells, the header 3"),
    ("path,path,label", "0.png,0.png,cat", {}, "two columns are named path"),
    ("path,label", '0.png,"cat', {}, "line 2: unexpected end of data"),
    ("0.png,cat", "1.png,dog", {}, "its first line is no header, it names 0.png; put one above it: path,label"),
    ("path,label", "", {}, "has no rows"),
    (
        "path,label",
        "0.png,",
        {},
        "1 row has nothing in column label, the first is line 2: fill in, or remove",
    ),
    ("path,label", "0.png,NaN", {}, "1 row has nothing in column label"),
    ("path,label", ",cat", {}, "1 row has nothing in column path"),
    ("path,target", "0.png,0.25", {}, "column target holds fractions, no classes: --config.data.columns.value=target"),
    ("path,age", "0.png,old", {"value": "age"}, "column age: line 2 has old, which is no finite number"),
    ("path,age", "0.png,", {"value": "age"}, "1 row has nothing in column age, the first is line 2: fill in, or"),
    ("path,age", "0.png,inf", {"value": "age"}, "column age: line 2 has inf, which is no finite number"),
    ("path,a,b", "0.png,1,2", {"labels": "a,b"}, "column b should hold 1 and 0, or 1 and -1, and nothing else"),
    ("path,a,b", "0.png,1,1", {"label": "a,b"}, "line 2 is of 2 of the classes, not of one"),
    ("path,labels", "0.png,a", {"labels": "labels"}, "column labels holds 1 different labels"),
    ("path,label", "../0.png,a", {}, "../0.png leads out of {folder}; give the path as a whole, or a root"),
    ("path,label", "a/../../0.png,a", {}, "a/../../0.png leads out of"),
    (
        "path,label",
        "x.png,a",
        {},
        "none of 1 files is there, the first is {folder}/x.png; say where paths begin",
    ),
]


@pytest.mark.parametrize("header, row, columns, words", UNKNOWN + WRONG)
def test_what_cannot_be_known_is_a_line(header, row, columns, words, folder):
    message = refusal(folder, lines(header, row), columns=columns)
    assert message.removeprefix(f"{folder}/table.csv: ").startswith(words.format(folder=folder))


def test_contradictory_rows_are_named(folder):
    text = lines("path,label", "0.png,cat", "1.png,dog", "./0.png,dog")
    assert refusal(folder, text) == (
        "0.png is in lines 2 and 4, which say different things of it; --config.data.columns.labels=… takes several "
        "labels an image"
    )


def test_repeated_rows_count_once(folder, caplog):
    source = opened(folder, lines("path,label", "0.png,cat", "1.png,dog", "0.png,cat"))
    assert source.ids == ["0.png", "1.png"] and "1 rows are of files that are in the table already" in caplog.text


@pytest.mark.parametrize("kind", ["text", "numbers"])
def test_classes_are_names_in_natural_order(kind, folder):
    if kind == "text":
        source = opened(folder, lines("path,label", *(f"{place}.png,{place + 1}" for place in range(12))))
    else:
        rows = [json.dumps({"path": f"{place}.png", "label": place + 1.0}) for place in range(12)]
        source = opened(folder, "\n".join(rows), name="t.jsonl")
    assert source.class_names == tuple(str(number) for number in range(1, 13))
    assert source.labels.tolist() == list(range(12))


LABELLED = {
    "separated": ("path,tags", ["0.png,a|c", "1.png,b", "2.png,"]),
    "by spaces": ("path,tags", ["0.png,a c", "1.png,b", "2.png,"]),
    "as Python prints lists": ("path,tags", ["0.png,\"['a', 'c']\"", "1.png,['b']", "2.png,[]"]),
    "in columns": ("path,a,b,c", ["0.png,1,0,1", "1.png,0,1,0", "2.png,0,0,0"]),
    "as CelebA has it": ("image_id,a,b,c", ["0.png,1,-1,1", "1.png,-1,1,-1", "2.png,-1,-1,-1"]),
    "a row each": ("path,tags", ["0.png,a", "0.png,c", "1.png,b c", "2.png,"]),
}


@pytest.mark.parametrize("how", LABELLED)
def test_several_labels_an_image(how, folder, caplog):
    header, rows = LABELLED[how]
    source = opened(folder, lines(header, *rows))
    assert source.target == "labels" and source.class_names == ("a", "b", "c") and source.ids == NAMES[:3]
    expected = [[1, 0, 1], [0, 1, how == "a row each"], [0, 0, 0]]
    assert source.labels.dtype == np.float32 and source.labels.tolist() == expected
    assert described("train", source) == "train: 3 images with 3 labels: a, b, c"
    spoken = opened(folder, lines(header, *rows), columns={"labels": "tags" if "tags" in header else "a,b,c"})
    assert spoken.fingerprint == source.fingerprint


def test_lists_in_json_are_labels(folder):
    rows = [{"file": "0.png", "objects": ["b", "a"]}, {"file": "1.png", "objects": []}]
    text = "\n".join(map(json.dumps, rows))
    source = opened(folder, text, name="t.jsonl", columns={"labels": "objects"})
    assert source.class_names == ("a", "b") and source.labels.tolist() == [[1, 1], [0, 0]]


def test_columns_of_which_each_row_has_one_are_classes(folder):
    rows = ["0.png,0,1.0,7", "1.png,1,0.0,8", "2.png,0,1.0,9"]
    source = opened(folder, lines("image,MEL,NV,age", *rows))
    assert source.target == "classes" and source.class_names == ("MEL", "NV") and source.labels.tolist() == [1, 0, 1]


def test_values(folder):
    text = lines("path,x,y", "0.png,1.5,2", "1.png,-3,1e3")
    source = opened(folder, text, columns={"value": "x,y"})
    assert source.target == "values" and source.class_names == ("x", "y")
    assert source.labels.dtype == np.float32 and source.labels.tolist() == [[1.5, 2], [-3, 1000]]
    assert described("train", source) == "train: 2 images with 2 values: x, y"
    assert source.fingerprint != opened(folder, text, columns={"value": "y,x"}).fingerprint
    labels = opened(folder, lines("path,x,y", "0.png,1,0", "1.png,0,1"), columns={"labels": "x,y"})
    values = opened(folder, lines("path,x,y", "0.png,1,0", "1.png,0,1"), columns={"value": "x,y"})
    assert labels.fingerprint != values.fingerprint


def test_an_ending_that_the_table_leaves_out(folder):
    source = opened(folder, lines("id,label", "0,cat", "1,dog"))
    assert source.ids == ["0.png", "1.png"]
    (folder / "0.jpg").write_bytes(encoded(IMAGES[5], "JPEG"))
    assert opened(folder, lines("id,label", "0,cat", "1,dog"), ending=".png").fingerprint == source.fingerprint
    said = "0 is there as .jpg and as .png: --config.data.ending=…"
    assert refusal(folder, lines("id,label", "0,cat", "1,dog")) == said
    assert opened(folder, lines("id,label", "0.png,cat", "1.png,dog")).fingerprint == source.fingerprint


def test_where_paths_begin(folder, monkeypatch):
    write_files(folder, {f"train/a/{name}": content for name, content in FILES.items()})
    write_files(folder, {"test/a/1.png": PNG[1]})
    text = lines("path,label", "a/0.png,cat", "a/1.png,dog")
    assert refusal(folder, text) == (
        f"none of 2 files is there, the first is {folder}/a/0.png; say where paths begin: --config.data.root=…"
    )
    source = opened(folder, text, root="train")
    assert source.ids == ["a/0.png", "a/1.png"]
    assert opened(folder, text, root=str(folder / "train")).fingerprint == source.fingerprint
    monkeypatch.chdir(folder / "test")
    assert opened(folder, text, root="../train").fingerprint == source.fingerprint
    assert refusal(folder, text, root="tarin") == "config.data.root=tarin is no folder, here or by the table"
    (folder / "test" / "train").mkdir()
    said = f"config.data.root=train may be train or {folder}/train; give the whole path"
    assert refusal(folder, text, root="train") == said
    absolute = lines("path,label", f"{folder}/train/a/0.png,cat", f"{folder}/test/a/1.png,dog")
    assert opened(folder, absolute, root=str(folder / "train")).ids == ["a/0.png", f"{folder}/test/a/1.png"]


def test_files_that_are_not_there_are_named_and_count_as_broken(folder, caplog):
    (folder / "12.png").mkdir()
    (folder / "13.png").symlink_to(folder / "nothing")
    source = opened(folder, lines("path,label", "0.png,cat", "x.png,dog", "12.png,cat", "13.png,dog"))
    assert "3 of 4 files are not there: x.png, 12.png, 13.png" in caplog.text and len(source) == 4
    with pytest.raises(BrokenImage, match=r"x\.png: cannot be read"):
        source.image(1)


def test_splits_are_those_of_a_column(folder):
    text = lines("path,label,split", "0.png,cat,train", "1.png,dog,train", "2.png,cat,val", "3.png,,test")
    train, validation = (opened(folder, text, split) for split in ("train", "val"))
    assert train.ids == ["0.png", "1.png"] and validation.ids == ["2.png"]
    assert train.class_names == validation.class_names == ("cat", "dog")
    assert refusal(folder, text) == "column split: needs a split; there is test, train, val"
    assert refusal(folder, text, "valid") == (
        "column split: no split 'valid'; there is test, train, val; did you mean val?"
    )
    assert "line 5" in refusal(folder, text, "test")
    assert opened(folder, text.replace("3.png,,", "3.png,dog,"), columns={"split": "none"}).ids == NAMES[:4]
    assert refusal(folder, PLAIN, "train") == (
        "no column is known to say which row is of 'train'; say which: --config.data.columns.split=… of path, label"
    )


def test_a_table_for_each_split(folder, caplog):
    (folder / "val.csv").write_text(lines("path,label", "4.png,dog"))
    (folder / "train.csv").write_text(PLAIN)
    config = {"source": f"csv:{folder}", "train": "train", "validation": "val"}
    train, validation = make_splits(config)
    assert train.class_names == validation.class_names == ("cat", "dog") and validation.labels.tolist() == [1]
    assert described("validation", validation) == "validation: 1 image of 1 class: dog; none of cat"
    with pytest.raises(UsageError, match="needs a split; there is train, val"):
        open_source(f"csv:{folder}")


def test_the_larger_set_of_labels_holds(folder):
    (folder / "train.csv").write_text(lines("path,tags", "0.png,a|c", "1.png,b"))
    (folder / "val.csv").write_text(lines("path,tags", "2.png,c|b", "3.png,b"))
    _, validation = make_splits({"source": f"csv:{folder}", "train": "train", "validation": "val"})
    assert validation.class_names == ("a", "b", "c") and validation.labels.tolist() == [[0, 1, 1], [0, 1, 0]]


@pytest.mark.parametrize("stratify", [True, False])
@pytest.mark.parametrize("fraction", [0.2, 0.75])
def test_no_group_is_on_both_sides(stratify, fraction):
    random = np.random.default_rng(0)
    groups, labels, rows = random.integers(0, 40, 300), random.integers(0, 3, 300), np.arange(300)
    train, validation = random_split(labels, fraction, 5, stratify, groups=groups)
    assert not set(groups[train]) & set(groups[validation])
    assert sorted([*train, *validation]) == rows.tolist()
    assert abs(len(validation) / 300 - fraction) < 0.08
    if stratify:
        folds = StratifiedGroupKFold(5 if fraction == 0.2 else 4, shuffle=True, random_state=5)
        expected = next(folds.split(rows, labels, groups))[:: 1 if fraction == 0.2 else -1]
    else:
        expected = next(GroupShuffleSplit(1, test_size=fraction, random_state=5).split(rows, groups=groups))
    for ours, theirs in zip((train, validation), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_patients_are_not_on_both_sides(folder, caplog):
    rows = [f"{name},{'ab'[place % 2]},p{place // 3}" for place, name in enumerate(NAMES)]
    (folder / "t.csv").write_text(lines("path,label,patient", *rows))
    config = {"source": f"csv:{folder}/t.csv", "validation_fraction": 0.5}
    train, validation = make_splits(config)
    patients = [{int(id_.split(".")[0]) // 3 for id_ in side.ids} for side in (train, validation)]
    assert not patients[0] & patients[1] and len(patients[0] | patients[1]) == 4
    config["columns"] = {"group": "none"}
    assert make_splits(config)[0].groups is None
    (folder / "t.csv").write_text(lines("path,label,patient", *[row[:-1] + "1" for row in rows]))
    with pytest.raises(UsageError, match="of 1 groups: Cannot have number of splits"):
        make_splits({"source": f"csv:{folder}/t.csv"})


def test_groups_in_both_named_splits_are_said(folder, caplog):
    text = lines("path,label,patient,split", "0.png,a,p,train", "1.png,b,q,train", "2.png,a,p,test", "3.png,b,r,test")
    (folder / "t.csv").write_text(text)
    make_splits({"source": f"csv:{folder}/t.csv", "train": "train", "validation": "test"})
    assert "1 groups of images are in both splits" in caplog.text


def test_another_target_than_the_table_has(folder):
    rows = [f"{name},{'ab' if place % 2 else 'a b'}" for place, name in enumerate(NAMES)]
    (folder / "t.csv").write_text(lines("path,tags", *rows))
    with pytest.raises(UsageError) as caught:
        splits_to_train({"source": f"csv:{folder}/t.csv"}, "classes")
    assert str(caught.value) == (
        f"csv:{folder}/t.csv has several labels for each image, not a class; --config.head.target=labels learns them, "
        "with --config.train=head"
    )
    with pytest.raises(UsageError, match="images have labels, not a class each"):
        make_splits({"source": f"csv:{folder}/t.csv", "train_per_class": 1})


def test_only_a_table_has_columns(folder):
    with pytest.raises(UsageError, match=r"config\.data\.columns\.label is for csv:, .*hf:; digits"):
        make_splits({"source": "digits", "columns": {"label": "x"}})
    with pytest.raises(UsageError, match=r"config\.data\.columns\.group is for csv:; parquet:. has no use for it"):
        make_splits({"source": "parquet:x", "columns": {"group": "x"}})
    with pytest.raises(UsageError, match=r"^there is no config\.data\.columns\.image$"):
        open_source("csv:x", columns={"image": "x"})


def test_parquet_that_claims_more_than_it_has(folder):
    import pyarrow
    from pyarrow import parquet as files

    nothing = pyarrow.nulls(1 << 26)
    files.write_table(pyarrow.table({"path": nothing, "label": nothing}), folder / "t.parquet")
    with pytest.raises(TransferError, match="bytes claim to be"):
        open_source(f"csv:{folder / 't.parquet'}")


def test_labels_that_are_as_many_as_rows(folder):
    text = lines("path,tags", *(f"0.png,a{row} b{row}" for row in range(9000)))
    assert refusal(folder, text).endswith("column tags holds 18000 different labels")


def test_every_image_is_as_it_is(folder):
    source = opened(folder, lines("path,label", *(f"{name},a{place % 2}" for place, name in enumerate(NAMES))))
    for place, content in enumerate(PNG):
        np.testing.assert_array_equal(source.image(place), decode(content, ""))
