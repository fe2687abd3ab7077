import os
from pathlib import Path

from musubi_tuner.standin import encode, parse

if __name__ == "__main__":
    args = parse("wan_cache_latents.py")
    assert args.vae is not None, "vae checkpoint is required"
    assert Path(args.vae).is_file(), args.vae
    tensors = ["latents", *(["latents_image"] if args.i2v or args.clip else []), *(["clip"] if args.clip else [])]
    encode(args, "latents", tensors)
    mischief, _, code = os.environ.get("STANDIN_DO", "").partition(":")
    if mischief == "meanwhile":  # somebody does something to a file
        exec(code, {"p1": Path(os.environ["STANDIN_FILE"])})
