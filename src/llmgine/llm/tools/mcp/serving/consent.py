"""Tools that need approval: the user of the client is asked, or the tool does not run."""

from __future__ import annotations

from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from llmgine.llm.tools.mcp.serving.results import Reply, failure
from llmgine.llm.tools.prepared_call import PreparedCall
from llmgine.llm.tools.result import as_text, bounded

__all__ = ["refused"]

_KEY = "approval"
_FORM: dict[str, Any] = {"type": "object", "properties": {}}
"""Nothing to fill in: to accept is to agree."""
_MAX_SHOWN = 4000


async def refused(
    request: ServerRequestContext[Any, Any], params: types.CallToolRequestParams, prepared: PreparedCall
) -> Reply | None:
    """Ask the client's user whether a call may run. Return None if so, or else what to answer.

    What is answered may be the question itself: since 2026-07-28 a client is asked by a result, and calls again with
    the answer (multi-round-trip requests). Before, it is asked by a request, while its own waits.
    """
    modern = request.protocol_version in MODERN_PROTOCOL_VERSIONS
    if not _can_be_asked(request) or not (modern or request.session.can_send_request):
        return _nobody_to_ask(prepared, modern=modern)
    question = types.ElicitRequestFormParams(message=_question(prepared), requested_schema=_FORM)
    if modern:
        answer = (params.input_responses or {}).get(_KEY)
        # The state is sealed by the server, and names the call that the user was shown.
        if not isinstance(answer, types.ElicitResult) or params.request_state != prepared.digest:
            return types.InputRequiredResult(
                input_requests={_KEY: types.ElicitRequest(params=question)}, request_state=prepared.digest
            )
    else:
        try:
            answer = await request.session.elicit_form(question.message, _FORM, request.request_id)
        except MCPError as error:
            return failure(f"Error: the call of {prepared.tool.name} was not run: asking for it failed: {error}.")
    if answer.action == "accept":
        return None
    if answer.action == "cancel":  # the question was closed, or there was nobody to see it
        return failure(f"Error: the call of {prepared.tool.name} was not run: the question about it was not answered.")
    return failure(f"Error: the call of {prepared.tool.name} was denied by the user. Do not call it again unasked.")


def _can_be_asked(request: ServerRequestContext[Any, Any]) -> bool:
    """Whether the client says that it shows forms to its user; one that names no kind of question means those."""
    capabilities = request.session.client_capabilities
    elicitation = capabilities.elicitation if capabilities is not None else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


def _nobody_to_ask(prepared: PreparedCall, *, modern: bool) -> Reply:
    text = (
        f"The call of {prepared.tool.name} was not run: a person has to agree to it, and this client cannot ask one "
        "(it does not offer elicitation)."
    )
    if not modern:
        return failure(f"Error: {text}")
    return types.ErrorData(
        code=types.MISSING_REQUIRED_CLIENT_CAPABILITY,
        message=text,
        data={"requiredCapabilities": {"elicitation": {}}},
    )


def _question(prepared: PreparedCall) -> str:
    return f"Run {prepared.tool.name} with {bounded(as_text(prepared.sent), _MAX_SHOWN)}?"
