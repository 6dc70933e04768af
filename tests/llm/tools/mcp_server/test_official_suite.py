"""The official conformance suite (`@modelcontextprotocol/conformance`), against a server of LLMgine's.

For each revision of the protocol it runs what that revision requires and, unscored, what else there is.
"""

import asyncio
import json
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from pathlib import Path

import pytest
from mcp_servers import node, npm_package

SUITE = ("@modelcontextprotocol/conformance", "0.2.0-alpha.12")
SERVER = Path(__file__).with_name("conformance_server.py")
PATIENCE = 120
"""Seconds for a run of the suite, which takes five on a machine that has nothing else to do."""

NO_RESOURCES = "it reads resources; the server offers tools"
NO_PROMPTS = "it gets prompts; the server offers tools"
NO_COMPLETION = "it completes arguments of prompts and resources; the server offers tools"
NO_LOGGING = "it sets the level of logging, which the protocol has deprecated, and the server does not offer"
NO_TASKS = "an extension (SEP-2663), which the server does not declare"
NO_RESUMPTION = "it resumes broken streams, which the protocol has dropped and no server has to offer"

NOT_APPLICABLE = {
    "2025-11-25": {
        "completion-complete": NO_COMPLETION,
        "logging-set-level": NO_LOGGING,
        "tools-call-with-logging": NO_LOGGING,
        "resources-list": NO_RESOURCES,
        "resources-read-text": NO_RESOURCES,
        "resources-read-binary": NO_RESOURCES,
        "resources-templates-read": NO_RESOURCES,
        "resources-subscribe": NO_RESOURCES,
        "resources-unsubscribe": NO_RESOURCES,
        "prompts-list": NO_PROMPTS,
        "prompts-get-simple": NO_PROMPTS,
        "prompts-get-with-args": NO_PROMPTS,
        "prompts-get-embedded-resource": NO_PROMPTS,
        "prompts-get-with-image": NO_PROMPTS,
        "server-sse-polling": NO_RESUMPTION,
    },
    "2026-07-28": {
        "completion-complete": NO_COMPLETION,
        "resources-list": NO_RESOURCES,
        "resources-read-text": NO_RESOURCES,
        "resources-read-binary": NO_RESOURCES,
        "resources-templates-read": NO_RESOURCES,
        "sep-2164-resource-not-found": NO_RESOURCES,
        "prompts-list": NO_PROMPTS,
        "prompts-get-simple": NO_PROMPTS,
        "prompts-get-with-args": NO_PROMPTS,
        "prompts-get-embedded-resource": NO_PROMPTS,
        "prompts-get-with-image": NO_PROMPTS,
        "input-required-result-non-tool-request": NO_PROMPTS,
        "tasks-lifecycle": NO_TASKS,
        "tasks-capability-negotiation": NO_TASKS,
        "tasks-wire-fields": NO_TASKS,
        "tasks-request-state-removal": NO_TASKS,
        "tasks-mrtr-input": NO_TASKS,
        "tasks-request-headers": NO_TASKS,
        "tasks-dispatch-and-envelope": NO_TASKS,
        "tasks-status-notifications": NO_TASKS,
        "tasks-required-task-error": NO_TASKS,
        "tasks-mrtr-composition": NO_TASKS,
    },
}
NOT_APPLICABLE_CHECKS = {
    "sep-2549-prompts-list-caching-hints": NO_PROMPTS,
    "sep-2549-resources-list-caching-hints": NO_RESOURCES,
    "sep-2549-resources-templates-list-caching-hints": NO_RESOURCES,
}
APPLICABLE = {"2025-11-25": 18, "2026-07-28": 28}
"""How many scenarios are left."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[dict[str, str]]]]:
    """The checks of each scenario of each revision."""
    program = npm_package(*SUITE) / "dist" / "index.js"
    folders = {revision: tmp_path_factory.mktemp(revision) for revision in NOT_APPLICABLE}
    asyncio.run(_run(program, folders))
    return {
        revision: {_scenario(file): json.loads(file.read_text()) for file in folder.glob("*/checks.json")}
        for revision, folder in folders.items()
    }


async def _run(program: Path, folders: dict[str, Path]) -> None:
    server = await asyncio.create_subprocess_exec(sys.executable, SERVER, stdout=PIPE)
    assert server.stdout is not None
    try:
        url = (await server.stdout.readline()).decode().strip()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(_suite(program, url, revision, folder) for revision, folder in folders.items()))
    finally:
        server.terminate()
        await server.communicate()


async def _suite(program: Path, url: str, revision: str, folder: Path) -> None:
    options = ("server", "--url", url, "--requirements", revision, "--output-dir", str(folder))
    suite = await asyncio.create_subprocess_exec(
        node(), program, *options, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, cwd=folder
    )
    said, _ = await suite.communicate()
    assert b"=== SUMMARY ===" in said, said.decode()


def _scenario(file: Path) -> str:
    match = re.fullmatch(r"server-(.*)-\d{4}-\d\d-\d\dT[\d-]+Z", file.parent.name)
    assert match is not None
    return match[1]


@pytest.mark.parametrize("revision", NOT_APPLICABLE)
def test_every_scenario_that_applies_passes(results: dict[str, dict[str, list[dict[str, str]]]], revision: str) -> None:
    failed = {
        f"{scenario}: {check['id']}": check.get("errorMessage", "")
        for scenario, checks in results[revision].items()
        if scenario not in NOT_APPLICABLE[revision]
        for check in checks
        if check["status"] in {"FAILURE", "WARNING"} and check["id"] not in NOT_APPLICABLE_CHECKS
    }
    assert failed == {}


@pytest.mark.parametrize("revision", NOT_APPLICABLE)
def test_every_other_scenario_is_known(results: dict[str, dict[str, list[dict[str, str]]]], revision: str) -> None:
    applicable = results[revision].keys() - NOT_APPLICABLE[revision].keys()
    assert NOT_APPLICABLE[revision].keys() <= results[revision].keys()
    assert len(applicable) == APPLICABLE[revision]
    for scenario in applicable:
        assert any(check["status"] == "SUCCESS" for check in results[revision][scenario]), scenario


@pytest.mark.parametrize("revision", NOT_APPLICABLE)
def test_what_does_not_apply_would_not_pass(results: dict[str, dict[str, list[dict[str, str]]]], revision: str) -> None:
    for scenario in NOT_APPLICABLE[revision]:
        assert any(check["status"] != "SUCCESS" for check in results[revision][scenario]), scenario
