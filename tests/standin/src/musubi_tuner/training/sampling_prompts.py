from pathlib import Path


def load_prompts(prompt_file):
    return [{"prompt": line} for line in Path(prompt_file).read_text().splitlines() if line.strip()]
