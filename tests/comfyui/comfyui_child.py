"""Run in the Python that runs ComfyUI: asks the real one what it makes of workflows, prompts and steps, on a CPU.

python comfyui_child.py COMFYUI_FOLDER FILE     (JSON in, JSON out on the last line)
"""

import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))
from comfyui_nodes import start


def home(folder, files):
    """A place for `start` in which these models are, as empty files, and the picture that comes with ComfyUI."""
    place = Path(tempfile.mkdtemp())
    for directory, name in files:
        path = place / "models" / directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (place / "input").mkdir()
    shutil.copy(folder / "input" / "example.png", place / "input")
    return place


def refused(prompt):
    """What ComfyUI refuses of a workflow in its API form; nothing where it would run it."""
    import execution

    fine, error, _, of_nodes = asyncio.run(execution.validate_prompt("1", prompt, None))
    return [] if fine else [str(error), *(str(each["errors"]) for each in of_nodes.values())]


def read(prompt):
    """The words of a prompt with their weights."""
    from comfy import sd1_clip

    pairs = sd1_clip.token_weights(sd1_clip.escape_important(prompt), 1.0)
    return [(sd1_clip.unescape_important(words), weight) for words, weight in pairs]


def high_steps(boundary, shift, steps):
    """How many steps of the scheduler `simple` begin at this share of the noise or above it; and how near one comes."""
    from comfy import model_sampling, samplers

    class Sampling(model_sampling.ModelSamplingDiscreteFlow, model_sampling.CONST):
        pass

    sampling = Sampling()
    sampling.set_parameters(shift=shift, multiplier=1000)
    sigmas = samplers.calculate_sigmas(sampling, "simple", steps).tolist()[:-1]
    return sum(sigma >= boundary for sigma in sigmas), min(abs(sigma - boundary) for sigma in sigmas)


def main():
    folder, asked = Path(sys.argv[1]).resolve(), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    place = home(folder, asked["files"])
    start(folder, str(place))
    answer = {
        "refused": {name: refused(prompt) for name, prompt in asked["prompts"].items()},
        "read": [read(text) for text in asked["texts"]],
        "steps": [high_steps(*row) for row in asked["steps"]],
    }
    shutil.rmtree(place)
    print(json.dumps(answer))


main()
