"""What Windows' registry tells; there is none elsewhere."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

FILE_SYSTEM = r"HKLM\SYSTEM\CurrentControlSet\Control\FileSystem"
# learn.microsoft.com, "Maximum Path Length Limitation"
LONGER = (
    "in a PowerShell as administrator: New-ItemProperty -Path HKLM:\\SYSTEM\\CurrentControlSet\\Control\\FileSystem "
    "-Name LongPathsEnabled -Value 1 -PropertyType DWORD -Force"
)


def registry(key: str, name: str) -> Any:
    """A value, its `key` beginning with HKLM or HKCU; None where there is none."""
    if sys.platform == "win32":
        import winreg

        hive, _, path = key.partition("\\")
        root = {"HKLM": winreg.HKEY_LOCAL_MACHINE, "HKCU": winreg.HKEY_CURRENT_USER}[hive]
        with suppress(OSError), winreg.OpenKey(root, path) as opened:
            return winreg.QueryValueEx(opened, name)[0]
    return None


def long_paths() -> bool:
    """Whether a path may be longer than 259 characters: anywhere but on Windows, and there if it was switched on."""
    return sys.platform != "win32" or bool(registry(FILE_SYSTEM, "LongPathsEnabled"))
