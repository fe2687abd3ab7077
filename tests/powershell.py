"""A reader of the PowerShell that wanwrap prints: what it would do, step by step. It refuses all that it doesn't know."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from shells import PowerShell, powershell_line, windows_argv

# Each of these ends a literal that any of them began, and two stand for the second (IsSingleQuote in
# engine/parser/CharTraits.cs and ScanStringLiteral in tokenizer.cs of github.com/PowerShell/PowerShell).
QUOTE = "['\u2018-\u201b]"
LITERAL = f"{QUOTE}((?:[^'\u2018-\u201b]|{QUOTE}{{2}})*){QUOTE}(?!{QUOTE})"
NEXT = r" (?:`\n *)?"  # a backtick at the end of a line goes on in the next
Step = tuple[str, ...]


class Reader:
    """The steps of a script: ("folder", path), ("file", path, text), ("cd", path), ("env", name, value),
    ("start", program and arguments) and ("move", into, paths)."""

    def __init__(self, text: str, version: PowerShell) -> None:
        self.text, self.version, self.at, self.settings = text, version, 0, dict[str, str]()

    def steps(self) -> Iterator[Step]:
        """Raises ValueError: a line is not known."""
        while self.at < len(self.text):
            if found := self.found(r"\$(ErrorActionPreference|PSNativeCommandArgumentPassing) = "):
                self.settings[found[1]] = self.literal()
            elif step := self.step():
                yield step
            self.needed(r" *(#.*)?(\n|\Z)")

    def step(self) -> Step | None:
        if self.found(r"\[void\]\[IO\.Directory\]::CreateDirectory\("):
            return self.ends("folder", self.literal())
        if self.found(r"\[IO\.File\]::WriteAllText\("):
            return self.ends("file", self.literal(", "), self.literal())
        if self.found("Set-Location -LiteralPath "):
            return "cd", self.literal()
        if found := self.found(r"\$env:(\w+) = "):
            return "env", found[1], self.literal()
        if self.found(r"\$global:LASTEXITCODE = 1\n& "):
            return self.start()
        if self.found(rf"Move-Item -ErrorAction Stop -Force -Destination \. -LiteralPath{NEXT}"):
            return "move", ".", *self.literals(f",{NEXT}")
        return None

    def start(self) -> Step:
        """A program, and the end of the script where it fails."""
        assert self.settings == {"ErrorActionPreference": "Continue", "PSNativeCommandArgumentPassing": "Legacy"}
        program, words = self.literal(), list[str]()
        while self.found(NEXT):
            words.append(self.word())
        self.needed(r"\nif \(\$LASTEXITCODE\) \{ exit \$LASTEXITCODE \}")
        return "start", program, *windows_argv(powershell_line(words, self.version))

    def word(self) -> str:
        """A literal, or one in which something is replaced, by the first of two in 5.1 and by the second in 7."""
        if not self.found(r"\("):
            return self.literal()
        text, old, *new = (self.literal(end) for end in (r"\.Replace\(", r", \(", ", ", r"\)"))
        self.needed(r"\[\$PSVersionTable\.PSVersion\.Major -gt 5\]\) \+ ")
        return text.replace(old, new[int(self.version != "5.1")]) + self.literal(r"\)")

    def literals(self, between: str) -> Iterator[str]:
        yield self.literal()
        while self.found(between):
            yield self.literal()

    def literal(self, then: str = "") -> str:
        return re.sub(f"{QUOTE}({QUOTE})", r"\1", self.needed(LITERAL + then)[1])

    def ends(self, *step: str) -> Step:
        self.needed(r"\)")
        assert self.settings["ErrorActionPreference"] == "Stop"  # else the script would go on
        return step

    def found(self, pattern: str) -> re.Match[str] | None:
        if found := re.compile(pattern).match(self.text, self.at):
            self.at = found.end()
        return found

    def needed(self, pattern: str) -> re.Match[str]:
        if found := self.found(pattern):
            return found
        raise ValueError(f"{pattern} is wanted, and here is {self.text[self.at : self.at + 60]!r}")


def read(script: bytes, version: PowerShell) -> list[Step]:
    """A script file's steps; 5.1 knows UTF-8 by its mark alone."""
    assert script.startswith(b"\xef\xbb\xbf")
    return [*Reader(script.decode("utf-8-sig"), version).steps()]


def carry_out(steps: Iterable[Step], env: Mapping[str, str]) -> None:
    """Do all that, in processes with no other environment. Raises CalledProcessError: one has failed."""
    place, env = Path.cwd(), dict(env)
    for what, *words in steps:
        if what == "folder":
            Path(*words).mkdir(parents=True, exist_ok=True)
        elif what == "file":
            Path(words[0]).write_text(words[1], encoding="utf-8", newline="")
        elif what == "cd":
            place = Path(*words)
        elif what == "env":
            env[words[0]] = words[1]
        elif what == "start":
            subprocess.run(words, cwd=place, env=env, check=True, capture_output=True)
        else:
            for path in words[1:]:
                (place / path).replace(place / words[0] / Path(path).name)
