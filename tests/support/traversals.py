"""Paths that try to leave a folder, made from every way to write the parts of such a path."""

from __future__ import annotations

import itertools

#: `..` as it is, percent-encoded once, twice and by half, in UTF-8 that is longer than it may be,
#: in characters that look like it or become it when text is normalised, and with what some
#: parser somewhere takes away.
_UP = [
    "..", "%2e%2e", "%2E.", ".%2e", "%252e%252e", "%25252e.", "%c0%ae%c0%ae", "%e0%80%ae.",
    "%uff0e%uff0e", "\uff0e\uff0e", "\u2024\u2024", "\u2025", "\u3002.", ".\u200b.", ".\u00ad.",
    ".\u202e.", "....", "...", ".. ", " ..", "..;", "..\t", "..\r", "..\n", "..\x7f", "..?", "..#",
    "..\\", "\\..", ".\\.", "\".\".", "'..'", "..\0", ".\0.", "..%00", "..\ufeff", "\\x2e\\x2e",
    "\\u002e.", "&#46;&#46;", "..\x1b[0m", "\ud800..",
]  # fmt: skip
_SEPARATORS = [
    "/", "//", "/./", "\\", "\\\\", "/\\", "\\/", "%2f", "%2F", "%252f", "%5c", "%255c",
    "%c0%af", "%c1%9c", "%e0%80%af", "%u2215", "\u2215", "\u2044", "\uff0f", "\u29f5", ";/", "/;/",
    "/ /", "\0/", "\n/", ":/",
]  # fmt: skip
_DEPTHS = [1, 2, 3, 4, 5, 8]
_SOME_DEPTHS = [1, 4]
TARGETS = ["canary.txt", "etc/passwd"]
#: What some program takes from the end of a name, so that a check sees another than is opened.
_ENDS = [
    "\0", "\0.csv", "%00.png", "/", "/.", "/..", "//", ".", " ", "?", "#", ";", "::$DATA", "~",
    "\n", "\\", ".csv", "/../canary.txt", "\u202efdp.exe",
]  # fmt: skip
#: Beginnings that make a path absolute, for somebody.
_ROOTS = [
    "/", "//", "///", "/./", "/../", "/..;/", "file://", "file:/", "file:///", "FILE:///",
    "file://localhost/", "\\", "\\\\?\\", "\\\\.\\", "\\\\localhost\\C$\\", "C:\\", "C:/", "C:",
    "/proc/self/root/", "/proc/self/cwd/", "/proc/self/cwd/../", "/proc/thread-self/root/",
    "/proc/1/root/", "/dev/fd/../root/", "/dev/shm/../../", "/tmp/../", "~/", "~root/", "~/../",
    "~nobody/../", "~+/", "~-/", "$HOME/", "${HOME}/../", "$(pwd)/", "`pwd`/", "%HOME%/", "{/}",
    "{/,}", "./", ".//", "./../", "x/../", "x/../../", "canary.txt/../", "/%2e%2e/", "http://",
    "jar:file:/", "php://filter/resource=/", "data:,", "-/", "--path=/", "@/", "<", "|cat /",
    "link/", "folder/", "up/", "up/up/", "up/up/../", "folder/home/", "inner/../", "inner/../../",
    "inner/link/", "[.][.]/", "?./", ".?/", "*/", "**/", "*/../", "**/../",
]  # fmt: skip
_BARE = [
    "", ".", "..", "/", "//", "./", "../", "...", "~", "~root", "\\", "*", "**", "?", "[", "[]",
    "[!", "{}", "-", "--", "-rf", "/dev/stdin", "/dev/fd/0", "/dev/fd/1", "/dev/zero", "/dev/full",
    "/dev/tty", "/dev/stdout", "/proc/self/environ", "/proc/self/mem", "/proc/self/pagemap",
    "/proc/self/cmdline", "/proc/self/maps", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/kmsg",
    "/proc/kcore", "/proc/self/root", "/proc/self/cwd", "/sys/kernel/debug", "/etc/shadow",
    "link", "folder", "up", "hard.txt", "fifo", "inner", "inner/deep.txt", "inner/link", "bad\\xff",
    "bad\udcff", "new\nline.txt", "new\\nline.txt", "canary.txt", "job.json", "secrets.json",
    "../job.json", "../secrets.json", "../stdout.log", "../../../outlast.db", "stdout", "stderr",
    "stdout.log", "x" * 255, "x" * 256, "x/" * 2100 + "x", "../" * 2000 + "etc/passwd",
    "\u6f22" * 86, "nul", "CON", "aux.txt", ".git/config", "a\0b", "\0", "\ud800", "\udfff/x",
]  # fmt: skip


def traversals() -> list[str]:
    """A few thousand paths, the same each time, none twice."""
    ways = itertools.chain(
        itertools.product(_UP, ["/", "\\", "%2f"], _SOME_DEPTHS, TARGETS),
        itertools.product(["..", "%2e%2e", "\uff0e\uff0e"], _SEPARATORS, _SOME_DEPTHS, TARGETS),
        itertools.product(_UP, _SEPARATORS, [4], TARGETS[:1]),
    )
    paths = [(up + separator) * depth + target for up, separator, depth, target in ways]
    doubled = [up * depth + target for up in ("....//", "..././", ".../...//", "....\\\\")
               for depth in _DEPTHS for target in TARGETS]  # fmt: skip
    climbs = ["../" * depth + target for depth in _DEPTHS for target in TARGETS]
    ended = [path + end for path in [*climbs, *TARGETS, "inner/deep.txt"] for end in _ENDS]
    rooted = [root + path for root in _ROOTS for path in [*TARGETS, "../" * 4 + TARGETS[0], ""]]
    return list(dict.fromkeys([*_BARE, *paths, *doubled, *climbs, *ended, *rooted]))
