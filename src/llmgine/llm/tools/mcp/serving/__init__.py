"""Tools for MCP clients: what a server of LLMgine is made of."""
