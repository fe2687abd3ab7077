"""The contact sheet: what a real browser makes of it, and that it crops as upstream does."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import clip
from PIL import Image
from platforms import BROWSER, QUOTE, in_browser, odd_names
from raw import noise

from wanwrap.data.check import Row
from wanwrap.data.media import Item, Kind
from wanwrap.look.contact_sheet import LONGEST, page, thumbnail, write

FLAGS = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --virtual-time-budget=20000 --dump-dom"

# Everything is measured in the page itself, whose policy lets this one script in. It must be done when the page has
# loaded, for then it is dumped; so no picture may be lazy.
MEASURE = """
const violations = [];
document.addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
const seen = (node) => node.checkVisibility() && node.getBoundingClientRect().height > 0;
const sections = () => Array.from(document.querySelectorAll("section")).filter(seen).map((section) => ({
  heading: section.querySelector("h2").innerText,
  names: Array.from(section.querySelectorAll("figure")).filter(seen).map((f) => f.querySelector("h3").innerText),
}));
addEventListener("load", () => {
  for (const node of document.querySelectorAll("figure")) node.style.contentVisibility = "visible"; // out of sight too
  const figures = {};
  for (const node of document.querySelectorAll("figure")) {
    const img = node.querySelector("img"), box = img?.getBoundingClientRect();
    figures[node.querySelector("h3").innerText] = {
      text: node.innerText, elements: node.querySelectorAll("*").length, alt: img?.alt,
      natural: img && [img.naturalWidth, img.naturalHeight], shown: box && [box.width, box.height],
    };
  }
  const extra = (() => { EXTRA })();
  const wide = document.documentElement.scrollWidth > innerWidth;
  const measured = {title: document.title, wide, sections: sections(), figures, extra, violations};
  document.body.textContent = "";
  document.body.appendChild(document.createElement("pre")).textContent = JSON.stringify(measured);
});
"""

FILTERED = """
const [words, remarks] = document.forms[0].elements, shown = [];
function step(value, only) {
  words.value = value;
  remarks.checked = only;
  words.dispatchEvent(new Event("input", {bubbles: true}));
  shown.push({sections: sections(), count: document.querySelector("output").innerText});
}
step("SEA gull", false);
step("", true);
step("no such thing", false);
step("", false);
return shown;
"""

STRIPES = {"left": (255, 0, 0), "top": (0, 255, 0), "right": (0, 0, 255), "bottom": (255, 255, 0)}


def striped(path: Path, size: tuple[int, int] = (64, 64), **how: Any) -> Path:
    """Grey, with a stripe at each edge."""
    picture, (wide, high), thick = Image.new("RGB", size, "#808080"), size, min(size) // 10
    picture.paste(STRIPES["top"], (0, 0, wide, thick))
    picture.paste(STRIPES["bottom"], (0, high - thick, wide, high))
    picture.paste(STRIPES["left"], (0, 0, thick, high))
    picture.paste(STRIPES["right"], (wide - thick, 0, wide, high))
    picture.save(path, **how)
    return path


def shown(path: Path, bucket: tuple[int, ...] = (64, 64), caption: str = "a cat", **more: Any) -> Row:
    """A file in one bucket, or with `problem` left out for it."""
    kind: Kind = "video" if path.suffix == ".mp4" else "image"
    frames, problem = 40 if kind == "video" else 0, more.pop("problem", None)
    item = Item(path=path, kind=kind, size=(64, 48), frames=frames, fps=16.0, caption=caption, problem=problem)
    return Row(item=item, keys=[] if problem else [bucket], **more)


def sha256(script: str) -> str:
    """A script, as a policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def browse(folder: Path, text: str, extra: str = "", width: int = 500) -> dict[str, Any]:
    """What the browser says of a page into which it lets one more script."""
    assert BROWSER
    script = MEASURE.replace("EXTRA", extra)
    assert text.count("script-src ") == 1
    text = (
        text.replace(" loading=lazy", "")
        .replace("script-src ", f"script-src {sha256(script)} ")
        .replace("<title>", f"<script>{script}</script><title>")
    )
    place = folder / "a page & more.html"
    place.write_text(text, encoding="utf-8", newline="\n")
    how = (f"--window-size={width},900", f"--user-data-dir={folder / 'profile'}")
    argv = [BROWSER, *FLAGS.split(), *how, place.as_uri()]
    done = subprocess.run(argv, capture_output=True, encoding="utf-8", timeout=120)
    measured = re.search("<pre>(.*)</pre>", done.stdout, re.DOTALL)
    assert measured, done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, Any] = json.loads(html.unescape(measured[1]))
    return found


def edges(picture: Image.Image) -> str:
    """Which of the stripes are to be seen."""
    wide, high = picture.size
    places = {
        "left": (1, high // 2),
        "top": (wide // 2, 1),
        "right": (wide - 2, high // 2),
        "bottom": (wide // 2, high - 2),
    }
    seen = {side: zip(picture.getpixel(place), STRIPES[side], strict=True) for side, place in places.items()}  # type: ignore[arg-type]
    return " ".join(side for side, pairs in seen.items() if all(abs(a - b) < 60 for a, b in pairs))


def test_pictures_are_shown_as_they_are_trained(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees: a viewer shows 300x400 with red on top
    striped(tmp_path / "wide.jpg", (4000, 1200), quality=95)
    striped(tmp_path / "turned.jpg", (400, 300), exif=exif)
    Image.new("RGBA", (400, 300), (*STRIPES["right"], 0)).save(tmp_path / "hidden.png")
    clip(tmp_path / "run.mp4", size=(640, 480))
    for name, bucket, sides in (
        ("wide.jpg", (960, 544), "top bottom"),
        ("wide.jpg", (), "left top right bottom"),  # dropped: all of it
        ("turned.jpg", (544, 960), "top bottom"),  # as it is stored
        ("hidden.png", (400, 300), "right"),  # the colour that nobody sees
        ("run.mp4", (640, 480, 21), ""),
    ):
        small = thumbnail(shown(tmp_path / name).item, bucket)
        wide, high = bucket[:2] or (4000, 1200)
        assert (edges(small), max(small.size)) == (sides, LONGEST)
        assert small.width / small.height == pytest.approx(wide / high, rel=0.01)


@in_browser
def test_the_page_and_its_filter(tmp_path: Path) -> None:
    one, two, three = (striped(tmp_path / f"{name}.png", (900, 500)) for name in ("one", "two", "three"))
    rows = [
        shown(three, caption="the sea", problem="too short"),
        shown(one, bucket=(320, 192), caption="a gull over the Sea"),
        shown(two, bucket=(64, 48), caption="a gull over land", remarks=["enlarged"]),
        shown(clip(tmp_path / "run.mp4"), bucket=(320, 192, 21)),
    ]
    found = browse(tmp_path, "".join(page("Cats", [], rows)), FILTERED, width=1600)
    for name, figure in found["figures"].items():
        assert figure["alt"] == name and figure["shown"] == pytest.approx(figure["natural"])
    assert "2.5 s" in found["figures"]["run.mp4"]["text"] and "too short" in found["figures"]["three.png"]["text"]
    assert not found["violations"] and not found["wide"]
    words, remarks, nothing, everything = found["extra"]
    assert words == {"sections": [{"heading": "320x192, picture (1)", "names": ["one.png"]}], "count": "1 of 4"}
    assert [each["names"] for each in remarks["sections"]] == [["two.png"], ["three.png"]]
    assert nothing == {"sections": [], "count": "0 of 4"}
    assert [(each["heading"], each["names"]) for each in everything["sections"]] == [
        ("320x192, picture (1)", ["one.png"]),
        ("64x48, picture (1)", ["two.png"]),
        ("320x192, 21 frames (1)", ["run.mp4"]),
        ("Dropped (1)", ["three.png"]),
    ]


HOSTILE = """</p></figure><script>document.title = "owned"</script><img src="http://127.0.0.1:9/a" onerror="document.title
= 'owned'"><style>body { display: none; background: url(http://127.0.0.1:9/b) }</style><iframe src="http://127.0.0.1:9/c">
</iframe><a id=x href="javascript:alert(1)">"double" 'single' &amp; & {{ title }} {% if %} {# 😀 \u202egnp.exe עברית"""


@in_browser
def test_captions_and_names_are_words_only(tmp_path: Path) -> None:
    """Whatever is in them, it is shown as it stands: nothing of it runs, loads, or breaks out."""
    path = striped(tmp_path / f"'{QUOTE}a{QUOTE} & {{ title }}.png", (64, 64))
    rows = [
        shown(path, caption=HOSTILE, remarks=[HOSTILE]),
        shown(striped(tmp_path / "plain.png"), caption="", problem=HOSTILE),
        shown(tmp_path / "gone\n.png", bucket=(64, 48), caption="تجربة"),
    ]
    found = browse(tmp_path, "".join(page(HOSTILE, [HOSTILE], rows)))
    first, second = found["figures"][path.name], found["figures"]["plain.png"]
    for figure in (first, second):
        assert " ".join(HOSTILE.split()) in " ".join(figure["text"].split())
    assert first["elements"] == len(["img", "figcaption", "h3", "bdi", "small", "strong", "p"])
    assert found["title"].startswith("</p></figure>") and not found["violations"] and not found["wide"]
    assert [each["names"] for each in found["sections"]] == [[path.name], ["gone .png"], ["plain.png"]]
    assert "no caption" in second["text"] and "can't be shown" in found["figures"]["gone .png"]["text"]


@in_browser
def test_what_is_not_escaped_would_not_run_either(tmp_path: Path) -> None:
    """The policy in the page, put to the test by a page that is broken on purpose."""
    text = "".join(page("Cats", [], [shown(striped(tmp_path / "a.png"), caption="PLACE")]))
    text = text.replace("PLACE", HOSTILE)
    found = browse(tmp_path, text)
    assert found["title"] == "Cats" and {*found["violations"]} >= {"script-src-elem", "img-src", "frame-src"}, found
    assert browse(tmp_path, text.replace("Content-Security-Policy", "none"))["title"] == "owned"


def test_the_policy_names_the_script_and_the_page_nothing_outside(tmp_path: Path) -> None:
    text = "".join(page("Cats", ["2 pictures"], [shown(striped(tmp_path / "a.png"))]))
    script = text.partition("<script>")[2].partition("</script>")[0]
    assert f"script-src {sha256(script)};" in text  # who changes the script puts its sha256 into the template
    links = re.findall(r"""(?:src|href|url|action|@import)\s*[=(]\s*["']?([^"'\s>)]{5})""", text)
    assert links == ["data:"] and "loading=lazy" in text and "http" not in text.replace("http-equiv", "")


@odd_names
def test_a_name_that_is_no_text_makes_a_page_in_utf_8(tmp_path: Path, said: list[str]) -> None:
    path = striped(tmp_path / "a.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    write(tmp_path / "new" / "a.html", "Cats", ["\x1b[2J"], [shown(path)])
    text = (tmp_path / "new" / "a.html").read_text(encoding="utf-8")
    assert "caf\\udce9.png" in text and "data:image/jpeg" in text and "a.html" in said[-1]


def test_files_that_are_damaged_or_strange_are_shown_without_a_picture(tmp_path: Path) -> None:
    whole = striped(tmp_path / "whole.jpg", (640, 480)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "words.mp4").write_text("not a clip")
    (tmp_path / "folder.png").mkdir()
    palette = Image.new("P", (64, 64))
    palette.putpalette(bytes(range(48)))
    palette.save(tmp_path / "palette.png", transparency=bytes(16))  # Pillow warns of it, and warnings are errors here
    Image.new("I;16", (64, 64), 300).save(tmp_path / "deep.png")
    names = ["cut.jpg", "empty.png", "words.mp4", "folder.png", "gone.png", "palette.png", "deep.png"]
    text = "".join(page("Cats", [], [shown(tmp_path / name) for name in names]))
    figures = dict(zip(names, text.split("<figure")[1:], strict=True))
    assert {name for name, figure in figures.items() if "data:image/jpeg" in figure} == {"palette.png", "deep.png"}


@pytest.mark.parametrize(("ending", "size"), [("png", (1919, 1079)), ("jpg", (301, 997)), ("jpg", (2500, 311))])
def test_a_thumbnail_is_what_upstream_crops_only_smaller(tmp_path: Path, ending: str, size: tuple[int, int]) -> None:
    """Against upstream's own steps, done with Pillow at full size."""
    soft = noise(0, (12, 12)).point(lambda value: 64 + value // 2).resize(size, Image.Resampling.BICUBIC)
    soft.save(tmp_path / f"a.{ending}", quality=95)
    bucket, scale = (640, 368), max(640 / size[0], 368 / size[1])
    large = soft.resize((int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)), Image.Resampling.LANCZOS)
    left, top = (large.width - 640) // 2, (large.height - 368) // 2
    small = thumbnail(shown(tmp_path / f"a.{ending}").item, bucket)
    wanted = large.crop((left, top, left + 640, top + 368)).resize(small.size, Image.Resampling.LANCZOS)
    apart = [abs(a - b) for a, b in zip(small.tobytes(), wanted.tobytes(), strict=True)]
    assert sum(apart) / len(apart) < 1.5 and max(apart) < 16


def test_who_stops_is_not_waited_for(tmp_path: Path) -> None:
    pieces = page("Cats", [], [shown(striped(tmp_path / "a.png", (3000, 3000)))] * 1000)
    assert any("data:image/jpeg" in piece for piece in pieces)
    began = time.monotonic()
    pieces.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 5  # all of them take a minute
