"""A script for a pod, run by a real bash where programs stand in for those of a pod."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from jobs import each, job
from launchers import ODD, Far, compare, odd, small
from platforms import linux, posix, posix_paths

from wanwrap.launch import pod
from wanwrap.launch.job import Job

END = 'echo "$RUNPOD_POD_ID" > stopped'


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


def uploaded(job: Job, far: Far, end: str | None = None) -> Path:
    """What the top of the script says to upload; the script."""
    for number, path in enumerate(job.uploads.values(), 1):
        (folder := far.home / "uploads" / str(number)).mkdir(parents=True)
        shutil.copytree(path, folder / path.name) if path.is_dir() else shutil.copy(path, folder)
    script = far.home / "start.sh"
    script.write_text(pod.render(job, end=end).files["start.sh"], encoding="utf-8")
    return script


def results(far: Far) -> list[str]:
    with tarfile.open(far.home / "results.tar") as packed:
        return sorted(name.removeprefix("./") for name in packed.getnames())


@posix_paths
def test_golden(update: bool) -> None:
    made = pod.render(job(secrets=("HF_TOKEN",)), end="runpodctl stop pod $RUNPOD_POD_ID")
    assert sorted(made.files) == ["Dockerfile", "start.sh"]
    for file, text in made.files.items():
        compare(f"pod/{file}", text, update)


def test_a_pod_for_each_expert() -> None:
    """Which fetches its DiT alone."""
    made = pod.render(each())
    assert sorted(made.files) == ["Dockerfile-high", "Dockerfile-low", "start-high.sh", "start-low.sh"]
    for level in ("high", "low"):
        text = made.files[f"start-{level}.sh"]
        assert f"setup=(t2v-vanilla --noise_level {level})" in text
        assert f"--epochs 30 --noise_level {level})" in text and f"/workspace/cats-t2v-vanilla-{level}/" in text
        assert f"bash start-{level}.sh" in text and f"exec bash start-{level}.sh" in made.files[f"Dockerfile-{level}"]


def test_nobody_is_left_with_a_pod_that_costs_unawares() -> None:
    assert any("--end" in note for note in pod.render(job()).notes)
    assert not any("--end" in note for note in pod.render(job(), end=END).notes)


@linux
def test_a_run(tmp_path: Path) -> None:
    work = small(tmp_path)
    far = Far(tmp_path, work.name)
    done = far.bash(uploaded(work, far, END), RUNPOD_POD_ID="pod1")
    calls = far.calls("wanwrap", "pip", "python3", "apt-get")
    assert calls[0] == ["apt-get", "update", "-qq"] and "python3-venv" in calls[1]
    assert calls[2:] == [
        ["python3", "-m", "venv", "--clear", "venv"],
        ["pip", "install", "--quiet", "./wanwrap-0.2.0-py3-none-any.whl"],
        ["pip", "install", "--quiet", "--force-reinstall", "--no-deps", "./wanwrap-0.2.0-py3-none-any.whl"],
        ["wanwrap", "setup", "t2v-vanilla"],
        ["wanwrap", "run", "t2v-vanilla", "cats"],
    ]
    assert (far.home / "local_training/datasets/cats/one.txt").read_text() == "a cat"
    assert results(far) == [".", "cats", "cats/a.safetensors", "cats/pod.log"][1:]
    assert (far.home / "stopped").read_text() == "pod1\n"
    assert "ended with 0" in done.stdout and (far.home / "start.log").read_text() == done.stdout


@linux
@pytest.mark.parametrize(
    ("codes", "calls", "ended"),
    [
        ((0, 4), ["setup", "run"], 4),  # a mistake
        ((0, 10, 12, 0), ["setup", "run", "run", "run"], 0),
        ((0, 130, 0), ["setup", "run"], 130),  # somebody has stopped it
        ((0, 10, 10, 10, 10, 0), ["setup", *["run"] * 4], 10),
        ((6, 8, 12, 0, 0), ["setup", "setup", "setup", "setup", "run"], 0),  # the network
        ((13,), ["setup"], 13),
    ],
)
def test_what_is_tried_again(tmp_path: Path, codes: tuple[int, ...], calls: list[str], ended: int) -> None:
    """The pod is ended in each case, and waits, for a start command that exits is started again."""
    work = small(tmp_path)
    far = Far(tmp_path, work.name, codes)
    done = far.bash(uploaded(work, far, END))
    made = far.calls("wanwrap", "sleep")
    assert [call[1] for call in made if call[0] == "wanwrap"] == calls
    assert made[-1] == ["sleep", "infinity"]
    assert (far.home / "ended").read_text() == f"{ended}\n" and f"ended with {ended}," in done.stdout
    assert (far.home / "stopped").exists()
    assert (far.home / "results.tar").exists() == ("run" in calls)


@linux
@pytest.mark.parametrize(("end", "stopped"), [(END, True), (f"{END} # destroy", False)])
def test_what_could_not_be_packed_is_not_destroyed(tmp_path: Path, end: str, stopped: bool) -> None:
    work = small(tmp_path)
    far = Far(tmp_path, work.name)
    (tmp_path / "bin" / "tar").write_text("#!/bin/bash\nexit 1\n")
    (tmp_path / "bin" / "tar").chmod(0o755)
    assert "could not be written" in far.bash(uploaded(work, far, end)).stdout
    assert (far.home / "stopped").exists() == stopped


@linux
def test_the_network_fails_while_pip_downloads(tmp_path: Path) -> None:
    """Which pip ends with 2."""
    work = small(tmp_path)
    far = Far(tmp_path, work.name)
    pip = far.stubs / "pip"
    once = '[ -e "$STUBS/again" ] || { touch "$STUBS/again"; exit 2; }\n'
    pip.write_text(pip.read_text(encoding="utf-8").replace("cp ", f"{once}cp "), encoding="utf-8")
    assert "ended with 0" in far.bash(uploaded(work, far, END)).stdout


@linux
def test_at_the_end_of_its_hours_it_is_asked_to_stop(tmp_path: Path) -> None:
    work = small(tmp_path, hours=5 / 3600)
    far = Far(tmp_path, work.name, (0, "hang"))
    done = far.bash(uploaded(work, far, END))
    assert done.stdout.count("the hours are over") == 1 and (far.home / "ended").read_text() == "124\n"
    assert results(far)[-2:] == ["cats/a.safetensors", "cats/pod.log"] and (far.home / "stopped").exists()


@linux
def test_without_a_command_it_waits_and_says_what_it_costs(tmp_path: Path) -> None:
    work = small(tmp_path)
    far = Far(tmp_path, work.name)
    done = far.bash(uploaded(work, far))
    assert "costs" in done.stdout and "still locked" not in done.stdout  # the same by hand goes on
    assert far.calls("sleep")[-1] == ["sleep", "infinity"]


def wait(there: Callable[[], object]) -> None:
    """Until it is so."""
    end = time.monotonic() + 30
    while not there():
        assert time.monotonic() < end
        time.sleep(0.05)


def hanging(script: Path, far: Far) -> tuple[subprocess.Popen[bytes], int]:
    """A script whose `wanwrap run` goes on and on, as a session of its own, and the time until which it may."""
    mark = far.stubs / "hangs"
    mark.unlink(missing_ok=True)
    words: list[str | Path] = ["bash", script]
    running = subprocess.Popen(words, env=far.env, cwd=far.home, stdout=subprocess.DEVNULL, start_new_session=True)
    wait(mark.exists)
    return running, int((far.home / "deadline").read_text())


def killed(running: subprocess.Popen[bytes]) -> None:
    """With all that it has started, as by a pod's stop."""
    posix.killpg(running.pid, 9)
    running.wait()


@linux
def test_a_pod_that_was_restarted_goes_on(tmp_path: Path) -> None:
    """With the hours that are left. One that had ended only waits, so that its results can be fetched."""
    work = small(tmp_path)
    far = Far(tmp_path, work.name, (0, "hang"))
    script = uploaded(work, far, END)
    running, before = hanging(script, far)
    wait(lambda: (far.home / "minutes").read_text())
    assert "at work already" in far.bash(script).stdout
    killed(running)
    assert not (far.home / "ended").exists() and far.calls("wanwrap")[-1][1] == "run"
    far.ending(0, "hang")
    running, deadline = hanging(script, far)
    assert deadline < before  # each minute of the first start counts
    killed(running)

    far.ending()
    far.calls()
    assert "ended with 0" in far.bash(script).stdout
    assert far.calls("wanwrap", "python3") == [["wanwrap", "setup", "t2v-vanilla"], ["wanwrap", "run", *work.runs[0]]]
    (far.home / "stopped").unlink()
    assert "rm ended" in far.bash(script).stdout
    assert far.calls("wanwrap") == [] and not (far.home / "stopped").exists()
    (far.home / "ended").unlink()
    far.bash(script)
    assert len(far.calls("wanwrap")) == 2 and not (far.home / "minutes").exists()


@linux
def test_a_session_over_ssh_has_what_the_pod_was_given(tmp_path: Path) -> None:
    """With the file of the pod's first process in another place."""
    work = small(tmp_path)
    far = Far(tmp_path, work.name)
    script = uploaded(work, far, 'printf "%s\\n" "$HF_TOKEN" "$RUNPOD_POD_ID" "$OTHER" > stopped')
    (first := tmp_path / "environ").write_text("RUNPOD_POD_ID=a b\0OTHER=x\0HF_TOKEN=hf_ab==\0")
    script.write_text(script.read_text(encoding="utf-8").replace("/proc/1/environ", str(first)), encoding="utf-8")
    done = far.bash(script)
    assert (far.home / "stopped").read_text() == "hf_ab==\na b\n\n"
    assert "hf_ab" not in done.stdout


@linux
def test_what_was_not_uploaded_is_told(tmp_path: Path) -> None:
    work = small(tmp_path)
    far = Far(tmp_path, work.name)
    script = uploaded(work, far, END)
    shutil.rmtree(far.home / "uploads" / "1")
    assert "uploads/1/my cats is not there" in far.bash(script).stdout
    assert far.calls("wanwrap") == [] and (far.home / "stopped").exists()


@linux
def test_odd_names_arrive_whole(tmp_path: Path) -> None:
    work = odd(tmp_path)
    far = Far(tmp_path, work.name)
    far.bash(uploaded(work, far))
    assert far.calls("wanwrap") == [["wanwrap", "setup", "t2v-vanilla", ODD], ["wanwrap", "run", *work.runs[0]]]
    assert (far.home / "local_training" / "datasets" / ODD / "one.txt").read_text() == "a cat"
    assert f"{ODD}/a.safetensors" in results(far)


@linux
def test_what_its_top_says_is_what_a_shell_does(tmp_path: Path) -> None:
    """The commands as they are copied, with ssh and scp on this machine; a name of two lines is none of the script's."""
    work = odd(tmp_path)
    far = Far(tmp_path, work.name)
    text = pod.render(work).files["start.sh"]
    made = [line.removeprefix("#").strip() for line in text.split("\n\n")[0].splitlines()]
    commands = [
        line for line in made if line.startswith(("ssh", "scp")) and "results" not in line and "tail" not in line
    ]
    place = far.home / "workspace"
    program = tmp_path / "bin" / "ssh"
    program.write_text(f'#!/bin/bash\nshift 3; eval "$(sed s:/workspace:{place}:g <<< "$*")"\n')
    program.chmod(0o755)
    program = tmp_path / "bin" / "scp"
    program.write_text(
        f'#!/bin/bash\nto="${{@: -1}}"; to=${{to/root@HOST:\\/workspace/{place}}}; cp -r "${{@: -2:1}}" "$to"\n'
    )
    program.chmod(0o755)
    local = tmp_path / "start.sh"
    local.write_text(text, encoding="utf-8")
    for command in commands:
        far.bash("-c", command.replace(f"{work.folder}/launch/start.sh", str(local)))
    (folder,) = place.iterdir()
    wait((folder / "ended").exists)
    assert (folder / "ended").read_text() == "0\n"
    assert (folder / "local_training" / "datasets" / ODD / "one.txt").read_text() == "a cat"
    two = pod.render(job(folder=Path("/here/two\ntouch lines/outputs/x"))).files["start.sh"]
    assert not [line for line in two.splitlines() if line.startswith("touch lines")]


@linux
@pytest.mark.parametrize("shell", ["bash -n", "shellcheck -S warning"])
def test_the_script_is_bash(tmp_path: Path, shell: str) -> None:
    if not shutil.which(shell.split()[0]):
        pytest.skip(f"no {shell.split()[0]} here")
    (tmp_path / "start.sh").write_text(pod.render(odd(tmp_path), end=END).files["start.sh"], encoding="utf-8")
    done = subprocess.run([*shell.split(), "start.sh"], cwd=tmp_path, stdout=-1, stderr=-2, encoding="utf-8")
    assert not done.stdout
