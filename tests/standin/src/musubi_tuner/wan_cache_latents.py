import json
from pathlib import Path

from musubi_tuner.standin import datasets, parse

if __name__ == "__main__":
    args = parse("wan_cache_latents.py")
    assert args.vae is not None, "vae checkpoint is required"
    assert Path(args.vae).is_file(), args.vae
    for entry in datasets(args.dataset_config):
        cache = Path(entry["cache_directory"])
        cache.mkdir(parents=True, exist_ok=True)
        keys = ["latents", *(["latents_image"] if args.i2v or args.clip else []), *(["clip"] if args.clip else [])]
        (cache / "latents.json").write_text(json.dumps(keys))
