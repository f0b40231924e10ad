"""Names in every script: of drags, folders, files, prompts, models, samples; each comes back as it went in."""

import contextlib
import io
import os
import tempfile
import unicodedata
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dragnb import sd, store, sweep
from dragnb.store.names import safe_stem
from dragnb.sweep import datasets
from dragnb.task import DragTask, read_image, read_record
from dragnb.ui import export

from . import seeds, works
from .campaign import Row, part_of, timed

NAMES = {
    "Latin with marks": "Übergröße café Łódź",
    "decomposed": unicodedata.normalize("NFD", "Übergröße café"),
    "Vietnamese": "con mèo mướp đẹp",
    "Turkish": "İstanbul ığdır",
    "Greek": "γάτα ΣΊΣΥΦΟΣ",
    "Cyrillic": "рыжий кот Ёлка",
    "Armenian": "կատու",
    "Georgian": "კატა",
    "Hebrew": "חתול כתום",
    "Arabic": "قط برتقالي",
    "Persian, with a joiner": "گربه‌های نارنجی",
    "Urdu": "نارنجی بلی",
    "Devanagari": "नारंगी बिल्ली क्‍ष",
    "Bengali": "কমলা বিড়াল",
    "Tamil": "ஆரஞ்சு பூனை",
    "Thai": "แมวสีส้ม",
    "Khmer": "ឆ្មាពណ៌ទឹកក្រូច",
    "Burmese": "လိမ္မော်ရောင်ကြောင်",
    "Tibetan": "ཞི་མི",
    "Amharic": "ብርቱካናማ ድመት",
    "Chinese": "橙色的猫",
    "Japanese": "オレンジ色のねこ",
    "Korean": "주황색 고양이",
    "Korean, decomposed": unicodedata.normalize("NFD", "주황색 고양이"),
    "Mongolian": "ᠮᠤᠤᠷ",
    "Cherokee": "ᏪᏌ",
    "outside the basic plane": "𐎀𐎁 𝒸𝒶𝓉 𒀀",
    "emoji with joiners": "👩‍🚀🐈‍⬛🏳️‍🌈",
    "right to left marks": "cat \u202egnp.exe",
    "signs of a shell": "a'b\"c $HOME `x` & ; | é",
}


def run(share: float, seed: int) -> Iterator[Row]:
    """One row."""
    row = Row("names in every script", "drags, files, pictures, prompts, a model's folder, a sweep's sample")
    names = list(NAMES.items())
    chosen = names[seed % len(names) :] + names[: seed % len(names)]
    with timed(row), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        works.model()
        for script, text in chosen[: part_of(share, len(names), 3)]:
            with tempfile.TemporaryDirectory() as place:
                try:
                    everything(Path(place), text)
                except Exception as error:
                    row.failures.append(f"{script}, {text!r}: {type(error).__name__}: {error}")
            row.count += 1
    row.outcome = "each came back as it went in"
    yield row


def everything(place: Path, text: str) -> None:
    """One name everywhere where a user can write one."""
    stem = safe_stem(text)
    home = place / stem
    home.mkdir()
    task = works.task(text, text)
    for path in (home / stem, home / f"{stem}.zip"):
        again = DragTask.load(task.save(path))
        assert (again.name, again.prompt, again.stem) == (text, text, stem), (
            f"a drag came back as {again.name!r}"
        )
        assert (again.image == task.image).all()
    model_folder = home / f"{stem} model"
    os.symlink(seeds.model_folder(), model_folder)
    cache = store.Store(home / "cache")
    model = sd.load(str(model_folder), device="cpu")
    result = works.pipeline.edit(task, model, works.SETTINGS, cache)
    exported = export.save_png(home / f"{stem}.png", result)
    assert DragTask.load(exported).name == text and read_record(exported)["prompt"] == text
    assert (read_image(exported) == result.image).all()
    export.save_notebook(home / f"{stem}.ipynb", result, str(model_folder))
    _swept(home, text, stem)
    _of_a_dataset(home, stem)


@dataclass(frozen=True)
class Named(works.Sample):
    """A sample with a name of its own."""

    called: str = ""

    @property
    def name(self) -> str:
        return self.called


def floor(sample, model, store):
    """What doing nothing gives."""
    return sample.task().image.copy()


def _swept(home: Path, text: str, stem: str) -> None:
    samples, model = [replace(Named(1), called=f"s/{stem}")], str(seeds.model_folder())
    with contextlib.closing(sweep.run(samples, {stem: floor}, home / "sweep", model, keep=True)) as run:
        (progress,) = run
    assert progress.record["error"] is None, progress.record["error"]
    (record,) = sweep.read(home / "sweep")
    assert (record["sample"], record["setting"]) == (f"s/{stem}", stem)
    assert read_image(sweep.picture_path(home / "sweep", f"s/{stem}", stem)).shape == (64, 64, 3)
    with contextlib.redirect_stdout(io.StringIO()):
        sweep.records.export(home / "sweep", home / f"{stem}.csv")
    assert stem in (home / f"{stem}.csv").read_text(encoding="utf-8")


def _of_a_dataset(home: Path, stem: str) -> None:
    with zipfile.ZipFile(home / f"{stem} set.zip", "w") as archive:
        for member, content in seeds.instructed().items():
            archive.writestr(f"{stem}/{stem}/{member}", content)
    found = datasets.read(home / f"{stem} set.zip")
    assert not found.problems, found.problems
    assert [sample.name for sample in found.samples] == [f"{stem}/{stem}"]
