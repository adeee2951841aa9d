"""The pyfunc model that the registry holds: a LoRA adapter that brings its own base.

MLflow logs this file as the model's code; `model_config` says which base it needs.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException

from xling.prompts import ITEM_FIELDS, PromptFormat, render_prompts
from xling.records import LOGPROB_COLUMNS
from xling.serving.limits import Limits, check_request, check_tokens, find_limits

# MLflow's scoring server sets it.
SERVED = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"


class AdapterModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc, unused-ignore]
    """Answers four-option questions.

    In: a data frame with the column ``prompt`` (the exact text), or with the columns
    `ITEM_FIELDS`. Out: ``logprob_1`` … ``logprob_4`` (natural logs over the whole
    vocabulary), ``prediction`` (1–4) and ``answer_mass`` (0–1).

    Where it is served, requests are answered one after another, and one that is too large is
    refused with status 400: over 1,000 rows, 200,000 characters in a field, 5,000,000 characters
    in all, 32,768 tokens in a prompt, or the model's context. `xling.serving.limits.Limits` says
    how to change them. What a request's body may weigh before it is read is for a proxy to bound.
    """

    def load_context(self, context: Any) -> None:
        """Load the base in the precision it was trained on, and the adapter onto it.

        Within a study the base may be in memory already; see `xling.models.get_base`.

        Raises:
            ValueError: the base's weights are not those that the adapter was trained on, or the
                adapter's files are not those that were logged; or a limit is not a number.
        """
        from xling.files.checksums import hash_folder
        from xling.models import get_base, locate_model

        settings, folder = context.model_config, Path(context.artifacts["adapter"])
        logged = settings.get("files_sha256")
        if logged and hash_folder(folder) != logged:
            raise ValueError(
                f"the adapter's files in {folder} are not those that were logged: they are damaged "
                "or were changed; fetch the model again, or train the adapter again"
            )
        self._limits = find_limits(settings)
        self._turn = threading.Lock()
        self._layout = PromptFormat(**settings["prompt"])
        files = locate_model(
            settings["model"],
            revision=settings["revision"],
            chat=self._layout.chat,
            quantise=settings["quantise"],
            expected_identity=settings["weights"],
        )
        self._model = get_base(files).with_adapter(folder)

    def close(self) -> None:
        """Take the adapter off the base, and forget both."""
        self._model.model.unload()
        self.__dict__.clear()

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Score each row's four options.

        Raises:
            ValueError: a row has neither a prompt nor all item fields, a field is not text, or a
                prompt does not fit into the model's context.
            MlflowException: the same, or a request above the limits, where the model is served;
                the server answers with status 400.
        """
        if not os.environ.get(SERVED):
            return self._scores(model_input, None)
        try:
            with self._turn:
                return self._scores(model_input, self._limits)
        except ValueError as error:
            # Else the server would answer with a traceback.
            raise MlflowException.invalid_parameter_value(str(error)) from None

    def _scores(self, rows: pd.DataFrame, limits: Limits | None) -> pd.DataFrame:
        """Score the rows; with limits, no more than those allow."""
        from xling.scoring import InProcessEngine

        if limits is not None:
            check_request(rows, limits)
        prompts = self._prompts(rows)
        if limits is not None and prompts:
            check_tokens(max(map(self._tokens, prompts)), limits)
        engine = InProcessEngine(
            self._model.model,
            self._model.tokenizer,
            add_special_tokens=not self._layout.chat,
        )
        scores = engine.score(prompts)
        answers = pd.DataFrame(scores.logprobs, columns=list(LOGPROB_COLUMNS))
        answers["prediction"] = scores.predictions.astype("int64")
        answers["answer_mass"] = scores.answer_mass
        return answers

    def _tokens(self, prompt: str) -> int:
        """Count a prompt's tokens, without special ones."""
        return len(self._model.tokenizer(prompt, add_special_tokens=False)["input_ids"])

    def _prompts(self, rows: pd.DataFrame) -> list[str]:
        from xling.data import Item

        for name in ("prompt", *ITEM_FIELDS):
            if name in rows and rows[name].map(lambda value: isinstance(value, dict | list)).any():
                raise ValueError(f"`{name}` must be text in every row")
        if "prompt" in rows and rows["prompt"].notna().all():
            return [str(text) for text in rows["prompt"]]
        missing = [name for name in ITEM_FIELDS if name not in rows or not rows[name].notna().all()]
        if missing:
            raise ValueError(
                f"each row needs `prompt`, or all of {', '.join(ITEM_FIELDS)}; "
                f"missing or empty: {', '.join(missing)}"
            )
        items = [
            Item(
                link="",
                question_number=0,
                correct_answer_num=1,
                dialect="",
                **{name: str(row[name]) for name in ITEM_FIELDS},
            )
            for row in rows[list(ITEM_FIELDS)].to_dict("records")
        ]
        return render_prompts(items, self._layout, self._model.tokenizer)


mlflow.models.set_model(AdapterModel())
