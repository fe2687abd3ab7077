"""wanwrap: train Wan 2.1 / 2.2 video LoRAs by driving upstream musubi-tuner."""

__version__ = "0.2.0"
