"""Pictures and clips as upstream will read them: by Pillow and PyAV, ignoring EXIF and rotation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wanwrap.errors import DatasetError, listing

if TYPE_CHECKING:
    from PIL.Image import Image

Kind = Literal["image", "video"]

# What upstream looks for, all in lower or all in upper case (dataset/media_utils.py).
IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif"}
VIDEOS = {".mp4", ".webm", ".avi", ".mkv", ".mov", ".flv", ".wmv", ".m4v", ".mpg", ".mpeg"}

CAPTION = ".txt"
SAME_FPS = 0.01  # 23.976 and 24 are the same to an eye; 24 and 30 are not
ORIENTATION = 0x0112  # EXIF


@dataclass(frozen=True, kw_only=True)
class Item:
    """A picture, or a clip with its frames: `size` is (width, height) in pixels."""

    path: Path
    size: tuple[int, int]
    frames: int | None = None
    fps: float | None = None
    turned: bool = False  # by EXIF or a rotation, which upstream ignores


def kind_of(path: Path) -> Kind | None:
    """What upstream takes a file for, by its name alone; None where it passes it over."""
    suffix = path.suffix
    if path.name.startswith(".") or suffix not in (suffix.lower(), suffix.upper()):
        return None
    return "image" if suffix.lower() in IMAGES else "video" if suffix.lower() in VIDEOS else None


def probe(
    paths: Iterable[Path], kind: Kind, *, whole: bool = False, done: Callable[[], object] = bool
) -> tuple[Item, ...]:
    """Sizes and frame counts: from headers and packets, or with `whole` by decoding every file.

    Upstream decodes each file while caching, and ends the run at the first damaged one.

    Raises:
        DatasetError: files that can't be read, all of them named.
    """
    failed = dict[Path, str]()

    def one(path: Path) -> Item | None:
        try:
            return read(path, kind, whole)
        except Exception as error:  # whatever a decoder raises, the file is what is wrong
            failed[path] = why(path, error)
            return None
        finally:
            done()

    with ThreadPoolExecutor() as pool:
        items = list(pool.map(one, paths))
    if failed:
        reasons = listing(f"{path} ({reason})" for path, reason in sorted(failed.items()))
        raise DatasetError(f"{len(failed)} file(s) can't be read: {reasons}; replace or remove them.")
    return tuple(item for item in items if item)


def read(path: Path, kind: Kind, whole: bool) -> Item:
    """One of them. Raises whatever its decoder raises."""
    return _picture(path, whole) if kind == "image" else _clip(path, whole)


def why(path: Path, error: Exception) -> str:
    """Why a file can't be read, in a decoder's words."""
    return str(error).replace(str(path), path.name) or type(error).__name__


def middle(path: Path) -> Image:
    """The frame in the middle of a clip, unturned. Raises whatever its decoder raises."""
    import av

    half, frame = (_clip(path, whole=False).frames or 0) // 2, None
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in islice(container.decode(video=0), half + 1):  # noqa: B007  the last of them is meant
            continue
    if frame is None:
        raise ValueError("none of its frames can be decoded")
    image: Image = frame.to_image()
    return image


def _picture(path: Path, whole: bool) -> Item:
    from PIL import Image

    with Image.open(path) as picture:
        if picture.mode[0] in "IF":
            raise ValueError("its 16 or 32 bits a channel would turn white in upstream; save it with 8")
        if whole:
            picture.convert("RGB")
        return Item(path=path, size=picture.size, turned=picture.getexif().get(ORIENTATION, 1) != 1)


def _clip(path: Path, whole: bool) -> Item:
    """Packets are counted rather than trusting the header, which many files leave at 0."""
    import av

    with av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError("it holds no video")
        stream = container.streams.video[0]
        size, rate = (stream.codec_context.width, stream.codec_context.height), stream.average_rate
        if whole:
            stream.thread_type = "AUTO"
            turns = [getattr(frame, "rotation", 0) for frame in container.decode(video=0)]
        else:
            turns = [0 for packet in container.demux(stream) if packet.size and not packet.is_discard]
    if not turns or not rate or not all(size):
        raise ValueError("it holds no frames")
    return Item(path=path, size=size, frames=len(turns), fps=float(rate), turned=any(turns))


def check_names(directory: Path, paths: Sequence[Path]) -> None:
    """Raises DatasetError: upstream would keep one cache for two files, or pass a file over."""
    if folders := [path.name for path in paths if not path.is_file()]:
        raise DatasetError(
            f"{listing(folders)} in {directory} can't be read as files, on which upstream ends; remove them."
        )
    stems = Counter(path.stem for path in paths)
    twice = sorted(path.name for path in paths if stems[path.stem] > 1)
    if twice:
        raise DatasetError(
            f"{listing(twice)} in {directory} share a name, so one would overwrite the other's cache; rename one."
        )
    mixed = [p.name for p in directory.iterdir() if p.suffix.lower() in IMAGES | VIDEOS and kind_of(p) is None]
    mixed = [name for name in mixed if not name.startswith(".")]
    if mixed:
        raise DatasetError(f"upstream passes over {listing(sorted(mixed))}; write the ending in small letters.")


def check_captions(paths: Sequence[Path], suffix: str = CAPTION) -> None:
    """Raises DatasetError: captions that are missing, empty, or in another encoding than UTF-8."""
    captions = [path.with_suffix(suffix) for path in paths]
    wrong = {caption.name: why for caption in captions if (why := _unreadable(caption))}
    if wrong:
        raise DatasetError(
            f"{len(wrong)} of {len(paths)} file(s) in {paths[0].parent} have no caption that can be trained: "
            f"{listing(f'{name} {why}' for name, why in sorted(wrong.items()))}."
        )


def _unreadable(caption: Path) -> str | None:
    if not caption.is_file():
        return "is missing; write what is to be seen into it"
    try:
        text = caption.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return "is not UTF-8; save it as UTF-8"
    if "\0" in text:
        return "is not UTF-8 but UTF-16; save it as UTF-8"
    return None if text.strip() else "is empty; describe what is to be seen"


def warnings(items: Iterable[Item]) -> list[str]:
    """What upstream will train otherwise than a viewer shows it."""
    turned = [item.path.name for item in items if item.turned]
    return [f"turned by their own metadata, which upstream ignores: {listing(turned)}."] if turned else []
