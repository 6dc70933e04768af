"""What a server that is started as a process finds in its environment: what programs need to run, and no keys."""

from __future__ import annotations

import logging
import os
import re

from llmgine.llm.tools.mcp.config import MCPServerConfig

__all__ = ["server_environment"]

logger = logging.getLogger("llmgine.mcp")

_NETWORK = re.compile(r"(?i:(https?|all|no)_proxy)|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE|NODE_EXTRA_CA_CERTS")
"""What programs need to reach the network from here, be it only to fetch the server, as uvx and npx do."""


def server_environment(name: str, config: MCPServerConfig) -> dict[str, str]:
    """Return the variables for a server: the SDK's few, those about proxies and certificates, and its own.

    The address of a proxy may have a password in it, and then it is a key like any other: who wants a server to have
    it says so in `env`.

    Args:
        name: of the server, for the log.
        config: of the server.
    """
    from mcp.client.stdio import get_default_environment

    network = {key: value for key, value in os.environ.items() if _NETWORK.fullmatch(key)}
    for key in [key for key, value in network.items() if "@" in value and key.lower().endswith("_proxy")]:
        del network[key]
        if key not in config.env:
            logger.info("MCP server '%s' does not get %s, which has a password in it; give it in env.", name, key)
    return {**get_default_environment(), **network, **config.env}
