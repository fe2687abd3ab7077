"""The engines that a run can be launched with."""

from wanwrap.launch import modal, pod, sky, slurm

ENGINES = {each.word: each for each in (slurm.ENGINE, modal.ENGINE, sky.ENGINE, pod.ENGINE)}
