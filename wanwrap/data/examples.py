"""What of a data set serves as prompts later: some of its captions, and the words that all of them begin with."""

from __future__ import annotations

from collections.abc import Iterator

from wanwrap.data.dataset import Dataset
from wanwrap.data.media import Item

MOST = 4  # captions that are kept
WORDS = 6  # of a trigger at most: "a photo of mycat" is one, too


def _items(dataset: Dataset) -> Iterator[Item]:
    return (item for entry in dataset.entries for item in entry.items)


def examples(dataset: Dataset) -> list[dict[str, str]]:
    """The first captions that are trained, each with its first file: `caption`, `path`, `kind` (image or video)."""
    first = dict[str, dict[str, str]]()
    for item in _items(dataset):
        first.setdefault(item.caption, {"caption": item.caption, "path": str(item.path), "kind": item.kind})
    return [*first.values()][:MOST]


def trigger(dataset: Dataset) -> str:
    """What stands before the first comma of all captions, where that is the same few words; else nothing."""
    captions = {item.caption for item in _items(dataset)}
    leads = {caption.partition(",")[0].strip() for caption in captions}
    lead = leads.pop() if len(leads) == 1 and len(captions) > 1 else ""
    return lead if len(lead.split()) <= WORDS else ""
