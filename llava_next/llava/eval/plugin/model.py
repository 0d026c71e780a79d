"""The models ``llava_ov_encoder`` and ``llava_ov_encoder_chat`` of lmms-eval.

They answer requests, and count what was shown.

Run: ``python -m lmms_eval --model llava_ov_encoder --model_args pretrained=DIR,codec_root=DIR ...``
(arguments: ``llava.eval.settings``).
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from loguru import logger
from tqdm import tqdm

from llava.eval.environment import local_rank
from llava.eval.plugin.answering import Answer, Answerer
from llava.eval.plugin.journal import AnswerJournal, run_key
from llava.eval.plugin.manifest import RunRecord, build_manifest, merge, write_manifest
from llava.eval.plugin.preflight import check_assets
from llava.eval.plugin.requests import (
    Sample,
    asked_settings,
    command_line,
    default_stop,
    is_padding,
    judged_tasks,
    prompt_texts,
    read_generation_settings,
    read_request,
    results_folder,
    shows_stored_images,
)
from llava.eval.plugin.visuals import VisualLoader
from llava.eval.result_files import MANIFEST_FILE
from llava.eval.settings import read_settings
from llava.generation import GenerationSettings
from llava.model.loading import load_pretrained
from llava.model.processing import LlavaProcessor
from llava.model.weights import resolve_folder
from run_kit.exits import FAILED_SAMPLES, USAGE, ExitOnError
from run_kit.ranks import gather, rank_and_size


class LlavaOVEncoder(lmms):
    """A checkpoint of this project behind lmms-eval's interface of simple models.

    Attributes:
        started: whether a model of this process began to answer; it decides between the exit codes
            of a run that failed midway and of one that did not start.
    """

    is_simple = True
    started: ClassVar[bool] = False

    def __init__(self, **arguments: object) -> None:
        """Load the checkpoint and read the index of assets.

        Args:
            arguments: see ``llava.eval.settings``.

        Raises:
            ValueError: An argument, the checkpoint or an asset cannot be used.
        """
        super().__init__()
        self._rank, self._world_size = rank_and_size()
        self.settings = read_settings(arguments)
        self._device = _choose_device(self.settings.device)
        self._checkpoint = resolve_folder(self.settings.pretrained)
        model, processor = load_pretrained(
            self._checkpoint,
            device=self._device,
            dtype=self.settings.dtype or "auto",
            attn_implementation=self.settings.attn_implementation,
        )
        processor = LlavaProcessor(
            processor.tokenizer, processor.visual, self.settings.conv_template
        )
        self._loader = VisualLoader(self.settings, processor.visual, self._rank)
        self._record = RunRecord()
        self._answerer = Answerer(model, processor, self._loader, self._record)
        self._manifest_path = self.settings.manifest
        self._journal = AnswerJournal(None, self._rank, "")

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> "LlavaOVEncoder":
        """Build the model for the command line; wrong settings end the process with exit code 2."""
        with ExitOnError(USAGE):
            return super().create_from_arg_string(arg_string, additional_config)

    @property
    def batch_size(self) -> int:
        """Return the samples per call of the model."""
        return self.settings.batch_size

    @property
    def device(self) -> torch.device:
        """Return the device of this rank's model, where lmms-eval exchanges counts."""
        return self._device

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answer requests; equal generation settings share batches. Order is kept.

        A padding request gets an empty answer without work: its answer is thrown away.
        """
        self._start(requests)
        with ExitOnError(FAILED_SAMPLES) as context:
            asked = [self._generation_settings(request) for request in requests]
            return self._answer(requests, asked, self._answerer.generate, "", context)

    def loglikelihood(self, requests: list[Instance]) -> list[Any]:
        """Score continuations.

        Returns:
            For each request, as its ``text``: the mean negative log-likelihood of the
            continuation's tokens (what lmms-eval's multiple choice takes the smallest of), and
            whether greedy decoding would give exactly these tokens. lmms-eval makes a string of
            a bare pair, which its multiple choice then cannot read.
        """
        self._start(requests)
        with ExitOnError(FAILED_SAMPLES) as context:
            asked = [None] * len(requests)
            score = self._answerer.score
            scores = self._answer(
                requests, asked, lambda samples, _: score(samples), (0.0, False), context
            )
            pairs: list[Any] = [(float(loss), bool(greedy)) for loss, greedy in scores]
            return [GenerationResult(pair) for pair in pairs]

    def _answer(
        self,
        requests: Sequence[Instance],
        asked: Sequence[GenerationSettings | None],
        answer: Callable[[Sequence[Sample], Any], Sequence[Answer[Any]]],
        padding: Any,
        context: ExitOnError,
    ) -> list[Any]:
        """Return the recorded answers of an interrupted run, and ask the model for the others."""
        answers = [padding] * len(requests)
        groups: dict[GenerationSettings | None, list[int]] = defaultdict(list)
        keys: dict[int, str] = {}
        for index, (request, settings) in enumerate(zip(requests, asked, strict=True)):
            if is_padding(request):
                continue
            if settings is None or settings.temperature == 0:
                texts = prompt_texts(request, self.task_dict)
                keys[index] = self._journal.key(request, texts, settings)
            kept = self._journal.find(keys.get(index, ""))
            if kept is None:
                groups[settings].append(index)
            else:
                answers[index] = kept
                self._record.resumed[request.task_name] += 1
        batches = [
            (settings, batch)
            for settings, indices in groups.items()
            for batch in _chunks(indices, self.batch_size)
        ]
        for settings, batch in tqdm(batches, disable=self._rank != 0, desc="answers"):
            samples = self._read(requests, batch, context)
            new = dict(zip(batch, answer(samples, settings), strict=True))
            self._journal.keep(
                [
                    {
                        "key": keys.get(index),
                        "task": sample.task,
                        "doc_id": requests[index].doc_id,
                        "answer": new[index].content,
                        **new[index].shown,
                    }
                    for index, sample in zip(batch, samples, strict=True)
                ]
            )
            for index, one in new.items():
                answers[index] = one.content
        return answers

    # The harness annotates it as list[str], but its evaluator reads a list of rounds per request.
    def generate_until_multi_round(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, requests: list[Instance]
    ) -> list[list[str]]:
        """Answer requests whose task asks further questions about the answers.

        Returns:
            Per request the answers of its rounds.
        """
        self._start(requests)
        with ExitOnError(FAILED_SAMPLES) as context:
            asked = [self._generation_settings(request) for request in requests]
            return self._answer(requests, asked, self._answerer.generate_rounds, [], context)

    def clean(self) -> None:
        """Write the manifest; lmms-eval calls this on every rank once all requests are answered."""
        with ExitOnError(FAILED_SAMPLES, "manifest"):
            self._write_manifest()
        del self._answerer
        super().clean()

    def _start(self, requests: Sequence[Instance]) -> None:
        """Prepare a run: folder of results, check of the assets, answers to reuse."""
        with ExitOnError(USAGE):
            flags = command_line(requests)
            if flags is not None and flags.use_cache:
                raise ValueError(
                    "--use_cache is refused: its key knows neither the checkpoint's weights nor "
                    "the codec assets, so it would return answers of another run; leave it out, an "
                    "interrupted run continues by itself when it is started again in its folder"
                )
            self._name_judged(requests)
            folder = results_folder(flags, self.settings.pretrained)
            if self._manifest_path is None and folder is not None:
                self._manifest_path = folder / MANIFEST_FILE
            if self.settings.video_input == "codec":
                check_assets(self._videos(requests), self._loader, self.settings, folder)
            key = run_key(self.settings, self._checkpoint, self._loader.asset_fingerprint)
            self._journal = AnswerJournal(folder, self._rank, key)
            LlavaOVEncoder.started = True
            if len(self._journal):
                logger.info(
                    f"{len(self._journal)} answers of an interrupted run in {folder} are reused"
                )

    def _name_judged(self, requests: Sequence[Instance]) -> None:
        """Warn of tasks whose scores come from a judge model over the network."""
        tasks = judged_tasks(requests)
        self._record.judged_tasks.update(tasks)
        if tasks and self._rank == 0:
            logger.warning(
                f"{', '.join(tasks)}: scored by a judge model over the network; where it cannot be "
                "reached, such tasks may score 0 without saying so"
            )

    def _videos(self, requests: Sequence[Instance]) -> list[str]:
        """Return the paths of the videos that the requests show."""
        return [
            video
            for request in requests
            if not is_padding(request) and not self._shows_stored_images(request)
            for video in read_request(request, self.task_dict).videos
        ]

    def _shows_stored_images(self, request: Instance) -> bool:
        arguments: tuple[Any, ...] = request.args
        return len(arguments) > 2 and shows_stored_images(
            self.task_dict[arguments[-2]][arguments[-1]]
        )

    def _read(
        self, requests: Sequence[Instance], batch: Sequence[int], context: ExitOnError
    ) -> list[Sample]:
        samples = [read_request(requests[index], self.task_dict) for index in batch]
        context.where = f"batch of {samples[0].name} to {samples[-1].name}"
        for sample in samples:
            self._record.samples[sample.task] += 1
        return samples

    def _generation_settings(self, request: Instance) -> GenerationSettings:
        """Read the settings of one request, and record what of them is not obeyed."""
        asked: Mapping[str, Any] = asked_settings(request)
        stop = default_stop(request)
        if stop is not None:
            asked = {**asked, "until": []}
            self._record.default_stops[request.task_name] = stop
        settings, ignored = read_generation_settings(asked, self.settings.max_new_tokens)
        if ignored and request.task_name not in self._record.ignored_generation_settings:
            self._record.ignored_generation_settings[request.task_name] = ignored
            logger.warning(f"{request.task_name}: settings without a meaning here: {ignored}")
        return settings

    def _write_manifest(self) -> None:
        """Add up the ranks and write the manifest; every rank must call this."""
        gathered = gather((self._record, self._manifest_path))
        path = next((path for _, path in gathered if path is not None), None)
        if self._rank != 0:
            return
        if path is None:
            logger.warning("no manifest: give --output_path, or manifest=FILE in --model_args")
            return
        manifest = build_manifest(
            merge([record for record, _ in gathered]),
            self.settings,
            self._checkpoint,
            model_dtype=str(self._answerer.dtype),
            device=str(self._device),
            world_size=self._world_size,
        )
        write_manifest(manifest, path)
        logger.info(f"manifest: {path}")


class LlavaOVEncoderChat(LlavaOVEncoder):
    """The same behind lmms-eval's interface of chat models: tasks give messages, not a prompt.

    A model of its own, because lmms-eval scores no likelihoods in this interface, and asks every
    task of a model that has both interfaces for messages.
    """

    is_simple = False


def _choose_device(name: str | None) -> torch.device:
    """Return the device of this rank; a bare ``cuda`` means one GPU per rank."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank()}"
    device = torch.device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
