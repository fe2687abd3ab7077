import json
import os
import sys
import time
from pathlib import Path

from PIL import Image

from musubi_tuner.standin import parse

MISCHIEF, _, AFTER = os.environ.get("STANDIN_DO", "").partition(":")
ERRORS = {"oom": "CUDA out of memory", "offline": "We couldn't connect to the Hub to load the files"}
ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif"}


def answer(path):
    """What is to be seen in it: the size, and the strongest colour."""
    picture = Image.open(path).convert("RGB")
    middle = picture.getpixel((picture.width // 2, picture.height // 2))
    colour = ("red", "green", "blue")[middle.index(max(middle))]
    return os.environ.get("STANDIN_SAYS", "{colour}, {width}x{height}").format(
        colour=colour, width=picture.width, height=picture.height
    )


if __name__ == "__main__":
    args = parse("caption_images_by_qwen_vl.py")
    assert args.output_format == "jsonl" and args.output_file, "--output_file is required"
    assert Path(args.model_path).is_file(), args.model_path
    assert args.prompt, "upstream would ask its own prompt"
    found = sorted(os.path.join(args.image_dir, name) for name in os.listdir(args.image_dir))  # noqa: PTH118, PTH208
    pictures = [path for path in reversed(found) if Path(path).suffix in ENDINGS]  # in no order
    print("INFO: Using device: cuda", file=sys.stderr)
    with Path(args.output_file).open("w", encoding="utf-8") as file:
        for index, path in enumerate(pictures):
            if MISCHIEF and index == int(AFTER or 0):
                if MISCHIEF == "sleep":
                    (Path(os.environ["STANDIN_RECORD"]).parent / "asleep").write_text(str(os.getpid()))
                    time.sleep(60)
                sys.exit(f"RuntimeError: {ERRORS.get(MISCHIEF, 'told to fail')}")
            print(f"\rGenerating captions: {index + 1}/{len(pictures)}", end="", file=sys.stderr, flush=True)
            file.write(json.dumps({"image_path": path, "caption": answer(path)}, ensure_ascii=False) + "\n")
            file.flush()
