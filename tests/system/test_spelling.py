"""Files as Windows has them: found whatever the case of their letters, with backslashes in their paths."""

from __future__ import annotations

import ntpath
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import Wanwrap, small_dataset
from platforms import posix_paths

from wanwrap import paths
from wanwrap.data import media
from wanwrap.data.config import load as load_toml
from wanwrap.data.folder import scan
from wanwrap.errors import DatasetError, OptionError
from wanwrap.plan.request import read
from wanwrap.preset import load
from wanwrap.weights import comfyui, workspace


@pytest.mark.parametrize(
    ("typed", "real", "taken"),
    [
        ("c:\\raw\\cats", "C:\\Raw\\Cats", "C:\\Raw\\Cats"),  # as the disk has it, for caches are known by it
        ("c:/raw/../RAW/cats", "C:\\Raw\\Cats", "C:\\Raw\\Cats"),
        ("Z:\\cats", "\\\\server\\share\\cats", "Z:\\cats"),  # a link, or a drive of the network, stays
        ("\\\\Server\\Share\\cats", "\\\\server\\share\\cats", "\\\\server\\share\\cats"),
    ],
)
def test_a_path_has_the_letters_of_the_disk(typed: str, real: str, taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("abspath", "expanduser", "normcase")
    known = {name: getattr(ntpath, name) for name in names} | {"realpath": lambda _: real}
    monkeypatch.setattr(paths, "os", SimpleNamespace(path=SimpleNamespace(**known)))
    monkeypatch.setattr(paths, "sys", SimpleNamespace(platform="win32"))
    assert str(paths.absolute(typed)) == taken


def test_links_stay_and_so_does_case(tmp_path: Path) -> None:
    (tmp_path / "Cats").mkdir()
    (tmp_path / "link").symlink_to("Cats")
    assert paths.absolute(tmp_path / "link") == tmp_path / "link"
    assert paths.absolute(tmp_path / "cats") == tmp_path / "cats"


@posix_paths  # a link stands for what Windows takes for the same name
def test_a_caption_of_other_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows finds it; upstream, which compares names, would drop the picture without a word."""
    folder = small_dataset(tmp_path / "cats")
    for stem in ("images/one", "videos/three"):
        caption = folder / f"{stem}.txt"
        caption.rename(caption.with_name(caption.name.capitalize()))
        caption.symlink_to(caption.name.capitalize())
    assert not scan(folder, load("t2v-vanilla")).left
    monkeypatch.setattr(media, "sys", SimpleNamespace(platform="win32"))
    (left,) = scan(folder, load("t2v-vanilla")).left  # of clips it reads the caption by the clip's name
    assert left.path.name == "one.png" and "One.txt" in str(left.problem) and left.stops


@pytest.mark.parametrize("path", [r"C:\Users\x\cats", r"C:\cats", r"C:\new\text"])
def test_backslashes_in_double_quotes(path: str, tmp_path: Path) -> None:
    """TOML takes them for something else: an unknown character, or a new line."""
    toml, base = tmp_path / "mine.toml", tmp_path / "w"
    toml.write_text(f'[general]\ncaption_extension = ".txt"\n[[datasets]]\nimage_directory = "{path}"\n')
    with pytest.raises(DatasetError, match="single quotes"):
        load_toml(toml)
    base.mkdir()
    (base / workspace.NAME).write_text(f'[upstream]\nmusubi_dir = "{path}"\n')
    if "new" not in path:
        with pytest.raises(OptionError, match="single quotes"):
            workspace.load(base)
    toml.write_text("[general")
    with pytest.raises(DatasetError) as caught:
        load_toml(toml)
    assert "quotes" not in str(caught.value)


def test_the_yaml_of_comfyui_desktop(tmp_path: Path) -> None:
    vae = tmp_path / "Documents" / "ComfyUI" / "models" / "vae"
    settings = tmp_path / "AppData" / "ComfyUI"
    vae.mkdir(parents=True)
    settings.mkdir(parents=True)
    text = (
        f"comfyui_desktop_config:\n    base_path: {vae.parent.parent}\n    is_default: 'true'\n    vae: models/vae/\n"
    )
    (settings / "extra_models_config.yaml").write_text(text)
    assert comfyui.folders(settings) == [vae]


def test_several_gpus_are_refused_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Wanwrap) -> None:
    assert read(preset="t2v-vanilla", base_dir=tmp_path, gpus=2).gpus == 2
    windows = SimpleNamespace(platform="win32", executable=sys.executable)
    monkeypatch.setattr("wanwrap.plan.request.sys", windows)
    assert read(preset="t2v-vanilla", base_dir=tmp_path, gpus=1).gpus == 1
    done = cli("run", "t2v-vanilla", "sample", "--gpus", 2, "--dry_run")
    assert done.returncode == 7 and "--parallel" in done.stderr and "WSL2" in done.stderr
