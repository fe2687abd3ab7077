"""Files from the Hugging Face Hub: gone on with where they broke off, and in their place only when verified.

What huggingface_hub 0.34 and 2.4 have in common is used; it is slow to import, so each function does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from wanwrap import source
from wanwrap.errors import DownloadError, OutputError, RoomError
from wanwrap.room import writable
from wanwrap.weights.catalogue import Tokenizer, Weight
from wanwrap.weights.patience import AGAIN, FULL, Say, host, patiently, status_of
from wanwrap.whole import held, put, sync

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

STAGING, REJECTED = ".downloads", "rejected"  # below models; their files end so that no search takes them for weights
CHUNK = 1 << 20  # a cut loses no more
Sha256 = Callable[[Path], str]


def fetch(weight: Weight, models: Path, say: Say, sha256: Sha256) -> tuple[Path, str]:
    """Bring a file to its place below `models`, and give that place and the file's sha256.

    Raises:
        DownloadError: it could not be had, or is not what was published.
        RoomError: the disk is full; what has come is kept.
        OutputError: `models` can't be written to, or another process is downloading the same file.
    """
    place, where = models / weight.path, f"{weight.repo}/{weight.path}"
    with _disk(writable(models)):
        if place.is_file():
            return place, _verified(place, weight, (weight.size, weight.sha256), models, sha256)
        published = patiently(where, say, partial(_published, weight.repo, weight.revision, weight.path))
        size, mark = _expected(weight, published)
        part = models / STAGING / f"{weight.name}.{mark[:12]}.part"
        part.parent.mkdir(parents=True, exist_ok=True)
        with held(part, f"another process is downloading {weight.name}"):
            get = partial(_go_on, weight, published.commit_hash, part, size)
            patiently(where, say, get, partial(_bytes, part))
            found = _verified(part, weight, (size, mark), models, sha256)
            place.parent.mkdir(parents=True, exist_ok=True)
            with part.open("r+b") as file:
                sync(file)
                put(file, part, place)
        return place, found


def fetch_tokenizer(tokenizer: Tokenizer, say: Say) -> None:
    """Bring a tokenizer's files into the Hugging Face cache, as `main`: transformers asks for no other revision.

    Raises:
        DownloadError: one could not be had, or is not what was published.
        RoomError: the disk is full.
        OutputError: the cache can't be written to.
    """
    from huggingface_hub import constants, hf_hub_download

    there = cached(tokenizer)
    with _disk(Path(constants.HF_HUB_CACHE)):
        for name, mark in tokenizer.files.items():
            path = f"{tokenizer.folder}/{name}"
            where = f"{tokenizer.repo}/{path}"
            if not there:  # one that lacks a file is of a revision that may be gone
                published = patiently(where, say, partial(_published, tokenizer.repo, "main", path))
                get = partial(hf_hub_download, tokenizer.repo, path, revision="main")
                patiently(where, say, get, lambda: 0)
                mark = mark or _lfs_sha256(published)
            _check_cached(tokenizer.repo, path, mark)


def cached(tokenizer: Tokenizer) -> bool:
    """Whether the Hugging Face cache holds all its files; nothing is asked of the network."""
    return all(_in_cache(tokenizer.repo, f"{tokenizer.folder}/{name}") for name in tokenizer.files)


def _in_cache(repo: str, path: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, path, revision="main")
    return Path(found) if isinstance(found, str) else None


def _check_cached(repo: str, path: str, mark: str | None) -> None:
    """Raises DownloadError: the cache holds something else, which has been removed."""
    found = _in_cache(repo, path)
    if found and mark and source.sha256(found) != mark:
        found.resolve().unlink()  # else the cache would give it again
        found.unlink(missing_ok=True)
        raise DownloadError(
            f"{path} of {repo} is not what was published (its sha256 is not {mark}) and has been removed from "
            "the Hugging Face cache; run setup again to download it anew."
        )


def _published(repo: str, revision: str | None, path: str) -> HfFileMetadata:
    """What the Hub says of a file. Raises DownloadError: whatever answers is no Hub."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    # What Xet and hf_transfer leave of a file can't be gone on with, and today's hf_hub_download throws it away: over
    # a slow line 28.6 GB would never come. A plain GET goes on, and a file below 50 GB can always be had by it.
    vars(constants).update(HF_HUB_DISABLE_XET=True, HF_HUB_ENABLE_HF_TRANSFER=False, DOWNLOAD_CHUNK_SIZE=CHUNK)
    found = get_hf_file_metadata(hf_hub_url(repo, path, revision=revision))
    if not (found.commit_hash and found.etag):
        raise DownloadError(
            f"{host()} does not answer as the Hub does; look at HF_ENDPOINT, the network and the proxy."
        )
    return found


def _lfs_sha256(published: HfFileMetadata) -> str | None:
    """The ETag of a large file is its sha256, that of a small one git's sha1."""
    return published.etag if re.fullmatch("[0-9a-f]{64}", published.etag or "") else None


def _expected(weight: Weight, published: HfFileMetadata) -> tuple[int, str]:
    """Size and sha256 that the file must have. Raises DownloadError: nobody knows, or the Hub's file is another."""
    theirs, what = _lfs_sha256(published), f"{weight.repo}/{weight.path} on {host()}"
    size, mark = weight.size or published.size, weight.sha256 or theirs
    if size is None or mark is None:
        raise DownloadError(f"{what} can't be verified, for its sha256 is not told; look at HF_ENDPOINT.")
    if published.size not in (None, size) or theirs not in (None, mark):
        raise DownloadError(f"{what} is not the file that wanwrap knows; update wanwrap, or look at HF_ENDPOINT.")
    return size, mark


def _go_on(weight: Weight, commit: str | None, part: Path, size: int) -> None:
    """Append what is missing; whether it is right is for the verification to say."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, but not in __all__

    # not the address that this one redirects to, which expires
    url = hf_hub_url(weight.repo, weight.path, revision=commit)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    have = _bytes(part)
    if have >= size:
        return
    with part.open("ab") as file:
        try:
            http_get(url, file, resume_size=have, headers=headers, expected_size=size, displayed_filename=weight.name)
        except OSError as error:
            miscounted = type(error) is OSError and error.errno is None  # its own check of the size
            if miscounted and file.tell() < size:
                raise ConnectionError("it ended early") from error
            if not miscounted and status_of(error) != 416:  # 416: no more bytes are there
                raise


def _verified(path: Path, weight: Weight, expected: tuple[int | None, str | None], models: Path, sha256: Sha256) -> str:
    """The file's sha256. Raises DownloadError: it is not what was published, and has been moved aside."""
    size, mark = expected
    if size not in (None, _bytes(path)):
        wrong = f"{_bytes(path):,} bytes instead of {size:,}"
    elif (found := sha256(path)) == (mark or found):
        return found
    else:
        wrong = f"its sha256 is {found} instead of {mark}"
    aside = models / REJECTED / f"{weight.name}.rejected"
    aside.parent.mkdir(parents=True, exist_ok=True)
    path.replace(aside)
    raise DownloadError(
        f"{weight.name} is not what was published ({wrong}) and has been moved to {aside}, which can be deleted; "
        "run setup again to download it anew."
    )


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Raises RoomError: the disk is full; OutputError: it can't be written to."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        if error.errno in FULL:
            raise RoomError(f"{folder} can take no more ({error.strerror}); make room, then {AGAIN}.") from error
        raise OutputError(f"{error.filename or folder} fails ({error.strerror}); give another place.") from error
