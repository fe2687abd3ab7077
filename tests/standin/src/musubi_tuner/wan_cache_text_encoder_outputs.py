from pathlib import Path

from musubi_tuner.standin import datasets, parse

if __name__ == "__main__":
    args = parse("wan_cache_text_encoder_outputs.py")
    assert Path(args.t5).is_file(), args.t5
    for entry in datasets(args.dataset_config):
        (Path(entry["cache_directory"]) / "text.json").write_text("[]")
