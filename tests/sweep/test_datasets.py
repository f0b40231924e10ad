"""Benchmarks are read as people have them; what is wrong with a sample is named, and the rest is unharmed."""

import io
import json
import os
import pickle
import shutil
import stat
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dragnb.errors import InputError
from dragnb.geometry import Frame
from dragnb.inputs import archives
from dragnb.sweep import datasets

W, H = 40, 32
POINTS = [[10, 12], [20, 12], [30, 20], [31, 25]]
REAL = Path(os.environ.get("DRAGBENCH") or Path(__file__).resolve().parents[3] / "shared" / "dragbench")


def picture(seed=0, size=(W, H)):
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def mask():
    painted = np.zeros((H, W), np.uint8)
    painted[5:30, 5:35] = 1
    return painted


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def published(seed=0, **changes):
    """The files of a sample as DragBench publishes it, with other fields in its pickle."""
    fields = {"prompt": "a cat", "points": POINTS, "mask": mask()} | changes
    return {
        "original_image.png": png(picture(seed)),
        "user_drag.png": b"",
        "meta_data.pkl": pickle.dumps(fields),
    }


def instructed(seed=0, **changes):
    """The files of a sample without a pickle."""
    fields = {"prompt": "a cat", "points": POINTS} | changes
    files = {"original_image.png": png(picture(seed)), "mask.png": png(mask() * 255)}
    return files | {"drag_instruction.json": json.dumps(fields).encode()}


def drag100(seed=0):
    file = io.BytesIO()
    Image.fromarray(picture(seed)).save(file, "JPEG")
    files = {"original.jpg": file.getvalue(), "mask.png": png(mask() * 255), "image_with_points.jpg": b""}
    return files | {"points.json": json.dumps({"points": POINTS}).encode()}


def ours(seed=0):
    pairs = [{"handle": POINTS[k], "target": POINTS[k + 1]} for k in (0, 2)]
    fields = {"schema": 1, "size": [W, H], "pairs": pairs, "prompt": "a cat"}
    return {"task.json": json.dumps(fields).encode(), "image.png": png(picture(seed))}


def folder_of(path, samples):
    """A folder with samples: name -> files, where None leaves a file out."""
    for name, files in samples.items():
        for file, content in files.items():
            if content is not None:
                (path / name).mkdir(parents=True, exist_ok=True)
                (path / name / file).write_bytes(content)
    return path


def zip_of(path, members, top="drag_bench_data/"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a name twice is meant
        for name, content in members:
            archive.writestr(name if isinstance(name, zipfile.ZipInfo) else top + name, content)
    return path


def flat(samples):
    return [(f"{name}/{file}", content) for name, files in samples.items() for file, content in files.items()]


def the_problem(path):
    """The one problem of a set whose other sample, animals/good, must be unharmed."""
    found = datasets.read(path)
    assert [sample.name for sample in found.samples] == ["animals/good"]
    assert found.samples[0].task().prompt == "a cat"
    (problem,) = found.problems
    return problem


# what is read


@pytest.mark.parametrize("make", [published, instructed], ids=["pickle", "json"])
@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_dragbench_becomes_drag_tasks_in_the_order_of_names(tmp_path, make, zipped):
    samples = {"city/b": make(1), "animals/c": make(2), "animals/a": make(3)}
    path = zip_of(tmp_path / "bench.zip", flat(samples)) if zipped else folder_of(tmp_path / "bench", samples)

    found, problems = datasets.read(path)

    assert [(s.name, s.category) for s in found] == [
        ("animals/a", "animals"),
        ("animals/c", "animals"),
        ("city/b", "city"),
    ]
    assert problems == () and found[0].notes == ()
    task = found[0].task()
    assert np.array_equal(task.image, picture(3)) and np.array_equal(task.mask, mask() > 0)
    assert task.handles.tolist() == found[0].handles.tolist() == [[10, 12], [30, 20]]
    assert task.targets.tolist() == found[0].targets.tolist() == [[20, 12], [31, 25]]
    assert (task.prompt, task.name, task.size) == ("a cat", "animals/a", found[0].size)


@pytest.mark.parametrize(("make", "prompt"), [(drag100, ""), (ours, "a cat")], ids=["drag100", "ours"])
def test_drag100_and_our_own_drag_files_have_no_categories(tmp_path, make, prompt):
    found, problems = datasets.read(folder_of(tmp_path / "Drag100", {"cat_0": make(1), "cat_1": make(2)}))

    assert [(s.name, s.category, s.prompt) for s in found] == [("cat_0", "", prompt), ("cat_1", "", prompt)]
    assert problems == () and found[1].notes == ()
    assert found[1].task().targets.tolist() == [[20, 12], [31, 25]]
    assert found[1].task().free == (make is ours), "our mask may be absent"


def test_a_sample_bears_one_name_from_wherever_it_is_read(tmp_path):
    root = folder_of(tmp_path / "set", {"animals/a": published()})
    zipped = zip_of(tmp_path / "set.zip", flat({"animals/a": published()}))

    for path in (root, tmp_path, root / "animals", root / "animals" / "a", zipped):
        assert [s.name for s in datasets.read(path).samples] == ["animals/a"], path


def test_samples_travel_to_other_processes(tmp_path):
    (sample,) = datasets.read(zip_of(tmp_path / "b.zip", flat({"animals/a": published()}))).samples

    assert np.array_equal(pickle.loads(pickle.dumps(sample)).task().image, picture())


def test_what_systems_leave_about_is_passed_over(tmp_path):
    root = folder_of(tmp_path / "set", {"animals/good": published(), "__MACOSX/animals/good": published()})
    folder_of(root, {".cache/x": published(), "animals": {".DS_Store": b"\0"}, "": {"README.md": b"hello"}})
    members = [("animals/.DS_Store", b""), ("__MACOSX/animals/good/._meta_data.pkl", b"")]
    zipped = zip_of(tmp_path / "set.zip", flat({"animals/good": published()}) + members)

    for path in (root, zipped):
        assert len(datasets.read(path).samples) == 1 and datasets.read(path).problems == ()


def test_a_task_that_is_saved_is_read_again(tmp_path):
    (sample,) = datasets.read(folder_of(tmp_path / "set", {"animals/a": published()})).samples

    sample.task().save(tmp_path / "ours" / "a")

    (again,) = datasets.read(tmp_path / "ours").samples
    assert again.handles.tolist() == sample.handles.tolist()
    assert np.array_equal(again.task().image, picture()) and np.array_equal(again.task().mask, mask() > 0)


# oddities are noted, not dropped


def test_a_pair_of_no_length_is_kept_in_the_sample_noted_and_left_out_of_the_task(tmp_path):
    (sample,) = datasets.read(
        folder_of(tmp_path / "set", {"a/a": published(points=[[3, 4], [3, 4], *POINTS])})
    )[0]

    assert sample.handles.tolist() == [[3, 4], [10, 12], [30, 20]]
    assert sample.notes == (
        "pairs[0] has no length: handle and target are both [3.0, 4.0]; task() leaves it out",
    )
    assert sample.task().handles.tolist() == [[10, 12], [30, 20]]


def test_a_sample_of_only_such_pairs_is_kept_and_its_task_refused(tmp_path):
    (sample,) = datasets.read(folder_of(tmp_path / "set", {"a/a": published(points=[[3, 4], [3, 4]])}))[0]

    assert len(sample.notes) == 1
    with pytest.raises(InputError, match="a/a: pairs: there are none; pick at least one"):
        sample.task()


@pytest.mark.parametrize(
    ("files", "note"),
    [
        (published(prompt=" "), "the prompt is empty"),
        (instructed(prompt=""), "the prompt is empty"),
        (
            published() | {"drag_instruction.json": b'{"points": [[1, 2], [3, 4]], "prompt": "a cat"}'},
            "drag_instruction.json differs from meta_data.pkl, which counts",
        ),
        (
            published() | {"drag_instruction.json": b"{"},
            "drag_instruction.json cannot be read (no JSON: Expecting property name enclosed in double quotes: "
            "line 1 column 2 (char 1)); give a JSON file in UTF-8; meta_data.pkl counts",
        ),
    ],
)
def test_what_is_odd_is_noted_and_the_sample_kept(tmp_path, files, note):
    ((sample,), problems) = datasets.read(folder_of(tmp_path / "set", {"a/a": files}))

    assert sample.notes == (note,) and problems == ()
    assert sample.task().targets.tolist() == [[20, 12], [31, 25]]


def test_a_size_that_is_no_multiple_of_eight_is_noted(tmp_path):
    files = {"original_image.png": png(picture(size=(W, 33)))}
    files["meta_data.pkl"] = published(mask=np.ones((33, W), bool))["meta_data.pkl"]

    assert datasets.read(folder_of(tmp_path / "set", {"a/a": files})).samples[0].notes == (
        "the picture is 40×33: not a multiple of 8",
    )


def test_a_sample_under_two_names_is_noted_at_the_second(tmp_path):
    found = datasets.read(folder_of(tmp_path / "set", {"a/a": published(), "b/b": published()})).samples

    assert [s.notes for s in found] == [(), ("it has the picture and the pairs of a/a",)]


# what is wrong is named


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (published() | {"original_image.png": None}, "original_image.png is missing"),
        (instructed() | {"mask.png": None}, "mask.png is missing"),
        (published() | {"meta_data.pkl": None}, "there is original_image.png, user_drag.png but none of meta_d"),
        (published() | {"original_image.png": png(picture())[:900]}, "original_image.png: it cannot be read as a"),
        (published() | {"original_image.png": b"<html>404"}, "original_image.png: it cannot be read as a picture (of"),
        (instructed() | {"mask.png": png(mask()[1:])}, "mask.png is 40×31, the picture 40×32; paint the mask on"),
        (published(mask=mask()[1:]), "mask is 40×31, the picture 40×32; paint the mask on the picture itself"),
        (published(mask=None), "meta_data.pkl: mask is a NoneType, not an array"),
        (published(mask=np.array([None])), "meta_data.pkl: it holds numpy values of type 'O8', not plain numbers"),
        (published(mask=[[1, 1]]), "meta_data.pkl: mask is a list, not an array"),
        (published(points=[*POINTS, [40, 1], [1, 1]]), "pairs[2].handle = [40, 1] lies outside the 40×32 image:"),
        (instructed(points=[[1, 1], [1, float("nan")]]), "drag_instruction.json: points[1] is not [x, y]"),
        (instructed(points=[[1, 1], "ab"]), "drag_instruction.json: points[1] is not [x, y]"),
        (instructed(points=[]), "drag_instruction.json: points are not a list of [x, y]"),
        (instructed(points=POINTS[:3]), "points: 3 points are an odd number; every handle needs its target"),
        (instructed(prompt=["a cat"]), "drag_instruction.json: prompt = ['a cat'] is not text"),
        (instructed(size=7) | {"mask.png": None}, "mask.png is missing"),
        (
            instructed() | {"drag_instruction.json": b"[" * 100_000},
            "drag_instruction.json cannot be read (it is nested too deeply",
        ),
        (instructed() | {"drag_instruction.json": b"{}"}, "drag_instruction.json: points are missing"),
        (published() | {"meta_data.pkl": b""}, "meta_data.pkl is damaged or no pickle"),
        (published() | {"meta_data.pkl": pickle.dumps(os.system)}, f"meta_data.pkl: it names {os.name}.system,"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_a_sample_with_something_wrong_is_named_and_the_rest_unharmed(tmp_path, files, problem, zipped):
    samples = {"animals/bad": {k: v for k, v in files.items() if v is not None}, "animals/good": published(9)}
    path = zip_of(tmp_path / "b.zip", flat(samples)) if zipped else folder_of(tmp_path / "b", samples)

    assert the_problem(path).startswith(f"animals/bad: {problem}")


def test_a_drag_file_of_ours_with_another_size_is_named(tmp_path):
    files = ours() | {"image.png": png(picture(size=(48, H)))}

    (problem,) = datasets.read(folder_of(tmp_path / "set", {"a": files})).problems
    assert problem == "a: task.json: size = [40, 32], but image.png is 48×32"


def test_two_samples_of_one_name_are_named(tmp_path):
    root = folder_of(tmp_path / "set", {"one/animals/good": published(1), "two/animals/good": published(2)})

    assert the_problem(root) == "animals/good: the folder one/animals/good has the same name; rename one"


def test_a_folder_without_samples_or_no_folder_at_all_is_named(tmp_path):
    with pytest.raises(InputError, match=r"holds no samples; one is a folder with meta_data\.pkl, drag_ins"):
        datasets.read(tmp_path)
    with pytest.raises(InputError, match="nowhere does not exist"):
        datasets.read(tmp_path / "nowhere")
    (tmp_path / "b.zip").write_bytes(
        zip_of(tmp_path / "w.zip", flat({"a/a": published()})).read_bytes()[:-80]
    )
    with pytest.raises(InputError, match=r"b\.zip is neither a folder nor a whole zip file"):
        datasets.read(tmp_path / "b.zip")


def test_files_that_change_after_reading_are_named_with_the_sample(tmp_path):
    root = folder_of(tmp_path / "set", {"animals/good": published()})
    (sample,), _ = datasets.read(root)
    shutil.rmtree(root / "animals")

    with pytest.raises(InputError, match=r"animals/good: .* cannot be read \(.*No such file"):
        sample.task()


# hostile zips


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def lying(name, size):
    """A zip's bytes in which a member of `size` zeros is declared to hold ten."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(size))
        archive.writestr(name.replace("meta_data.pkl", "original_image.png"), png(picture()))
    return file.getvalue().replace(size.to_bytes(4, "little"), (10).to_bytes(4, "little"))


@pytest.mark.parametrize(
    ("member", "problem"),
    [
        ("../evil/meta_data.pkl", "drag_bench_data/../evil/meta_data.pkl has a name that leaves the zip; refused, "),
        ("animals\\..\\..\\evil.sh", "drag_bench_data/animals\\..\\..\\evil.sh has a name that leaves the zip; re"),
        (zipfile.ZipInfo("/etc/passwd"), "/etc/passwd has an absolute name; refused"),
        (zipfile.ZipInfo("C:\\evil.exe"), "C:\\evil.exe has an absolute name; refused"),
        (link("drag_bench_data/animals/bad/original_image.png"), "original_image.png is a link; refused"),
    ],
)  # fmt: skip
def test_a_zip_with_names_that_reach_out_or_links_is_refused_by_name(tmp_path, member, problem):
    members = [*flat({"animals/good": published()}), (member, b"/etc/passwd")]

    assert problem in the_problem(zip_of(tmp_path / "b.zip", members))
    assert [p.name for p in tmp_path.iterdir()] == ["b.zip"], "nothing is unpacked"


def test_a_file_that_is_in_the_zip_twice_is_named(tmp_path):
    twice = [*flat({"animals/bad": published(1)}), ("animals/bad/meta_data.pkl", b"other")]

    problem = the_problem(zip_of(tmp_path / "b.zip", flat({"animals/good": published()}) + twice))

    assert problem.endswith(
        "drag_bench_data/animals/bad/meta_data.pkl is there twice; refused, pack the set anew without it"
    )


def test_a_bomb_is_refused_by_its_declared_size_and_by_its_real_one(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "MAX_BYTES", 2**20)
    bomb = flat({"animals/bad": published(1) | {"original_image.png": bytes(2**20 + 1)}})
    problem = the_problem(zip_of(tmp_path / "b.zip", flat({"animals/good": published()}) + bomb))
    assert "animals/bad/original_image.png is larger than 1 MiB; refused, pack" in problem

    folder = folder_of(tmp_path / "b", {"animals/good": published(), "animals/bad": published(1)})
    (folder / "animals/bad/meta_data.pkl").write_bytes(bytes(2**20 + 1))
    assert the_problem(folder) == "animals/bad: meta_data.pkl is larger than 1 MiB; save it smaller"

    (tmp_path / "lie.zip").write_bytes(lying("a/bad/meta_data.pkl", 5_000_003))
    (problem,) = datasets.read(tmp_path / "lie.zip").problems
    assert problem.startswith("a/bad: meta_data.pkl cannot be read (Bad CRC-32")


def test_a_zip_of_endless_members_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    with pytest.raises(InputError, match=r"b\.zip holds 3 files, more than 2"):
        datasets.read(zip_of(tmp_path / "b.zip", flat({"animals/good": published()})))


def test_damage_inside_a_zip_is_named(tmp_path):
    path = zip_of(tmp_path / "b.zip", flat({"animals/bad": published(1), "animals/good": published(2)}))
    whole = bytearray(path.read_bytes())
    whole[100:400] = bytes(300)
    path.write_bytes(whole)

    assert the_problem(path).startswith("animals/bad: original_image.png cannot be read (")


def test_a_member_compressed_in_another_way_is_refused_by_name(tmp_path):
    path = zip_of(tmp_path / "b.zip", flat({"animals/good": published()}))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_LZMA) as archive:
        archive.writestr("drag_bench_data/animals/bad/meta_data.pkl", b"x")

    assert "meta_data.pkl is compressed by another method than deflate; refused" in the_problem(path)


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_random_damage_is_a_problem_or_an_input_error_and_nothing_else(tmp_path, zipped):
    rng, files = np.random.default_rng(0), flat({"a/a": instructed(1)})
    whole = zip_of(tmp_path / "b.zip", files).read_bytes() if zipped else files[0][1]
    root = folder_of(tmp_path / "b", {"a/a": instructed(1)})
    path, target = (tmp_path / "b.zip",) * 2 if zipped else (root, root / "a/a/original_image.png")
    for _ in range(200):
        broken = bytearray(whole[: rng.integers(1, len(whole) + 1)] if rng.random() < 0.2 else whole)
        for place in rng.integers(0, len(broken), rng.integers(1, 5)):
            broken[place] = rng.integers(0, 256)
        target.write_bytes(broken)
        try:
            found = datasets.read(path)
            assert len(found.samples) + len(found.problems) >= 1
        except InputError:
            assert zipped, "of a folder there is always something to say"


# the real ones


@pytest.fixture(scope="module")
def real():
    if not REAL.is_dir():
        pytest.skip(f"DragBench is not at {REAL}; set DRAGBENCH to its folder")
    return datasets.read(REAL)


def test_the_real_samples_are_read_whole_and_their_oddities_noted(real):
    files = sorted(REAL.rglob("drag_instruction.json"))
    points = [json.loads(file.read_text())["points"] for file in files]

    assert real.problems == ()
    assert [s.name for s in real.samples] == [f"{f.parts[-3]}/{f.parts[-2]}" for f in files]
    for sample, clicks in zip(real.samples, points, strict=True):
        assert np.stack([sample.handles, sample.targets], 1).reshape(-1, 2).tolist() == clicks
    notes = " ".join(note for sample in real.samples for note in sample.notes)
    still = sum((s.handles == s.targets).all(1).sum() for s in real.samples)
    assert notes.count("no length") == still and "differs" not in notes
    assert notes.count("multiple of 8") == sum(any(side % 8 for side in s.size) for s in real.samples)
    assert {s.size[0] for s in real.samples} == {512}


def test_the_real_samples_are_dragged_at_the_size_at_which_the_public_code_drags_them(real):
    assert all(sample.of_dragbench for sample in real.samples)
    for sample in real.samples:
        frame = Frame.fit(*sample.size, 512, "width")
        assert frame == Frame.fit(*sample.size, fit="native")
        assert (frame.canvas_width, frame.canvas_height) == sample.size, "nothing is scaled, nothing padded"


def test_the_real_pickles_hold_the_masks_that_stand_beside_them(real):
    pickled = [s for s in real.samples if {"meta_data.pkl", "mask.png"} <= set(s.members)]
    if not pickled:
        pytest.skip("no sample has its mask twice")
    for sample in pickled:
        beside = np.array(Image.open(REAL / sample.members["mask.png"]).convert("L")) > 0
        assert np.array_equal(sample.task().mask, beside), sample.name


def test_the_whole_of_dragbench_has_the_published_counts(real):
    if len(real.samples) < 205:
        pytest.skip(f"{len(real.samples)} of DragBench's 205 samples are here")
    sizes = [s.size for s in real.samples]
    pairs = [len(s.handles) for s in real.samples]
    lengths = np.concatenate([np.linalg.norm(s.targets - s.handles, axis=1) for s in real.samples])
    assert (len(sizes), len(lengths), len(set(sizes))) == (205, 349, 53)
    assert sum(width == height for width, height in sizes) == 67
    assert {n: pairs.count(n) for n in sorted(set(pairs))} == {1: 108, 2: 61, 3: 29, 4: 5, 6: 2}
    assert (lengths == 0).sum() == 2 and lengths.mean() == pytest.approx(52.27, abs=0.01)
