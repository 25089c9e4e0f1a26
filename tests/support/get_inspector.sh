#!/bin/sh
# Installs MCP Inspector's command line, and the Node.js that it needs, below
# ${OUTLAST_TEST_TOOLS:-.cache}/inspector. Needs npm with any Node.js; does nothing when all is there.
set -eu

NODE=22.23.3
INSPECTOR=2.12.0
ATTEMPTS=3

cd "$(dirname "$0")/../.."
mkdir -p "${OUTLAST_TEST_TOOLS:-.cache}/inspector"
cd "${OUTLAST_TEST_TOOLS:-.cache}/inspector"
bin=$PWD/node_modules/.bin
mark="node $NODE, inspector $INSPECTOR"

if [ -x "$bin/mcp-inspector" ] && [ "$(cat installed 2>/dev/null)" = "$mark" ]; then
  echo "MCP Inspector is there: $mark"
  exit 0
fi
command -v npm >/dev/null || {
  echo "error: npm is missing; install Node.js with npm, then run this again" >&2
  exit 1
}

# An interrupted installation is begun anew: what npm finds of it could be half a package.
rm -rf node_modules package.json package-lock.json installed
printf '{"private": true}\n' >package.json

install() {
  attempt=1
  until npm install --save-exact --no-audit --no-fund --loglevel=error "$1" </dev/null; do
    if [ "$attempt" -ge "$ATTEMPTS" ]; then
      echo "error: npm could not install $1 in $ATTEMPTS attempts" >&2
      exit 1
    fi
    echo "attempt $attempt to install $1 failed; once more in $((attempt * 5)) s" >&2
    sleep $((attempt * 5))
    attempt=$((attempt + 1))
  done
}

echo "Installing $mark ..."
install "node@$NODE"
# From here on npm itself runs on the new Node.js: on an older one it would take an Inspector of
# years ago that still runs there, without a word.
PATH=$bin:$PATH
export PATH
[ "$(node --version)" = "v$NODE" ] || {
  echo "error: node is $(node --version), not v$NODE" >&2
  exit 1
}
install "@modelcontextprotocol/inspector@$INSPECTOR"
[ -x "$bin/mcp-inspector" ] || {
  echo "error: the package holds no mcp-inspector" >&2
  exit 1
}
printf '%s\n' "$mark" >installed
echo "MCP Inspector is installed: $mark"
