"""Providers that need a library of their own: loaded when they are made, and named when they are missing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from http_providers import MARKS

from llmgine.errors import ConfigurationError, MissingExtraError
from llmgine.llm.providers import create_provider


@pytest.mark.parametrize(
    ("spec", "module", "extra"),
    [("litellm:gpt-4o-mini", "litellm", "litellm"), ("any_llm:openai/m", "any_llm", "any-llm")],
)
def test_without_the_library_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, spec: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'llmgine\[{extra}\]'") as caught:
        create_provider(spec)

    assert caught.value.extra == extra


def test_a_model_without_its_provider_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="any_llm:PROVIDER/NAME"):
        create_provider("any_llm:gpt-4o")


@pytest.mark.parametrize("name", [pytest.param("any_llm", marks=MARKS["any_llm"])])
@pytest.mark.parametrize(("spec", "says"), [("nobody/m", "nobody"), ("openai/m", "OPENAI_API_KEY")])
def test_what_cannot_be_set_up_says_why(monkeypatch: pytest.MonkeyPatch, name: str, spec: str, says: str) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match=says):
        create_provider(f"{name}:{spec}")


@pytest.mark.parametrize("name", [pytest.param("litellm", marks=MARKS["litellm"])])
def test_litellm_is_imported_without_the_network(name: str) -> None:
    program = (
        "import socket\n"
        "def refuse(*_): raise SystemExit('the network was used')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from llmgine.llm.providers import create_provider\n"
        "provider = create_provider('litellm:gpt-4o-mini')\n"
        "import litellm, os\n"
        "print(provider.supports_json_schema, litellm.telemetry, os.environ['LITELLM_LOCAL_MODEL_COST_MAP'])\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LITELLM")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False, env=environment
    )

    assert (done.stdout.split(), done.returncode) == (["True", "False", "True"], 0), done.stderr
