"""The page of a class: what each drag file asked for, what came of it, how good that is, and where to read more."""

import html
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from dragnb.store.files import SIGNATURE, replacing, signed

PAGE = "index.html"
EXTREMES = 2  # best and worst drags that are shown first, where there are more than twice as many
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 1200px; padding: 0 1rem; color: #1a1a1a }
h1 { margin: 0 } h2 { margin: 2rem 0 .5rem } h3 { margin: 0; font-size: 1.05rem; overflow-wrap: anywhere }
p { margin: .3rem 0 } a { color: #0060a0 } .note { color: #555; max-width: 50rem }
article { border-top: 1px solid #ccc; padding: .8rem 0; display: grid; gap: .5rem 1.5rem;
  grid-template-columns: minmax(0, 1fr) minmax(0, 3fr) }
article > :only-child { grid-column: 1 / -1 }
.pictures { display: flex; flex-wrap: wrap; gap: .8rem }
figure { margin: 0; width: 256px; max-width: 100% } figcaption { color: #555 }
img { max-width: 100%; max-height: 256px; display: block }
ul { margin: .3rem 0; padding: 0; list-style: none }
.failed { color: #a03000; overflow-wrap: anywhere; white-space: pre-line }
@media (max-width: 700px) { article { grid-template-columns: minmax(0, 1fr) } figure { width: calc(50% - .4rem) } }
"""
RANKED = (
    "By success where the truth is known, then by the pixels that are left to the target: in truth, or else as the "
    "tracker sees them."
)
VERDICTS = ("no success by the truth", "a success by the truth: in place, and like it")


@dataclass
class Entry:
    """A drag file and what became of it: files by their places as seen from the page, and an error if there was one.

    folder  its own beside the page, by name
    truth   the true picture, of a drag of the clay world
    notebook, rendered  the executed notebook, and the same as a page
    scores  by name, as notebook 00 writes them
    """

    name: str
    path: Path
    folder: str
    before: str = ""
    after: str = ""
    truth: str = ""
    notebook: str = ""
    rendered: str = ""
    prompt: str = ""
    seconds: float = 0.0
    error: str = ""
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def left(self) -> float | None:
        """Pixels left to the target: in truth where that is known, else as the tracker sees them."""
        return self.scores.get("left_px", self.scores.get("tracker_px"))


def write(entries: list[Entry], out: Path, title: str) -> None:
    """The page index.html, as far as the work has come."""
    title = html.escape(title)
    body = f"<h1>{title}</h1>{summary(entries)}{extremes(entries)}<h2>All drags</h2>" + "".join(
        map(card, entries)
    )
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f"{head}<title>{title}</title><style>{STYLE}</style>"
    page = f'<!doctype html><html lang="en">{head}<body>{body}</body></html>'
    with replacing(out / PAGE, ours=signed) as temp:
        temp.write_text(f"{page}\n<!-- {SIGNATURE} -->\n", encoding="utf-8")


def summary(entries: list[Entry]) -> str:
    """How many are done, have failed, are still to come."""
    done = sum(bool(entry.rendered) and not entry.error for entry in entries)
    failed = sum(bool(entry.error) for entry in entries)
    parts = [f"{done} of {len(entries)} drags done"]
    parts += [f"{failed} failed"] if failed else []
    waiting = len(entries) - done - failed
    parts += [f"{waiting} to come"] if waiting else []
    judged = [entry.scores["success"] for entry in entries if "success" in entry.scores]
    succeed = f" Of {len(judged)} whose truth is known {sum(map(bool, judged))} succeed." if judged else ""
    return f"<p>{', '.join(parts)}.{succeed}</p>"


def extremes(entries: list[Entry]) -> str:
    """The best and the worst drags, where there are enough that were scored."""
    scored = (entry for entry in entries if entry.left is not None and not entry.error)
    ranked = sorted(scored, key=lambda entry: (not entry.scores.get("success", 0), entry.left))
    if len(ranked) <= 2 * EXTREMES:
        return ""
    best, worst = ranked[:EXTREMES], ranked[: -EXTREMES - 1 : -1]
    parts = "".join(
        f"<h2>{title}</h2>{''.join(map(card, of))}" for title, of in (("Best", best), ("Worst", worst))
    )
    return f'<p class="note">{RANKED}</p>{parts}'


def card(entry: Entry) -> str:
    """One drag: its name, scores and links, and its pictures."""
    about = [
        f"<h3>{html.escape(entry.name)}</h3>",
        f"<p>{html.escape(entry.prompt)}</p>" if entry.prompt else "",
    ]
    about.append(
        f"<ul>{''.join(f'<li>{line}</li>' for line in lines(entry.scores))}</ul>" if entry.scores else ""
    )
    about.append(f"<p>{links(entry)}</p>" if entry.rendered else "")
    if not (entry.before or entry.error):
        about.append('<p class="note">to come</p>')
    if entry.error:
        about.append(f'<p class="failed">{html.escape(entry.error)}</p>')
    kinds = {"before, with its arrow": entry.before, "after": entry.after, "what would be right": entry.truth}
    shown = "".join(picture(entry.name, what, place) for what, place in kinds.items() if place)
    shown = f'<div class="pictures">{shown}</div>' if shown else ""
    return f"<article><div>{''.join(about)}</div>{shown}</article>"


def lines(scores: dict[str, float]) -> list[str]:
    """The scores in words, the verdict and the truth first."""
    said = {
        "moved": "in truth it went {:.0%} of the way",
        "left_px": "in truth {:.1f} px are left",
        "tracker_px": "the tracker believes {:.1f} px are left",
        "rest_psnr": "outside the mask the method keeps {:.1f} dB",
    }
    verdict = [VERDICTS[bool(scores["success"])]] if "success" in scores else []
    return verdict + [text.format(scores[name]) for name, text in said.items() if name in scores]


def links(entry: Entry) -> str:
    """To the notebook as a page, and to the notebook itself."""
    page = f'<a href="{quote(entry.rendered)}">notebook</a>'
    return f'{page} (<a href="{quote(entry.notebook)}">.ipynb</a>), {entry.seconds:.0f} s'


def picture(name: str, what: str, place: str) -> str:
    """A picture with its caption."""
    alt = html.escape(f"{name}, {what}", quote=True)
    return f'<figure><img src="{quote(place)}" alt="{alt}"><figcaption>{what}</figcaption></figure>'
