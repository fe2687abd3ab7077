"""The files that the presets train on, as published.

Bytes and sha256 are those that public file lists agree on; None where none is known for certain.
Repositories repackaged for ComfyUI come first: their files may be in an existing ComfyUI already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

WAN21 = "Comfy-Org/Wan_2.1_ComfyUI_repackaged"  # a small r
WAN22 = "Comfy-Org/Wan_2.2_ComfyUI_Repackaged"  # a capital R
WAN21_REVISION = "06e001fc51048fb03433a6fb25334de7836704a5"
LIGHTX2V = "lightx2v/Wan2.2-Lightning"
LIGHTX2V_REVISION = "18bccf8884ec0a078eed79785eb4ef13ea16ce1e"
WAN22_REVISION = "fb1388adc906ab39ffc26ee40e96b22886b56bc4"


@dataclass(frozen=True)
class Weight:
    """One published file.

    `dtype` is upstream's name of the type that the blocks are stored in: fp16, bf16, fp32 or fp8. Where no list
    gives the bytes, `about` are those that the layout of its siblings foretells.
    """

    role: str
    repo: str
    revision: str | None
    path: str
    dtype: str
    size: int | None = None
    sha256: str | None = None
    prefix: str = ""
    about: int | None = None

    @property
    def name(self) -> str:
        """The file name, without the folders of its repository."""
        return PurePosixPath(self.path).name

    @property
    def bytes(self) -> int:
        """Its size, for sums; 0 where nothing is known."""
        return self.size or self.about or 0

    @property
    def tail(self) -> str:
        """As much of its path as tells it from others: lightx2v names the files alike in each release's folder."""
        return "/".join(PurePosixPath(self.path).parts[-2 if self.repo == LIGHTX2V else -1 :])


@dataclass(frozen=True)
class Tokenizer:
    """What upstream asks transformers for while it caches: a folder of a repository, in the Hugging Face cache.

    `files` are the names in that folder that it must hold, with their sha256 where it is known.
    """

    repo: str
    folder: str
    files: Mapping[str, str | None]


def _wan22(file: str, size: int, sha256: str) -> Weight:
    """A DiT of Wan 2.2: published as fp16 only, so it trains in fp16."""
    path = f"split_files/diffusion_models/{file}.safetensors"
    return Weight("dit", WAN22, WAN22_REVISION, path, "fp16", size, sha256)


def _wan21(file: str, dtype: str, about: int, sha256: str, prefix: str = "", size: int | None = None) -> Weight:
    path = f"split_files/diffusion_models/{file}.safetensors"
    return Weight("dit", WAN21, WAN21_REVISION, path, dtype, size, sha256, prefix, about)


def _also(role: str, repo: str, path: str, dtype: str, size: int | None, sha256: str) -> Weight:
    """A file that is used where it is found, and not downloaded."""
    return Weight(role, repo, None, path, dtype, size, sha256)


def _lightning(file: str, sha256: str) -> Weight:
    """Byte for byte the files of lightx2v/Wan2.2-Lightning, under names that can't be mixed up.

    In lightx2v's repository the T2V and I2V, high and low files share their names and shapes.
    """
    path = f"split_files/loras/{file}.safetensors"
    return Weight("lightning", WAN22, WAN22_REVISION, path, "fp32", 1_226_977_424, sha256)


def _seko_v2(level: str, sha256: str) -> Weight:
    """T2V's second release, which lightx2v alone publishes."""
    path = f"Wan2.2-T2V-A14B-4steps-lora-rank64-Seko-V2.0/{level}_noise_model.safetensors"
    return Weight("lightning", LIGHTX2V, LIGHTX2V_REVISION, path, "fp32", 1_226_977_424, sha256)


_T2V_22, _I2V_22 = 28_577_095_592, 28_577_914_792

CATALOGUE = {
    "wan2.2-t2v-high": _wan22(
        "wan2.2_t2v_high_noise_14B_fp16",
        _T2V_22,
        "c793e1515320fc8883ac8f97e2a45270c35edd8c4e334a6d42d3e95455bd8da2",
    ),
    "wan2.2-t2v-low": _wan22(
        "wan2.2_t2v_low_noise_14B_fp16",
        _T2V_22,
        "431d1613ffa809ae1f735b661a01788c6d74991f51efd01f45d5aee955ccd224",
    ),
    "wan2.2-i2v-high": _wan22(
        "wan2.2_i2v_high_noise_14B_fp16",
        _I2V_22,
        "c21c21efa368d529a982a7d89dd11d86608b5937cae9a125d0ffe5491918a100",
    ),
    "wan2.2-i2v-low": _wan22(
        "wan2.2_i2v_low_noise_14B_fp16",
        _I2V_22,
        "edb89340c8a6fbf1a70e76a839ae01eaf7d289f05ea1ebd6b1a3fc6f533826e9",
    ),
    "wan2.1-t2v-14b": _wan21(
        "wan2.1_t2v_14B_bf16",
        "bf16",
        28_577_762_264,
        "193535c6450045f718df5f011de6d94d49bd9b13f37ca0412500f050dbbb01a8",
    ),
    "wan2.1-t2v-14b-fp8": _wan21(
        "wan2.1_t2v_14B_fp8_e4m3fn",
        "fp8",
        14_289_605_920,
        "2ee88ab18d7ed7691c5b7f8bdc3d0a9815e6efe75499287564830fd209d3cdfb",
    ),
    "wan2.1-t2v-1.3b": _wan21(
        "wan2.1_t2v_1.3B_bf16",
        "bf16",
        2_838_304_385,
        "6f999b0d6cb9a72b3d98ac386ed96f57f8cecae13994a69232514ea4974ad5fd",
        "model.diffusion_model.",
    ),
    "wan2.1-i2v-480p": _wan21(
        "wan2.1_i2v_480p_14B_bf16",
        "bf16",
        32_791_378_808,
        "c058a4ac5363c35d1ab4dd3bdec788c23b267fa42a0d7c68aba599f2f74600c9",
    ),
    "wan2.1-i2v-720p": _wan21(
        "wan2.1_i2v_720p_14B_bf16",
        "bf16",
        32_791_378_808,
        "8ef7ea5bf9eea636b9b3ebd84c40671b4a18ae2704cb4c8595cb5b25c1d8e8b9",
    ),
    "lightning-t2v-v1.1-high": _lightning(
        "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise",
        "698321cb86bd30c4af06c9b84e656a1048c8cb54e06d50694536fb5de37fde41",
    ),
    "lightning-t2v-v1.1-low": _lightning(
        "wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise",
        "ec95216e614b3c132c11bfb387b11feedf62163150ccc9068bca8a189771e75a",
    ),
    "lightning-t2v-v2.0-high": _seko_v2("high", "78cc2c9b44aca9ded8f69c6619639edca7459308051161253c3aa04ac6169a58"),
    "lightning-t2v-v2.0-low": _seko_v2("low", "6bb498f926e71217106c3642e75273580c1de2dec0a6902cbae8e83d2402d5cf"),
    "lightning-i2v-v1-high": _lightning(
        "wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise",
        "d176c808d6fc461999b68e321efcb7501b20b8c3797523ed0df14f7d1deff11e",
    ),
    "lightning-i2v-v1-low": _lightning(
        "wan2.2_i2v_lightx2v_4steps_lora_v1_low_noise",
        "024f21de095bc8fad9809ded3e9e49a2e170dcf27075da8145ba7d60d8aab7f9",
    ),
    # Both Wan versions use the 2.1 VAE; the 2.2 VAE belongs to the 5B model.
    "vae": Weight(
        role="vae",
        repo=WAN21,
        revision=WAN21_REVISION,
        path="split_files/vae/wan_2.1_vae.safetensors",
        dtype="bf16",
        size=253_815_318,
        sha256="2fc39d31359a4b0a64f55876d8ff7fa8d780956ae2cb13463b0223e15148976b",
    ),
    "t5": Weight(
        role="t5",
        repo="Wan-AI/Wan2.1-T2V-14B",
        revision="a064a6c71f5be440641209c07bf2a5ce7a2ff5e4",
        path="models_t5_umt5-xxl-enc-bf16.pth",
        dtype="bf16",
        size=11_361_920_418,
        sha256="7cace0da2b446bbbbc57d031ab6cf163a3d59b366da94e5afe36745b746fd81d",
    ),
    "clip": Weight(
        role="clip",
        repo="Wan-AI/Wan2.1-I2V-14B-720P",
        revision=None,
        path="models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
        dtype="fp32",
        size=4_772_359_047,
        sha256="628c9998b613391f193eb67ff68da9667d75f492911e4eb3decf23460a158c38",
    ),
}

# Upstream names no revision, so transformers looks for `main` (refs/main in the cache): the pinned one would not be found.
TOKENIZERS = {
    "t5": Tokenizer(
        repo="Wan-AI/Wan2.1-T2V-14B",
        folder="google/umt5-xxl",
        files={
            "special_tokens_map.json": "7b8a9f5040adb67b5805abdfd42c1f8d0f3d0e711f10726580eb3789cd0ad61d",
            "spiece.model": "e3909a67b780650b35cf529ac782ad2b6b26e6d1f849d3fbb6a872905f452458",
            "tokenizer.json": "6e197b4d3dbd71da14b4eb255f4fa91c9c1f2068b20a2de2472967ca3d22602b",
            "tokenizer_config.json": "ed9a3a8b0faa71a70a32847e0435fe036e6e112d4df4edb7bb48a921e344dc05",
        },
    ),
    "clip": Tokenizer(
        repo="Wan-AI/Wan2.1-I2V-14B-720P",
        folder="xlm-roberta-large",
        files=dict.fromkeys(
            ("sentencepiece.bpe.model", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json")
        ),
    ),
}

KIJAI = "Kijai/WanVideo_comfy"
# Other published files of the same models, by the catalogue's name of each.
ALSO = (
    (
        "wan2.1-t2v-14b",
        _wan21(
            "wan2.1_t2v_14B_fp16",
            "fp16",
            28_577_761_176,
            "46c27d3693bf2475990a912e08bf67fc6e6cd5396eab87b5e8dd1fcd3651364a",
        ),
    ),
    (
        "wan2.1-t2v-1.3b",
        _wan21(
            "wan2.1_t2v_1.3B_fp16",
            "fp16",
            2_838_303_560,
            "be531024cd9018cb5b48c40cfbb6a6191645b1c792eb8bf4f8c1c6e10f924dc5",
            size=2_838_303_560,
        ),
    ),
    (
        "wan2.1-t2v-1.3b",
        _also(
            "dit",
            "Wan-AI/Wan2.1-T2V-1.3B",
            "diffusion_pytorch_model.safetensors",
            "fp32",
            5_676_070_424,
            "96b6b242ca1c2f24e9d02cd6596066fab6d310e2d7538f33ae267cb18d957e8f",
        ),
    ),
    (
        "wan2.1-i2v-480p",
        _wan21(
            "wan2.1_i2v_480p_14B_fp16",
            "fp16",
            32_791_377_504,
            "27988f6b510eb8d5fdd7485671b54897f8683f2bba7a772c5671be21d3491253",
            size=32_791_377_504,
        ),
    ),
    (
        "wan2.1-i2v-480p",
        _wan21(
            "wan2.1_i2v_480p_14B_fp8_e4m3fn",
            "fp8",
            16_397_245_448,
            "0ca75338e7a47ca7cacddb7e626647e65829c497387f718ecb6ea0bae456944a",
            size=16_397_245_448,
        ),
    ),
    (
        "wan2.1-i2v-480p",
        _also(
            "dit",
            KIJAI,
            "Wan2_1-I2V-14B-480P_fp8_e4m3fn.safetensors",
            "fp8",
            16_993_877_896,
            "996dbad030df09b0b3c8e764f0fb5a81b98b220ab89524d6a9369e9ed882791f",
        ),
    ),
    (
        "wan2.1-i2v-720p",
        _wan21(
            "wan2.1_i2v_720p_14B_fp16",
            "fp16",
            32_791_377_504,
            "7664fe075b3c82dcecf89012ad3429eee41ee9f10d476f60bc2d2ae3c4ca986c",
        ),
    ),
    (
        "wan2.1-i2v-720p",
        _wan21(
            "wan2.1_i2v_720p_14B_fp8_e4m3fn",
            "fp8",
            16_397_245_448,
            "b2051cd29d6b2f0c924fa7a3e78a4772f0134d7b059f21590dcce416f4f6cbe8",
        ),
    ),
    (
        "vae",
        _also(
            "vae",
            KIJAI,
            "Wan2_1_VAE_bf16.safetensors",
            "bf16",
            253_806_278,
            "1ab9a32cc2c740f6e39d80d367ce5dcc28db8c71b79b28670546b8973e9d75f9",
        ),
    ),
    (
        "vae",
        _also(
            "vae",
            "Wan-AI/Wan2.1-T2V-14B",
            "Wan2.1_VAE.pth",
            "fp32",
            507_609_880,
            "38071ab59bd94681c686fa51d75a1968f64e470262043be31f7a094e442fd981",
        ),
    ),
    (
        "t5",
        _also(
            "t5",
            KIJAI,
            "umt5-xxl-enc-bf16.safetensors",
            "bf16",
            11_361_845_464,
            "4fa971faf306cad919033d5bbe192e571dc08452f800cbf2ec3c73977c01b2cc",
        ),
    ),
    (
        "t5",
        _also(
            "t5",
            "DiffSynth-Studio/Wan-Series-Converted-Safetensors",
            "models_t5_umt5-xxl-enc-bf16.safetensors",
            "bf16",
            11_361_845_432,
            "d92de679881d38af9c89eff7bb1b6d6c9d96cb2b69831e4027e9ecabdd38eb23",
        ),
    ),
    (
        "t5",
        _also(
            "t5",
            WAN21,
            "split_files/text_encoders/umt5_xxl_fp16.safetensors",
            "fp16",
            11_366_399_385,
            "7b8850f1961e1cf8a77cca4c964a358d303f490833c6c087d0cff4b2f99db2af",
        ),
    ),
)
# Files that pass for others, by their sha256: what they are, and their bytes.
NEVER = {
    "a70580f0213e67967ee9c95f05bb400e8fb08307e017a924bf3441223e023d1f": (253_806_246, "Qwen-Image's VAE"),
    "20eb789667fa5e60e7516bf509512f6cb61f01b0aa0695eadaea930c13892b36": (
        2_818_839_170,
        "the VAE of Wan 2.2's 5B model",
    ),
}
