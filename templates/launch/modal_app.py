"""A run of wanwrap on Modal. In this file's folder

    modal run --detach modal_app.py

builds the image (once), uploads what the run reads, and starts it; then this computer may be switched off.
"""

import subprocess
import time
from contextlib import suppress
from pathlib import Path

import modal

SETUP = "$setup"
RUN = "$run"
UPLOADS = "$uploads"
WHEEL = "$wheel"
HOURS = "$hours"  # after which the run is ended
MISTAKES = "$mistakes"  # exit codes of wanwrap that another try doesn't mend
SETUP_MISTAKES = "$setup_mistakes"
PLACE = "/workspace"  # where the volume is mounted; in paths within the volume it is left out

app = modal.App("$app")
# Weights, caches, states and LoRAs: it stays until `modal volume delete`.
workspace = modal.Volume.from_name("$volume", create_if_missing=True, version=2)
# Modal keeps each layer until its text, or that of one above it, has changed. OpenCV wants libgl1 and libglib2.0-0.
image = (
    modal.Image.debian_slim(python_version="3.11")
    .apt_install("git", "libgl1", "libglib2.0-0")
    .run_commands(
        "git init -q /opt/musubi-tuner",
        "cd /opt/musubi-tuner && git fetch -q --depth 1 $url $commit && git checkout -q FETCH_HEAD",
    )
    .pip_install("torch", "torchvision", index_url="https://download.pytorch.org/whl/cu128")
    .run_commands("pip install -e /opt/musubi-tuner $packages")
    .env({"WANWRAP_MUSUBI_DIR": "/opt/musubi-tuner", "HF_HOME": f"{PLACE}/hf", "XDG_CACHE_HOME": f"{PLACE}/cache"})
    .add_local_file(WHEEL, "/opt/$wheel_name", copy=True)
    .run_commands("pip install /opt/$wheel_name")
)


@app.function(
    image=image,
    gpu="$gpu",
    cpu="$cores",
    memory="$memory",  # MiB
    volumes={PLACE: workspace},
    secrets="$secrets",
    timeout=int(min(HOURS + 0.5, 24) * 3600),  # of one try; Modal allows 24 hours
    retries=modal.Retries(max_retries="$retries", initial_delay=10.0),
    single_use_containers=True,
)
def train(end: float) -> int:
    """One try. Modal follows it with another one where it raises, and where it takes the machine away."""
    here_until = min(end, time.time() + 23.5 * 3600)
    for words, mistakes in ((SETUP, SETUP_MISTAKES), (RUN, MISTAKES)):  # setup brings only what is missing
        try:
            code = wanwrap(words, here_until - time.time())
        except subprocess.TimeoutExpired:
            if here_until < end:
                raise  # Modal's 24 hours are nearly over
            print(f"The {HOURS} hours are over. What it has is kept; the same launch with --again goes on.", flush=True)
            return 130
        if code in mistakes:
            print(f"wanwrap ended with {code}: see above. Another try would not help; mend it and launch again.")
            return code
        if code:
            raise RuntimeError(f"wanwrap ended with {code}; another try goes on where it has stopped")
    print("wanwrap ended with 0: the LoRAs are in the volume.", flush=True)
    return 0


def wanwrap(words: list[str], seconds: float) -> int:
    """Its exit code. However the wait ends, wanwrap is told as by Ctrl-C, once, and all that it has is kept."""
    child = subprocess.Popen(["wanwrap", *words], cwd=PLACE, start_new_session=True)
    try:
        return child.wait(max(0, seconds))
    finally:
        child.terminate()  # which does nothing where it has ended
        child.wait()
        workspace.commit()


@app.local_entrypoint()
def main() -> None:
    """On your computer: upload, start, and tell Modal's name for it."""
    with workspace.batch_upload(force=True) as batch:  # only what the volume does not hold yet goes over the network
        for place, path in UPLOADS.items():
            if Path(path).is_dir():
                with suppress(FileNotFoundError):
                    workspace.remove_file(place, recursive=True)  # a picture that you deleted is not to be trained
                batch.put_directory(path, place)
            else:
                batch.put_file(path, place)
    train.spawn(time.time() + HOURS * 3600)
    print("started", app.app_id)
