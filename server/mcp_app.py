"""Builds the MCP server and serves it on standard input and output."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, InputRequiredResult, TextContent, jsonrpc_message_adapter
from mcp_types import Tool as ToolInfo

from jobs import __version__
from jobs.errors import InvalidArgumentError, JobError, nearest
from server import refusals, tools

if TYPE_CHECKING:
    from jobs.service import Service

log = logging.getLogger(__name__)


class Rooms:
    """Opens the service when it is first needed, and again after it could not be opened: a
    state directory that cannot be used is told by each call, not by a server that never starts."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._lock = asyncio.Lock()
        self._service: Service | None = None

    async def service(self) -> Service:
        async with self._lock:
            if self._service is None:
                wiring = await asyncio.to_thread(_import_wiring)
                opening: AbstractAsyncContextManager[Service] = wiring.open_service()
                self._service = await self._stack.enter_async_context(opening)
            return self._service

    async def warm_up(self) -> None:
        """Pay the first call's cost while the client is still greeting."""
        try:
            await self.service()
        except JobError as error:
            log.warning("%s", error)

    async def close(self) -> None:
        await self._stack.aclose()


def _import_wiring() -> Any:
    from server import wiring

    return wiring


@asynccontextmanager
async def _lifespan(_: MCPServer[Rooms]) -> AsyncIterator[Rooms]:
    rooms = Rooms()
    warming = asyncio.get_running_loop().create_task(rooms.warm_up())
    try:
        yield rooms
    finally:
        warming.cancel()
        await asyncio.wait([warming])
        await rooms.close()


class OutlastServer(MCPServer[Rooms]):
    """Tells every refusal in our words, and what a model reads of the tools as short as it gets."""

    _listed: list[ToolInfo] | None = None

    async def list_tools(self) -> list[ToolInfo]:
        """The same each time: no tool comes or goes, and each call looks names up here."""
        if self._listed is not None:
            return self._listed
        listed = await super().list_tools()
        for tool in listed:
            tool.input_schema = compact_schema(tool.input_schema)
            if tool.output_schema is not None:
                tool.output_schema = compact_schema(tool.output_schema)
                tool.output_schema.pop("description", None)  # a docstring, as below
            tool.description = " ".join((tool.description or "").split())
        self._listed = listed
        return listed

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Rooms, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        try:
            await self._check_names(name, arguments)
            return await super().call_tool(name, await self._literal(name, arguments), context)
        except (ToolError, JobError) as error:
            cause = error.__cause__ or error
            refusal = refusals.as_job_error(cause)
            if refusal.code == "internal_error":
                trace = "".join(traceback.format_exception(cause))
                log.error("%s failed: %s", name, trace[-4000:])
            text = TextContent(type="text", text=refusals.as_text(refusal))
            return CallToolResult(content=[text], is_error=True)

    async def _literal(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments, with each text that is to be taken as it stands as UTF-8.

        The SDK reads a text that looks like JSON as JSON where a text is optional: grep='[1]' would
        be refused as a list, and project='null' be none at all. Bytes it leaves alone, and its
        validation makes texts of them again.
        """
        (schema,) = (tool.input_schema for tool in await self.list_tools() if tool.name == name)
        literal = dict(arguments)
        for argument, value in arguments.items():
            about = schema["properties"][argument]
            if isinstance(value, str) and about.get("type") == "string" and "enum" not in about:
                with contextlib.suppress(UnicodeEncodeError):  # is refused when it is looked at
                    literal[argument] = value.encode()
        return literal

    async def _check_names(self, name: str, arguments: dict[str, Any]) -> None:
        """An argument that no tool knows would otherwise be passed over in silence."""
        known = {tool.name: tool.input_schema["properties"] for tool in await self.list_tools()}
        if name not in known:
            raise InvalidArgumentError(
                f"There is no tool {name[:80]!r}.{nearest(name, known)}", "Call tools/list."
            )
        if UNREADABLE in arguments:
            raise InvalidArgumentError(
                "The arguments cannot be read: they hold half of a surrogate pair, a number of "
                "very many digits, or are nested very deeply."
            )
        for argument in arguments:
            if argument not in known[name]:
                hint = nearest(argument, known[name])
                raise InvalidArgumentError(f"{name} has no argument {argument[:80]!r}.{hint}")


def build_server() -> OutlastServer:
    """The server with its seven tools; each session opens the state directory for itself."""
    server = OutlastServer(
        "outlast",
        title="Outlast: jobs that outlast the chat",
        instructions=tools.INSTRUCTIONS,
        version=__version__,
        lifespan=_lifespan,
        log_level="WARNING",
    )
    tools.register(server)
    return server


def compact_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema in fewer tokens: references inlined, titles and empty defaults left out.

    Optional values are left out of arguments and replies rather than sent as null, so that the
    alternative `null` need not be told.
    """
    definitions = schema.get("$defs", {})

    def compact(node: Any, *, names: bool = False) -> Any:
        if isinstance(node, list):
            return [compact(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            definition = definitions[node["$ref"].rsplit("/", 1)[1]]
            # Its description is the docstring of a class: written for its readers, not for models.
            return compact({k: v for k, v in definition.items() if k != "description"})
        options = [option for option in node.get("anyOf", []) if option.get("type") != "null"]
        if len(options) == 1:
            rest = {key: value for key, value in node.items() if key != "anyOf"}
            return compact({**options[0], **rest})
        if len(options) > 1 and "anyOf" in node:
            node = {**node, "anyOf": options}
        kept = {}
        for key, value in node.items():
            if not names and key in _NOISE:
                continue
            if not names and key == "default" and not value:
                continue
            if not names and key == "additionalProperties" and value is True:
                continue
            kept[key] = compact(value, names=key == "properties")
        return kept

    compacted: dict[str, Any] = compact(schema)
    return compacted


_NOISE = ("title", "$defs")


def serve_stdio() -> None:
    """Serve until standard input closes, then leave at once. Jobs and keeper are not touched."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    sys.stdin = io.TextIOWrapper(ReadableInput(sys.stdin.buffer), encoding="utf-8")
    status = 0
    try:
        build_server().run("stdio")
    except (KeyboardInterrupt, BrokenPipeError):
        pass
    except BaseException:
        log.exception("the server has to end")
        status = 1
    logging.shutdown()
    # Not sys.exit: tearing down an interpreter with these imports takes up to two seconds, and a
    # client kills a server that takes longer than that to leave.
    os._exit(status)


class ReadableInput(io.BufferedIOBase):
    r"""Standard input in which every request can be read, so that every request is answered.

    The SDK drops a line that its JSON parser refuses (half a surrogate pair, arguments nested
    300 deep, a number of 5,000 digits), and a client whose call is never answered waits for ever.
    Such a call is passed on with its arguments replaced by a mark that is refused in words; of a
    line that not even Python's parser can read, only the ID is passed on.
    """

    _ID = re.compile(rb'"id"\s*:\s*(\d{1,18}|"[^"\\]{1,100}")')

    def __init__(self, inner: BinaryIO) -> None:
        self._inner = inner
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read1(self, size: int | None = -1, /) -> bytes:
        line = self._rest or self._inner.readline()
        if not self._rest and line.strip():
            line = self._made_readable(line)
        if size is None or size < 0:
            size = len(line)
        self._rest = line[size:]
        return line[:size]

    read = read1

    def _made_readable(self, line: bytes) -> bytes:
        if self._is_readable(line):
            return line
        try:
            request = json.loads(line, parse_int=lambda digits: int(digits[:18]))
            params = request["params"]
            params["name"] = params["name"].encode("utf-8", "replace").decode()
            params["arguments"] = {UNREADABLE: True}
            mended = json.dumps(request).encode() + b"\n"
            if self._is_readable(mended):
                return mended
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            pass
        found = self._ID.search(line)
        if found is None:
            return line
        return b'{"jsonrpc": "2.0", "id": %s, "method": "unreadable"}\n' % found[1]

    @staticmethod
    def _is_readable(line: bytes) -> bool:
        try:
            jsonrpc_message_adapter.validate_json(line.decode("utf-8", "replace"), by_name=False)
        except ValueError:
            return False
        return True


#: Stands for arguments that could not be read.
UNREADABLE = "unreadable"
