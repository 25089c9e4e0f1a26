#!/bin/sh
# Makes a virtual environment with the last mcp of the 1.x series, whose client speaks the protocol
# as it was before 2026, in ${OUTLAST_TEST_TOOLS:-.cache}/old-client. Does nothing when it is there.
set -eu

MCP=1.30.0
ATTEMPTS=3

cd "$(dirname "$0")/../.."
folder=${OUTLAST_TEST_TOOLS:-.cache}/old-client
mark="mcp $MCP"

if [ "$(cat "$folder/installed" 2>/dev/null)" = "$mark" ] && "$folder/bin/python" -c '' 2>/dev/null; then
  echo "The old client is there: $mark"
  exit 0
fi

python=
for name in python3.13 python3.12 python3.11 python3; do
  if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$name
    break
  fi
done
[ -n "$python" ] || {
  echo "error: no Python 3.11 or newer with venv was found" >&2
  exit 1
}

echo "Installing $mark ..."
rm -rf "$folder"
"$python" -m venv "$folder"
attempt=1
until "$folder/bin/python" -m pip install -qq --disable-pip-version-check "mcp==$MCP"; do
  if [ "$attempt" -ge "$ATTEMPTS" ]; then
    echo "error: pip could not install $mark in $ATTEMPTS attempts" >&2
    exit 1
  fi
  echo "attempt $attempt to install $mark failed; once more in $((attempt * 5)) s" >&2
  sleep $((attempt * 5))
  attempt=$((attempt + 1))
done
printf '%s\n' "$mark" >"$folder/installed"
echo "The old client is installed: $mark"
