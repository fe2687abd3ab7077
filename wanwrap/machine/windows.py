"""What to see to on Windows before a night's training: its own settings, and those of NVIDIA's driver there."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from wanwrap.system import gpu
from wanwrap.system.disk import large
from wanwrap.system.windows import LONGER, long_paths, registry

# learn.microsoft.com, about_Execution_Policies and about_Group_Policy_Settings
SCRIPTS = r"SOFTWARE\Microsoft\PowerShell\1\ShellIds\Microsoft.PowerShell"
POLICIES = r"SOFTWARE\Policies\Microsoft\Windows\PowerShell"
MEMORY = r"HKLM\SYSTEM\CurrentControlSet\Control\Session Manager\Memory Management"
FALLBACK = (
    "what does not fit into the GPU's memory NVIDIA's driver moves to RAM, which makes a run several times slower. "
    f"{gpu.NO_FALLBACK} wanwrap can't see how it is set."
)
WSL = (
    "what does not fit into the GPU's memory Windows' driver moves to RAM, which makes a run several times slower; WSL2 is "
    "said not to heed its CUDA - Sysmem Fallback Policy (microsoft/WSL #11050): if a run is slow, swap more blocks "
    "(--blocks_to_swap)."
)


def advice(base: Path, largest: int) -> Iterator[tuple[str, str]]:
    """What could be better set for a workspace and DiTs of so many bytes, each with its name; elsewhere nothing."""
    if sys.platform == "win32":
        found = {"PowerShell": _scripts(), "long paths": _long(), "page file": _page_file(largest)}
        found |= {"OneDrive": _synced(base), "GPU memory": FALLBACK}
        yield from ((name, text) for name, text in found.items() if text)
    elif gpu.wsl():
        yield "GPU memory", WSL


def _scripts() -> str:
    """Of Windows PowerShell 5.1; PowerShell 7 comes with RemoteSigned."""
    of_group = [_group_policy(hive) for hive in ("HKLM", "HKCU")]
    own = [registry(f"{hive}\\{SCRIPTS}", "ExecutionPolicy") for hive in ("HKCU", "HKLM")]
    policies = [*of_group, os.environ.get("PSEXECUTIONPOLICYPREFERENCE"), *own]  # the first that is set decides
    policy = next(filter(None, policies), "RemoteSigned" if "Server" in platform.release() else "Restricted")
    if policy in ("RemoteSigned", "Unrestricted", "Bypass"):
        return ""
    blocked = f"scripts are blocked (its policy is {policy}), as .venv\\Scripts\\activate and run.ps1 are"
    if any(of_group):
        return f"{blocked}, by whoever manages this machine: call .venv\\Scripts\\wanwrap instead"
    return (
        f"{blocked}: start one with powershell -ExecutionPolicy Bypass -File run.ps1, or allow your own once with "
        "Set-ExecutionPolicy -Scope CurrentUser RemoteSigned"
    )


def _group_policy(hive: str) -> str | None:
    key = f"{hive}\\{POLICIES}"
    return "Restricted" if registry(key, "EnableScripts") == 0 else registry(key, "ExecutionPolicy")


def _long() -> str:
    why = "a run with a path of more than 259 characters is refused: take a short --base_dir, or switch on long paths,"
    return "" if long_paths() else f"{why} {LONGER}"


def _page_file(largest: int) -> str:
    import psutil

    files = registry(MEMORY, "PagingFiles")  # `C:\\pagefile.sys 4096 8192` in MB; 0 0, or none, where Windows chooses
    if files is None:
        return ""
    sizes = [re.search(r" (\d+) (\d+)$", file) for file in files if file.strip()]
    fixed = sum(int(found[2]) << 20 for found in sizes if found)
    if fixed + psutil.virtual_memory().total >= largest or any(not found or found[2] == "0" for found in sizes):
        return ""
    return (
        f"{f'it is {large(fixed)} at most' if fixed else 'there is none'}, and a DiT of {large(largest)} passes through RAM and "
        "it: in SystemPropertiesPerformance under Advanced, Virtual memory, tick Automatically manage paging file size"
    )


def _synced(base: Path) -> str:
    names = ("OneDrive", "OneDriveConsumer", "OneDriveCommercial")
    if not any(base.is_relative_to(place) for name in names if (place := os.environ.get(name))):
        return ""
    return f"{base} lies in it: it would upload tens of GB and hold files open; give a --base_dir elsewhere (C:\\wan)"
