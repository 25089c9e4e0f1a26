"""The limit for our server: the SDK's own with one tool that does nothing."""

from mcp.server.mcpserver import MCPServer

server: MCPServer[None] = MCPServer("bare")


@server.tool()
def empty() -> str:
    """Do nothing."""
    return ""


if __name__ == "__main__":
    server.run("stdio")
