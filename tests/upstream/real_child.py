"""Run in the training Python: asks the real musubi-tuner what it makes of commands, TOMLs and data sets.

python real_child.py VERB FILE     (one of VERBS; JSON in, JSON out on the last line)
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

WANWRAP = Path(__file__).resolve().parents[2] / "wanwrap"
sys.path += [
    str(WANWRAP / "upstream"),
    str(WANWRAP / "rehearsal"),
    str(WANWRAP.parent / "tests"),
]  # last: their modules shadow no others
import bare_cpu  # noqa: E402

bare_cpu.help_if_needed()

from musubi_tuner.dataset import config_utils  # noqa: E402
from musubi_tuner.dataset.config_utils import BlueprintGenerator, ConfigSanitizer  # noqa: E402


def parser(script):
    """The parser that the script itself builds."""
    if script == "wan_train_network":
        from musubi_tuner import wan_train_network
        from musubi_tuner.training.parser_common import setup_parser_common

        return wan_train_network.wan_setup_parser(setup_parser_common())
    if script == "wan_cache_latents":
        from musubi_tuner import cache_latents, wan_cache_latents

        return wan_cache_latents.wan_setup_parser(cache_latents.setup_parser_common())
    from musubi_tuner import cache_text_encoder_outputs, wan_cache_text_encoder_outputs

    return wan_cache_text_encoder_outputs.wan_setup_parser(cache_text_encoder_outputs.setup_parser_common())


def parse(calls):
    """Each command's arguments as upstream's namespace."""
    parsers = {script: parser(script) for script in {call["script"] for call in calls}}
    for each in parsers.values():
        each.allow_abbrev = False
    return [vars(parsers[call["script"]].parse_args(call["argv"])) for call in calls]


def blueprint(path):
    config = config_utils.load_user_config(path)
    return BlueprintGenerator(ConfigSanitizer()).generate(config, SimpleNamespace(), architecture="wan")


def sanitize(paths):
    """The parameters that upstream reads out of each TOML."""
    return [[vars(data.params) for data in blueprint(path).dataset_group.datasets] for path in paths]


def count(paths):
    """Items and batches as upstream counts them: its own caching walk, with empty files for latents."""
    return [_count(path) for path in paths]


def _count(path):
    plan = blueprint(path).dataset_group
    for dataset in config_utils.generate_dataset_group_by_blueprint(plan).datasets:
        Path(dataset.cache_directory).mkdir(parents=True, exist_ok=True)
        for _, batch in dataset.retrieve_latent_cache_batches(1):
            for item in batch:
                Path(item.latent_cache_path).touch()
        for batch in dataset.retrieve_text_encoder_output_cache_batches(1):
            for item in batch:
                Path(item.text_encoder_output_cache_path).touch()
    from musubi_tuner.utils import safetensors_utils

    safetensors_utils.find_keys = lambda *_, **__: []  # the files are empty
    group = config_utils.generate_dataset_group_by_blueprint(plan, training=True)
    return {"items": group.num_train_items, "batches": len(group)}


def schedule(runs):
    """The learning rates that upstream's own optimizer and scheduler give, step by step; or why they fail."""
    import torch
    from musubi_tuner.wan_train_network import WanNetworkTrainer

    trainer, known = WanNetworkTrainer(), parser("wan_train_network")
    rates = []
    for run in runs:
        args = known.parse_args(run["argv"])
        args.max_train_steps = run["steps"]
        try:
            optimizer = trainer.get_optimizer(args, [torch.nn.Parameter(torch.ones(2))])[2]
            scheduler = trainer.get_lr_scheduler(args, optimizer, 1)
            seen = []
            for _ in range(run["steps"]):
                seen.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                scheduler.step()
            rates.append([*seen, optimizer.param_groups[0]["lr"]])
        except Exception as error:
            rates.append(repr(error))
    return rates


def resume(runs):
    """Learning rates through accelerate itself: of a whole run, and of one that is taken up again after each of `at` steps.

    As upstream takes it up: everything built anew for the steps that are left, and the state loaded into it.
    """
    known = parser("wan_train_network")
    return [_caught(_resumed, known, run) for run in runs]


def _caught(function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:
        return repr(error)


def _resumed(known, run):
    import tempfile

    steps = run["steps"]
    whole, weights = _trained(_prepared(known, run, steps), steps)
    found = {"whole": whole, "resumed": [], "weights": []}
    for at in run["at"]:
        with tempfile.TemporaryDirectory() as folder:
            first = _prepared(known, run, steps)
            rates, _ = _trained(first, at)
            first[-1]()  # a schedule-free optimizer's weights are others while it trains; upstream saves these
            first[0].save_state(folder)
            second = _prepared(known, run, steps - at)
            second[0].load_state(folder)
            more, there = _trained(second, steps - at)
        found["resumed"].append(rates[:-1] + more)
        found["weights"].append(max(abs(a - b) for a, b in zip(weights, there, strict=True)))
    return found


def _prepared(known, run, steps):
    """accelerator, model, optimizer, scheduler, and what puts the optimizer into training and out of it again."""
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from musubi_tuner.wan_train_network import WanNetworkTrainer

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    args, trainer = known.parse_args(run["argv"]), WanNetworkTrainer()
    args.max_train_steps = steps
    accelerator = Accelerator(gradient_accumulation_steps=run["accumulation"], cpu=True)
    torch.manual_seed(1)
    model = torch.nn.Linear(3, 1)
    optimizer, train, rest = trainer.get_optimizer(args, list(model.parameters()))[2:]
    scheduler = trainer.get_lr_scheduler(args, optimizer, accelerator.num_processes)
    return accelerator, *accelerator.prepare(model, optimizer, scheduler), train, rest


def _trained(prepared, steps):
    """The rates of so many optimizer steps and of the one after them, and the weights that come out."""
    import torch

    accelerator, model, optimizer, scheduler, train, _ = prepared
    train()
    rates = [optimizer.param_groups[0]["lr"]]
    while len(rates) <= steps:
        with accelerator.accumulate(model):
            accelerator.backward(model(torch.tensor([1.0, -2.0, 0.5])).square().sum())
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
        if accelerator.sync_gradients:
            rates.append(optimizer.param_groups[0]["lr"])
    return rates, torch.cat([each.detach().flatten() for each in model.parameters()]).tolist()


def load(asked):
    """What upstream's own strict loaders read: whether each file's numbers are those of the model made of it.

    And the largest distance between a merged file and upstream's own merge in memory, in units of fp16's precision.
    """
    import torch
    import toys
    from musubi_tuner.wan.configs import WAN_CONFIGS
    from musubi_tuner.wan.modules import model, t5
    from safetensors.torch import load_file

    toys.shrink()
    config = WAN_CONFIGS[asked["task"]]

    def dit(path, *lora):
        dtype = torch.float32 if lora else model.detect_wan_sd_dtype(path)
        return model.load_wan_model(config, "cpu", path, "torch", False, "cpu", dtype, False, *lora).state_dict()

    def same(path, weights):
        file = load_file(path)
        return file.keys() == weights.keys() and all(torch.equal(weights[name], file[name]) for name in file)

    answers = {path: same(path, dit(path)) for path in asked["dits"]}
    encoder = t5.T5EncoderModel(512, torch.bfloat16, "cpu", weight_path=asked["t5"]).model
    answers[asked["t5"]] = same(asked["t5"], encoder.state_dict())
    theirs = dit(asked["dit"], [load_file(asked["lora"])], [asked["strength"]])
    ours = load_file(asked["merged"])
    distance = max(float(((ours[n].float() - w) / w.abs().clamp(min=2**-14)).abs().max()) for n, w in theirs.items())
    return {**answers, "distance": distance * 2**11}


def tensors(asked):
    """Names and shapes of what upstream's network trains, with wanwrap's options of a training; of the toy or all of it."""
    import probe
    import toys

    if asked["toy"]:
        toys.shrink()
    trainer, args = probe.parsed(asked["argv"])
    network = probe.build_network(trainer, args)
    return {name: list(value.shape) for name, value in network.state_dict().items()}


def train_step(asked):
    """One step of a toy by upstream's trainer for each [argv, what is added to its timestep]: the loss, and how far the
    LoRA's gradients are from those of the first one, as a share of them.
    """
    import torch
    import toys

    toys.shrink()
    load = torch.nn.Module.load_state_dict
    toys.make({"task": asked["task"], "files": {asked["dit"]: {"role": "dit", "dtype": asked["dtype"]}}})
    torch.nn.Module.load_state_dict = load
    (_, first), *_ = found = [_train_step(argv, added) for argv, added in asked["runs"]]
    return [[loss, float((gradients - first).norm() / first.norm())] for loss, gradients in found]


def _train_step(argv, added):
    import torch
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from musubi_tuner.wan_train_network import WanNetworkTrainer

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    trainer, args = WanNetworkTrainer(), parser("wan_train_network").parse_args(argv)
    trainer._validate_args_and_init(args)
    accelerator, weight_dtype, dit_dtype, dit_weight_dtype, _ = trainer._prepare_accelerator_and_dtypes(args)
    dit = trainer._load_dit_and_swap(args, accelerator, dit_weight_dtype)
    if args.blocks_to_swap:
        _exchange(dit.offloader)
    dit.register_forward_pre_hook(lambda _, args, named: (args, {**named, "t": named["t"] + added}), with_kwargs=True)
    network = trainer._build_network(args, accelerator, dit, None, weight_dtype)
    optimizer = trainer.get_optimizer(args, [*network.parameters()])[2]
    parts = (dit, network, optimizer, None, None, weight_dtype, dit_dtype, dit_weight_dtype)
    dit, network, *_, network_dtype = trainer._prepare_with_accelerator(args, accelerator, *parts)
    trainer._init_session(args)  # the seed
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.05)  # half of them would be 0, and so the gradients of the other half
    batch = {"latents": torch.randn(1, 16, 3, 8, 12), "t5": [torch.randn(20, 4096)], "timesteps": None}
    rest = (batch["latents"], torch.randn_like(batch["latents"]), None, dit_dtype, network_dtype, None, 0)
    loss, _ = trainer.process_batch(args, accelerator, dit, network, batch, *rest)
    accelerator.backward(loss)
    return loss.item(), torch.cat([weight.grad.flatten() for weight in network.parameters()])


def _exchange(offloader):
    """Blocks as upstream swaps them with CUDA: its way without copies a block over the one that is to be kept."""
    import torch

    torch.cuda.current_stream = torch.cuda.stream = torch.cuda.Event = MagicMock()
    torch.Tensor.pin_memory = lambda self, **_: self
    offloader.cuda_available = True


def structures(tasks):
    """Names and shapes of all tensors that upstream's strict loaders want: of each task's DiT, and VAE, T5 and CLIP."""
    import torch
    from musubi_tuner.wan.configs import WAN_CONFIGS
    from musubi_tuner.wan.modules import clip, model, t5, vae

    vae.load_file = lambda _: {}
    sizes = ("dim", "eps", "ffn_dim", "freq_dim", "in_dim", "num_heads", "num_layers", "out_dim", "text_len")
    with torch.device("meta"):
        found = {
            "t5": t5.umt5_xxl(encoder_only=True, return_tokenizer=False),
            "vae": vae._video_vae("none.safetensors", z_dim=16),
            "clip": clip.clip_xlm_roberta_vit_h_14(return_transforms=False, return_tokenizer=False),
        }
        for task in tasks:
            config = WAN_CONFIGS[task]
            kind = {"model_type": "i2v" if config.i2v else "t2v", "model_version": "2.2" if config.v2_2 else "2.1"}
            found[task] = model.WanModel(**kind, **{name: config[name] for name in sizes})
    return {name: {key: list(row.shape) for key, row in each.state_dict().items()} for name, each in found.items()}


def tokenize(texts):
    """The ids that upstream's two tokenizers give, as they load them: from the Hugging Face cache."""
    from musubi_tuner.wan.modules.tokenizers import HuggingfaceTokenizer

    places = {
        "t5": ("Wan-AI/Wan2.1-T2V-14B", "google/umt5-xxl"),
        "clip": ("Wan-AI/Wan2.1-I2V-14B-720P", "xlm-roberta-large"),
    }
    return {
        name: HuggingfaceTokenizer(name=repo, seq_len=8, clean="whitespace", subfolder=folder)(texts).tolist()
        for name, (repo, folder) in places.items()
    }


def sizes(asked):
    """Of each [width, height, max_size]: whether upstream's captioning script can bring it to a size."""
    from musubi_tuner.caption_images_by_qwen_vl import resize_image
    from PIL import Image

    return [_resized(resize_image, Image.new("RGB", (width, height)), most) for width, height, most in asked]


def _resized(resize_image, picture, most):
    try:
        return bool(resize_image(picture, most).size)
    except (IndexError, ZeroDivisionError):
        return False


def captioner(tensors):
    """How many tensors upstream's strict loader of Qwen2.5-VL takes, of `{name: shape}`."""
    import torch
    from musubi_tuner.qwen_image import qwen_image_utils

    qwen_image_utils.Qwen2Tokenizer = SimpleNamespace(from_pretrained=lambda *_, **__: None)
    weights = {name: torch.empty(shape, device="meta", dtype=torch.bfloat16) for name, shape in tensors.items()}
    _, model = qwen_image_utils.load_qwen2_5_vl("", None, "meta", state_dict=weights)
    return len(model.state_dict())


def frames(clips):
    """The numbers that the frames say (raw.py) which upstream takes of each [clip, source_fps]."""
    from musubi_tuner.dataset.media_utils import load_video
    from PIL import Image
    from raw import number

    return [[number(Image.fromarray(f)) for f in load_video(c, source_fps=fps, target_fps=16.0)] for c, fps in clips]


def logged(folder):
    """The learning rates that a training has written for TensorBoard: `{step: rate}`."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = Path(folder).rglob("events.out.tfevents*")
    found = EventAccumulator(str(events)).Reload()
    return {each.step: each.value for tag in found.Tags()["scalars"] if "lr/" in tag for each in found.Scalars(tag)}


def distances(pairs):
    """Of two latents that upstream has saved: whether they are the same, and how far apart they are, as a share."""
    from safetensors.torch import load_file

    found = []
    for one, other in pairs:
        a, b = (load_file(path)["latent"].double() for path in (one, other))
        found.append({"same": bool((a == b).all()), "distance": float((a - b).norm() / b.norm())})
    return found


def media(paths):
    """The frames, width and height of each clip."""
    import av

    found = []
    for path in paths:
        with av.open(path) as container:
            frames = [*container.decode(video=0)]
        found.append([len(frames), frames[0].width, frames[0].height])
    return found


def prompts(path):
    """What upstream reads of a file of prompts."""
    from musubi_tuner.training.sampling_prompts import load_prompts

    return load_prompts(path)


VERBS = {
    each.__name__: each
    for each in (
        parse,
        sanitize,
        count,
        schedule,
        resume,
        logged,
        load,
        tensors,
        train_step,
        structures,
        tokenize,
        sizes,
        captioner,
        frames,
        distances,
        media,
        prompts,
    )
}

if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    print("\n" + json.dumps(VERBS[sys.argv[1]](asked), default=str))
