"""A kind of job that counts, keeps a checkpoint and a table, and stops in each way there is."""

from __future__ import annotations

from pathlib import Path

MANIFEST = """
schema = 1
name = "count"
title = "Counts to a number"

[params.to]
type = "integer"
minimum = 1
default = 5

[params.pause_s]
type = "number"
default = 0.01

[params.exit]
type = "integer"
default = 0

[params.label]
type = "string"
optional = true
save_as = "label.txt"

[params.words]
type = "array"
items = { type = "string" }
optional = true

[run]
command = [
  "{python}", "{manifest_dir}/count.py", "--to", "{to}", "--pause", "{pause_s}", "--exit", "{exit}",
  ["--label", "{label}"], ["--word", "{words}"],
]
exit = { 75 = "stopped on request" }

[stop]
STOP
grace_s = 30

[resume]
checkpoint = "count.chk"
carry = ["table.csv"]
link = ["segment.*.txt"]
args = ["--resume"]

[[progress]]
regex = '^count (?P<step>\\d+)/(?P<total>\\d+) half=(?P<half>\\S+)'

[[warning]]
regex = '^count 13/'
meaning = "thirteen was passed"

[[failure]]
regex = '^bad luck'
meaning = "the count had bad luck"

[[success]]
regex = '^done'
meaning = "the count did not come to its end"

[summary]
keys = ["last", "inner.twice"]

[[output]]
path = "table.csv"
kind = "table"
required = true

[[output]]
path = "segment.*.txt"
kind = "text"
"""

SCRIPT = """
import argparse, json, os, signal, sys, time

parser = argparse.ArgumentParser()
parser.add_argument("--to", type=int)
parser.add_argument("--pause", type=float)
parser.add_argument("--exit", type=int)
parser.add_argument("--label")
parser.add_argument("--word", action="append")
parser.add_argument("--resume", action="store_true")
options = parser.parse_args()
stops = []
signal.signal(signal.SIGTERM, lambda *_: stops.append(1))
count = 0
if options.resume:
    count = int(open("count.chk").read())
    rows = open("table.csv").read().split("\\n")[:count]
    open("table.csv", "w").write("".join(row + "\\n" for row in rows))
segment = open("segment.%d.txt" % count, "w")
with open("table.csv", "a") as table:
    while count < options.to and not stops and not os.path.exists("STOP"):
        time.sleep(options.pause)
        count += 1
        print("%d" % count, file=table, flush=True)
        print(count, file=segment, flush=True)
        open("count.new", "w").write(str(count))
        os.replace("count.new", "count.chk")
        print("count %d/%d half=%g" % (count, options.to, count / 2), flush=True)
if count < options.to:
    sys.exit(75)
summary = {"last": count, "inner": {"twice": 2 * count}, "words": options.word}
json.dump(summary, open("summary.json", "w"))
if options.exit == 99:
    print("bad luck, it was", count)
elif options.exit == 98:
    sys.exit(0)
print("done")
sys.exit(0 if options.exit == 99 else options.exit)
"""


def write_kind(folder: Path, *, stop: str = 'signal = "TERM"', more: str = "") -> None:
    """Put the kind of job `count` into a folder of manifests, with `more` in its text."""
    folder.mkdir(exist_ok=True)
    (folder / "count.toml").write_text(MANIFEST.replace("STOP", stop) + more, encoding="utf-8")
    (folder / "count.py").write_text(SCRIPT, encoding="utf-8")
