"""A stand-in: the same bytes in another file."""

import shutil

from musubi_tuner.standin import parse

args = parse("convert_lora.py")
assert args.target == "default"
shutil.copyfile(args.input, args.output)
