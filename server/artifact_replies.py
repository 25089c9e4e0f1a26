"""What was read of an artifact, in words and as data; what comes from within it is fenced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.text import shown, size
from server.replies import Reply, fenced
from server.reply_models import ContentReply

if TYPE_CHECKING:
    from jobs.contents import Content


def content(job_id: str, content: Content) -> Reply:
    path = shown(content.path, 200)
    lines = [f"{path} of {job_id}: {content.kind}, {size(content.size)}"]
    if content.summary:
        lines[0] += f"; {content.summary}"
    inside = "\n\n".join(filter(None, [content.text.rstrip("\n"), "\n".join(content.about)]))
    if inside:
        lines.append(fenced(inside))
    if content.next_offset is not None:
        lines.append(f"Next: read_artifact with offset={content.next_offset} goes on.")
    if content.kind == "table" and content.about and content.image is None:
        lines.append("Next: read_artifact with plot='x: y1, y2' draws columns.")
    data = ContentReply(
        job_id=job_id,
        path=path,
        kind=content.kind,
        size=content.size,
        text=(inside if content.about else content.text) or None,
        next_offset=content.next_offset,
        summary=content.summary or None,
    )
    return "\n".join(lines), data
