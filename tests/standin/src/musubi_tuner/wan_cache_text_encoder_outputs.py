from pathlib import Path

from musubi_tuner.standin import encode, parse

if __name__ == "__main__":
    args = parse("wan_cache_text_encoder_outputs.py")
    assert Path(args.t5).is_file(), args.t5
    encode(args, "text", ["varlen_t5"])
