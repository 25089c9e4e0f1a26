"""One session of a client from before 2026: run by a Python that has mcp 1.30, prints JSON.

Arguments: the server's working directory, then its command. The environment is handed on.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from importlib import metadata
from typing import Any

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

SCRIPT = sys.stdin.read()  #: of the job


async def session() -> dict[str, Any]:
    server = StdioServerParameters(
        command=sys.argv[2], args=sys.argv[3:], cwd=sys.argv[1], env=dict(os.environ)
    )
    async with stdio_client(server) as (read, write), ClientSession(read, write) as client:

        async def call(tool: str, **arguments: Any) -> dict[str, Any]:
            result = await client.call_tool(tool, arguments)
            return result.model_dump(mode="json", by_alias=True, exclude_none=True)

        seen: dict[str, Any] = {"mcp": metadata.version("mcp")}
        greeting = await client.initialize()
        seen["protocol"] = str(greeting.protocolVersion)
        seen["server"] = greeting.serverInfo.name
        listed = (await client.list_tools()).tools
        seen["tools"] = [tool.name for tool in listed]
        seen["schemas"] = [tool.outputSchema is not None for tool in listed]

        seen["launch"] = await call("launch_job", command=["bash", "-c", SCRIPT])
        job_id = seen["launch"]["structuredContent"]["job_id"]
        for _ in range(500):
            seen["tail"] = await call("tail_log", job_id=job_id)
            if "step 2" in seen["tail"]["structuredContent"]["text"]:
                break
            await asyncio.sleep(0.02)
        seen["status"] = await call("job_status", job_id=job_id)
        seen["list"] = await call("job_status")
        seen["artifacts"] = await call("list_artifacts", job_id=job_id)
        seen["table"] = await call("read_artifact", job_id=job_id, path="energy.csv")
        seen["picture"] = await call("read_artifact", job_id=job_id, path="dot.png")
        seen["manifests"] = await call("describe_manifests")
        seen["cancel"] = await call("cancel_job", job_id=job_id, grace_s=0)
        seen["error"] = await call("job_status", job_id="job-nope")
        seen["wrong_type"] = await call("launch_job", command="a text, not a list")
        return seen


if __name__ == "__main__":
    json.dump(asyncio.run(session()), sys.stdout)
