"""An MCP server of the PyPI package fastmcp, with no code of ours. Usage: mcp_server.py PORT."""

import sys

from fastmcp import FastMCP

mcp = FastMCP("orders")


@mcp.tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@mcp.tool
def greet(name: str) -> str:
    """Greets somebody."""
    return f"Hello, {name}"


mcp.run(transport="http", host="127.0.0.1", port=int(sys.argv[1]), show_banner=False)
