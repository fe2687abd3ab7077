"""The files that the presets train on, as published.

Repositories repackaged for ComfyUI come first: their files may be in an existing ComfyUI already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

LIGHTX2V = "lightx2v/Wan2.2-Lightning"
LIGHTNING_RANK = 64  # of all its releases
# The commit from which a repository's files are downloaded; of others it is `main`.
REVISIONS = {
    "Comfy-Org/Wan_2.1_ComfyUI_repackaged": "06e001fc51048fb03433a6fb25334de7836704a5",  # a small r
    "Comfy-Org/Wan_2.2_ComfyUI_Repackaged": "fb1388adc906ab39ffc26ee40e96b22886b56bc4",  # a capital R
    LIGHTX2V: "18bccf8884ec0a078eed79785eb4ef13ea16ce1e",
    "Wan-AI/Wan2.1-T2V-14B": "a064a6c71f5be440641209c07bf2a5ce7a2ff5e4",
}
# Of each file: the catalogue's name of the model, its role, the type of its blocks, bytes, sha256; repository and path.
# Of several files of one model the first is downloaded, and the others are used where they are found.
# Bytes after a ~ are those that the layout of its siblings foretells, where no public list gives them.
# Lightning's are byte for byte lightx2v's, under names that can't be mixed up, but for its second release. Both Wan
# versions use the 2.1 VAE; the 2.2 VAE belongs to the 5B model.
TABLE = """
wan2.2-t2v-high dit fp16 28577095592 c793e1515320fc8883ac8f97e2a45270c35edd8c4e334a6d42d3e95455bd8da2
    Comfy-Org/Wan_2.2_ComfyUI_Repackaged split_files/diffusion_models/wan2.2_t2v_high_noise_14B_fp16.safetensors
wan2.2-t2v-low dit fp16 28577095592 431d1613ffa809ae1f735b661a01788c6d74991f51efd01f45d5aee955ccd224
    Comfy-Org/Wan_2.2_ComfyUI_Repackaged split_files/diffusion_models/wan2.2_t2v_low_noise_14B_fp16.safetensors
wan2.2-i2v-high dit fp16 28577914792 c21c21efa368d529a982a7d89dd11d86608b5937cae9a125d0ffe5491918a100
    Comfy-Org/Wan_2.2_ComfyUI_Repackaged split_files/diffusion_models/wan2.2_i2v_high_noise_14B_fp16.safetensors
wan2.2-i2v-low dit fp16 28577914792 edb89340c8a6fbf1a70e76a839ae01eaf7d289f05ea1ebd6b1a3fc6f533826e9
    Comfy-Org/Wan_2.2_ComfyUI_Repackaged split_files/diffusion_models/wan2.2_i2v_low_noise_14B_fp16.safetensors
wan2.1-t2v-14b dit bf16 ~28577762264 193535c6450045f718df5f011de6d94d49bd9b13f37ca0412500f050dbbb01a8
    Comfy-Org/Wan_2.1_ComfyUI_repackaged split_files/diffusion_models/wan2.1_t2v_14B_bf16.safetensors
wan2.1-t2v-14b dit fp16 ~28577761176 46c27d3693bf2475990a912e08bf67fc6e6cd5396eab87b5e8dd1fcd3651364a
    Comfy-Org/Wan_2.1_ComfyUI_repackaged split_files/diffusion_models/wan2.1_t2v_14B_fp16.safetensors
wan2.1-t2v-14b-fp8 dit fp8 ~14289605920 2ee88ab18d7ed7691c5b7f8bdc3d0a9815e6efe75499287564830fd209d3cdfb
    Comfy-Org/Wan_2.1_ComfyUI_repackaged split_files/diffusion_models/wan2.1_t2v_14B_fp8_e4m3fn.safetensors
wan2.1-t2v-1.3b dit bf16 ~2838304385 6f999b0d6cb9a72b3d98ac386ed96f57f8cecae13994a69232514ea4974ad5fd
    Comfy-Org/Wan_2.1_ComfyUI_repackaged split_files/diffusion_models/wan2.1_t2v_1.3B_bf16.safetensors
wan2.1-t2v-1.3b dit fp16 2838303560 be531024cd9018cb5b48c40cfbb6a6191645b1c792eb8bf4f8c1c6e10f924dc5
    Comfy-Org/Wan_2.1_ComfyUI_repackaged split_files/diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors
wan2.1-t2v-1.3b dit fp32 5676070424 96b6b242ca1c2f24e9d02cd6596066fab6d310e2d7538f33ae267cb18d957e8f
    Wan-AI/Wan2.1-T2V-1.3B diffusion_pytorch_model.safetensors
wan2.1-i2v-480p dit bf16 ~32791378808 c058a4ac5363c35d1ab4dd3bdec788c23b267fa42a0d7c68aba599f2f74600c9
    Comfy-Org/Wan_2.1_ComfyUI_repackaged split_files/diffusion_models/wan2.1_i2v_480p_14B_bf16.safetensors
wan2.1-i2v-480p dit fp16 32791377504 27988f6b510eb8d5fdd7485671b54897f8683f2bba7a772c5671be21d3491253
    Comfy-Org/Wan_2.1_ComfyUI_repackaged split_files/diffusion_models/wan2.1_i2v_480p_14B_fp16.safetensors
wan2.1-i2v-480p dit fp8 16397245448 0ca75338e7a47ca7cacddb7e626647e65829c497387f718ecb6ea0bae456944a
    Comfy-Org/Wan_2.1_ComfyUI_repackaged split_files/diffusion_models/wan2.1_i2v_480p_14B_fp8_e4m3fn.safetensors
wan2.1-i2v-480p dit fp8 16993877896 996dbad030df09b0b3c8e764f0fb5a81b98b220ab89524d6a9369e9ed882791f
    Kijai/WanVideo_comfy Wan2_1-I2V-14B-480P_fp8_e4m3fn.safetensors
wan2.1-i2v-720p dit bf16 ~32791378808 8ef7ea5bf9eea636b9b3ebd84c40671b4a18ae2704cb4c8595cb5b25c1d8e8b9
    Comfy-Org/Wan_2.1_ComfyUI_repackaged split_files/diffusion_models/wan2.1_i2v_720p_14B_bf16.safetensors
wan2.1-i2v-720p dit fp16 ~32791377504 7664fe075b3c82dcecf89012ad3429eee41ee9f10d476f60bc2d2ae3c4ca986c
    Comfy-Org/Wan_2.1_ComfyUI_repackaged split_files/diffusion_models/wan2.1_i2v_720p_14B_fp16.safetensors
wan2.1-i2v-720p dit fp8 ~16397245448 b2051cd29d6b2f0c924fa7a3e78a4772f0134d7b059f21590dcce416f4f6cbe8
    Comfy-Org/Wan_2.1_ComfyUI_repackaged split_files/diffusion_models/wan2.1_i2v_720p_14B_fp8_e4m3fn.safetensors
lightning-t2v-v1.1-high lightning fp32 1226977424 698321cb86bd30c4af06c9b84e656a1048c8cb54e06d50694536fb5de37fde41
    Comfy-Org/Wan_2.2_ComfyUI_Repackaged split_files/loras/wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors
lightning-t2v-v1.1-low lightning fp32 1226977424 ec95216e614b3c132c11bfb387b11feedf62163150ccc9068bca8a189771e75a
    Comfy-Org/Wan_2.2_ComfyUI_Repackaged split_files/loras/wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors
lightning-t2v-v2.0-high lightning fp32 1226977424 78cc2c9b44aca9ded8f69c6619639edca7459308051161253c3aa04ac6169a58
    lightx2v/Wan2.2-Lightning Wan2.2-T2V-A14B-4steps-lora-rank64-Seko-V2.0/high_noise_model.safetensors
lightning-t2v-v2.0-low lightning fp32 1226977424 6bb498f926e71217106c3642e75273580c1de2dec0a6902cbae8e83d2402d5cf
    lightx2v/Wan2.2-Lightning Wan2.2-T2V-A14B-4steps-lora-rank64-Seko-V2.0/low_noise_model.safetensors
lightning-i2v-v1-high lightning fp32 1226977424 d176c808d6fc461999b68e321efcb7501b20b8c3797523ed0df14f7d1deff11e
    Comfy-Org/Wan_2.2_ComfyUI_Repackaged split_files/loras/wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise.safetensors
lightning-i2v-v1-low lightning fp32 1226977424 024f21de095bc8fad9809ded3e9e49a2e170dcf27075da8145ba7d60d8aab7f9
    Comfy-Org/Wan_2.2_ComfyUI_Repackaged split_files/loras/wan2.2_i2v_lightx2v_4steps_lora_v1_low_noise.safetensors
vae vae bf16 253815318 2fc39d31359a4b0a64f55876d8ff7fa8d780956ae2cb13463b0223e15148976b
    Comfy-Org/Wan_2.1_ComfyUI_repackaged split_files/vae/wan_2.1_vae.safetensors
vae vae bf16 253806278 1ab9a32cc2c740f6e39d80d367ce5dcc28db8c71b79b28670546b8973e9d75f9
    Kijai/WanVideo_comfy Wan2_1_VAE_bf16.safetensors
vae vae fp32 507609880 38071ab59bd94681c686fa51d75a1968f64e470262043be31f7a094e442fd981
    Wan-AI/Wan2.1-T2V-14B Wan2.1_VAE.pth
t5 t5 bf16 11361920418 7cace0da2b446bbbbc57d031ab6cf163a3d59b366da94e5afe36745b746fd81d
    Wan-AI/Wan2.1-T2V-14B models_t5_umt5-xxl-enc-bf16.pth
t5 t5 bf16 11361845464 4fa971faf306cad919033d5bbe192e571dc08452f800cbf2ec3c73977c01b2cc
    Kijai/WanVideo_comfy umt5-xxl-enc-bf16.safetensors
t5 t5 bf16 11361845432 d92de679881d38af9c89eff7bb1b6d6c9d96cb2b69831e4027e9ecabdd38eb23
    DiffSynth-Studio/Wan-Series-Converted-Safetensors models_t5_umt5-xxl-enc-bf16.safetensors
t5 t5 fp16 11366399385 7b8850f1961e1cf8a77cca4c964a358d303f490833c6c087d0cff4b2f99db2af
    Comfy-Org/Wan_2.1_ComfyUI_repackaged split_files/text_encoders/umt5_xxl_fp16.safetensors
clip clip fp32 4772359047 628c9998b613391f193eb67ff68da9667d75f492911e4eb3decf23460a158c38
    Wan-AI/Wan2.1-I2V-14B-720P models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth
"""


@dataclass(frozen=True)
class Weight:
    """One published file.

    `dtype` is upstream's name of the type that the blocks are stored in: fp16, bf16, fp32 or fp8. Where no list
    gives the bytes, `about` are those that are foretold.
    """

    role: str
    repo: str
    revision: str | None
    path: str
    dtype: str
    size: int | None
    sha256: str
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


CATALOGUE = dict[str, Weight]()
ALSO = list[tuple[str, Weight]]()  # the other published files of the same models
for _name, _role, _dtype, _size, _sha256, _repo, _path in zip(*[iter(TABLE.split())] * 7, strict=True):
    # repacked for ComfyUI, Wan 2.1's small model alone has a prefix before its key names
    _prefix = "model.diffusion_model." if _path.endswith("1.3B_bf16.safetensors") else ""
    _listed = int(_size) if _size.isdigit() else None
    _about = None if _listed else int(_size.removeprefix("~"))
    _row = Weight(_role, _repo, REVISIONS.get(_repo), _path, _dtype, _listed, _sha256, _prefix, _about)
    if CATALOGUE.setdefault(_name, _row) is not _row:
        ALSO.append((_name, _row))

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

# Files that pass for others, by their sha256: what they are, and their bytes.
NEVER = {
    "a70580f0213e67967ee9c95f05bb400e8fb08307e017a924bf3441223e023d1f": (253_806_246, "Qwen-Image's VAE"),
    "20eb789667fa5e60e7516bf509512f6cb61f01b0aa0695eadaea930c13892b36": (
        2_818_839_170,
        "the VAE of Wan 2.2's 5B model",
    ),
}
