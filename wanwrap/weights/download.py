"""Files from the Hugging Face Hub: gone on with where they broke off, and in their place only when verified.

What huggingface_hub 0.34 and 2.4 have in common is used; it is slow to import, so each function does.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from wanwrap.errors import FULL, DownloadError, OutputError, RoomError
from wanwrap.system import console, safetensors
from wanwrap.system.disk import writable
from wanwrap.system.files import lock, move, opened, put, sync
from wanwrap.weights.catalogue import Tokenizer, Weight
from wanwrap.weights.patience import AGAIN, host, patiently, settle_library, status_of

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

STAGING, REJECTED = ".downloads", "rejected"  # below models; their files end so that no search takes them for weights
CHUNK = 1 << 20  # a cut loses no more
Sha256 = Callable[[Path], str]


def fetch(weight: Weight, models: Path, sha256: Sha256) -> Path:
    """Bring a file to its place below `models`, verified, and give that place.

    Raises:
        DownloadError: it could not be had, or is not what was published.
        RoomError: the disk is full; what has come is kept.
        OutputError: `models` can't be written to, or another process is downloading the same file.
    """
    place, where = models / weight.path, f"{weight.repo}/{weight.path}"
    with _disk(writable(models)):
        if place.is_file():
            if not (why := _wrong(place, weight, weight.size, sha256)):
                return place
            console.say(f"{_put_aside(place, weight, models, why)}; it is downloaded anew")
        published = patiently(where, partial(_published, weight.repo, weight.revision, weight.path))
        size = _size(weight, published)
        part = models / STAGING / f"{weight.name}.{weight.sha256[:12]}.part"
        part.parent.mkdir(parents=True, exist_ok=True)
        with lock(part, f"another process is downloading {weight.name}; wait until it has ended."):
            get = partial(_go_on, weight, published.commit_hash, part, size)
            patiently(where, get, partial(_bytes, part))
            if why := _wrong(part, weight, size, sha256):
                raise DownloadError(f"{_put_aside(part, weight, models, why)}; run setup again to download it anew.")
            place.parent.mkdir(parents=True, exist_ok=True)
            with opened(part, "r+b") as file:
                sync(file)
                put(file, part, place)
        return place


def fetch_tokenizer(tokenizer: Tokenizer) -> None:
    """Bring a tokenizer's files into the Hugging Face cache, as `main`: transformers asks for no other revision.

    Raises:
        DownloadError: one could not be had, or is not what was published.
        RoomError: the disk is full.
        OutputError: the cache can't be written to.
    """
    from huggingface_hub import constants, hf_hub_download

    with _disk(Path(constants.HF_HUB_CACHE)):
        for name in tokenizer.files if not cached(tokenizer) else ():  # all: one of another revision may be gone
            path = f"{tokenizer.folder}/{name}"
            where = f"{tokenizer.repo}/{path}"
            patiently(where, partial(_published, tokenizer.repo, "main", path))
            get = partial(hf_hub_download, tokenizer.repo, path, revision="main", force_download=True)
            patiently(where, get, lambda: 0)
            if not _is_right(tokenizer, name):
                raise DownloadError(f"{where} is not what was published; update wanwrap, or look at HF_ENDPOINT.")


def cached(tokenizer: Tokenizer) -> bool:
    """Whether the Hugging Face cache holds all its files, and whole; nothing is asked of the network."""
    return all(_is_right(tokenizer, name) for name in tokenizer.files)


def _is_right(tokenizer: Tokenizer, name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(tokenizer.repo, f"{tokenizer.folder}/{name}", revision="main")
    if not isinstance(found, str) or not _bytes(Path(found)):
        return False
    mark = tokenizer.files[name]
    return mark is None or safetensors.sha256(Path(found)) == mark


def _published(repo: str, revision: str | None, path: str) -> HfFileMetadata:
    """What the Hub says of a file. Raises DownloadError: whatever answers is no Hub."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    # What Xet and hf_transfer leave of a file can't be gone on with, and today's hf_hub_download throws it away: over
    # a slow line 28.6 GB would never come. A plain GET goes on, and a file below 50 GB can always be had by it.
    settle_library()
    vars(constants).update(DOWNLOAD_CHUNK_SIZE=CHUNK)
    found = get_hf_file_metadata(hf_hub_url(repo, path, revision=revision))
    if not (found.commit_hash and found.etag and found.size):
        raise DownloadError(
            f"{host()} does not answer as the Hub does; look at HF_ENDPOINT, the network and the proxy."
        )
    return found


def _size(weight: Weight, published: HfFileMetadata) -> int:
    """Bytes that the file must have. Raises DownloadError: the Hub's file is another."""
    size, etag = published.size or 0, published.etag or ""
    if weight.size not in (None, size) or (re.fullmatch("[0-9a-f]{64}", etag) and etag != weight.sha256):
        raise DownloadError(
            f"{weight.repo}/{weight.path} on {host()} is not the file that wanwrap knows; "
            "update wanwrap, or look at HF_ENDPOINT."
        )
    return size


def _go_on(weight: Weight, commit: str | None, part: Path, size: int) -> None:
    """Append what is missing; whether it is right is for the verification to say."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, but not in __all__

    if (have := _bytes(part)) >= size:
        return
    # not the address that this one redirects to, which expires
    url = hf_hub_url(weight.repo, weight.path, revision=commit)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    more: dict[str, Any] = {"resume_size": have, "expected_size": size, "displayed_filename": weight.name}
    try:
        with _Part(part, "ab") as file:
            http_get(url, cast(Any, file), headers=headers, **more)
    except OSError as error:
        miscounted = type(error) is OSError and error.errno is None  # its own check of the size
        if miscounted and _bytes(part) < size:
            raise ConnectionError("it ended early") from error
        if not miscounted and status_of(error) != 416:  # 416: no more bytes are there
            raise


class _Part(io.FileIO):
    """A file that is appended to. What is there stays until an answer that begins anew has brought weights."""

    anew = False

    def seek(self, *_: int) -> int:
        """To the beginning, before `truncate`."""
        return 0

    def truncate(self, *_: int | None) -> int:
        """The next chunk is the file's first."""
        self.anew = True
        return 0

    def write(self, chunk: Any) -> int:
        """Raises DownloadError: it is a page, which some networks send instead of anything."""
        if bytes(chunk[:99]).lstrip().lower().startswith((b"<!doctype html", b"<html")):
            name = Path(str(self.name)).stem.rpartition(".")[0]
            raise DownloadError(f"a web page came instead of {name}; log in to the network, then {AGAIN}.")
        if self.anew:
            super().truncate(0)
            self.anew = False
        view = memoryview(chunk)
        while view:  # a disk that gets full takes a part of it
            view = view[super().write(view) :]
        return len(chunk)


def _wrong(path: Path, weight: Weight, size: int | None, sha256: Sha256) -> str | None:
    """Why a file is not the published one; None where it is."""
    if size not in (None, _bytes(path)):
        return f"{_bytes(path):,} bytes instead of {size:,}"
    found = sha256(path)
    return None if found == weight.sha256 else f"its sha256 is {found} instead of {weight.sha256}"


def _put_aside(path: Path, weight: Weight, models: Path, why: str) -> str:
    """What has been done with a wrong file, as the beginning of a sentence. Raises DownloadError: it lies elsewhere."""
    if not path.resolve().is_relative_to(models.resolve()):
        raise DownloadError(f"{path} is not what was published ({why}), and lies elsewhere; take it away.")
    aside = models / REJECTED / f"{weight.name}.rejected"
    aside.parent.mkdir(parents=True, exist_ok=True)
    move(path, aside)
    return f"{weight.name} is not what was published ({why}) and has been moved to {aside}, which can be deleted"


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Raises RoomError: the disk is full; OutputError: it can't be written to."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # the library's own check of a size
            raise DownloadError(f"what came from {host()} is not whole; {AGAIN}.") from error
        if error.errno in FULL:
            raise RoomError(f"{folder} can take no more ({error.strerror}); make room, then {AGAIN}.") from error
        raise OutputError(f"{error.filename or folder} fails ({error.strerror}); give another place.") from error
