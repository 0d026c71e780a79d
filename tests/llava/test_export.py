"""Exported folders: the code in them is whole, and loads where nothing of ours is installed."""

import ast
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from PIL import Image

import cv_reader
from cv_reader.assets import AssetConfig
from cv_reader.assets.make import write_evaluation_asset
from llava.export import _OPTIONAL, PACKAGES, export_checkpoint, main
from llava.model.processing import LlavaProcessor
from llava.model.tiny import write_tiny_checkpoint
from run_kit.flat_code import flat_code
from support.media import moving_square, texture, write_video


def test_the_copied_code_is_whole_and_imports_nothing_of_ours() -> None:
    modules = ("llava.model.llava_qwen", "llava.model.processing")
    files = flat_code(modules, PACKAGES, _OPTIONAL)
    assert {"llava_model_llava_qwen.py", "llava_model_processing.py"} <= files.keys()
    relative = re.compile(r"^\s*from\s+\.(\S+)\s+import", re.MULTILINE)  # as the library looks
    for name, text in files.items():
        missing = {f"{module}.py" for module in relative.findall(text)} - files.keys()
        assert not missing, name
        ast.parse(text)
        # What remains of ours is asked for in a function, with a message where it is missing.
        ours = [line for line in text.splitlines() if re.match(r"\s*(from|import) cv_reader", line)]
        assert all(line.startswith("        ") for line in ours), name
        assert not re.search(r"^\s*(from|import) (llava|onevision_encoder|run_kit)\b", text, re.M)
    assert not {name for name in files if name.startswith("cv_reader_backends")}
    assert "pip install -e ." in files["llava_visual_clips.py"]


def test_imports_that_cannot_be_flat_are_named(tmp_path: Path) -> None:
    package = tmp_path / "little"
    package.mkdir()
    (package / "__init__.py").write_text("from .a import one\nTWO = 2\n")
    (package / "a.py").write_text("def one() -> int:\n    return 1\n")
    (package / "b.py").write_text('"""B."""\nfrom little import (\n    one as first,\n)\n')
    (package / "c.py").write_text("import little.a\n")
    (package / "d.py").write_text("from little import TWO\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        files = flat_code(["little.b"], ["little"], {})
        assert files["little_b.py"].endswith('"""B."""\nfrom .little_a import one as first\n')
        with pytest.raises(ValueError, match="little.c, line 1: import names"):
            flat_code(["little.c"], ["little"], {})
        with pytest.raises(ValueError, match="TWO must be imported from a module"):
            flat_code(["little.d"], ["little"], {})


def test_a_folder_that_is_not_empty_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["nowhere", str(tmp_path)]) == 2
    assert "must be empty or absent" in capsys.readouterr().err
    assert main(["nowhere", str(tmp_path / "new")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def _clean_environment(folder: Path) -> Path:
    """Link what transformers, torch, Pillow and numpy need, and nothing else, into a folder."""
    found: dict[str, Any] = {}
    waiting = ["transformers", "torch", "pillow", "numpy"]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # for other platforms, or of an extra
            continue
        for text in found[name].requires or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting.append(needed.name)
    folder.mkdir()
    for item in found.values():
        for top in {path.parts[0] for path in item.files or []} - {".."}:
            source, link = Path(str(item.locate_file(top))), folder / top
            if source.exists() and not link.exists():
                link.symlink_to(source)
    return folder


_IN_A_CLEAN_ENVIRONMENT = """
import json, sys
folder, site, shown, clip = sys.argv[1:]
sys.path.append(site)
for name in ("llava", "cv_reader", "onevision_encoder", "run_kit", "av", "peft", "accelerate"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} is installed")
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
results = []
for messages in json.loads(shown):
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, add_generation_prompt=True
    )
    results.append(model.generate(**inputs, max_new_tokens=6, do_sample=False)[0].tolist())
piped = pipeline("image-text-to-text", model=folder, trust_remote_code=True)
text = piped(text=json.loads(shown)[0], max_new_tokens=6)[0]["generated_text"][-1]["content"]
try:
    video = {"type": "video", "video": clip}
    processor.apply_chat_template([{"role": "user", "content": [video]}], tokenize=True)
except ImportError as error:
    print(json.dumps({"ids": results, "text": text, "error": str(error)}))
"""


def _python(tmp_path: Path, *arguments: str, **environment: str) -> Any:
    """Run Python and return the JSON of its last line; modules of the Hub go below a folder."""
    settings = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    settings |= {"OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, *arguments]
    result = subprocess.run(command, env=settings | environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def _as_repository(folder: Path, home: Path) -> str:
    """Put a folder where the library keeps a downloaded repository; return its name."""
    place, commit = home / "hub" / "models--me--it", "0123456789abcdef" * 2 + "01234567"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    shutil.copytree(folder, place / "snapshots" / commit)
    return "me/it"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["folder", "repository"])
def test_a_clean_environment_gives_the_same_tokens(tmp_path: Path, place: str) -> None:
    from llava.model.loading import load_pretrained

    language_model = {"folder": "qwen3", "repository": "qwen2"}[place]

    write_tiny_checkpoint(tmp_path / "tiny", language_model=language_model)
    command = [str(tmp_path / "tiny"), str(tmp_path / "out"), "--max_shard_size", "500KB"]
    assert main([*command, "--push_to_hub", "me/it", "--dry_run"]) == 0
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    clip = write_video(tmp_path / "a.mp4", moving_square(12, 48, 64, (2, 1)))
    config = AssetConfig(square_size=128, num_images=2, sequence_length=8)
    asset = write_evaluation_asset(clip, key="k", out_root=tmp_path, config=config)
    Image.fromarray(texture(40, 56)).save(tmp_path / "p.png")
    question = {"type": "text", "text": "What?"}
    picture = {"type": "image", "path": str(tmp_path / "p.png")}
    shown = [[picture], [{"type": "video", "video": str(asset.folder)}], [picture, picture], []]
    conversations = [[{"role": "user", "content": [*parts, question]}] for parts in shown]

    model: Any
    model, processor = load_pretrained(tmp_path / "tiny")
    expected = []
    for messages in conversations:
        inputs = processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, add_generation_prompt=True
        )
        expected.append(model.generate(**inputs, max_new_tokens=6, do_sample=False)[0].tolist())
    # Where the project is installed, its own code is used.
    assert type(load_pretrained(tmp_path / "out")[0]) is type(model)

    site = _clean_environment(tmp_path / "site")
    name = str(tmp_path / "out")
    if place == "repository":
        name = _as_repository(tmp_path / "out", tmp_path / "home")
    arguments = [name, str(site), json.dumps(conversations), str(clip)]
    found = _python(tmp_path, "-I", "-S", "-c", _IN_A_CLEAN_ENVIRONMENT, *arguments)
    assert found["ids"] == expected
    prompt = len(expected[0]) - 6
    assert found["text"] == processor.decode([expected[0][prompt:]])[0]
    assert "pip install -e ." in found["error"]


_WITH_THE_READER = """
import json, sys
folder, shown = sys.argv[1:]
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules") and "llava" not in sys.modules
found = []
for messages in json.loads(shown):
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    found.append([inputs["input_ids"].tolist(), int(inputs["visual"].patches.long().sum())])
print(json.dumps(found))
"""


@pytest.mark.slow
def test_copied_code_reads_videos_where_the_reader_is_installed(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "tiny")
    export_checkpoint(tmp_path / "tiny", tmp_path / "out")
    clip = write_video(tmp_path / "a.mp4", moving_square(12, 48, 64, (2, 1)))
    settings = ({"num_images": 2}, {"input": "frames", "num_images": 2})
    conversations = [
        [{"role": "user", "content": [{"type": "video", "video": str(clip), **shown, **limit}]}]
        for shown in settings
        for limit in ({}, {"time_limit_seconds": 60})
    ]
    processor = LlavaProcessor.from_pretrained(tmp_path / "tiny")
    expected = []
    for messages in conversations:
        inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
        visual: Any = inputs["visual"]
        expected.append([inputs["input_ids"].tolist(), int(visual.patches.long().sum())])
    arguments = [str(tmp_path / "out"), json.dumps(conversations)]
    reader = str(Path(cv_reader.__file__).parents[1])
    assert _python(tmp_path, "-c", _WITH_THE_READER, *arguments, PYTHONPATH=reader) == expected


@pytest.mark.slow
def test_adapters_are_merged(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from llava.train.smoke import write_mixture
    from llava.train.train import main as train

    write_tiny_checkpoint(tmp_path / "tiny")
    write_mixture(tmp_path / "data")
    flags = f"--model_name_or_path {tmp_path}/tiny --data_path {tmp_path}/data/train.jsonl"
    flags += f" --output_dir {tmp_path}/run --use_cpu True --max_steps 2 --lora_enable True"
    flags += " --lora_r 4 --learning_rate 1e-2 --disable_tqdm True --report_to none"
    assert train(flags.split()) == 0
    out = export_checkpoint(tmp_path / "run", tmp_path / "out")
    weights = load_file(out / "model.safetensors")
    before = load_file(tmp_path / "tiny" / "model.safetensors")
    assert weights.keys() == before.keys()
    assert any(not weights[name].equal(before[name]) for name in weights if "q_proj" in name)
