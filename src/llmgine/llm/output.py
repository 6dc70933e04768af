"""Replies of a form: a type says what a reply must be; the reply becomes a value of it, or what is wrong with it."""

from __future__ import annotations

import json
import re
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from llmgine.errors import ConfigurationError
from llmgine.llm.types import JSONSchema, ModelFormattedDictTool

__all__ = ["ANSWER_TOOL", "OutputForm"]

T = TypeVar("T")

ANSWER_TOOL = "final_answer"
"""What a model calls to answer, where its provider cannot be given a schema."""
_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)


class OutputForm(Generic[T]):
    """What a reply must be.

    A type that is no JSON object, such as `list[int]`, is asked for as `{"value": …}`, because providers want objects.
    """

    def __init__(self, output_type: type[T]) -> None:
        """Take a type: a pydantic model, a dataclass, or whatever else pydantic can describe.

        Raises:
            ConfigurationError: it has no JSON schema.
        """
        try:
            self._adapter: TypeAdapter[T] = TypeAdapter(output_type)
            schema = self._adapter.json_schema()
        except Exception as error:  # annotations may hold the application's own code, which may raise anything
            msg = f"output_type={output_type!r} has no JSON schema: {error}. Give a pydantic model, or a type like it."
            raise ConfigurationError(msg) from error
        self._wrapped = schema.get("type") != "object"
        if self._wrapped:
            definitions = schema.pop("$defs", None)
            schema = {"type": "object", "properties": {"value": schema}, "required": ["value"]}
            if definitions:
                schema["$defs"] = definitions
        name = re.sub(r"[^A-Za-z0-9_-]", "_", getattr(output_type, "__name__", "answer"))[:64] or "answer"
        self.schema = JSONSchema(name, schema)
        """For providers that hold a model to it."""

    @property
    def tool(self) -> ModelFormattedDictTool:
        """For the others: a tool whose arguments are the answer."""
        description = "Give the final answer. Call this once, with the whole answer, and nothing else after it."
        parameters = self.schema.schema
        return {
            "type": "function",
            "function": {"name": ANSWER_TOOL, "description": description, "parameters": parameters},
        }

    def read(self, text: str) -> T:
        """Return the value that a reply stands for.

        Raises:
            ValueError: it stands for none; the sentence is for the model.
        """
        fenced = _FENCE.match(text)
        try:
            data = json.loads(fenced[1] if fenced else text)
        except ValueError as error:
            msg = f"That is no JSON ({error}). Answer with JSON of this schema, and nothing else: {self._told}"
            raise ValueError(msg) from None
        try:
            return self._adapter.validate_python(self._unwrapped(data))
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'it'}: {each['msg']}" for each in error.errors())
            msg = (
                f"That does not fit: {problems}. Answer again, with JSON of this schema, and nothing else: {self._told}"
            )
            raise ValueError(msg) from None

    def read_partly(self, text: str) -> Any:
        """Return as much of the value as is there, as JSON data; None if that is nothing yet."""
        try:
            data = from_json(text.removeprefix("```json").removeprefix("```").lstrip() or "null", allow_partial=True)
        except ValueError:
            return None
        return data.get("value") if self._wrapped and isinstance(data, dict) else data

    @property
    def _told(self) -> str:
        return json.dumps(self.schema.schema, separators=(",", ":"))

    def _unwrapped(self, data: Any) -> Any:
        return data["value"] if self._wrapped and isinstance(data, dict) and data.keys() == {"value"} else data
