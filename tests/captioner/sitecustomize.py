"""On the path of the training Python when it starts upstream's captioning script on a bare CPU.

What can't be here is replaced, and nothing else: the 16.6 GB model by one that answers with the colour and size of the
pixels it is given, and the files of the Hub by a tokenizer of bytes. The processor, its image processor and the
tokenizer are transformers' own classes.
"""

import json
import os
import sys
from pathlib import Path

if any("caption_images_by_qwen_vl" in word for word in sys.orig_argv):
    sys.path.insert(0, os.environ["BARE_CPU"])
    import bare_cpu

    sys.path.pop(0)  # its other modules must not shadow any
    bare_cpu.help_if_needed()
    import torch
    import transformers
    from musubi_tuner.qwen_image import qwen_image_utils
    from transformers.models.gpt2.tokenization_gpt2 import bytes_to_unicode

    TEMPLATE = (
        "{% for m in messages %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}<|im_start|>assistant"
    )
    SPECIAL = ("<|endoftext|>", "<|vision_start|>", "<|image_pad|>", "<|video_pad|>", "<|vision_end|>", "<|im_start|>")

    def from_pretrained(repo, min_pixels, max_pixels):
        assert repo == "Qwen/Qwen2.5-VL-7B-Instruct"
        folder = Path(os.environ["CAPTIONER"])
        vocabulary = {letter: number for number, letter in enumerate(bytes_to_unicode().values())}
        (folder / "vocab.json").write_text(json.dumps({**vocabulary, **{w: 256 + n for n, w in enumerate(SPECIAL)}}))
        (folder / "merges.txt").write_text("#version: 0.2\n")
        tokenizer = transformers.Qwen2TokenizerFast(
            str(folder / "vocab.json"), str(folder / "merges.txt"), additional_special_tokens=list(SPECIAL[1:])
        )
        return transformers.Qwen2_5_VLProcessor(
            transformers.Qwen2VLImageProcessor(min_pixels=min_pixels, max_pixels=max_pixels),
            tokenizer,
            transformers.Qwen2VLVideoProcessor(),
            chat_template=TEMPLATE,
        )

    class Model(torch.nn.Module):
        """Answers by the pixels that reach it."""

        device = torch.device("cpu")

        def generate(self, input_ids, pixel_values, image_grid_thw, max_new_tokens, pad_token_id, **_):
            colours = pixel_values.reshape(len(pixel_values), 3, -1).mean((0, 2)).tolist()
            _, height, width = (int(side) for side in image_grid_thw[0])
            colour = ("red", "green", "blue")[colours.index(max(colours))]
            letters = list(bytes_to_unicode())
            text = bytes(letters[number] for number in input_ids[0].tolist() if number < len(letters)).decode()
            row = {"text": text, "max_new_tokens": max_new_tokens, "pad": pad_token_id}
            with (Path(os.environ["CAPTIONER"]) / "seen.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            said = [letters.index(byte) for byte in f'"{colour}, {width * 14}x{height * 14}\n"'.encode()]
            return torch.tensor([[*input_ids[0].tolist(), *said]])

    def load(path, dtype, device, disable_mmap):
        assert Path(path).is_file() and device.type == "cpu" and dtype == torch.bfloat16 and disable_mmap
        return None, Model()

    transformers.AutoProcessor.from_pretrained = from_pretrained
    qwen_image_utils.load_qwen2_5_vl = load
